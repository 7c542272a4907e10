"""The pull agent's program with real git and real signatures: what is believed, what is refused, and what becomes of the device.

Ansible and systemd are stand-ins: the playbook of a revision is its file ``wanted``, which the device is to have.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.unit.updates.test_run import SHELLS, Chamber

AGENT = Path(__file__).parents[3] / "plugins/plugin_utils/updates/agents/pull"
KEYGEN = "/usr/bin/ssh-keygen"
# Applies $tree/wanted to the file `device`, as commit does: with what was there before in a generation, and a label.
ANSIBLE = """
check=no book='' to=''
for word; do
    case $word in --check) check=yes ;; to=*) to=${word#to=} ;; sallyport.*) book=$word ;; esac
done
printf '%s\\n' "$book${to:+ }$to" >>@STATE@/ran
number=$(ls @COMMITS@/generation | sort -n | tail -n 1)
if [ "$book" = sallyport.iot.rollback ]; then
    while [ "$number" -gt "$to" ]; do
        cp @COMMITS@/generation/$number/old @DEVICE@
        rm -r @COMMITS@/generation/$number
        number=$((number - 1))
    done
    echo 'gw1 : ok=1 changed=1 unreachable=0 failed=0'
    exit 0
fi
[ ! -e lost ] || { echo 'fatal: [gw1]: FAILED! => no such role'; exit 2; }
changed=0
if ! cmp -s wanted @DEVICE@; then
    changed=1
    if [ "$check" = no ]; then
        if [ -e operator ]; then  # somebody else's change comes in between
            mkdir @COMMITS@/generation/$((number + 1)); cp @DEVICE@ @COMMITS@/generation/$((number + 1))/old
            printf 'now\\nops on laptop, harden.yml[1]\\n' >@COMMITS@/generation/$((number + 1))/label
            number=$((number + 1))
        fi
        mkdir @COMMITS@/generation/$((number + 1))
        cp @DEVICE@ @COMMITS@/generation/$((number + 1))/old
        printf 'now\\n%s on gw1, harden.yml[1]\\n' "$LOGNAME" >@COMMITS@/generation/$((number + 1))/label
        cp wanted @DEVICE@
        [ ! -e killed ] || kill -9 $(cat @STATE@/runner)
    fi
fi
if [ "$check" = no ] && [ -e locks-out ]; then
    mkdir -p @COMMITS@/reverted; echo $$ >@COMMITS@/reverted/id
    printf 'WHAT WENT WRONG\\ngw1: the login over the loopback does not work any more\\n'
    exit 2
fi
if [ -e elsewhere ]; then exit 0; fi
echo "gw1 : ok=1 changed=$changed unreachable=0 failed=0"
"""


class Field(Chamber):
    """A device that has the pull agent, and the repository that it pulls from."""

    def __init__(self, folder: Path, shell: list[str]) -> None:
        super().__init__(folder, shell)
        self.folder = folder
        self.commits, self.file = folder / "commits", folder / "device"
        self.site, self.server = folder / "site", folder / "site.git"
        (self.commits / "generation/1").mkdir(parents=True)
        self.file.write_text("as found\n", encoding="utf-8")
        text = (AGENT / "agent.sh").read_text(encoding="utf-8")
        (self.here / "agent.sh").write_text(text, encoding="utf-8")
        (self.here / "pull").mkdir()
        text = (AGENT / "fetch.sh").read_text(encoding="utf-8")
        for old, new in (
            ("/usr/local/lib/sallyport/updates", str(self.here)),
            ("/var/lib/sallyport-updates", str(self.state)),
        ):
            assert old in text
            text = text.replace(old, new)
        (self.here / "pull/fetch.sh").write_text(text, encoding="utf-8")
        self.tool("id", "echo 0")
        self.tool("chown", "exit 0")
        self.tool(
            "systemctl",
            f"case $* in\n*pull@*) word=${{2#*@}}; exec {' '.join(shell)} {self.here}/pull/fetch.sh ${{word%.service}} ;;\n"
            f"*failed*) ;;\n*) cat {self.state}/services ;;\nesac",
        )
        program = ANSIBLE
        for name, path in (("STATE", self.state), ("COMMITS", self.commits), ("DEVICE", self.file)):
            program = program.replace(f"@{name}@", str(path))
        self.tool("ansible-playbook", program)
        self.keys: dict[str, Path] = {}
        for name in ("alice", "mallory"):
            self.keys[name] = folder / name
            command = [KEYGEN, "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.keys[name])]
            subprocess.run(command, check=True)
        self.signers("alice")
        self.git("init", "--quiet", "--bare", str(self.server), cwd=folder)
        self.git("init", "--quiet", "--initial-branch=main", str(self.site), cwd=folder)
        self.settings()

    def settings(self, **values: Any) -> None:
        if not hasattr(self, "server"):
            return
        pull = {
            "PULL_URL": f"file://{self.server}", "PULL_REF": "refs/heads/main", "PULL_SINCE": "",
            "PULL_PLAYBOOK": "sallyport.iot.harden", "PULL_INVENTORY": "inventory", "PULL_HOST": "gw1",
            "PULL_ANSIBLE": str(self.tools / "ansible-playbook"), "COMMITS": str(self.commits),
            "ROLLBACK": "revision drift",
        }  # fmt: skip
        super().settings(**{**pull, **values})

    def signers(self, *names: str) -> None:
        lines = [f"{name}@site {self.keys[name].with_suffix('.pub').read_text('utf-8')}" for name in names]
        (self.here / "pull/signers").write_text("".join(lines), encoding="utf-8")

    def git(self, *words: str, cwd: Path | None = None) -> str:
        environment = {
            **os.environ, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@site", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@site",
        }  # fmt: skip
        options = [
            "-c",
            "gpg.format=ssh",
            "-c",
            f"gpg.ssh.program={KEYGEN}",
            "-c",
            "protocol.file.allow=always",
        ]
        done = subprocess.run(
            ["git", *options, *words], cwd=cwd or self.site, env=environment, capture_output=True, text=True, check=False
        )  # fmt: skip
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout.strip()

    def commit(self, wanted: str, *, by: str | None = "alice", **files: str) -> str:
        """A revision; ``by`` signs it. A file of ``files`` with the text "-" goes again."""
        (self.site / "wanted").write_text(f"{wanted}\n", encoding="utf-8")
        for name, text in files.items():
            path = self.site / name.replace("__", "/").replace("dot_", ".").replace("_", "-")
            path.parent.mkdir(exist_ok=True)
            path.unlink() if text == "-" else path.write_text(text, encoding="utf-8")
        self.git("add", "--all")
        sign = ["-c", f"user.signingKey={self.keys[by]}"] if by else []
        self.git(
            *sign, "commit", "--quiet", "--allow-empty", "-m", wanted, *(["--gpg-sign"] if by else ["--no-gpg-sign"])
        )  # fmt: skip
        return self.git("rev-parse", "HEAD")

    def push(self, *what: str) -> None:
        self.git("push", "--quiet", "--force", str(self.server), *(what or ("HEAD:refs/heads/main",)))

    def publish(self, wanted: str, **how: Any) -> str:
        revision = self.commit(wanted, **how)
        self.push()
        return revision

    @property
    def device(self) -> str:
        return self.file.read_text(encoding="utf-8").strip()

    def size(self, name: str = "incoming") -> int:
        return sum(path.stat().st_size for path in (self.state / "pull" / name).rglob("*") if path.is_file())

    def ran(self) -> list[str]:
        path = self.state / "ran"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def refused(self, kind: str) -> str:
        """One run, which refuses what is offered and applies nothing."""
        before, path = self.device, self.state / "checked"
        checked = path.stat().st_mtime_ns if path.exists() else 0
        said = self.run()
        assert said["result"] == ["refused"], said
        assert (path.stat().st_mtime_ns if path.exists() else 0) == checked, "it says that all is believed"
        (why,) = said["refused"]
        assert why.startswith(f"{kind} "), why
        assert self.device == before
        return why


@pytest.fixture
def field(tmp_path: Path) -> Field:
    """Where git and Ansible are, /bin/sh is no BusyBox; run.sh itself is tried with both."""
    return Field(tmp_path, SHELLS["dash"])


def test_a_signed_revision_is_applied_once_and_drift_from_it_is_mended(field: Field) -> None:
    revision = field.publish("one")
    said = field.run()
    assert said["result"] == ["ok"] and field.device == "one", said
    assert said["installed"][0].startswith(f"revision {revision} ")
    field.ran()
    said = field.run()
    assert said["message"] == ["nothing to install"] and field.ran() == ["sallyport.iot.harden"]
    field.file.write_text("drifted\n", encoding="utf-8")
    said = field.run()
    assert said["result"] == ["ok"] and field.device == "one" and "pending" not in said, said


def test_who_only_tells_says_what_drifted_and_leaves_it(field: Field) -> None:
    revision = field.publish("one")
    field.run()
    field.file.write_text("drifted\n", encoding="utf-8")
    field.settings(MODE="notify")
    assert field.run()["pending"][0].startswith(f"drift {revision}-drifted {revision} update ")
    assert field.device == "drifted"
    newer = field.publish("two")
    assert {line.split()[0] for line in field.run()["pending"]} == {"drift", "revision"}
    field.settings()
    said = field.run()
    assert said["result"] == ["ok"] and field.device == "two", said
    assert [line.split()[:2] for line in said["installed"]] == [["revision", newer]]


def test_without_its_server_the_device_keeps_its_revision_and_mends_drift(field: Field) -> None:
    field.publish("one")
    field.run()
    field.server.rename(field.folder / "away")
    field.file.write_text("drifted\n", encoding="utf-8")
    said = field.run()
    assert said["result"] == ["unreachable"] and field.device == "one", said
    assert field.run()["unreachable"][0].startswith("file://")


# --- what is refused ------------------------------------------------------------------------------------------------------


def test_the_first_revision_has_to_be_signed_too(field: Field) -> None:
    field.publish("one", by=None)
    assert "is not signed" in field.refused("signature")
    assert field.ran() == [] and not (field.state / "pull/tree").exists()


@pytest.mark.parametrize(("by", "word"), [(None, "is not signed"), ("mallory", "not by anybody who may")])
def test_an_unsigned_or_wrongly_signed_revision_is_refused(field: Field, by: str | None, word: str) -> None:
    field.publish("one")
    field.run()
    field.publish("two", by=by)
    assert word in field.refused("signature")
    # A newer one that is signed brings its unsigned parent with it: whoever signs has seen the whole of it.
    field.publish("three")
    assert field.run()["result"] == ["ok"] and field.device == "three"


def test_a_revision_that_was_changed_after_it_was_signed_is_refused(field: Field) -> None:
    field.publish("one")
    field.run()
    field.commit("two")
    (field.site / "wanted").write_text("evil\n", encoding="utf-8")
    field.git("add", "--all")
    text = field.git("cat-file", "commit", "HEAD") + "\n"
    evil = text.replace(field.git("rev-parse", "HEAD^{tree}"), field.git("write-tree"))
    assert evil != text and "gpgsig" in evil
    (field.folder / "commit").write_text(evil, encoding="utf-8")
    forged = field.git("hash-object", "-t", "commit", "-w", str(field.folder / "commit"))
    field.push(f"{forged}:refs/heads/main")
    assert "is signed, but not as it is" in field.refused("signature")


def test_files_under_the_name_of_others_are_refused(field: Field) -> None:
    field.publish("one")
    field.run()
    field.publish("two")
    blob = field.git("rev-parse", "HEAD:wanted")
    path = field.server / "objects" / blob[:2] / blob[2:]
    evil = field.site / ".git/objects"
    (field.folder / "evil").write_text("evil\n", encoding="utf-8")
    other = field.git("hash-object", "-w", str(field.folder / "evil"))
    assert path.exists()
    path.chmod(0o644)
    path.write_bytes((evil / other[:2] / other[2:]).read_bytes())
    said = field.run()
    assert field.device == "one" and said["result"][0] in ("refused", "unreachable"), said


def test_the_unprivileged_half_cannot_put_other_files_under_a_signed_name(field: Field) -> None:
    """Whoever has taken it over writes what it likes into its folder, its copy of the repository included."""
    field.publish("one")
    field.run()
    field.publish("two")
    field.tool(
        "systemctl",
        f"case $* in\n*pull@fetch*) {' '.join(field.shell)} {field.here}/pull/fetch.sh fetch\n"
        f'printf "\\001" | dd of={field.state}/pull/incoming/bundle bs=1 conv=notrunc '
        f"seek=$(($(stat -c %s {field.state}/pull/incoming/bundle) - 40)) 2>/dev/null ;;\n"
        f"*failed*) ;;\n*) cat {field.state}/services ;;\nesac",
    )
    field.refused("tampered")


@pytest.mark.parametrize("how", ["older", "rewritten"])
def test_a_revision_that_is_older_or_of_another_history_is_refused(field: Field, how: str) -> None:
    first = field.publish("one")
    field.run()
    second = field.publish("two")
    field.run()
    if how == "older":
        field.push(f"{first}:refs/heads/main")
        assert f"{first} is older than {second}" in field.refused("downgrade")
    else:
        field.git("reset", "--quiet", "--hard", first)
        rewritten = field.publish("other")
        assert f"{rewritten} does not come after {second}" in field.refused("downgrade")
        # Its memory does not lie in git's files, which a broken disk may take.
        shutil.rmtree(field.state / "pull/git")
        field.refused("downgrade")
        # Only a controller can say that this is meant.
        field.settings(PULL_SINCE=rewritten)
        assert field.run()["result"] == ["ok"] and field.device == "other"
        field.push(f"{second}:refs/heads/main")
        field.refused("downgrade")


def test_nothing_below_the_revision_that_the_controller_names_is_believed(field: Field) -> None:
    first = field.publish("one")
    second = field.publish("two")
    field.push(f"{first}:refs/heads/main")
    field.settings(PULL_SINCE=second)
    field.refused("downgrade")
    field.push(f"{second}:refs/heads/main")
    assert field.run()["result"] == ["ok"] and field.device == "two"


def test_who_signs_can_hand_over_and_a_revoked_key_counts_no_more(field: Field) -> None:
    field.publish("one")
    field.run()
    field.publish("two", by="mallory")
    field.refused("signature")
    field.signers("alice", "mallory")
    assert field.run()["result"] == ["ok"] and field.device == "two"
    (field.here / "pull/revoked").write_text(field.keys["mallory"].with_suffix(".pub").read_text("utf-8"))
    field.refused("signature")
    field.file.write_text("drifted\n", encoding="utf-8")
    said = field.run()
    # What a revoked key has signed is not applied again, either.
    assert field.device == "drifted" and said["result"] == ["refused"], said
    field.publish("three")
    assert field.run()["result"] == ["ok"] and field.device == "three"


def test_a_submodule_is_refused_by_its_name(field: Field) -> None:
    field.publish("one")
    field.run()
    revision = field.git("rev-parse", "HEAD")
    field.git("update-index", "--add", "--cacheinfo", f"160000,{revision},inner/module")
    sign = ["-c", f"user.signingKey={field.keys['alice']}"]
    field.git(*sign, "commit", "--quiet", "--gpg-sign", "-m", "module")
    field.push()
    assert "inner/module" in field.refused("contents")


def test_nothing_of_a_revision_that_is_not_believed_runs_and_nothing_of_git_does(field: Field) -> None:
    """Filters, hooks and settings that lie in a repository or in root's home are no words to this agent."""
    mark = field.folder / "ran-something"
    attributes = "* filter=evil\n"
    field.publish("one", dot_gitattributes=attributes, ansible_cfg=f"[defaults]\nlibrary = {mark}\n")
    field.run()
    assert field.device == "one"
    field.publish(
        "two",
        by="mallory",
        dot_gitattributes=attributes,
        dot_gitmodules='[submodule "x"]\npath = x\nurl = ext::x\n',
    )
    hooks = field.server / "hooks"
    for name in ("post-checkout", "reference-transaction", "post-merge"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {mark}\n", encoding="utf-8")
        (hooks / name).chmod(0o755)
    field.ran()
    field.refused("signature")
    assert not mark.exists() and field.ran() == ["sallyport.iot.harden"]  # the check of what is applied
    assert (field.state / "pull/tree/wanted").read_text(encoding="utf-8") == "one\n"


def test_a_tag_has_to_bear_its_own_name_and_a_signature(field: Field) -> None:
    field.settings(PULL_REF="refs/tags/ring0")
    field.commit("one")

    def tag(name: str, by: str | None = "alice") -> None:
        how = ["-c", f"user.signingKey={field.keys[by]}", "tag", "--sign"] if by else ["tag"]
        field.git(*how, "--force", "-m", name, name)

    field.git("tag", "ring0")
    field.push("refs/tags/ring0")
    assert "tag must be a signed one" in field.refused("signature")
    tag("ring1")
    field.push("refs/tags/ring1:refs/tags/ring0")
    assert "tag of another name than ring0" in field.refused("signature")
    tag("ring0", "mallory")
    field.push("refs/tags/ring0")
    assert "not by anybody who may" in field.refused("signature")
    tag("ring0")
    field.push("refs/tags/ring0")
    assert field.run()["result"] == ["ok"] and field.device == "one"
    assert field.run()["message"] == ["nothing to install"]
    field.commit("two", by=None)  # the tag is what is signed
    tag("ring0")
    field.push("refs/tags/ring0")
    assert field.run()["result"] == ["ok"] and field.device == "two"


def test_what_would_fill_the_disk_is_refused_and_leaves_nothing(field: Field) -> None:
    field.publish("one")
    field.run()

    def room(kilobytes: int) -> None:
        field.tool("df", f"echo what is free; echo disk 9 9 {kilobytes} 9% /")

    (field.site / "large").write_bytes(os.urandom(4_000_000))
    field.publish("two")
    room(2000)
    before = field.size()
    said = field.run()
    assert field.size() < before + 2_100_000
    assert any(line.startswith("size ") for line in said["refused"]), said
    assert field.device == "one"
    room(1000000)
    field.publish("three", large="-")
    # The history still holds the large file: with room for it, it may come.
    assert field.run()["result"] == ["ok"] and field.device == "three"


# --- what harms -----------------------------------------------------------------------------------------------------------


def test_a_revision_that_would_lock_out_goes_back_whole_and_is_not_tried_again(field: Field) -> None:
    good = field.publish("one")
    field.run()
    bad = field.publish("two", locks_out="")
    said = field.run()
    assert said["result"] == ["rolled_back"] and "over the loopback does not work" in said["message"][0], said
    assert field.device == "one" and said["held"][0].startswith(f"revision {bad} ")
    assert said["installed"][0].startswith(f"revision {good} ")
    field.ran()
    said = field.run()
    assert said["result"] == ["ok"] and field.ran() == ["sallyport.iot.harden"], said
    field.file.write_text("drifted\n", encoding="utf-8")
    said = field.run()
    assert field.device == "one" and said["held"], said
    field.publish("three", locks_out="-")
    said = field.run()
    assert field.device == "three" and "held" not in said, said


def test_a_revision_after_which_the_repository_is_out_of_reach_goes_back(field: Field) -> None:
    field.publish("one")
    field.run()
    field.publish("two")
    fetch = f"{' '.join(field.shell)} {field.here}/pull/fetch.sh"
    field.tool(
        "systemctl",
        f'case $* in\n*pull@fetch*) exec {fetch} fetch ;;\n*pull@reach*) [ "$(cat {field.file})" = one ] && exec {fetch} reach ;;\n'
        f"*failed*) ;;\n*) cat {field.state}/services ;;\nesac",
    )
    said = field.run()
    assert (
        said["result"] == ["rolled_back"] and "answered before, and does not any more" in said["message"][0]
    )
    assert field.device == "one"


def test_a_revision_that_makes_the_device_sick_goes_back(field: Field) -> None:
    good = field.publish("one")
    field.run()
    field.health(f'[ "$(cat {field.file})" != two ] || {{ echo it is sick >&2; exit 1; }}')
    field.publish("two")
    said = field.run()
    assert said["result"] == ["rolled_back"] and "it is sick" in said["message"][0] and field.device == "one"
    assert said["installed"][0].startswith(f"revision {good} ")
    assert (field.state / "pull/applied").read_text("utf-8").strip() == field.git("rev-parse", "HEAD^")
    assert field.run()["result"] == ["ok"] and field.device == "one"


def test_a_device_that_drift_has_made_sick_is_mended_all_the_same(field: Field) -> None:
    field.publish("one")
    field.run()
    field.health(f"grep -q drifted {field.file} && {{ echo it is sick >&2; exit 1; }}; exit 0")
    field.file.write_text("drifted\n", encoding="utf-8")
    said = field.run()
    assert said["result"] == ["ok"] and field.device == "one" and "held" not in said, said


def test_a_device_that_is_sick_of_something_else_takes_what_is_published_and_keeps_it(field: Field) -> None:
    """Without a controller a revision is all that can reach it; one that does not help has done no harm."""
    field.publish("one")
    field.run()
    field.health(f"grep -q three {field.file} || {{ echo it is sick >&2; exit 1; }}")
    field.publish("two")
    said = field.run()
    assert said["result"] == ["unhealthy"] and "not healthy before, and not after" in said["message"][0], said
    assert field.device == "two" and "held" not in said
    field.publish("three")
    said = field.run()
    assert said["result"] == ["ok"] and field.device == "three", said


def test_a_revision_that_makes_a_sick_device_sicker_goes_back(field: Field) -> None:
    field.publish("one")
    field.run()
    field.health(f"echo it is sick >&2; ! grep -q two {field.file} || echo and sicker >&2; exit 1")
    field.publish("two")
    said = field.run()
    assert said["result"] == ["unhealthy"] and field.device == "one", said
    assert said["held"][0].startswith("revision "), said


def test_a_revision_that_stops_a_service_on_purpose_does_no_harm(field: Field) -> None:
    field.publish("one")
    field.run()
    field.tool(
        "systemctl",
        f"case $* in\n*pull@*) word=${{2#*@}}; exec {' '.join(field.shell)} {field.here}/pull/fetch.sh ${{word%.service}} ;;\n"
        f"*failed*) ;;\n*) echo a.service; [ $(cat {field.file}) = two ] || echo telnet.service ;;\nesac",
    )
    field.publish("two")
    assert field.run()["result"] == ["ok"] and field.device == "two"


def test_a_revision_that_fails_before_it_changes_anything_is_tried_again(field: Field) -> None:
    field.publish("one")
    field.run()
    field.publish("two", lost="")
    said = field.run()
    assert said["result"] == ["failed"] and "no such role" in said["message"][0] and "held" not in said, said
    assert field.device == "one"


def test_a_revision_that_is_for_other_devices_is_a_failure_that_says_so(field: Field) -> None:
    field.publish("one", elsewhere="")
    said = field.run()
    assert "no play of sallyport.iot.harden is for gw1" in said["message"][0], said


def test_an_operators_change_in_between_is_not_undone(field: Field) -> None:
    field.publish("one")
    field.run()
    field.publish("two", locks_out="", operator="")
    said = field.run()
    assert said["result"] == ["failed"] and "not this agent's" in "".join(said["unprepared"]), said
    assert "sallyport.iot.rollback" not in " ".join(field.ran())


def test_a_change_that_is_pending_on_the_device_is_waited_for(field: Field) -> None:
    field.publish("one")
    (field.commits / "armed/tx").mkdir(parents=True)
    said = field.run()
    assert said["result"] == ["waiting"] and field.device == "as found", said
    (field.commits / "armed/tx").rmdir()
    assert field.run()["result"] == ["ok"] and field.device == "one"


def test_a_run_that_was_killed_goes_back_first_and_then_on(field: Field) -> None:
    field.publish("one")
    field.run()
    revision = field.publish("two", killed="")
    # The program's own process is the one that asks git last; what it starts has it for a parent.
    (field.here / "agent.sh").write_text(
        (field.here / "agent.sh")
        .read_text("utf-8")
        .replace(
            '    keep "$pull/begun"', '    printf "%s" "$$" >"$state/runner"\n    keep "$pull/begun"', 1
        ),
        encoding="utf-8",
    )
    said = field.run()
    assert said["result"] == ["failed"] and "broke off" in said["message"][0] and field.device == "two", said
    field.publish("three", killed="-")
    field.ran()
    said = field.run()
    assert f"a run that was cut short while it applied {revision}" in said["repaired"], said
    assert field.ran()[0] == "sallyport.iot.rollback 2" and field.device == "three"


def test_a_copy_of_the_repository_that_broke_is_fetched_anew(field: Field) -> None:
    field.publish("one")
    field.run()
    for path in (field.state / "pull/git/objects").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(b"")
    field.file.write_text("drifted\n", encoding="utf-8")
    said = field.run()
    assert said["result"] == ["ok"] and field.device == "one", said
    field.publish("two")
    said = field.run()
    assert said["result"] == ["ok"] and field.device == "two", said


def damaged(field: Field) -> None:
    """Bad flash, in the middle of the largest pack: the commit and its folders are whole, a file is not."""
    packs = (field.state / "pull/git/objects/pack").glob("*.pack")
    pack = max(packs, key=lambda path: path.stat().st_size)
    pack.chmod(0o644)
    data = bytearray(pack.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 8] = bytes(8)
    pack.write_bytes(data)


def test_a_file_that_broke_is_fetched_anew_before_anything_is_said_to_be_well(field: Field) -> None:
    field.publish("one", junk=os.urandom(200_000).hex())
    field.run()
    damaged(field)
    field.file.write_text("drifted\n", encoding="utf-8")
    # Nobody has another copy just now.
    field.server.rename(field.server.with_suffix(".away"))
    said = field.run()
    assert said["result"] == ["failed"] and "is damaged here" in said["unprepared"][0], said
    assert field.device == "drifted"
    field.server.with_suffix(".away").rename(field.server)
    said = field.run()
    assert said["result"] == ["ok"] and field.device == "one" and "repaired" in said, said
    # Found in the run that needs it.
    damaged(field)
    field.publish("two")
    said = field.run()
    assert said["result"] == ["ok"] and field.device == "two", said


def test_what_is_newer_ends_the_drift_of_what_was_before(field: Field) -> None:
    field.publish("one")
    field.run()
    field.file.write_text("drifted\n", encoding="utf-8")
    field.publish("two")
    said = field.run()
    assert said["result"] == ["ok"] and field.device == "two" and "pending" not in said, said


def test_a_line_that_breaks_is_no_forgery(field: Field) -> None:
    field.publish("one")
    field.run()
    field.publish("two", junk=os.urandom(500_000).hex())
    cut = field.folder / "cut"
    cut.write_text('#!/bin/sh\ngit-upload-pack "$1" | dd bs=4096 count=20 2>/dev/null\n', encoding="utf-8")
    cut.chmod(0o755)
    path = field.here / "pull/fetch.sh"
    whole = path.read_text(encoding="utf-8")
    path.write_text(
        whole.replace("--no-auto-maintenance", f"--no-auto-maintenance --upload-pack={cut}"), encoding="utf-8"
    )
    said = field.run()
    assert said["result"] == ["unreachable"] and "refused" not in said and field.device == "one", said
    path.write_text(whole, encoding="utf-8")
    assert field.run()["result"] == ["ok"] and field.device == "two"


@pytest.mark.parametrize(
    "swap",
    [
        "echo 'gitdir: {state}/pull/git' >{bundle}", "ln -s {server} {bundle}", ": >{bundle}", "mkfifo {bundle}",
        "mkdir {bundle}; echo x >{bundle}/x",
    ],
    ids=["address", "link", "empty", "pipe", "folder"],
)  # fmt: skip
def test_what_the_unprivileged_half_hands_over_is_a_bundle_and_nothing_else(field: Field, swap: str) -> None:
    """git, which is root's here, would follow it to a repository of somebody's."""
    field.publish("one")
    field.run()
    field.publish("two")
    bundle = f"{field.state}/pull/incoming/bundle"
    swap = swap.format(state=field.state, server=field.server, bundle=bundle)
    field.tool(
        "systemctl",
        f"case $* in\n*pull@fetch*) {' '.join(field.shell)} {field.here}/pull/fetch.sh fetch\nrm {bundle}; {swap} ;;\n"
        f"*failed*) ;;\n*) cat {field.state}/services ;;\nesac",
    )
    assert "no bundle of git's" in field.refused("tampered")
    assert not os.path.lexists(field.state / "pull/bundle")


def test_what_unfolds_to_more_than_there_is_memory_for_is_refused(field: Field) -> None:
    """A commit is held in memory whole; a large file is not."""
    field.publish("one")
    field.run()
    head = field.git("rev-parse", "HEAD")
    text = f"tree {field.git('rev-parse', 'HEAD^{tree}')}\nparent {head}\nauthor a <a@site> 1 +0000\ncommitter a <a@site> 1 +0000\n\n"
    (field.folder / "huge").write_bytes(text.encode() + b"x" * 140_000_000)
    huge = field.git("hash-object", "-t", "commit", "-w", str(field.folder / "huge"))
    field.git("push", "--quiet", "--force", str(field.server), f"{huge}:refs/heads/main")
    field.tool("awk", f'case $* in *MemAvailable*) echo 131072 ;; *) exec {shutil.which("awk")} "$@" ;; esac')
    assert "memory" in field.refused("size")
    (field.site / "large").write_bytes(bytes(20_000_000))
    field.publish("two")
    said = field.run()
    assert said["result"] == ["ok"] and field.device == "two", said


def test_a_fetch_that_was_not_believed_leaves_nothing_behind(field: Field) -> None:
    field.publish("one")
    field.run()
    field.publish("two", by="mallory", junk=os.urandom(500_000).hex())
    field.refused("signature")
    assert field.size("git") < 100_000 and field.size() < 100_000
    field.git("reset", "--quiet", "--hard", "HEAD^")
    field.publish("three")
    assert field.run()["result"] == ["ok"] and field.device == "three"
    assert field.size() < 300_000
