"""Privilege, transport, poor devices and hostile content: what works is confirmed, what cannot work is refused by name
before anything changes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.faults.on_devices import CHECKOUT, Devices

_FILE = {"dest": "/etc/trial", "content": "new\n"}


@pytest.mark.parametrize("host", ["debian12", "vendor", "operator", "operator-password"])
def test_root_and_sudo_with_and_without_password_confirm(host: str, clean: Devices) -> None:
    result = clean.commit(host, files=[_FILE])
    assert result["state"] == "confirmed" and result["generation"] == 1 and result["confirmed"] == "ssh", (
        result
    )
    again = clean.commit(host, files=[_FILE])
    assert again["state"] == "unchanged" and again["exchanges"] == 1, again
    back = clean.rollback(host, to="factory")
    assert back["state"] == "confirmed", back
    assert not clean.inside(host, "ls /etc/trial /var/lib/sallyport 2>/dev/null || :")
    assert "sallyport" not in clean.inside(
        host, "cat /etc/inittab 2>/dev/null; ls /etc/systemd/system 2>/dev/null || :"
    )


def test_the_guards_outlive_a_logout_that_kills_everything_of_the_user(clean: Devices) -> None:
    assert "yes" in clean.inside(
        "operator", "cat /etc/systemd/logind.conf /etc/systemd/logind.conf.d/* | grep -i ^KillUserProcesses"
    )
    result = clean.commit("operator", files=[_FILE], verify=["false"])
    assert result["state"] == "reverted" and "verify: status 1" in result["msg"], result


@pytest.mark.parametrize("pipelining", [True, False])
def test_hostile_paths_and_contents_arrive_as_they_are(pipelining: bool, clean: Devices) -> None:
    name = "/etc/trial $(id) 'one' \"two\" \\ ;|&*?\n\u00fc"
    content = "$(touch /etc/trial-ran) `id`\n'\"\\\\\x01\n{{ no }}\nlast line without newline"
    arguments = {
        "name": "trial",
        "files": [{"dest": name, "content": content}, {"dest": "/etc/trial-link", "link": "$(id) 'x'"}],
    }
    for host in ("debian12", "vendor"):
        quoted = {"sallyport.iot.commit": arguments}
        _, results = clean.play(
            host,
            [{**quoted, "vars": {"x": 1}}],
            variables={"ansible_pipelining": pipelining, "no": "{% raw %}{{ no }}{% endraw %}"},
        )
        assert results[0]["state"] == "confirmed", results
        done = subprocess.run(
            ["podman", "exec", clean.lab.container(host), "cat", name], capture_output=True, check=True
        )
        assert done.stdout == content.encode()
        assert clean.inside(host, "readlink /etc/trial-link") == "$(id) 'x'\n"
        clean.rollback(host, to="factory")


_NAME = "$(touch /tmp/trial-ran) 'a' \"b\" `touch /tmp/trial-ran` ;&|x"
_LOGIN = "w\u00fc $HOME *"  # what ssh itself still takes for a login name
_ACCOUNT = r"""
for table in passwd shadow; do
  cp -p /etc/$table /tmp/trial-$table
  [ ! -f /etc/$table ] || sed -n 's/^root:/@:/p' /etc/$table >>/etc/$table
