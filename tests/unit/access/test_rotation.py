"""What a rotation changes, what it ends, and what no generation may bring back."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.action import rotate
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.host_keys import blob
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials import reading, rotation, shadow
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.rotation import KeyFile

OLD, NEW, FRIEND = (
    f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{name} {name}@example" for name in ("old", "new", "friend")
)
ROOT = {"name": "root", "home": "/root"}
OWN = "/etc/ssh/authorized_keys.d/root"
SHELLS = [command for command in (["dash"], ["busybox", "sh"]) if shutil.which(command[0])]


def openssh(*patterns: str) -> dict[str, Any]:
    return {"ssh": {"server": "openssh", "config": {"authorizedkeysfile": [" ".join(patterns)]}}}


HARDENED = openssh("/etc/ssh/authorized_keys.d/%u", ".ssh/authorized_keys", ".ssh/authorized_keys2")


def texts(files: list[Any]) -> dict[str, str]:
    return {one.dest: one.content.decode() if one.kind == "file" else one.kind for one in files}


def test_the_new_key_stands_beside_the_old_one_first_and_alone_afterwards() -> None:
    found = [KeyFile(OWN, "root", f"{OLD}\n")]
    plan = rotation.plan(HARDENED, ROOT, found, NEW, [])
    assert texts(plan.add) == {OWN: f"{OLD}\n{NEW}\n", "/root/.ssh/authorized_keys": f"{NEW}\n"}
    assert texts(plan.replace) == {OWN: f"{NEW}\n", "/root/.ssh/authorized_keys": f"{NEW}\n"}
    assert [one["comment"] for one in plan.removed] == ["old@example"]


def test_keys_of_everybody_go_but_those_that_are_kept() -> None:
    found = [
        KeyFile(OWN, "root", f"# ours\n{OLD}\n"),
        KeyFile("/home/a/.ssh/authorized_keys", "a", f'from="10.0.0.0/8" {FRIEND}\n{OLD}\n'),
        KeyFile("/home/b/.ssh/authorized_keys2", "b", f"{OLD}\n"),
    ]
    plan = rotation.plan(HARDENED, ROOT, found, NEW, [FRIEND])
    after = texts(plan.replace)
    assert after["/home/a/.ssh/authorized_keys"] == f'from="10.0.0.0/8" {FRIEND}\n'
    assert after["/home/b/.ssh/authorized_keys2"] == "absent"
    assert sorted(one["account"] for one in plan.removed) == ["a", "b", "root"]


def test_a_kept_key_in_the_options_of_another_keeps_nothing() -> None:
    planted = [
        f'command="exec bash # {blob(FRIEND)} #" {OLD}',
        f'command="sh # {FRIEND}',
        f"environment=x\\{FRIEND.replace(' ', '_')}",
    ]
    home = "/home/a/.ssh/authorized_keys"
    found = [
        KeyFile(OWN, "root", "\n".join([*planted, OLD])),
        KeyFile(home, "a", "\n".join([FRIEND, *planted])),
    ]
    plan = rotation.plan(HARDENED, ROOT, found, NEW, [FRIEND, ""])
    assert texts(plan.replace)[OWN] == f"{NEW}\n" and texts(plan.replace)[home] == f"{FRIEND}\n"
    assert [one["comment"] for one in plan.removed if one["account"] == "a"] == [
        "old@example",
        *["a line that is no plain key"] * 2,
    ]


def test_a_link_to_the_folder_of_the_new_key_takes_nothing_away_from_it() -> None:
    own = "/root/.ssh/authorized_keys"
    found = [
        KeyFile("/home/bob/.ssh/authorized_keys", "bob", f"{OLD}\n", own),
        KeyFile("/home/carol/.ssh/authorized_keys", "carol", f"{OLD}\n", "/home/dave/.ssh/authorized_keys"),
        KeyFile("/home/dave/.ssh/authorized_keys", "dave", f"{OLD}\n", "/home/dave/.ssh/authorized_keys"),
        KeyFile(own, "root", f"{OLD}\n", own),
    ]
    plan = rotation.plan({"ssh": {"server": "dropbear"}, "files": {}}, ROOT, found, NEW, [])
    assert texts(plan.replace) == {own: f"{NEW}\n", "/home/dave/.ssh/authorized_keys": "absent"}
    assert [one["account"] for one in plan.removed] == ["dave", "root"]


def test_root_writes_nothing_below_the_home_of_a_user_who_could_put_a_link_there() -> None:
    bob = {"name": "bob", "home": "/home/bob", "uid": 1000}
    place, own, other = (
        "/etc/ssh/authorized_keys.d/bob",
        "/home/bob/.ssh/authorized_keys",
        "/home/eve/.ssh/authorized_keys",
    )
    found = [
        KeyFile(place, "bob", f"{OLD}\n", place),
        KeyFile(own, "bob", f"{OLD}\n{NEW}\n", own, private=True),
        KeyFile(other, "eve", f'command="x" {FRIEND}\n{OLD}\n', other, private=True),
    ]
    plan = rotation.plan(HARDENED, bob, found, NEW, [FRIEND])
    assert texts(plan.add) == {place: f"{OLD}\n{NEW}\n"}
    assert texts(plan.replace) == {place: f"{NEW}\n", own: "absent", other: "absent"}
    assert plan.by_user == [("bob", own, f"{NEW}\n"), ("eve", other, f'command="x" {FRIEND}\n')]
    # Where sshd looks nowhere else the file stays in its place, and no link is followed to another.
    alone = rotation.plan(openssh(".ssh/authorized_keys"), bob, [KeyFile(own, "bob", OLD, own)], NEW, [])
    assert [one.follow for one in (*alone.add, *alone.replace)] == [False, False] and not alone.by_user
    # Root's own link stays: it leads to the medium that lasts.
    root = rotation.plan(
        HARDENED, ROOT, [KeyFile("/root/.ssh/authorized_keys", "root", OLD, "/data/k")], NEW, []
    )
    assert all(one.follow for one in (*root.add, *root.replace)) and not root.by_user


@pytest.mark.parametrize("command", SHELLS, ids=lambda words: words[0])
def test_users_write_their_own_files_whatever_these_are_called(command: list[str], tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("becomes a user")
    home = tmp_path / 'it\'s $(home) of "n"'
    home.mkdir()
    for folder in (home, *home.parents):
        folder.chmod(folder.stat().st_mode | 0o055)  # pytest's own are closed, and how deep they lie varies
    os.chown(home, 65534, 65534)
    path = home / ".ssh/authorized_keys"
    text = f"environment=\"A='x'\" {NEW}\n"
    (snippet,) = rotation.afterwards(rotation.Plan(by_user=[("nobody", str(path), text)]))
    for _ in range(2):
        subprocess.run([*command, "-eu", "-c", snippet], check=True, capture_output=True)
    assert path.read_text() == text and (path.stat().st_mode & 0o777, path.stat().st_uid) == (0o600, 65534)
    # Where root alone may write, a link of theirs leads to nothing.
    path.unlink()
    path.parent.rmdir()
    (tmp_path / "roots").mkdir(mode=0o755)
    path.parent.symlink_to(tmp_path / "roots")
    done = subprocess.run([*command, "-eu", "-c", snippet], check=False, capture_output=True)
    assert done.returncode != 0 and list((tmp_path / "roots").iterdir()) == []


def test_what_cannot_be_read_goes_by_its_name_and_takes_no_new_key() -> None:
    huge, folder = "/root/.ssh/authorized_keys", "/home/eve/.ssh"
    found = [
        KeyFile(huge, "root", "", huge, goes=huge),
        KeyFile(f"{folder}/authorized_keys", "eve", "", "/etc/cron.d/authorized_keys", goes=folder),
    ]
    plan = rotation.plan(HARDENED, ROOT, found, NEW, [])
    assert texts(plan.add) == texts(plan.replace) == {OWN: f"{NEW}\n"}
    assert plan.gone == [huge, folder] and [one["file"] for one in plan.removed] == [
        one.path for one in found
    ]
    assert rotation.afterwards(rotation.Plan(gone=["/home/e 'x/.ssh"])) == [
        "rm -f -- '/home/e '\"'\"'x/.ssh'"
    ]


def test_generations_forget_keys_of_people_whose_files_are_gone_and_nothing_but_keys() -> None:
    device = openssh(
        "/etc/ssh/authorized_keys.d/%u", "%h/.ssh/authorized_keys", "%h/%u", "/srv/100%%/%U/keys"
    )
    found = rotation.forms(device)
    assert "/etc/ssh/authorized_keys.d/*" in found and "*/.ssh/authorized_keys" in found
    assert "/srv/100%/*/keys" in found and rotation.OPENWRT in found and "*/*" not in found


def test_keys_that_only_some_users_or_numbers_have_are_found_and_no_new_one_is_put_there() -> None:
    device = openssh("/etc/ssh/authorized_keys.d/%u", "/srv/keys/%U")
    device["files"] = {
        "/etc/ssh/sshd_config": "Match User bob\n\tauthorizedkeysfile = /etc/ssh/bob_keys .ssh/bob%%\n",
        "/etc/ssh/sshd_config.d/a.conf": 'Match Group x\n  AuthorizedKeysCommand "/usr/bin/keys"\n',
    }
    found = rotation.everywhere(device)
    assert "/etc/ssh/bob_keys" in found and "%h/.ssh/bob%%" in found
    assert rotation.asks_a_program(device) and not rotation.asks_a_program(HARDENED)
    plan = rotation.plan(device, {**ROOT, "uid": 0}, [KeyFile("/etc/ssh/bob_keys", "root", OLD)], NEW, [])
    assert texts(plan.add) == dict.fromkeys([OWN, "/srv/keys/0", "/root/.ssh/authorized_keys"], f"{NEW}\n")
    assert texts(plan.replace)["/etc/ssh/bob_keys"] == "absent"


def test_the_new_key_goes_where_a_match_block_sends_the_login() -> None:
    plan = rotation.plan(
        HARDENED, ROOT, [KeyFile("/etc/ssh/rk", "root", OLD)], NEW, [], ["/etc/ssh/rk .ssh/rk"]
    )
    assert {"/etc/ssh/rk", "/root/.ssh/rk", OWN} < texts(plan.add).keys()
    assert texts(plan.replace)["/etc/ssh/rk"] == f"{NEW}\n"


def test_what_a_rotation_does_not_replace_is_named() -> None:
    device = openssh(".ssh/authorized_keys")
    device["ssh"]["config"]["authorizedkeyscommand"] = ["/usr/bin/keys"]
    codes, program = rotate._what_stays(device, ["bob", "alice"])
    assert "one-time codes of alice, bob" in codes and "ssh_enrol_again" in codes
    assert "AuthorizedKeysCommand" in program
    assert list(rotate._what_stays(HARDENED, [])) == []
    second = {"port": 2222, "process": "sshd", "unit": "admin.service", "pid": 7, "protocol": "tcp"}
    ssh = {"server": "openssh", "unit": "ssh.service", "config": {"trustedusercakeys": ["/etc/ca"]}}
    other, certificates = rotate._what_stays({"ssh": ssh, "listening": [second]}, [])
    assert "port 2222 (admin.service" in other and "/etc/ca" in certificates


@pytest.mark.parametrize("name", ["keys/%d", "keys/$HOME", 'a"b', "a'b", "a\\b", "a\nb"])
def test_a_file_of_the_new_key_that_ssh_would_read_otherwise_is_refused(name: str) -> None:
    with pytest.raises(rotate.Refused, match="would read"):
        rotate.ActionModule._key(None, name)  # type: ignore[arg-type]


def test_a_space_in_the_name_of_the_new_key_is_one() -> None:
    assert shlex.split(rotate._offer(Path("/my keys/a"))) == ["-i", "/my keys/a"]


def test_a_key_that_a_broken_off_run_installed_already_is_not_added_twice() -> None:
    both = f"{OLD}\n{NEW}\n"
    found = [KeyFile(OWN, "root", both), KeyFile("/root/.ssh/authorized_keys", "root", f"{NEW}\n")]
    plan = rotation.plan(HARDENED, ROOT, found, NEW, [])
    assert plan.add == [] and texts(plan.replace)[OWN] == f"{NEW}\n"


def test_dropbear_reads_one_file_and_openwrt_another() -> None:
    vendor = {"ssh": {"server": "dropbear"}, "files": {}}
    plan = rotation.plan(vendor, ROOT, [KeyFile("/root/.ssh/authorized_keys", "root", OLD)], NEW, [])
    assert texts(plan.add) == {"/root/.ssh/authorized_keys": f"{OLD}\n{NEW}\n"}
    openwrt = {"ssh": {"server": "dropbear"}, "files": {rotation.OPENWRT: ""}}
    assert list(texts(rotation.plan(openwrt, ROOT, [], NEW, []).add)) == [rotation.OPENWRT]


@pytest.mark.parametrize("command", SHELLS, ids=lambda words: words[0])
def test_the_files_of_keys_are_found_for_every_account(command: list[str], tmp_path: Path) -> None:
    home = tmp_path / "home of a"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/authorized_keys").write_text(f"{OLD}\n")
    (tmp_path / "keys").mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/.ssh").symlink_to(home / ".ssh")
    (tmp_path / "keys/a").write_text(f"{FRIEND}\n")
    passwd = tmp_path / "passwd"
    passwd.write_text(
        f"root:x:0:0::/nonexistent:/bin/sh\na:x:1:1::{home}:/bin/sh\nb:x:2:2::{home}/:/bin/sh\n"
        f"c c:x:3:3::{tmp_path}/linked:/bin/sh\n"
    )
    device = openssh(f"{tmp_path}/keys/%u", ".ssh/authorized_keys")
    device["files"] = {"/etc/ssh/sshd_config": f'Match User a\nAuthorizedKeysFile "{tmp_path}/number%U"\n'}
    (tmp_path / "number1").write_text(f"{NEW}\n")
    program = rotation.reading(device)
    program = program.replace("/etc/passwd", str(passwd))
    sshd = tmp_path / "sshd"
    sshd.write_text('#!/bin/sh\necho "said $3"\necho authorizedkeysfile .ssh/x /etc/y\n')
    sshd.chmod(0o755)
    program = program.replace("/usr/sbin/sshd", str(sshd))
    helpers = "say() { printf '%s\\n' \"$*\"; }\nblob() { printf 'blob %s\\n' \"$1\"; cat; }\n"
    for name in ("huge", "alink", "astray"):
        (tmp_path / name / ".ssh").mkdir(parents=True)
        passwd.write_text(f"{passwd.read_text()}{name}:x:9:9::{tmp_path}/{name}:/bin/sh\n")
    with (tmp_path / "huge/.ssh/authorized_keys").open("wb") as holes:
        holes.truncate(1 << 40)
    (tmp_path / "alink/.ssh/authorized_keys").symlink_to(tmp_path / "number1")
    (tmp_path / "astray/.ssh/authorized_keys").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/.ssh").symlink_to(home / ".ssh")
    passwd.write_text(f"{passwd.read_text()}folder:x:9:9::{tmp_path}/folder:/bin/sh\n")
    if os.geteuid() == 0:
        os.chown(tmp_path / "folder/.ssh", 1234, 1234, follow_symlinks=False)
    done = subprocess.run(
        [*command, "-eu", "-c", helpers + program], capture_output=True, text=True, check=True
    )
    assert "loginkeys .ssh/x /etc/y\n" in done.stdout
    huge = f"{tmp_path}/huge/.ssh/authorized_keys"
    assert (
        f"keyfile {huge}\nkeyuser huge\nkeyplace {huge}\nkeyprivate yes\nkeygoes {huge}\nkeyfile"
        in done.stdout
    )
    if os.geteuid() == 0:
        link = done.stdout.partition(f"keyfile {tmp_path}/alink/.ssh/authorized_keys\n")[2].splitlines()
        assert link[2:4] == ["keyprivate yes", "keygoes "]
        for goes in (f"{tmp_path}/astray/.ssh/authorized_keys", f"{tmp_path}/folder/.ssh"):
            assert f"keygoes {goes}\n" in done.stdout
    assert f"keyfile {tmp_path}/keys/a\nkeyuser a\n" in done.stdout and FRIEND in done.stdout
    assert (
        done.stdout.count(f"keyfile {home}/.ssh/authorized_keys\nkeyuser a\n") == 1
        and done.stdout.count(OLD) == 2
    )
    assert f"keyfile {tmp_path}/number1\nkeyuser a\n" in done.stdout
    # A link is read as sshd reads it, and said to be one.
    assert (
        f"keyfile {tmp_path}/linked/.ssh/authorized_keys\nkeyuser c c\nkeyplace {home}/.ssh/authorized_keys\n"
        in done.stdout
    )


def test_a_change_that_was_due_is_due_no_more_for_passwords_that_were_replaced() -> None:
    passwd = "root:x:0:0::/root:/bin/sh\na:x:1:1::/:/bin/sh\nb:x:2:2::/:/bin/sh\nold:h1:3:3::/:/bin/sh\n"
    hidden = "root:h1:19000:0:99999:7:::\na:h1:0:0:99999:7:::\nb:h1:0:0:99999:7:::\n"
    accounts = shadow.parse(passwd, hidden)
    texts = {shadow.PASSWD: passwd, shadow.SHADOW: hidden}
    made = rotation.new_passwords(accounts, texts, {"root": "h2", "a": "*", "old": "h2"}, 20700)
    assert made[shadow.SHADOW].decode() == (
        "root:h2:20700:0:99999:7:::\na:*:20700:0:99999:7:::\nb:h1:0:0:99999:7:::\n"
    )
    assert made[shadow.PASSWD].decode() == passwd.replace("old:h1", "old:h2")


@dataclass
class Process:
    """A process in a made-up /proc."""

    pid: int
    name: str
    parent: int = 1
    words: str = ""
    sockets: tuple[int, ...] = ()
    group: str = "/system.slice/any.service"
    uid: int = 0
    session: int = 0
    """Its own where this is 0."""
    state: str = "S"


SESSION = "/user.slice/user-1000.slice/session-9.scope"
MANAGER = "/user.slice/user-1000.slice/user@1000.service"
DEVICE = [
    Process(100, "sshd", words="sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups", sockets=(1,)),
    Process(101, "sshd", words="/usr/sbin/sshd -D -p 2222", sockets=(2,)),
    Process(102, "dropbear", words="dropbear -p 2223", sockets=(3,)),
    Process(103, "telnetd", words="telnetd -F", sockets=(4,)),
    Process(104, "nginx", words="nginx", sockets=(5,)),
    # Sessions that listen for what their client forwards (ssh -R) or for windows (ssh -X).
    Process(200, "sshd", 100, "sshd: root@notty", (6,)),
    Process(201, "sshd-session", 100, "sshd-session: bob@pts/0", (7,)),
    Process(202, "dropbear", 102, "dropbear -p 2223", (8, 90)),
    Process(203, "dropbear", 1, "dropbear -p 2223", (9, 91)),
    Process(204, "dropbear", 1, "dropbear -i", (10,)),
    Process(205, "sshd", 1, "sshd: carol [priv]", (11,)),
    # What was left running in one, and a daemon in name only.
    Process(210, "nc", 200, "nc -l -p 4444", (12,)),
    Process(211, "nc", 1, "nc -l -p 4445", (13,), SESSION),
    Process(212, "sshd", 1, "sshd: x [listener]", (14,), SESSION, uid=1000),
    Process(220, "systemd", 1, "/lib/systemd/systemd --user", (), f"{MANAGER}/init.scope", uid=1000),
    Process(213, "bash", 200, state="Z"),
    Process(221, "python3", 220, "python3", (15,), f"{MANAGER}/app.slice/run-u1.service", uid=1000),
]
STAY = {100, 101, 102, 103, 104, 213, 220}


def made_up(root: Path, processes: list[Process]) -> None:
    (root / "proc/net").mkdir(parents=True)
    (root / "seats").mkdir()
    table = ["  sl  local_address rem_address   st ..."]
    for socket in range(1, 100):
        state = "01" if socket >= 90 else "0A"
        table.append(f"   0: 00000000:{socket:04X} 00000000:0000 {state} 0:0 00:0 0 0 0 {socket} 1 0")
    (root / "proc/net/tcp").write_text("\n".join(table) + "\n")
    for one in processes:
        made_up_process(root / "proc", one)


def made_up_process(root: Path, one: Process) -> Path:
    folder = root / str(one.pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "comm").write_text(f"{one.name}\n")
    (folder / "stat").write_text(
        f"{one.pid} ({one.name}) {one.state} {one.parent} {one.pid} {one.session or one.pid} 0 -1 0\n"
    )
    (folder / "status").write_text(f"Name:\t{one.name}\nUid:\t{one.uid}\t{one.uid}\t0\t0\n")
    (folder / "cgroup").write_text(f"0::{one.group}\n")
    (folder / "cmdline").write_text(one.words.replace(" ", "\0") + "\0")
    if one.words.startswith("sshd"):
        # A title is one string.
        (folder / "cmdline").write_text(f"{one.words}\0")
    for number, socket in enumerate(one.sockets):
        (folder / "fd" / str(number)).symlink_to(f"socket:[{socket}]")
    return folder


@pytest.mark.parametrize("command", SHELLS, ids=lambda words: words[0])
def test_sessions_end_though_they_listen_and_daemons_stay(command: list[str], tmp_path: Path) -> None:
    made_up(tmp_path, DEVICE)
    device = {"listening": [{"protocol": "tcp", "port": port} for port in range(1, 90)]}
    program = rotation.end_sessions(device).replace("/proc", f"{tmp_path}/proc")
    program = program.replace("/run/systemd/seats", f"{tmp_path}/seats")
    # The one that is killed by its number has had a child meanwhile, which has its session and no parent.
    made_later = made_up_process(tmp_path / "later", Process(300, "python3", 1, session=211))
    helpers = (
        f'kill() {{ echo "kill $*"; case $1 in -9) shift; for pid; do rm -rf "{tmp_path}/proc/$pid"; done; '
        f"[ ! -d {made_later} ] || mv {made_later} {tmp_path}/proc/ ;; esac; }}\n"
        'sleep() { :; }\nsystemctl() { echo "systemctl $*" >&3; }\n'
    )
    done = subprocess.run(
        [*command, "-eu", "-c", f"exec 3>&1\n{helpers}{program}"], capture_output=True, text=True, check=True
    )
    first, last, scope, *more = done.stdout.splitlines()
    ended = {int(word) for word in first.split()[1:]}
    assert ended == {one.pid for one in DEVICE} - STAY
    assert last.split() == ["kill", "-9", *first.split()[1:]]
    assert scope == "systemctl kill --signal=KILL session-9.scope"
    assert more == ["kill -STOP 300", "kill -9 300", "systemctl --no-block try-restart user@1000.service"]


@pytest.mark.parametrize("command", SHELLS, ids=lambda words: words[0])
def test_a_session_that_does_not_end_is_told(command: list[str], tmp_path: Path) -> None:
    made_up(tmp_path, DEVICE)
    program = rotation.end_sessions({"listening": []}).replace("/proc", f"{tmp_path}/proc")
    helpers = "kill() { :; }\nsleep() { :; }\nsystemctl() { :; }\n"
    done = subprocess.run(
        [*command, "-eu", "-c", f"{helpers}{program}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "sessions have not ended" in done.stderr and " 200 " in done.stderr


def test_every_snippet_is_clean_for_shellcheck() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    device = {**HARDENED, "listening": [{"protocol": "tcp", "port": 22}]}
    for snippet in (
        rotation.end_sessions(device),
        *rotation.afterwards(rotation.Plan(by_user=[("a", "/home/a/k", "text")], gone=["/x"])),
        rotation.reading(device),
        reading.trial(device),
        reading.trial_account(),
        reading.still_becomes("auth sufficient pam_rootok.so\n"),
    ):
        text = f"#!/bin/sh\nset -eu\nsay() {{ :; }}\nblob() {{ :; }}\n{snippet}\n"
        done = subprocess.run(
            ["shellcheck", "-e", "SC2016,SC2086,SC2317,SC2329", "-"],
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


def test_the_strongest_scheme_that_everybody_verifies_is_used_and_dropbear_is_never_trusted_with_it() -> None:
    ssh = {"ssh": {"server": "openssh"}}
    assert reading.scheme_for(ssh, ["sha512", "yescrypt"]) == "yescrypt"
    assert reading.scheme_for(ssh, ["sha512"]) == reading.scheme_for(ssh, []) == "sha512"
    assert reading.scheme_for({"ssh": {"server": "dropbear"}}, ["yescrypt"]) == "sha512"


def test_only_passwords_that_the_inventory_gives_to_several_hosts_are_tried_on_others() -> None:
    variables = {
        "ansible_play_hosts_all": ["a", "b", "c"],
        "hostvars": {
            "a": {"ansible_password": "same", "ansible_become_password": "own"},
            "b": {"ansible_ssh_pass": "same"},
            "c": {"ansible_password": "{{ vault }}"},
        },
    }
    assert reading.fleet_passwords(variables, "a") == {"same": ["b"]}
    assert reading.fleet_passwords(variables, "c") == {"same": ["a", "b"]}


class Vaulted(Sequence[str]):
    """A value of ``!vault`` as ansible-core up to 2.18 has it: a sequence that is a string only once it is asked for."""

    _ciphertext = b"$ANSIBLE_VAULT"

    def __getitem__(self, index: Any) -> Any:
        return "same"[index]

    def __len__(self) -> int:
        return 4

    def __str__(self) -> str:
        return "same"


def test_a_password_of_a_vault_and_one_that_is_a_number_are_compared_too() -> None:
    hosts = {
        "a": {"ansible_password": Vaulted(), "ansible_become_password": 1234, "ansible_become_pass": True},
        "b": {"ansible_password": Vaulted(), "ansible_ssh_pass": "1234", "ansible_become_pass": True},
    }
    variables = {"ansible_play_hosts_all": ["a", "b"], "hostvars": hosts}
    assert reading.fleet_passwords(variables, "a") == {"1234": ["b"], "same": ["b"]}


def test_the_keys_of_this_test_are_three() -> None:
    assert len({blob(OLD), blob(NEW), blob(FRIEND)}) == 3
