"""Both keys are known while it is not decided which one the device ends up with."""

from __future__ import annotations

import base64
import hashlib
import hmac
import subprocess
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import known_hosts
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import commit

OLD = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJTxY7WWw3MsgWv+4L0jukRWO3TumLgCvMX4HmTPoyAF"
NEW = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE6h36B1Eqms2X8XGcMh/uCIMjmG68ETLZnrbGGMKPTq comment"
NAMES = ("10.0.0.7",)


def hashed(name: str) -> str:
    salt = b"0123456789abcdefghij"
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def test_a_new_key_is_added_once_and_the_old_one_leaves_with_plain_listed_and_hashed_names() -> None:
    text = f"10.0.0.7,router {OLD}\n{hashed('10.0.0.7')} {OLD}\n10.0.0.8 {OLD}\n# {OLD}\n"
    both = known_hosts.added(known_hosts.added(text, NAMES, [NEW]), NAMES, [NEW])
    assert both == text + f"10.0.0.7 {' '.join(NEW.split()[:2])}\n"
    after = known_hosts.removed(both, NAMES, [OLD.split()[1]])
    assert after == f"10.0.0.8 {OLD}\n# {OLD}\n10.0.0.7 {' '.join(NEW.split()[:2])}\n"


def test_a_key_that_a_hashed_line_has_already_is_not_added() -> None:
    text = f"{hashed('10.0.0.7')} {OLD}\n"
    assert known_hosts.added(text, NAMES, [OLD]) == text


def test_revoked_and_authority_lines_are_left_alone() -> None:
    text = f"@revoked 10.0.0.7 {OLD}\n@cert-authority * {OLD}\n"
    assert known_hosts.removed(text, NAMES, [OLD.split()[1]]) == text


def test_a_file_without_a_final_newline_does_not_swallow_the_new_line() -> None:
    assert known_hosts.added(f"other {OLD}", NAMES, [NEW]).splitlines()[0] == f"other {OLD}"


def test_the_name_is_the_one_that_ssh_looks_up() -> None:
    options = {"userknownhostsfile": "/tmp/kh /tmp/kh2", "hostname": "Device.Example", "port": "2222"}
    found = known_hosts.target(options)
    assert found is not None and found.names == ("[device.example]:2222",) and found.path == Path("/tmp/kh")
    aliased = known_hosts.target({**options, "hostkeyalias": "unit-7"})
    assert aliased is not None and aliased.names == ("unit-7",)
    assert known_hosts.target({**options, "userknownhostsfile": "/dev/null"}) is None


def test_ssh_itself_is_asked_for_file_name_and_port(tmp_path: Path) -> None:
    found = known_hosts.resolve(
        ["ssh", "-o", f"UserKnownHostsFile={tmp_path}/kh", "-p", "2022", "198.51.100.9"]
    )
    assert found is not None and found.path == tmp_path / "kh" and found.names == ("[198.51.100.9]:2022",)


def _add(arguments: tuple[str, int]) -> None:
    path, number = arguments
    key = base64.b64encode(f"\0\0\0\x0bssh-ed25519{number:032d}".encode()).decode()
    known_hosts.edit(
        Path(path), lambda text: known_hosts.added(text, (f"10.0.0.{number}",), [f"ssh-ed25519 {key}"])
    )


def test_forks_that_edit_the_file_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ssh" / "known_hosts"
    with get_context("fork").Pool(4) as pool:
        pool.map(_add, [(str(path), number) for number in range(40)])
    assert len(path.read_text().splitlines()) == 40
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_link_stays_a_link_and_its_target_changes(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text(f"a {OLD}\n")
    link.symlink_to(real)
    assert known_hosts.edit(link, lambda text: text + f"b {OLD}\n")
    assert link.is_symlink() and real.read_text().count("\n") == 2
    assert not known_hosts.edit(link, lambda text: text)


@pytest.mark.parametrize("name", ["10.0.0.7", "[gw1.example]:2222", "series", "fd00::7"])
def test_the_new_connection_believes_the_devices_own_keys_by_whatever_name_ssh_looks_it_up(
    tmp_path: Path, name: str
) -> None:
    """ssh may be told another name by its own files, which nobody else reads."""
    change = SimpleNamespace(confirm=SimpleNamespace(host_keys=(OLD, NEW)))
    driver = SimpleNamespace(wanted=change, exchange=SimpleNamespace(transport="ssh"))
    path = commit._Driver._known_hosts(driver, str(tmp_path))  # type: ignore[arg-type]
    found = subprocess.run(
        ["ssh-keygen", "-F", name, "-f", path], capture_output=True, text=True, check=True
    ).stdout
    assert [line.split()[2] for line in found.splitlines() if not line.startswith("#")] == [
        OLD.split()[1],
        NEW.split()[1],
    ]
