"""What a site installs: the tarball, in a project that knows nothing of this checkout, against real devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.fleet import CHECKOUT
from lab.labs import Lab
from tests.lab.site_folder import TOOLS, Run, Site, play
from tests.role_examples import ROLES, examples

CONFIGURATION = """\
[defaults]
collections_path = collections
callbacks_enabled = sallyport.iot.summary
interpreter_python = auto_silent

[ssh_connection]
pipelining = True

[inventory]
ignore_patterns = ^policy$
"""
OWN_PLAYBOOK = """\
- name: A site's own play
  hosts: devices
  gather_facts: false
  roles:
    - sallyport.iot.firewall
  tasks:
    - name: Use a filter
      ansible.builtin.debug:
        msg: "{{ ['10.0.0.0/25', '10.0.0.128/25'] | sallyport.iot.cidr_merge }}"
      run_once: true
"""


# The others need tools of their own from PyPI, or judge what scripts/lint.sh judges with the project's settings.
SANITY = [
    "action-plugin-docs",
    "compile",
    "empty-init",
    "line-endings",
    "no-get-exception",
    "no-illegal-filenames",
    "no-smart-quotes",
    "replace-urlopen",
    "shebang",
    "symlinks",
    "use-argspec-type-path",
    "use-compat-six",
]


@dataclass
class Project:
    """A site's project with the collection installed in it."""

    site: Site
    folder: Path

    def play(self, *arguments: str, tools: Path = TOOLS, **environment: str) -> Run:
        # The checkout's own ansible.cfg must play no part.
        environment = {"ANSIBLE_CONFIG": str(self.folder / "ansible.cfg"), **environment}
        return play("-i", "inventory", *arguments, cwd=self.folder, tools=tools, **environment)


