"""What goes along into the slot that is tried next. What runs and the other slot are two folders; the paths of the one are whole
paths of this machine, so within the slot they lie below its own.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import payload
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.transaction import File, Transaction

SLOTS = Path(__file__).parents[3] / "plugins/plugin_utils/updates/agents/slots.sh"


class Two:
    """A device with two slots: ``runs`` is what runs, ``its`` the same place in the other one."""

    def __init__(self, folder: Path, shell: list[str]) -> None:
        self.shell = shell
        self.runs, self.slot, self.here, self.commits, self.state = (
            folder / name for name in ("runs", "slot", "here", "commits", "state")
        )
        self.its = self.slot / self.runs.relative_to("/")
        for path in (self.runs / "etc/ssh", self.its / "etc/ssh", self.here, self.commits, self.state):
            path.mkdir(parents=True)
        self.carried()

    def carried(self, *paths: str) -> None:
        (self.here / "carried").write_text(
            "".join(f"{self.runs}{path}\n" for path in paths), encoding="utf-8"
        )

    def manages(self, name: str, *paths: str, kind: str = "file") -> None:
        """A role's change of these, as the device keeps its record."""
        folder = self.commits / "generation" / name
        folder.mkdir(parents=True)
        files = [File(dest=f"{self.runs}{path}", kind=kind) for path in paths]  # type: ignore[arg-type]
        text = payload.manifest(
            Transaction(name, tuple(files)), "1", list(enumerate(files)), [str(self.runs / "etc")]
        )
        (folder / "manifest").write_bytes(text)

    def write(self, path: str, text: str, *, slot: str | None = None, mode: int = 0o644) -> None:
        """``text`` at ``path`` of what runs, and ``slot`` there in the other one, if that has it."""
        for place, content in ((self.runs, text), (self.its, slot)):
            if content is not None:
                target = Path(f"{place}{path}")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(content, encoding="utf-8")
                target.chmod(mode)

    def carry(
        self, *, own: str = "yes", before: str = "", how: str = 'carry "$(other_slot)"'
    ) -> subprocess.CompletedProcess[str]:
        program = SLOTS.read_text(encoding="utf-8").replace("/etc/", f"{self.runs}/etc/")
        given = {
            "here": self.here, "COMMITS": self.commits, "state": self.state, "CARRY_OWN": own, "AGENT": "ours", "RUNNING": "echo a",
            "SLOT_1": "a", "PLACE_1": "/nowhere", "SLOT_2": "b", "PLACE_2": self.slot,
        }  # fmt: skip
        words = "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in given.items())
        text = f'set -eu\numask 022\n{words}unconfirmed() {{ [ -d "$COMMITS/armed/tx" ]; }}\n{program}\n{before}code=0\n{how} || code=$?\ncat carry.log\nexit "$code"\n'
        return subprocess.run(
            self.shell,
            input=text,
            cwd=self.state,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def there(self, path: str) -> str:
        return Path(f"{self.its}{path}").read_text(encoding="utf-8")


@pytest.fixture(params=[["/bin/sh"], ["/bin/busybox", "sh"]], ids=["dash", "busybox"])
def two(request: pytest.FixtureRequest, tmp_path: Path) -> Two:
    return Two(tmp_path, request.param)


def test_what_any_role_has_set_up_goes_along_and_the_rest_is_the_images(two: Two) -> None:
    two.write("/etc/ssh/sshd_config", "closed", slot="open", mode=0o600)
    two.write("/etc/nftables.conf", "ours")
    two.write("/etc/motd", "old", slot="new")
    two.write("/etc/it's $(touch taken)", "odd")
    two.manages("ssh", "/etc/ssh/sshd_config")
    two.manages("firewall", "/etc/nftables.conf", "/etc/it's $(touch taken)")
    (two.runs / "etc/mask").symlink_to("/dev/null")
    two.manages("legacy", "/etc/mask", kind="link")
    done = two.carry()
    assert (done.returncode, done.stdout) == (0, ""), done
    assert two.there("/etc/ssh/sshd_config") == "closed" and two.there("/etc/nftables.conf") == "ours"
    assert (two.its / "etc/ssh/sshd_config").stat().st_mode & 0o777 == 0o600
    assert two.there("/etc/it's $(touch taken)") == "odd" and not (two.state / "taken").exists()
    assert os.readlink(two.its / "etc/mask") == "/dev/null"
    assert two.there("/etc/motd") == "new"


def test_what_cannot_be_copied_whole_leaves_what_was_there(two: Two) -> None:
    """The new slot may be the next to start by then."""
    two.write("/etc/ssh/sshd_config", "closed", slot="open")
    two.write("/etc/shadow", "root:*:1::::::\n", slot="root:$6$image:9::::::\n")
    two.manages("ssh", "/etc/ssh/sshd_config", "/etc/shadow")
    stand_in = 'cp() { for last; do :; done; printf "cl" >"$last"; return 1; }\n'
    assert two.carry(before=stand_in).returncode == 1
    assert two.there("/etc/ssh/sshd_config") == "open" and "image" in two.there("/etc/shadow")
    assert two.carry().returncode == 0
    assert {path.name for path in (two.its / "etc/ssh").iterdir()} == {"sshd_config"}
    assert two.there("/etc/ssh/sshd_config") == "closed" and two.there("/etc/shadow") == "root:*:1::::::\n"


def test_a_slot_is_written_again_only_where_something_has_changed(two: Two) -> None:
    """While it waits for its restart, each run asks."""
    two.write("/etc/ssh/sshd_config", "closed", slot="open", mode=0o600)
    two.manages("ssh", "/etc/ssh/sshd_config", "/etc/later")
    two.write("/etc/folder/one", "1")
    two.carried("/etc/folder")
    carried = Path(f"{two.its}/etc/ssh/sshd_config")

    def again() -> bool:
        before = carried.stat().st_ino if carried.exists() else 0
        assert two.carry(how="carry_on").returncode == 0
        return carried.stat().st_ino != before

    assert again() and not again()
    (two.runs / "etc/ssh/sshd_config").chmod(0o640)
    assert again() and carried.stat().st_mode & 0o777 == 0o640 and not again()
    two.write("/etc/later", "")
    assert again() and two.there("/etc/later") == "" and not again()
    two.write("/etc/folder/one", "2")
    assert again() and two.there("/etc/folder/one") == "2" and not again()
    two.manages("legacy", "/etc/shadow")
    two.write("/etc/shadow", "root:*:1::::::\n")
    assert again() and not again()
    # After an installation it is a new slot, whatever was there.
    carried.write_text("open", encoding="utf-8")
    assert two.carry().returncode == 0 and two.there("/etc/ssh/sshd_config") == "closed"
    # What could not be done is done again.
    two.write("/etc/ssh/sshd_config", "more closed")
    assert two.carry(before="sync() { failed=yes; }\n", how="carry_on").returncode == 1
    assert again() and not again()


def test_who_the_device_is_to_its_operators_goes_along(two: Two) -> None:
    two.write("/etc/ssh/ssh_host_ed25519_key", "mine", slot="its", mode=0o600)
    two.write("/etc/ssh/ssh_host_ed25519_key.pub", "mine")
    two.write("/etc/dropbear/dropbear_rsa_host_key", "mine", mode=0o600)
    (two.runs / "etc/dropbear").chmod(0o700)
    assert two.carry().returncode == 0
    for path in (
        "/etc/ssh/ssh_host_ed25519_key",
        "/etc/ssh/ssh_host_ed25519_key.pub",
        "/etc/dropbear/dropbear_rsa_host_key",
    ):
        assert two.there(path) == "mine"
    assert (two.its / "etc/dropbear").stat().st_mode & 0o777 == 0o700


def test_where_the_image_has_it_all_only_what_is_named_goes_along(two: Two) -> None:
    two.write("/etc/ssh/sshd_config", "closed", slot="open")
    two.write("/etc/ssh/ssh_host_rsa_key", "mine", slot="its")
    two.write("/etc/named/one", "mine", slot="its")
    two.manages("ssh", "/etc/ssh/sshd_config")
    two.carried("/etc/named", "/etc/never-was")
    assert two.carry(own="no").returncode == 0
    assert two.there("/etc/ssh/sshd_config") == "open" and two.there("/etc/ssh/ssh_host_rsa_key") == "its"
    assert two.there("/etc/named/one") == "mine"
    two.carried()
    assert two.carry(own="no").returncode == 0


def test_what_was_taken_away_stays_away_and_what_is_only_named_does_not_go(two: Two) -> None:
    two.manages("legacy", "/etc/inetd.conf", kind="absent")
    two.write("/etc/keep", "", slot="its")
    two.write("/etc/inetd.conf", "", slot="telnet")
    for path in ("/etc/keep", "/etc/inetd.conf"):
        Path(f"{two.runs}{path}").unlink()
    two.carried("/etc/keep")
    assert two.carry().returncode == 0
    assert not (two.its / "etc/inetd.conf").exists() and two.there("/etc/keep") == "its"


def test_the_record_of_changes_itself_is_on_a_partition_that_both_share(two: Two) -> None:
    (two.commits / "program").write_text("x", encoding="utf-8")
    folder = two.commits / "generation/own"
    folder.mkdir(parents=True)
    (folder / "manifest").write_text(
        f"entries() {{ :\nentry 0 file '{two.commits}/program' 0600 root root\nentry 1 file '{two.state}/seen' 0600 root root\n}}\n",
        encoding="utf-8",
    )
    assert two.carry().returncode == 0
    assert not (two.slot / two.commits.relative_to("/")).exists()


@pytest.mark.parametrize("leads", ["/data/ssh", "../../data/ssh"])
def test_a_link_of_the_new_slot_leads_within_it_and_nothing_that_runs_is_touched(
    two: Two, leads: str
) -> None:
    """Followed as it stands it would be the running device's own folder: its keys would be removed first, then not be there to copy."""
    running = Path(f"{two.runs}/data/ssh")
    two.write("/data/ssh/sshd_config", "closed")
    (two.runs / "etc/ssh").rmdir()
    (two.runs / "etc/ssh").symlink_to(running)
    (two.its / "etc/ssh").rmdir()
    (two.its / "etc/ssh").symlink_to(str(running) if leads.startswith("/") else "../data/ssh")
    two.manages("ssh", "/etc/ssh/sshd_config")
    assert two.carry().returncode == 0
    assert (running / "sshd_config").read_text(encoding="utf-8") == "closed"
    assert two.there("/data/ssh/sshd_config") == "closed"


def test_what_may_still_be_taken_back_does_not_go_along(two: Two) -> None:
    two.write("/etc/ssh/sshd_config", "locks out", slot="open")
    two.manages("ssh", "/etc/ssh/sshd_config")
    (two.commits / "armed/tx").mkdir(parents=True)
    done = two.carry()
    assert done.returncode == 1 and "waits for its confirmation" in done.stdout
    assert two.there("/etc/ssh/sshd_config") == "open"


def test_links_that_lead_nowhere_stop_it(two: Two) -> None:
    two.write("/etc/loop/file", "x")
    (two.its / "etc/loop").symlink_to("loop")
    two.manages("ssh", "/etc/loop/file")
    done = two.carry()
    assert done.returncode == 1 and "/etc/loop leads nowhere in the new slot" in done.stdout


@pytest.mark.parametrize("place", ["/", "/nowhere/at/all"])
def test_what_runs_is_never_the_other_slot(two: Two, place: str) -> None:
    two.write("/etc/ssh/sshd_config", "closed")
    two.manages("ssh", "/etc/ssh/sshd_config")
    two.slot = Path(place)
    assert two.carry().returncode == 1
    assert (two.runs / "etc/ssh/sshd_config").read_text(encoding="utf-8") == "closed"


PASSWD = "root:x:0:0::/root:/bin/sh\nops:x:1000:1000::/home/ops:/bin/bash\nwww:x:33:33::/:/usr/sbin/nologin\n"


def test_accounts_are_the_images_and_their_passwords_the_devices(two: Two) -> None:
    two.write("/etc/passwd", PASSWD, slot=(
        "root:x:0:0::/root:/bin/ash\ntoor:x:0:0::/root:/bin/sh\nops:x:1001:1001::/home/ops:/bin/ash\nnew:x:990:990::/:/bin/false\n"
        "www:x:33:33::/:/bin/sh\n"
    ))  # fmt: skip
    two.write("/etc/shadow", "root:*:1::::::\nops:$6$mine:2::::::\nold:$6$old:3::::::\n", mode=0o640, slot=(
        "root:$6$factory:9::::::\nops:$6$image:9::::::\nnew:!:9::::::\n"
    ))  # fmt: skip
    two.write("/etc/group", "mine", slot="its")
    two.manages("credentials", "/etc/passwd", "/etc/shadow", "/etc/group")
    done = two.carry()
    assert (done.returncode, done.stdout) == (0, ""), done
    # Its own numbers and shells, no shell where it was taken away, no second root that was taken away.
    assert two.there("/etc/passwd").splitlines() == [
        "root:x:0:0::/root:/bin/ash", "ops:x:1001:1001::/home/ops:/bin/ash", "new:x:990:990::/:/bin/false",
        "www:x:33:33::/:/usr/sbin/nologin",
    ]  # fmt: skip
    assert two.there("/etc/shadow").splitlines() == ["root:*:1::::::", "ops:$6$mine:2::::::", "new:!:9::::::"]
    assert two.there("/etc/group") == "its"
    assert (two.its / "etc/shadow").stat().st_mode & 0o777 == 0o640
    assert {path.name for path in (two.its / "etc").iterdir()} == {"passwd", "shadow", "group", "ssh"}


def test_passwords_go_along_only_where_a_role_has_seen_to_them(two: Two) -> None:
    two.write("/etc/shadow", "root:*:1::::::\n", slot="root:$6$image:9::::::\n")
    assert two.carry().returncode == 0
    assert two.there("/etc/shadow") == "root:$6$image:9::::::\n"


def test_hashes_in_passwd_go_along_and_an_empty_file_takes_no_account_away(two: Two) -> None:
    two.write("/etc/passwd", "root:$1$mine:0:0::/root:/bin/sh\n", slot="root:$1$image:0:0::/root:/bin/sh\n")
    two.write("/etc/shadow", "", slot="root:$6$image:9::::::\n")
    two.manages("credentials", "/etc/passwd", "/etc/shadow")
    assert two.carry().returncode == 0
    assert two.there("/etc/passwd") == "root:$1$mine:0:0::/root:/bin/sh\n"
    assert two.there("/etc/shadow") == "root:$6$image:9::::::\n"