done
printf old >"$(printf '/etc/trial-latin-\377')"
ln -s "$(printf '/etc/trial-latin-\377')" /etc/trial-link
"""
_NO_ACCOUNT = """
for table in passwd shadow; do cat /tmp/trial-$table >/etc/$table; rm /tmp/trial-$table; done
rm -f /etc/trial-*
"""


def _call(devices: Devices, host: str, name: bytes) -> None:
    """Give a device this hostname, whatever bytes it has."""
    pid = subprocess.run(
        ["podman", "inspect", "--format", "{{.State.Pid}}", devices.lab.container(host)], capture_output=True, check=True, text=True,
    ).stdout.strip()  # fmt: skip
    program = "import os, socket, sys; socket.sethostname(os.fsencode(sys.argv[1]))"
    subprocess.run(["nsenter", "-t", pid, "-u", sys.executable, "-c", program, name], check=True)


@pytest.fixture(params=["debian12", "vendor"])
def hostile(request: pytest.FixtureRequest, clean: Devices) -> Iterator[tuple[str, Devices]]:
    """A device whose inventory name, hostname and login name are as bad as they can be, and a link to bytes that are
    no text; what is yielded knows it by its inventory name alone.
    """
    host = request.param
    with clean.as_it_began(host):
        hostname = clean.inside(host, "cat /proc/sys/kernel/hostname").strip().encode()
        clean.inside(host, _ACCOUNT.replace("@", _LOGIN))
        _call(clean, host, b"$(touch /tmp/trial-ran) 'a' \"b\" `id` \xff\n; x")
        other = Devices(clean.lab, clean.playbook_command)
        variables = {**clean.inventory["_meta"]["hostvars"][host], "ansible_user": _LOGIN}
        everything = {**clean.inventory["all"], "hosts": [_NAME], "children": []}
        other.inventory = {"all": everything, "_meta": {"hostvars": {_NAME: variables}}}
        try:
            yield host, other
        finally:
            _call(clean, host, hostname)
            clean.inside(host, _NO_ACCOUNT)


def test_hostile_names_and_bytes_run_nothing_and_can_be_read(
    hostile: tuple[str, Devices], tmp_path: Path
) -> None:
    """Inventory name, hostname, login, note, file names on both sides and a content that is no text."""
    host, devices = hostile
    source = tmp_path / "raw $(touch ran) 'x'"
    content = (
        bytes(range(256)) + b"\n$(touch /tmp/trial-ran)\n`touch /tmp/trial-ran`\n'\"\\ without a newline \xff"
    )
    source.write_bytes(content)
    note = f"{_NAME}\nof two lines"
    odd = "/etc/trial $(touch ran) 'a' \"b\"\n\u00fc"
    files = [{"dest": dest, "src": str(source)} for dest in ("/etc/trial-link", odd)]
    tasks: list[dict[str, Any]] = [
        {"sallyport.iot.probe": {}},
        {"sallyport.iot.commit": {"name": "trial", "files": files, "note": note}},
        {"sallyport.iot.commit": {"name": "trial", "files": files, "note": note}},
        {"sallyport.iot.rollback": {}},
        {"sallyport.iot.rollback": {"to": "factory"}},
    ]
    done, results = devices.play("all", tasks, "--diff")
    probed, first, again, listed, back = results
    device = probed["ansible_facts"]["sallyport_device"]
    assert device["hostname"].startswith("$(touch /tmp/trial-ran) 'a' \"b\" `id` \ufffd"), device["hostname"]
    assert device["login_user"] == _LOGIN
    assert first["state"] == "confirmed" and again["state"] == "unchanged", (first, again)
    assert {entry["dest"] for entry in first["files"]} == {"/etc/trial-latin-\\xff", odd}
    _, line = listed["msg"].splitlines()
    assert "'/etc/trial-latin-\\xff'" in line and f"{_NAME} of two lines" in line, listed
    assert back["state"] == "confirmed", back
    look = [
        "podman",
        "exec",
        devices.lab.container(host),
        "/bin/sh",
        "-c",
        "cat /etc/trial-latin*; ls -d /tmp/trial-ran ran 2>/dev/null || :",
    ]
    assert subprocess.run(look, capture_output=True, check=True).stdout == b"old"
    assert not [path for path in (Path("/tmp/trial-ran"), CHECKOUT / "ran", Path("ran")) if path.exists()], (
        done
    )


def test_a_login_name_that_ssh_itself_does_not_take_is_refused_by_name(clean: Devices) -> None:
    name = "o'brien;$(touch /tmp/trial-ran)"
    with pytest.raises(RuntimeError, match="ssh on this controller refuses the login name"):
        clean.commit("debian12", files=[_FILE], variables={"ansible_user": name})
    assert not Path("/tmp/trial-ran").exists()


@pytest.mark.parametrize("host", ["debian12", "vendor"])
def test_five_megabytes_are_committed(host: str, clean: Devices) -> None:
    content = "a line of a list of prefixes 198.51.100.0/24\n" * 116_000
    assert len(content) > 5_000_000
    result = clean.commit(host, files=[{"dest": "/etc/trial", "content": content}])
    assert result["state"] == "confirmed", str(result)[:500]
    assert clean.inside(host, "wc -c </etc/trial").strip() == str(len(content))


def test_a_secret_of_a_refused_file_is_printed_nowhere(clean: Devices) -> None:
    secret = "correct-horse-battery-staple"
    task = {
        "sallyport.iot.commit": {
            "name": "trial",
            "files": [{
                "dest": "/etc/trial", "content": "password = {{ word }}\n", "secret": True, "mode": "0600",
                "check": 'cat "$1" >&2; echo "line 1: $(cat "$1")"; exit 4',
            }],
        }
    }  # fmt: skip
    done, results = clean.play("debian12", [task], "-vvv", "--diff", variables={"word": secret})
    assert results[0]["state"] == "refused" and "status 4" in results[0]["msg"], results
    assert secret not in str(results)
    # With -vvv Ansible itself shows the variables that it was given; nothing of the commit may.
    assert secret not in "".join(line for line in done.stdout.splitlines() if '"word"' not in line), (
        done.stdout
    )
    assert secret not in done.stderr


_REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "a directory": ("debian12", {"files": [{**_FILE, "dest": "/etc/ssh"}]}, {}, "/etc/ssh is a directory"),
    "a device": ("vendor", {"files": [{**_FILE, "dest": "/dev/null"}]}, {}, "is no regular file"),
    "no root": ("operator", {"files": [_FILE]}, {"ansible_become": False}, "root is needed on the device"),
    "a state on tmpfs": ("debian12", {"files": [_FILE], "state_dir": "/run/sallyport"}, {}, "lies on tmpfs"),
    "a wrong sudo password": (
        "operator-password", {"files": [_FILE]}, {"ansible_become_password": "wrong"}, "ansible_become_password",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", _REFUSED)
def test_what_cannot_work_is_refused_by_name(what: str, clean: Devices) -> None:
    host, arguments, variables, message = _REFUSED[what]
    result = clean.commit(host, variables=variables, **arguments)
    assert result.get("failed") or result.get("unreachable"), result
    assert message in result["msg"], result["msg"]


def test_a_delegated_commit_is_refused(clean: Devices) -> None:
    task = {"sallyport.iot.commit": {"name": "trial", "files": [_FILE]}, "delegate_to": "vendor"}
    _, results = clean.play("debian12", [task])
    assert results[0]["failed"] and "delegated to 'vendor'" in results[0]["msg"], results


def test_an_immutable_file_and_a_mount_point_are_refused(clean: Devices) -> None:
    clean.inside(
        "debian12",
        "touch /etc/trial /etc/trial-mount /etc/trial-source; chattr +i /etc/trial; mount --bind /etc/trial-source /etc/trial-mount",
    )
    try:
        immutable = clean.commit("debian12", files=[_FILE])
        assert "immutable" in immutable["msg"] and immutable["state"] == "refused", immutable
        mounted = clean.commit("debian12", files=[{**_FILE, "dest": "/etc/trial-mount"}])
        assert "is a mount point" in mounted["msg"] and mounted["state"] == "refused", mounted
    finally:
        clean.inside(
            "debian12",
            "chattr -i /etc/trial; umount /etc/trial-mount; rm -f /etc/trial /etc/trial-mount /etc/trial-source",
        )


@pytest.mark.parametrize("host", ["debian12", "vendor"])
def test_two_controllers_at_once_both_end_in_a_known_state(host: str, clean: Devices) -> None:
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(
            lambda number: clean.commit(
                host, name=f"trial{number}", files=[{**_FILE, "dest": f"/etc/trial{number}"}]
            ),
            (1, 2),
        )
    for number, result in ((1, one), (2, two)):
        there = clean.inside(host, f"[ -e /etc/trial{number} ] && echo yes || :").strip() == "yes"
        assert (result["state"] == "confirmed") == there, (result, there)
        assert result["state"] == "confirmed" or "another change" in result["msg"], result
    assert "confirmed" in (one["state"], two["state"])


def test_a_site_that_forces_multiplexing_is_still_confirmed_over_a_new_connection(clean: Devices) -> None:
    forced = {
        "ansible_ssh_args": "-o ControlMaster=auto -o ControlPersist=60s -o ControlPath=/tmp/sallyport-%C"
    }
    result = clean.commit("debian12", files=[_FILE], variables=forced)
    assert result["state"] == "confirmed", result
    generation = clean.inside("debian12", "cat /var/lib/sallyport/generation/1/session")
    assert len(generation.split()) == 2, generation


def test_a_pending_change_of_a_dead_controller_is_ended(clean: Devices) -> None:
    assert clean.commit("vendor", files=[{**_FILE, "dest": "/etc/trial-first"}])["state"] == "confirmed"
    clean.inside(
        "vendor", "mkdir -p /var/lib/sallyport/armed/tx; echo deadbeef >/var/lib/sallyport/armed/tx/id"
    )
    result = clean.commit("vendor", files=[_FILE])
    assert result["state"] == "confirmed", result