def galaxy(*arguments: str, cwd: Path = CHECKOUT) -> None:
    command = [str(TOOLS / "ansible-galaxy"), "collection", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tarball")
    galaxy("build", "--output-path", str(folder))
    return next(folder.glob("sallyport-iot-*.tar.gz"))


@pytest.fixture(scope="module")
def collections(tarball: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unrelated")
    galaxy("install", str(tarball), "-p", "collections", "--offline", cwd=folder)
    return folder / "collections"


@pytest.fixture(scope="module")
def project(lab: Lab, collections: Path) -> Iterator[Project]:
    """Devices as shipped, before and after."""
    lab.reset([])
    folder = collections.parent
    (folder / "ansible.cfg").write_text(CONFIGURATION, encoding="utf-8")
    (folder / "own.yml").write_text(OWN_PLAYBOOK, encoding="utf-8")
    yield Project(Site(lab, folder / "inventory"), folder)
    lab.reset([])


def counts(run: Run, key: str) -> dict[str, int]:
    return {host: run.recap(host)[key] for host in ("debian11", "debian12", "debian13", "vendor")}


def test_the_tarball_holds_what_runs_and_nothing_of_the_workshop(tarball: Path) -> None:
    with tarfile.open(tarball) as archive:
        names = archive.getnames()
        texts = {
            member.name: archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in archive.getmembers()
            if member.isfile()
        }
    tops = {name.split("/")[0] for name in names}
    assert tops >= {"README.md", "LICENSE", "docs", "filter_plugins", "meta", "playbooks", "plugins", "roles"}
    assert not tops & {"lab", "tests", "molecule", "scripts", "sallyport-report"}
    assert [name for name in names if name.startswith(".") or "__pycache__" in name] == []
    secret = b"-----BEGIN OPENSSH PRIVATE" + b" KEY-----"  # in two, or this file would hold it
    assert [name for name, text in texts.items() if secret in text] == []


def test_installed_filters_are_the_checkouts_files(collections: Path) -> None:
    installed = collections / "ansible_collections/sallyport/iot/plugins/filter"
    names = sorted(path.name for path in (CHECKOUT / "filter_plugins").glob("*.py"))
    assert sorted(path.name for path in installed.glob("*.py")) == names
    for name in names:
        assert (installed / name).read_bytes() == (CHECKOUT / "filter_plugins" / name).read_bytes()


def test_ansible_doc_answers_for_everything_that_was_installed(collections: Path) -> None:
    nothing = collections / "nothing.cfg"
    nothing.touch()
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
        "ANSIBLE_CONFIG": str(nothing),
    }
    root = collections / "ansible_collections/sallyport/iot"
    kinds = {
        "module": {path.stem for path in (root / "plugins/modules").glob("*.py")},
        "filter": {path.stem for path in (root / "plugins/filter").glob("*.py")},
        "callback": {path.stem for path in (root / "plugins/callback").glob("*.py")},
        "role": {path.name for path in (root / "roles").iterdir()},
    }
    for kind, names in kinds.items():
        full = sorted(f"sallyport.iot.{name}" for name in names - {"__init__"})
        command = [str(TOOLS / "ansible-doc"), "-t", kind, "--json", *full]
        done = subprocess.run(
            command,
            cwd=collections,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert set(json.loads(done.stdout)) == set(full)
        assert "WARNING" not in done.stderr and "ERROR" not in done.stderr, done.stderr


def test_ansible_test_finds_nothing_that_it_can_look_for_without_the_internet(
    tarball: Path, tmp_path: Path
) -> None:
    galaxy("install", str(tarball), "-p", str(tmp_path), "--offline", cwd=tmp_path)
    root = tmp_path / "ansible_collections/sallyport/iot"
    for command in (["git", "init", "--quiet"], ["git", "add", "--all"]):  # it asks git what there is
        subprocess.run(command, cwd=root, check=True)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    tests = [word for name in SANITY for word in ("--test", name)]
    done = subprocess.run(
        [str(TOOLS / "ansible-test"), "sanity", "--python", python, "--color", "no", *tests],
        cwd=root,
        env={**os.environ, "PATH": f"{TOOLS}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_sites_own_playbook_uses_one_role_and_a_filter(project: Project) -> None:
    first = project.play("own.yml")
    assert first.status == 0, first.output
    assert counts(first, "changed") == {"debian11": 1, "debian12": 1, "debian13": 1, "vendor": 1}
    assert "10.0.0.0/24" in first.output
    assert (
        project.site.sh("vendor", "iptables -t mangle -S; ip6tables -t mangle -S").count("-N SALLYPORT-") > 2
    )
    second = project.play("own.yml")
    assert counts(second, "changed") == {"debian11": 0, "debian12": 0, "debian13": 0, "vendor": 0}, (
        second.output
    )


def test_the_installed_playbooks_harden_and_audit(project: Project) -> None:
    first = project.play("sallyport.iot.harden")
    assert first.status == 0, first.output
    second = project.play("sallyport.iot.harden")
    assert second.status == 0, second.output
    assert set(counts(second, "changed").values()) == {0}, second.output
    audit = project.play("sallyport.iot.audit")
    assert audit.status == 0, audit.output
    assert "4 of 4 devices are as the policy says" in audit.output


# Those of tls need a CA of their own and devices with certbot or a broker: molecule/tls plays them, as it does time_sync's.
@pytest.mark.parametrize("role", [role for role in ROLES if role != "tls"])
def test_the_examples_of_a_roles_readme_run_on_real_devices(
    role: str, project: Project, tmp_path: Path
) -> None:
    key = tmp_path / ".ssh" / "id_ed25519.pub"
    key.parent.mkdir(mode=0o700)
    key.write_text(project.site.vars["ssh_authorized_keys"][0] + "\n", encoding="utf-8")
    vault = tmp_path / "vault"
    vault.write_text("only for this test\n", encoding="utf-8")
    # A repository's key is only handed on by the controller; the devices ask for it when their timers do.
    armour = "PGP PUBLIC KEY BLOCK-----"
    (project.folder / "packages.asc").write_text(
        f"-----BEGIN {armour}\n\n-----END {armour}\n", encoding="utf-8"
    )
    for number, text in enumerate(examples(role)):
        playbook = project.folder / f"{role}{number}.yml"
        playbook.write_text(text, encoding="utf-8")
        run = project.play(
            playbook.name, "--vault-password-file", str(vault), "-e", "update_agent_mode=automatic",
            HOME=str(tmp_path),
        )  # fmt: skip
        if role == "time_sync":
            # These devices have no time client, which is said by name; molecule/tls plays it on devices that have one.
            refused = run.output.count(
                "time_sync was refused, nothing was changed: this device has neither chrony"
            )
            assert run.status != 0 and refused >= 4 and "changed=1" not in run.output, run.output
            continue
        assert run.status == 0, run.output
        recaps = [run.recap(host) for host in ("debian11", "debian12", "debian13", "vendor")]
        assert {recap["failed"] for recap in recaps if recap} <= {0}, (
            run.output
        )  # an example may be for some only


def test_a_device_for_which_there_is_no_update_agent_is_warned_of_and_no_failure(project: Project) -> None:
    run = project.play("sallyport.iot.harden", "--limit", "vendor", "-t", "update_agent",
                       "-e", "update_agent_mode=automatic")  # fmt: skip
    assert run.status == 0 and run.recap("vendor")["changed"] == 0, run.output
    assert "no update agent suits this device" in " ".join(run.output.split()), run.output


def test_the_summary_of_an_installed_run_gives_its_own_command(project: Project) -> None:
    run = project.play(
        "sallyport.iot.harden", "--limit", "vendor", "-e", "firewall_backend=nftables", "-t", "firewall"
    )
    assert run.status != 0
    assert len(run.said_of("vendor")) == 1, run.output
    expected = "ansible-playbook -i inventory sallyport.iot.harden -e firewall_backend=nftables -t firewall"
    assert run.again == [*expected.split(), "--limit", "vendor"]


@pytest.mark.parametrize("asked", os.environ.get("SALLYPORT_CORES", "none").split())
def test_another_ansible_core_hardens_again_and_audits_without_a_warning(
    asked: str, project: Project, tmp_path: Path
) -> None:
    if asked == "none":
        pytest.skip("set SALLYPORT_CORES, for example to '2.17=/usr/bin/python3.10 2.21=/usr/bin/python3.13'")
    core, _, python = asked.partition("=")
    subprocess.run([python, "-m", "venv", str(tmp_path / "venv")], check=True)
    tools = tmp_path / "venv/bin"
    wanted = [f"ansible-core=={core}.*", "netaddr"]
    subprocess.run([str(tools / "pip"), "install", "--quiet", "--no-input", *wanted], check=True)
    project.site.lab.reset([])
    runs = [
        project.play(f"sallyport.iot.{name}", tools=tools, PATH=f"{tools}:{os.environ['PATH']}")
        for name in ("harden", "harden", "audit")
    ]
    for run in runs:
        assert run.status == 0, run.output
        assert "DEPRECATION WARNING" not in run.output, run.output
    assert all(counts(runs[0], "changed").values()), runs[0].output
    assert set(counts(runs[1], "changed").values()) == {0}, runs[1].output
    assert "4 of 4 devices are as the policy says" in runs[2].output
