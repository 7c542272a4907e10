"""What the tree as a whole promises: playbooks that load, links that lead somewhere, nothing of this workshop in it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlparse

import pytest
import yaml

ROOT = Path(__file__).parents[3]
TOOLS = Path(sys.executable).parent
PLAYBOOKS = sorted(
    str(path.relative_to(ROOT))
    for path in [*ROOT.glob("playbooks/*.yml"), ROOT / "harden.yml", ROOT / "audit.yml"]
)
# Whoever builds this anywhere can reach these; a mirror of one workplace is none of them.
PUBLIC = {
    "acme-v02.api.letsencrypt.org", "deb.debian.org", "docs.ansible.com", "github.com",
    "global.azure-devices-provisioning.net", "json-schema.org", "www.apache.org",
}  # fmt: skip
# Written in two parts, or this file would name what no file may name.
PRIVATE = ("/work" + "/main", "/work" + "/shared", "/work" + "/.", "." + "library", "/tmp" + "/brief")


def tracked() -> list[Path]:
    """The files of the project, as git knows them; links are judged where they lead."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def run(*arguments: str) -> str:
    command = [str(TOOLS / "ansible-playbook"), "-i", "inventories/example", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_ansible_takes_the_playbook(playbook: str) -> None:
    run("--syntax-check", playbook)


@pytest.mark.parametrize("playbook", ["harden", "audit", "policy", "rollback", "bans"])
def test_no_playbook_takes_a_vantage_or_an_unmanaged_host_for_a_device(playbook: str) -> None:
    plays = run("--list-hosts", f"playbooks/{playbook}.yml").split("play #")[1:]
    hosts = [set(re.findall(r"^      (\S+)$", play, re.M)) for play in plays]
    assert [names for names in hosts if names != {"localhost"}]
    for names in hosts:
        assert names in ({"localhost"}, {"line1", "line2", "cell1"})


def test_the_example_site_passes_its_own_policy_check() -> None:
    assert "line1" in run("playbooks/policy.yml", "-e", "policy_what=exposure")
    run("playbooks/policy.yml")


def test_no_file_names_the_place_where_it_was_written() -> None:
    found = [(str(path), word) for path in tracked() for word in PRIVATE if word in text_of(path)]
    assert found == []


def test_every_address_on_the_web_is_a_public_one() -> None:
    found = set()
    for path in tracked():
        if path.name == "LICENSE" or "replies" in path.parts:  # other people's texts
            continue
        for url in re.findall(r"https?://[\w.-]+", text_of(path)):
            host = urlparse(url).hostname or ""
            if host.count(".") and not re.search(
                r"[\d.]+$|\.(example|test|invalid)$|example\.(com|org|net)$", host
            ):
                found.add((str(path.relative_to(ROOT)), host))
    assert {pair for pair in found if pair[1] not in PUBLIC} == set()


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        *sorted(str(p.relative_to(ROOT)) for p in [*ROOT.glob("docs/*.md"), *ROOT.glob("roles/*/README.md")]),
    ],
)
def test_every_link_in_a_document_leads_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(ROOT / name)):
        if not target.startswith(("http://", "https://", "#")):
            assert ((ROOT / name).parent / target.partition("#")[0]).exists(), target


def test_the_changelog_and_the_tools_know_the_version_that_is_built() -> None:
    version = yaml.safe_load(text_of(ROOT / "galaxy.yml"))["version"]
    assert re.search(rf"^## {re.escape(version)}\b", text_of(ROOT / "CHANGELOG.md"), re.M)
    assert f'version = "{version}"' in text_of(ROOT / "pyproject.toml")


def test_the_oldest_ansible_core_is_the_same_everywhere() -> None:
    oldest = re.search(r"ansible-core>=([\d.]+)", text_of(ROOT / "pyproject.toml"))[1]  # type: ignore[index]
    assert yaml.safe_load(text_of(ROOT / "meta/runtime.yml"))["requires_ansible"] == f">={oldest}.0"
    for path in ROOT.glob("roles/*/meta/main.yml"):
        assert yaml.safe_load(text_of(path))["galaxy_info"]["min_ansible_version"] == oldest
    assert f"ansible-core {oldest}" in text_of(ROOT / "README.md")
