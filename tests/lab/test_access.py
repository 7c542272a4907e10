"""Nobody gets in who should not, and the operator always does: shown by trying, on every class of device."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials import hashing

from lab.fleet import CHECKOUT, addresses, load
from lab.labs import Lab
from lab.podman import podman, run_in
from tests.logins import counted, log_in

DEVICES = ("debian11", "debian12", "debian13", "vendor")
PLAYBOOK = CHECKOUT / "tests/lab/playbooks/access.yml"
TELNET = {"debian11": 23, "debian12": 2323, "debian13": 23, "vendor": 23}
# A hash of any scheme that a device of the lab has.
TOOLS = Path(sys.executable).parent
HASH = re.compile(r"\$(?:1|2[aby]|5|6|y)\$[^\s'\"]{8,}")


# Keeps the operator's way in while a test takes our settings away.
OWN_KEY = "mkdir -p -m 700 /root/.ssh; cp /etc/ssh/authorized_keys.d/root /root/.ssh/authorized_keys"


@dataclass
class Run:
    """One ansible-playbook: what it printed, and every task's result."""

    status: int
    output: str
    results: list[dict[str, Any]]

    def of(self, action: str) -> dict[str, dict[str, Any]]:
        """host -> result of this action."""
        return {r["host"]: r["result"] for r in self.results if r["action"] == f"sallyport.iot.{action}"}


class Access:
    """The fleet, and the operator's ways to it."""

    def __init__(self, lab: Lab, work: Path) -> None:
        self.lab = lab
        self.work = work
        self.runs = 0

    def play(self, *arguments: str, playbook: Path = PLAYBOOK, **environment: str) -> Run:
        self.runs += 1
        results = self.work / f"results-{self.runs}.jsonl"
        done = subprocess.run(
            [str(TOOLS / "ansible-playbook"), "-i", "inventories/lab", str(playbook),
             "-e", f"credentials_record_directory={self.work}/records", *arguments],
            cwd=CHECKOUT, capture_output=True, text=True, timeout=600, check=False,
            env={
                **os.environ, "SALLYPORT_LAB": self.lab.prefix, "SALLYPORT_TEST_RESULTS": str(results),
                "ANSIBLE_CALLBACK_PLUGINS": str(CHECKOUT / "tests/lab/callbacks"),
                "ANSIBLE_CALLBACKS_ENABLED": "results", "ANSIBLE_NOCOLOR": "1", **environment,
            },
        )  # fmt: skip
        lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
        return Run(done.returncode, done.stdout + done.stderr, [json.loads(line) for line in lines])

    def address(self, device: str, network: str = "lan") -> str:
        return addresses(network, self.lab.slot(), self.lab.fleet.devices[device].number)[0]

    def ssh(
        self, device: str, *options: str, known_hosts: str = "/dev/null", user: str = "root"
    ) -> list[str]:
        """A plain ssh that shares nothing with Ansible's connections."""
        strict = "no" if known_hosts == "/dev/null" else "yes"
        return [
            "ssh", "-F", "none", "-o", f"UserKnownHostsFile={known_hosts}", "-o", f"StrictHostKeyChecking={strict}",
            "-o", "ControlPath=none", "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=15", *options,
            f"{user}@{self.address(device)}",
        ]  # fmt: skip

    @property
    def key(self) -> Path:
        return self.lab.state / "operator"

    @property
    def known_hosts(self) -> Path:
        return self.lab.state / "known_hosts"

    def operator_gets_in(self, device: str, key: Path | None = None) -> bool:
        """With the operator's key, believing only the host keys of the operator's own file."""
        command = self.ssh(
            device, "-i", str(key or self.key), "-o", "BatchMode=yes", known_hosts=str(self.known_hosts)
        )
        done = subprocess.run([*command, "id -u"], capture_output=True, text=True, timeout=60, check=False)
        return counted(done.stdout.strip() == "0")

    def try_password(self, device: str, user: str, password: str) -> str:
        """What ssh says to a password, from the vantage point: OpenSSH punishes the source of failed logins."""
        said = podman(
            "exec", "--env", f"SSHPASS={password}", self.lab.container("vantage-lan"),
            "sh", "-c", 'exec "$@" 2>&1', "sh", "sshpass", "-e", *self.ssh(device, "-o", "PubkeyAuthentication=no", user=user), "id",
            check=False,
        )  # fmt: skip
        counted("uid=" in said)
        return said

    def shell(self, device: str, text: str) -> str:
        return run_in(self.lab.container(device), "/bin/sh", "-c", text, check=False)

    def snapshot(self, device: str) -> str:
        """Everything that the roles might touch, and who listens."""
        return self.shell(
            device,
            "cat /etc/passwd /etc/shadow /etc/inittab /etc/inetd.conf /etc/ssh/sshd_config /root/.ssh/authorized_keys "
            "2>/dev/null | sha256sum; find /etc/ssh /etc/dropbear /etc/systemd/system /etc/xinetd.d 2>/dev/null | sort; "
            "cat /proc/net/tcp /proc/net/tcp6 | grep ' 0A ' | cut -c 5-50 | sort",
        )

    def scan(self, device: str, network: str) -> set[str]:
        """Ports of telnet and its kin that a vantage point finds open, both families."""
        found = set()
        for family, option in enumerate(([], ["-6"])):
            address = addresses(network, self.lab.slot(), self.lab.fleet.devices[device].number)[family]
            ports = "T:21,23,2323,5000,U:69,161,1900"
            text = podman(
                "exec", self.lab.container(f"vantage-{network}"), "nmap", "-n", "-Pn", "-sS", "-sU", "-T4",
                "--max-retries", "2", "-p", ports, "-oG", "-", *option, address,
            )  # fmt: skip
            found |= {part for part in text.split() if re.match(r"\d+/open/", part)}
        return found


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Access]:
    """Devices of our own, as shipped. A lab that runs already under this name is reset, and left running."""
    if os.geteuid() != 0:
        pytest.skip("labs need root")
    prefix = os.environ.get("SALLYPORT_LAB", "pytest") + "ac" + os.environ.get("PYTEST_XDIST_WORKER", "")
    lab = Lab(load(), prefix, print)
    found = bool(lab.networks())
    lab.up([])
    if found:
        lab.reset([])
    yield Access(lab, tmp_path_factory.mktemp("access"))
    if not found:
        lab.down()


@dataclass
class Hardened:
    """The fleet after the first run, with what was seen before and on the way."""

    fleet: Access
    predicted: Run
    untouched: dict[str, tuple[str, str]]
    done: Run
    sessions: dict[str, str]
    open_before: dict[str, set[str]]
    old_host_keys: dict[str, str]


@pytest.fixture(scope="module")
def hardened(fleet: Access) -> Hardened:
    # Before anything else: dropbear makes its host key when the first client comes.
    old = {device: host_key(fleet, device) for device in DEVICES}
    before = {device: fleet.snapshot(device) for device in DEVICES}
    open_before = {device: fleet.scan(device, "wan") for device in DEVICES}
    predicted = fleet.play("--check", "--diff")
    untouched = {device: (before[device], fleet.snapshot(device)) for device in DEVICES}
    running = {device: open_session(fleet, device) for device in DEVICES}
    done = fleet.play("-vvvv", "--diff", ANSIBLE_DEBUG="1")
    answers = {device: talk(process, f"still here, {device}") for device, process in running.items()}
    return Hardened(fleet, predicted, untouched, done, answers, open_before, old)


def host_key(fleet: Access, device: str) -> str:
    scan = ["ssh-keyscan", "-t", "ed25519", fleet.address(device)]
    return subprocess.run(scan, capture_output=True, text=True, timeout=60, check=True).stdout.split()[-1]


def open_session(fleet: Access, device: str) -> subprocess.Popen[str]:
    """A session of somebody who is at work, by the default password."""
    password = fleet.lab.fleet.devices[device].image.accounts["root"]
    process = subprocess.Popen(
        ["sshpass", "-e", *fleet.ssh(device, "-o", "PubkeyAuthentication=no"), "exec cat"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "SSHPASS": password},
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("hello\n")
    process.stdin.flush()
    assert process.stdout.readline() == "hello\n", f"no session on {device}"
    return process


def talk(process: subprocess.Popen[str], text: str) -> str:
    """What the session answers; nothing if it ended."""
    answer, _ = process.communicate(text + "\n", timeout=60)
    return answer.strip()


def test_the_run_succeeds_on_every_device(hardened: Hardened) -> None:
    assert hardened.done.status == 0, hardened.done.output[-3000:]
    for role in ("ssh", "legacy_services", "credentials"):
        assert {host: result["state"] for host, result in hardened.done.of(role).items()} == dict.fromkeys(
            DEVICES, "confirmed"
        )


def test_check_mode_touches_nothing_and_predicts_exactly_what_the_run_does(hardened: Hardened) -> None:
    assert hardened.predicted.status == 0, hardened.predicted.output[-3000:]
    for device in DEVICES:
        assert hardened.untouched[device][0] == hardened.untouched[device][1]
        for role in ("ssh", "legacy_services", "credentials"):
            said, done = hardened.predicted.of(role)[device], hardened.done.of(role)[device]
            assert said["state"] == "would_change" and said["changed"]
            for what in ("files", "services", "outside_policy", "accounts", "remarks", "lockout"):
                assert said.get(what) == done.get(what), (device, role, what)
            assert becomes(said) == becomes(done), (device, role)
            # After the run dropbear is asked what it offers; before, it is another dropbear.
            notes = [note for note in done.get("notes", []) if "dropbear still offers" not in note]
            assert said.get("notes", []) == notes


def becomes(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What ``--diff`` shows on its right. On the left stands what another role has changed meanwhile, or has not."""
    shown = result["diff"] if isinstance(result["diff"], list) else [result["diff"]]
    return [(one["after_header"], one["after"]) for one in shown]


@pytest.mark.parametrize("device", DEVICES)
def test_the_operator_gets_in_with_the_key_and_the_host_key_that_the_run_left_behind(
    hardened: Hardened, device: str
) -> None:
    assert hardened.fleet.operator_gets_in(device)


@pytest.mark.parametrize("device", DEVICES)
def test_sessions_that_were_open_live_through_the_change(hardened: Hardened, device: str) -> None:
    assert hardened.sessions[device] == f"still here, {device}"


@pytest.mark.parametrize("device", DEVICES)
def test_passwords_wrong_keys_and_empty_passwords_stay_out(hardened: Hardened, device: str) -> None:
    fleet = hardened.fleet
    accounts = fleet.lab.fleet.devices[device].image.accounts
    for user, password in [*accounts.items(), ("root", "")]:
        assert "Permission denied (publickey)" in fleet.try_password(device, user, password)
    wrong = fleet.work / f"wrong-{device}"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(wrong)], check=True)
    command = fleet.ssh(device, "-i", str(wrong), "-o", "BatchMode=yes")
    done = subprocess.run([*command, "id"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 255 and "Permission denied (publickey)" in done.stderr


@pytest.mark.parametrize("device", DEVICES)
def test_no_default_password_is_left_in_the_shadow_file(hardened: Hardened, device: str) -> None:
    text = hardened.fleet.shell(device, "cat /etc/shadow")
    fields = {line.split(":")[0]: line.split(":")[1] for line in text.splitlines() if ":" in line}
    assert fields["root"] == fields["admin"] == "*"
    assert HASH.search(text) is None


def test_no_hash_is_printed_at_any_verbosity(hardened: Hardened) -> None:
    # Four v and ANSIBLE_DEBUG print every reply of every other exchange.
    assert len(hardened.done.output) > 100_000
    assert HASH.search(hardened.done.output) is None
    assert HASH.search(json.dumps(hardened.done.results)) is None


def test_devices_of_one_series_no_longer_share_host_keys(hardened: Hardened) -> None:
    now = {device: host_key(hardened.fleet, device) for device in DEVICES}
    assert hardened.old_host_keys["debian11"] == hardened.old_host_keys["debian12"]
    assert now["debian11"] != hardened.old_host_keys["debian11"] != now["debian12"]
    assert len(set(now.values())) == len(DEVICES)
    assert now["debian13"] == hardened.old_host_keys["debian13"]
    assert hardened.old_host_keys["debian11"] not in hardened.fleet.known_hosts.read_text(encoding="utf-8")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("network", ["lan", "wan"])
def test_telnet_and_its_kin_are_closed_from_both_networks(
    hardened: Hardened, network: str, device: str
) -> None:
    assert any(port.startswith(f"{TELNET[device]}/open/tcp") for port in hardened.open_before[device])
    assert hardened.fleet.scan(device, network) == set()


def test_ssh_audit_finds_no_failure_on_openssh_and_the_rest_is_named(hardened: Hardened) -> None:
    # From the network of a vantage point: OpenSSH punishes who scans it.
    pid = podman("inspect", "--format", "{{.State.Pid}}", hardened.fleet.lab.container("vantage-lan")).strip()
    vantage = ["nsenter", "-t", pid, "-n"]
    for device in ("debian11", "debian12", "debian13"):
        done = subprocess.run(
            [*vantage, str(TOOLS / "ssh-audit"), "--skip-rate-test", "-j", hardened.fleet.address(device)],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        report = json.loads(done.stdout)
        failures = [
            (kind, entry["algorithm"]) for kind in ("kex", "key", "enc", "mac") for entry in report[kind]
            if entry["notes"].get("fail")
        ]  # fmt: skip
        warned = {
            entry["algorithm"] for kind in ("kex", "key", "enc", "mac") for entry in report[kind]
            if entry["notes"].get("warn")
        }  # fmt: skip
        assert failures == []
        named = " ".join(hardened.done.of("ssh")[device]["notes"])
        assert all(f"kept for openssh-8.4: {name}" in named for name in warned), (warned, named)
    named = " ".join(hardened.done.of("ssh")["vendor"]["notes"])
    assert "dropbear still offers as kex, compiled in:" in named and "diffie-hellman-group14-sha1" in named


def test_the_second_run_changes_nothing_and_costs_one_exchange_a_role(hardened: Hardened) -> None:
    again = hardened.fleet.play()
    assert again.status == 0, again.output[-3000:]
    for role in ("ssh", "legacy_services", "credentials"):
        for device, result in again.of(role).items():
            assert not result["changed"] and result["exchanges"] <= 1, (device, role, result)


def test_a_dropbear_that_was_started_by_hand_with_other_arguments_is_put_back(hardened: Hardened) -> None:
    fleet = hardened.fleet
    right = fleet.shell("vendor", "sed -n 's/^::respawn:\\(.*dropbear.*\\)/\\1/p' /etc/inittab").strip()
    assert " -s " in right, right
    # Until it is faster than the one that init starts.
    other = (
        "for try in 1 2 3 4 5 6 7 8 9; do kill $(pidof dropbear); dropbear -R -p 22 -P /run/by-hand; sleep 1; "
        'if [ -s /run/by-hand ] && kill -0 "$(cat /run/by-hand)"; then echo taken; exit; fi; done'
    )
    assert fleet.shell("vendor", other).endswith("taken\n")
    run = fleet.play("--tags", "ssh", "--limit", "vendor")
    result = run.of("ssh")["vendor"]
    assert run.status == 0 and result["state"] == "confirmed" and result["live"] == "differs", run.output[
        -3000:
    ]
    # Its sessions, this run's own among them, live on.
    assert "No such file" in fleet.shell("vendor", "ls /run/by-hand 2>&1")
    assert right in fleet.shell("vendor", "cat /proc/[0-9]*/cmdline | tr '\\000' ' '")
    assert not fleet.play("--tags", "ssh", "--limit", "vendor").of("ssh")["vendor"]["changed"]


# A newer version of an installed package, made from what is installed: dpkg runs the very scripts of its maintainer.
UPGRADE = """
set -e
rm -rf /tmp/newer
mkdir -p /tmp/newer/DEBIAN
dpkg-query -s "$1" | sed '/^Status:/d; /^Conffiles:/,/^[^ ]/{/^Conffiles:/d; /^ /d}; s/^Version: .*/&+sally1/' >/tmp/newer/DEBIAN/control
for part in preinst postinst prerm postrm conffiles; do
  if [ -f "/var/lib/dpkg/info/$1.$part" ]; then cp "/var/lib/dpkg/info/$1.$part" "/tmp/newer/DEBIAN/$part"; fi
done
dpkg -L "$1" | while read -r file; do
  if [ -e "$file" ] && [ ! -d "$file" ]; then mkdir -p "/tmp/newer${file%/*}"; cp -a "$file" "/tmp/newer$file"; fi
done
dpkg-deb -b /tmp/newer /tmp/newer.deb >/dev/null
DEBIAN_FRONTEND=noninteractive dpkg --force-confold -i /tmp/newer.deb >/dev/null
dpkg-query -W -f '${Version}' "$1"
"""


@pytest.mark.parametrize(
    ("device", "package"),
    [("debian11", "telnetd"), ("debian11", "openbsd-inetd"), ("debian12", "snmpd"), ("debian13", "tftpd-hpa")],
)  # fmt: skip
def test_what_is_gone_stays_gone_after_an_upgrade_of_its_package(
    hardened: Hardened, device: str, package: str
) -> None:
    said = hardened.fleet.shell(device, f"(set -- {package}; {UPGRADE}) 2>&1")
    assert said.strip().endswith("+sally1"), said
    assert hardened.fleet.scan(device, "lan") == set()


@pytest.mark.parametrize("device", ["debian11", "vendor"])
def test_what_is_gone_stays_gone_after_a_power_cut(hardened: Hardened, device: str) -> None:
    hardened.fleet.lab.power_cut(device)
    assert hardened.fleet.operator_gets_in(device)
    assert hardened.fleet.scan(device, "lan") == set()


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"ssh_permit_root_login": "no"}, "root is the login of this inventory"),
        ({"ssh_authorized_keys": [], "ssh_authorized_keys_exclusive": True}, "root has no key on this device"),
        ({"ssh_clients": "putty"}, "ssh_clients: expected the oldest client to admit"),
    ],
)  # fmt: skip
def test_a_change_that_would_lock_out_is_refused_and_nothing_happens(
    hardened: Hardened, variables: dict[str, Any], text: str
) -> None:
    fleet = hardened.fleet
    before = fleet.snapshot("debian12")
    run = fleet.play("--tags", "ssh", "--limit", "debian12", "-e", json.dumps(variables))
    assert run.status == 2 and run.of("ssh")["debian12"]["state"] == "refused"
    assert text in run.of("ssh")["debian12"]["msg"]
    assert fleet.snapshot("debian12") == before


def test_a_lock_out_that_no_check_sees_takes_itself_back(hardened: Hardened) -> None:
    fleet = hardened.fleet
    before = fleet.snapshot("debian12")
    # What the site itself writes is not judged before: it may mean a command that lets in who is to be let in.
    variables = {"ssh_options": {"ForceCommand": "/bin/false"}, "ssh_confirm_seconds": 8}
    run = fleet.play("--tags", "ssh", "--limit", "debian12", "-e", json.dumps(variables))
    result = run.of("ssh")["debian12"]
    assert run.status == 2 and result["state"] == "reverted", result
    assert "The way in worked before the change" in result["msg"]
    assert fleet.snapshot("debian12") == before
    assert fleet.operator_gets_in("debian12")


def test_a_default_password_that_returns_is_taken_away_again(hardened: Hardened) -> None:
    fleet = hardened.fleet
    fleet.shell("debian13", "echo admin:admin | chpasswd")
    run = fleet.play("--tags", "credentials", "--limit", "debian13")
    assert run.status == 0, run.output[-3000:]
    (dealt,) = run.of("credentials")["debian13"]["accounts"]
    assert (dealt["account"], dealt["verdict"], dealt["action"]) == ("admin", "default", "locked")
    assert fleet.shell("debian13", "grep ^admin /etc/shadow").startswith("admin:*:")


def test_second_roots_and_empty_passwords_are_locked_and_good_passwords_stay(hardened: Hardened) -> None:
    fleet = hardened.fleet
    fleet.shell(
        "debian11",
        "echo 'toor:x:0:0::/root:/bin/sh' >>/etc/passwd; echo 'guest:x:1500:1500::/:/bin/sh' >>/etc/passwd; "
        "echo 'toor::19000::::::' >>/etc/shadow; echo 'guest::19000::::::' >>/etc/shadow; "
        "echo toor:Nobody-Guesses-This-7 | chpasswd; echo admin:Nobody-Guesses-This-8 | chpasswd",
    )
    run = fleet.play("--tags", "credentials", "--limit", "debian11")
    assert run.status == 0, run.output[-3000:]
    found = {
        one["account"]: (one["verdict"], one["action"])
        for one in run.of("credentials")["debian11"]["accounts"]
    }
    assert found == {"toor": ("unique", ""), "guest": ("empty", "locked"), "admin": ("unique", "")}
    assert {"what": "toor", "why": "has UID 0 beside root", "action": "removed"} in run.of("credentials")[
        "debian11"
    ]["remarks"]
    fields = dict(line.split(":")[:2] for line in fleet.shell("debian11", "cat /etc/shadow").splitlines())
    assert "toor" not in fields and fields["guest"] == "*" and fields["admin"].startswith("$")
    assert "toor" not in fleet.shell("debian11", "cat /etc/passwd")


def test_open_hash_files_and_shells_of_services_are_put_right(hardened: Hardened) -> None:
    fleet = hardened.fleet
    for device, service in (("debian12", "games"), ("vendor", "nobody")):
        fleet.shell(
            device,
            "chmod 644 /etc/shadow; cp /etc/shadow /etc/shadow-; chmod 604 /etc/shadow-; "
            f"sed -i 's|^\\({service}:.*:\\)[^:]*$|\\1/bin/sh|' /etc/passwd; "
            "echo 'old:abgOeLfPimXQo:1501:1501::/:/bin/sh' >>/etc/passwd",
        )
    run = fleet.play("--tags", "credentials", "--limit", "debian12,vendor")
    assert run.status == 0, run.output[-3000:]
    for device, service in (("debian12", "games"), ("vendor", "nobody")):
        listed = fleet.shell(device, "ls -l /etc/shadow /etc/shadow-")
        assert all(line[7:10] == "---" for line in listed.splitlines()), listed
        passwd = fleet.shell(device, "cat /etc/passwd")
        assert re.search(rf"^{service}:.*:/(usr/sbin/nologin|bin/false)$", passwd, re.M)
        assert "old:x:1501" in passwd and "old:abgOeLfPimXQo:" in fleet.shell(device, "cat /etc/shadow")
        assert fleet.operator_gets_in(device)
    assert not any(
        result["changed"]
        for result in fleet.play("--tags", "credentials", "--limit", "debian12,vendor")
        .of("credentials")
        .values()
    )


# Somebody who is not root becomes somebody else, as at a console.
SU = """printf '%s\\n' "$1" | su -s /bin/sh nobody -c 'su person -c "echo in"' 2>&1"""


@pytest.mark.parametrize("device", ["debian13"])
def test_guessing_with_su_locks_the_account_for_a_while_and_nothing_else(
    hardened: Hardened, device: str
) -> None:
    fleet = hardened.fleet
    fleet.shell(device, "useradd -m -s /bin/sh person; echo person:Right-Pass-99 | chpasswd")

    def guess(*passwords: str) -> str:
        tries = " ".join(f"(set -- {password}; {SU}) &" for password in passwords)
        return fleet.shell(device, f"{tries} wait")

    assert guess("Right-Pass-99").splitlines()[-1].endswith("in")
    assert "in\n" not in guess("wrong1", "wrong2", "wrong3", "wrong4", "wrong5")
    assert not guess("Right-Pass-99").splitlines()[-1].endswith("in")
    # sshd does not count: the automation and people with keys are never locked.
    assert fleet.operator_gets_in(device)
    fleet.shell(device, "faillock --user person --reset")
    assert guess("Right-Pass-99").splitlines()[-1].endswith("in")
    fleet.shell(device, "userdel -r person")


@pytest.mark.parametrize("device", ["debian11", "debian13"])
def test_guessing_at_the_console_locks_the_account_for_a_while_and_nothing_else(
    hardened: Hardened, device: str
) -> None:
    """By ``login`` itself, on terminals: Debian 11's comes from shadow, Debian 13's from util-linux."""
    fleet = hardened.fleet
    container = fleet.lab.container(device)
    fleet.shell(device, "useradd -m -s /bin/sh person; echo person:Right-Pass-99 | chpasswd")
    assert log_in(container, "person", "Right-Pass-99")
    with ThreadPoolExecutor(5) as terminals:
        guesses = list(terminals.map(lambda n: log_in(container, "person", f"wrong{n}"), range(5)))
    assert guesses == [False] * 5
    assert not log_in(container, "person", "Right-Pass-99")
    assert fleet.operator_gets_in(device)
    # Nor does a locked account lock others, root at its console among them.
    fleet.shell(device, "useradd -m -s /bin/sh other; echo other:Right-Pass-98 | chpasswd")
    assert log_in(container, "other", "Right-Pass-98")
    fleet.shell(device, "faillock --user person --reset")
    assert log_in(container, "person", "Right-Pass-99")
    fleet.shell(device, "userdel -r person; userdel -r other")


@pytest.mark.parametrize("only", ["pam_wheel", "mode"])
def test_where_su_is_for_some_people_only_the_lock_out_is_set_all_the_same(
    hardened: Hardened, only: str
) -> None:
    fleet = hardened.fleet
    fleet.shell("debian11", "cp -p /etc/pam.d/su /root/su.kept")
    if only == "pam_wheel":
        fleet.shell(
            "debian11", "sed -i '/pam_rootok/a auth required pam_wheel.so use_uid group=sudo' /etc/pam.d/su"
        )
    else:
        fleet.shell("debian11", "chown root:sudo /bin/su; chmod 4750 /bin/su")
    attempts = {"pam_wheel": 4, "mode": 3}[only]
    try:
        run = fleet.play(
            "--tags", "credentials", "--limit", "debian11", "-e", f"credentials_lockout_attempts={attempts}"
        )
        result = run.of("credentials")["debian11"]
        assert (result["state"], result["lockout"]["state"]) == ("confirmed", "set"), result["msg"]
        assert f"deny={attempts} " in fleet.shell("debian11", "cat /etc/pam.d/sallyport-auth")
        # The rules that would take nobody in are still refused.
        broken = "sed -i '1i auth required pam_deny.so' /etc/pam.d/common-auth"
        fleet.shell("debian11", f"cp -p /etc/pam.d/common-auth /root/common.kept; {broken}")
        run = fleet.play("--tags", "credentials", "--limit", "debian11")
        assert run.of("credentials")["debian11"]["state"] in ("reverted", "unchanged"), run.output[-2000:]
        assert fleet.operator_gets_in("debian11")
    finally:
        fleet.shell(
            "debian11",
            "chown root:root /bin/su; chmod 4755 /bin/su; mv /root/su.kept /etc/pam.d/su; "
            "[ ! -e /root/common.kept ] || mv /root/common.kept /etc/pam.d/common-auth",
        )
        fleet.play("--tags", "credentials", "--limit", "debian11")


def test_a_device_without_pam_says_that_guesses_are_not_counted_and_what_helps(hardened: Hardened) -> None:
    found = {host: result["lockout"] for host, result in hardened.done.of("credentials").items()}
    assert {host: one["state"] for host, one in found.items()} == {
        "debian11": "set", "debian12": "set", "debian13": "set", "vendor": "not available"
    }  # fmt: skip
    assert "no PAM" in found["vendor"]["why"] and "keys only" in found["vendor"]["remedy"]


def test_a_forced_change_is_due_for_people_and_never_for_the_automation(hardened: Hardened) -> None:
    fleet = hardened.fleet
    fleet.shell("debian12", "echo admin:password | chpasswd; echo root:admin | chpasswd")
    again = [
        fleet.play("--tags", "credentials", "--limit", "debian12", "-e", "credentials_action=expire")
        for _ in range(2)
    ]
    done = [
        {one["account"]: one["action"] for one in run.of("credentials")["debian12"]["accounts"]}
        for run in again
    ]
    assert done[0].items() >= {"admin": "must change at the next login", "root": "locked"}.items()
    assert done[1]["admin"] == "must change at the next login"
    assert not again[1].of("credentials")["debian12"]["changed"]
    assert "admin" in fleet.shell("debian12", "grep '^admin:[^:]*:0:' /etc/shadow")
    assert fleet.operator_gets_in("debian12")
    fleet.shell("debian12", "echo admin:Nobody-Guesses-This-9 | chpasswd")


def test_a_replaced_password_is_kept_encrypted_and_works(hardened: Hardened) -> None:
    fleet = hardened.fleet
    hashed = subprocess.run(
        ["openssl", "passwd", "-1", "admin"], capture_output=True, text=True, check=True
    ).stdout.strip()
    fleet.shell("vendor", f"sed -i 's|^admin:[^:]*|admin:{hashed}|' /etc/shadow")
    vault_password = fleet.work / "vault-password"
    vault_password.write_text("only for this test\n")
    run = fleet.play(
        "--tags", "credentials", "--limit", "vendor", "--vault-password-file", str(vault_password),
        "-e", "credentials_action=replace", "-e", f"credentials_vault_directory={fleet.work}/passwords",
    )  # fmt: skip
    assert run.status == 0, run.output[-3000:]
    kept = Path(run.of("credentials")["vendor"]["kept_in"])
    assert kept.read_text().startswith("$ANSIBLE_VAULT")
    shown = subprocess.run(
        [str(TOOLS / "ansible-vault"), "view", "--vault-password-file", str(vault_password), str(kept)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    password = re.search(r"admin: (\S{24})", shown)
    assert password is not None and password[1] not in run.output
    field = fleet.shell("vendor", "grep ^admin /etc/shadow").split(":")[1]
    salt = field.split("$")[2]
    made = subprocess.run(
        ["openssl", "passwd", "-6", "-salt", salt, "-stdin"],
        input=password[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout.strip() == field


def test_a_main_file_that_includes_nothing_gets_a_block_on_top_and_match_blocks_stay(
    hardened: Hardened,
) -> None:
    fleet = hardened.fleet
    fleet.shell(
        "debian12",
        f"{OWN_KEY}; rm /etc/ssh/sshd_config.d/*; printf 'PermitRootLogin yes\\nPasswordAuthentication yes\\n"
        "UsePAM yes\\nSubsystem sftp /usr/lib/openssh/sftp-server\\nMatch User helpdesk\\n  PasswordAuthentication yes\\n' "
        ">/etc/ssh/sshd_config; systemctl restart ssh",
    )
    before = fleet.shell("debian12", "cat /etc/ssh/sshd_config")
    run = fleet.play("--tags", "ssh", "--limit", "debian12")
    assert run.status == 0, run.output[-3000:]
    after = fleet.shell("debian12", "cat /etc/ssh/sshd_config")
    assert after.startswith("# BEGIN Sallyport") and after.endswith(before)
    assert any(
        "'Match User helpdesk' keeps passwordauthentication yes" in n
        for n in run.of("ssh")["debian12"]["notes"]
    )
    assert "passwordauthentication no" in fleet.shell("debian12", "sshd -T")
    assert fleet.operator_gets_in("debian12")
    assert not fleet.play("--tags", "ssh", "--limit", "debian12").of("ssh")["debian12"]["changed"]


def test_an_sshd_behind_a_systemd_socket_is_hardened_and_the_socket_stays(hardened: Hardened) -> None:
    fleet = hardened.fleet
    fleet.shell(
        "debian13",
        f"{OWN_KEY}; rm /etc/ssh/sshd_config.d/00-sallyport.conf; systemctl disable ssh.service; systemctl stop ssh.service; "
        "systemctl enable --now ssh.socket",
    )
    run = fleet.play("--tags", "ssh", "--limit", "debian13")
    assert run.of("ssh")["debian13"]["state"] == "confirmed", run.output[-3000:]
    assert fleet.shell("debian13", "systemctl is-active ssh.socket").strip() == "active"
    assert fleet.operator_gets_in("debian13")
    assert not fleet.play("--tags", "ssh", "--limit", "debian13").of("ssh")["debian13"]["changed"]


def test_who_may_log_in_holds_behind_a_systemd_socket_too(hardened: Hardened) -> None:
    fleet = hardened.fleet
    for name in ("insider", "outsider"):
        key = fleet.work / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        public = key.with_suffix(".pub").read_text().strip()
        fleet.shell(
            "debian13",
            f"useradd -m -s /bin/sh -p '*' {name}; install -d -m 700 -o {name} /home/{name}/.ssh; "
            f"echo '{public}' >/home/{name}/.ssh/authorized_keys; chown {name} /home/{name}/.ssh/*",
        )

    def gets_in(name: str) -> str:
        command = fleet.ssh("debian13", "-i", str(fleet.work / name), "-o", "BatchMode=yes", user=name)
        done = subprocess.run([*command, "id -un"], capture_output=True, text=True, timeout=60, check=False)
        counted(done.stdout.strip() == name)
        return done.stdout.strip() or done.stderr

    assert (gets_in("insider"), gets_in("outsider")) == ("insider", "outsider")
    more = json.dumps({"ssh_users": [{"name": "insider", "from": ["198.51.100.0/24"]}]})
    run = fleet.play("--tags", "ssh", "--limit", "debian13", "-e", more)
    assert run.of("ssh")["debian13"]["state"] == "confirmed", run.output[-3000:]
    assert gets_in("insider") == "insider" and "Permission denied" in gets_in("outsider")
    assert fleet.shell("debian13", "systemctl is-active ssh.socket").strip() == "active"
    assert fleet.operator_gets_in("debian13")
    assert not fleet.play("--tags", "ssh", "--limit", "debian13", "-e", more).of("ssh")["debian13"]["changed"]
    # As it is after a boot: the socket starts the daemon.
    fleet.lab.power_cut("debian13")
    assert fleet.shell("debian13", "systemctl is-active ssh.socket").strip() == "active"
    assert fleet.operator_gets_in("debian13")
    assert gets_in("insider") == "insider" and "Permission denied" in gets_in("outsider")
    back = fleet.play("--tags", "ssh", "--limit", "debian13")
    assert back.status == 0 and gets_in("outsider") == "outsider", back.output[-3000:]
    fleet.shell("debian13", "userdel -r insider; userdel -r outsider")


# A place for every way in which something is started, and a daemon for every family that the lab's images have not.
# dropbear and python3 under other names: what listens is known by its name, whatever it says.
ZOO = {
    "debian11": """
for name in adbd cwmpd gdbserver p910nd; do cp /usr/bin/python3 /usr/sbin/$name; done
cat >/etc/systemd/system/print.service <<'END'
[Service]
ExecStart=/usr/sbin/p910nd -m http.server 9100
[Install]
WantedBy=multi-user.target
END
printf '[Service]\\nExecStart=/usr/bin/python3 -m http.server 8099\\n' >/etc/systemd/system/stranger.service
systemctl daemon-reload; systemctl enable --now print.service; systemctl start stranger.service
printf '#!/bin/sh\\n/usr/sbin/cwmpd -m http.server 7547 &\\nexit 0\\n' >/etc/rc.local; chmod 755 /etc/rc.local
mkdir -p /var/spool/cron/crontabs
printf '@reboot /usr/sbin/adbd -m http.server 5555\\n' >/var/spool/cron/crontabs/root; chmod 600 /var/spool/cron/crontabs/root
cat >>/etc/inetd.conf <<'END'
finger stream tcp nowait nobody /usr/sbin/tcpd /usr/sbin/in.fingerd
discard stream tcp nowait root internal
END
systemctl unmask inetd.service; rm -f /etc/systemd/system/inetd.service; systemctl daemon-reload; systemctl start inetd
mkdir -p /etc/systemd/system/serial-getty@ttyS0.service.d
printf '[Service]\\nExecStart=\\nExecStart=-/sbin/agetty --autologin root %%I\\n' >/etc/systemd/system/serial-getty@ttyS0.service.d/auto.conf
printf '[Service]\\nExecStart=/usr/sbin/gdbserver -m http.server 2345\\n' >/etc/systemd/system/care.service
printf '[Timer]\\nOnCalendar=yearly\\n[Install]\\nWantedBy=timers.target\\n' >/etc/systemd/system/care.timer
systemctl daemon-reload; systemctl enable --now care.timer
mkdir -p /lib/systemd/system/getty@.service.d
printf '[Service]\\nExecStart=\\nExecStart=-/sbin/agetty --autologin root %%I\\n' >/lib/systemd/system/getty@.service.d/vendor.conf
systemctl daemon-reload
cp /usr/bin/python3 /usr/local/bin/mystery; (setsid mystery -m http.server 4444 >/dev/null 2>&1 &)
(setsid /usr/sbin/cwmpd -m http.server 7547 >/dev/null 2>&1 &); (setsid /usr/sbin/adbd -m http.server 5555 >/dev/null 2>&1 &)
""",
    "vendor": """
mkdir -p /var/spool/cron/crontabs; ln -sf /bin/busybox /usr/sbin/crond
printf '# of the vendor\\n7 * * * * pidof adbd || /usr/sbin/adbd -R -p 5555\\n' >/var/spool/cron/crontabs/root
for name in adbd gdbserver; do cp /usr/sbin/dropbear /usr/sbin/$name; done
printf 'ttyS9::respawn:-/bin/sh\\n::respawn:/usr/sbin/adbd -F -E -R -p 5555\\n' >>/etc/inittab
printf 'telnetd -p 2323 -l /bin/login\\n/usr/sbin/gdbserver -R -p 2345\\nwhile :; do nc -l -p 4446 -e /bin/sh; done &\\n' >>/etc/init.d/rcS
(setsid sh -c 'while :; do nc -l -p 4446 -e /bin/sh; done' </dev/null >/dev/null 2>&1 &)
kill -HUP 1; telnetd -p 2323 -l /bin/login >/dev/null 2>&1; /usr/sbin/gdbserver -R -p 2345
""",
}
ZOO_PORTS = {"debian11": {79, 9, 4444, 5555, 7547, 8099, 9100}, "vendor": {2323, 2345, 4446, 5555}}


def listening(fleet: Access, device: str) -> set[int]:
    text = fleet.shell(device, "cat /proc/net/tcp /proc/net/tcp6")
    lines = (line.split() for line in text.splitlines())
    return {int(line[1].rpartition(":")[2], 16) for line in lines if len(line) > 3 and line[3] == "0A"}


def wait_for(fleet: Access, device: str, wanted: set[int]) -> None:
    end = time.monotonic() + 30
    while not wanted <= (found := listening(fleet, device)):
        assert time.monotonic() < end, (device, wanted - found)
        time.sleep(0.2)


@pytest.mark.parametrize("device", sorted(ZOO))
def test_every_family_however_it_is_started_goes_stays_away_and_comes_back_only_on_the_way_back(
    hardened: Hardened, device: str
) -> None:
    fleet = hardened.fleet
    fleet.shell(device, ZOO[device])
    wait_for(fleet, device, ZOO_PORTS[device])
    before = fleet.snapshot(device)
    allow = json.dumps(
        {"legacy_services_allow": [{"name": "tr069", "reason": "the provider's only way, OPS-311"}]}
    )
    run = fleet.play("--tags", "legacy_services", "--limit", device, "-e", allow)
    result = run.of("legacy_services")[device]
    assert run.status == 0, result["msg"]
    found = {one["service"]: one["kept_because"] for one in result["services"]}
    gone = {
        "debian11": {"finger", "inetd trivia", "jetdirect", "adb", "tr069", "console", "debug server"},
        "vendor": {"telnet", "adb", "debug server", "console"},
    }[device]
    assert set(found) == gone
    stays = {port for port in ZOO_PORTS[device] if port in (4444, 7547, 8099)}
    assert listening(fleet, device) & ZOO_PORTS[device] == stays
    if device == "debian11":
        assert found["tr069"] == "the provider's only way, OPS-311"
        # What nobody knows stays, and is named as people know it.
        outside = {one["listens"]: one for one in result["outside_policy"]}
        assert outside["4444/tcp"]["process"] == "mystery" and outside["4444/tcp"]["package"] == ""
        stranger = outside["8099/tcp"]
        assert stranger["unit"] == "stranger.service" and stranger["package"].startswith("python3"), stranger
        assert "autologin" not in fleet.shell(
            device, "systemctl show -P ExecStart serial-getty@ttyS0.service getty@tty1.service"
        )
        assert "autologin" in fleet.shell(device, "cat /lib/systemd/system/getty@.service.d/vendor.conf")
        assert fleet.shell(device, "systemctl is-active care.timer; systemctl is-enabled care.timer care.service").split() == [
            "inactive", "masked", "masked"
        ]  # fmt: skip
    else:
        assert "# switched off by sallyport: 7 * * * *" in fleet.shell(
            device, "cat /var/spool/cron/crontabs/root"
        )
    fleet.lab.power_cut(device)
    assert fleet.operator_gets_in(device)
    assert listening(fleet, device) & ZOO_PORTS[device] <= {7547}
    back = fleet.play("--limit", device, "-e", "to=previous", playbook=CHECKOUT / "playbooks/rollback.yml")
    assert back.status == 0, back.output[-3000:]
    wait_for(fleet, device, ZOO_PORTS[device] - stays - {5555 if device == "debian11" else 0})
    assert fleet.snapshot(device).splitlines()[0] == before.splitlines()[0]
    if device == "debian11":
        assert fleet.shell(device, "systemctl is-active care.timer care.service").split() == [
            "active",
            "inactive",
        ]
    else:
        assert "\n7 * * * * pidof adbd" in fleet.shell(device, "cat /var/spool/cron/crontabs/root")
    again = fleet.play("--tags", "legacy_services", "--limit", device, "-e", allow)
    assert again.status == 0, again.output[-3000:]


def test_an_agent_with_users_of_version_3_loses_its_communities_and_answers_them_alone(
    hardened: Hardened,
) -> None:
    fleet = hardened.fleet
    fleet.shell(
        "debian12",
        "systemctl stop snmpd; rm -f /etc/systemd/system/snmpd.service; systemctl daemon-reload; "
        "echo 'createUser operator SHA Auth-Pass-1234 AES Priv-Pass-1234' >>/var/lib/snmp/snmpd.conf; "
        "printf 'agentaddress udp:161\\nrocommunity public\\nrocommunity Secret-Comm-9\\nrouser operator priv\\n' >/etc/snmp/snmpd.conf; "
        "systemctl start snmpd",
    )

    def get(*how: str) -> bool:
        said = podman(
            "exec", fleet.lab.container("vantage-lan"), "snmpget", "-r", "1", "-t", "1", *how, fleet.address("debian12"),
            "1.3.6.1.2.1.1.3.0", check=False,
        )  # fmt: skip
        return "Timeticks" in said

    ways = {
        "1": ("-v", "1", "-c", "public"),
        "2c": ("-v", "2c", "-c", "Secret-Comm-9"),
        "3": ("-v", "3", "-u", "operator", "-l", "authPriv", "-a", "SHA", "-A", "Auth-Pass-1234", "-x", "AES", "-X", "Priv-Pass-1234"),
    }  # fmt: skip
    assert {name: get(*how) for name, how in ways.items()} == dict.fromkeys(ways, True)
    run = fleet.play("--tags", "legacy_services", "--limit", "debian12", "-vvvv", "--diff")
    (agent,) = run.of("legacy_services")["debian12"]["services"]
    assert run.status == 0 and agent["answers"] == ["1", "2c", "3"]
    assert "Secret-Comm-9" not in run.output
    assert {name: get(*how) for name, how in ways.items()} == {"1": False, "2c": False, "3": True}
    again = fleet.play("--tags", "legacy_services", "--limit", "debian12").of("legacy_services")["debian12"]
    assert not again["changed"] and "version 3" in again["services"][0]["kept_because"]


@dataclass
class Rotated:
    """The fleet after a rotation: what was predicted, what was done, and what became of sessions."""

    predicted: Run
    untouched: bool
    done: Run
    key: Path
    vault: Path
    sessions: dict[str, str]
    forwarding: str
    lingering: str
    before: dict[str, str]


ROTATE = CHECKOUT / "playbooks/rotate.yml"


@pytest.fixture(scope="module")
def rotated(hardened: Hardened) -> Rotated:
    fleet = hardened.fleet
    friend = (fleet.work / "friend", fleet.work / "friend.pub")
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "friend", "-f", str(friend[0])], check=True
    )
    hashed = subprocess.run(
        ["openssl", "passwd", "-6", "Leaked-Secret-1"], capture_output=True, text=True, check=True
    ).stdout.strip()
    # Before that: a manager of services is started for nobody whose password has to be changed.
    lingering = fleet.shell("debian12", LINGERING).strip()
    assert fleet.shell("debian12", f"cat /proc/{lingering}/comm").strip() == "sleep", lingering
    for device in DEVICES:
        fleet.shell(
            device,
            # Its change is due besides, which su and sudo would insist on.
            f"sed -i 's|^admin:[^:]*:[^:]*|admin:{hashed}:0|' /etc/shadow; mkdir -p -m 700 /root/.ssh; "
            f"echo '{friend[1].read_text().strip()}' >>/root/.ssh/authorized_keys; chmod 600 /root/.ssh/authorized_keys",
        )
    vault = fleet.work / "rotation-password"
    vault.write_text("only for this test\n")
    key = fleet.work / "keys" / "fleet-2"
    arguments = [
        "--vault-password-file", str(vault), "-e", f"rotate_key={key}",
        "-e", f"credentials_vault_directory={fleet.work}/rotated",
    ]  # fmt: skip
    before = {device: fleet.snapshot(device) for device in DEVICES}
    predicted = fleet.play("--check", "--diff", *arguments, playbook=ROTATE)
    untouched = before == {device: fleet.snapshot(device) for device in DEVICES} and not key.exists()
    running = {device: open_session_with_key(fleet, device) for device in DEVICES}
    forwarding = open_forwarding_session(fleet, "debian12", friend[0])
    fields = {device: fleet.shell(device, "grep ^admin: /etc/shadow") for device in DEVICES}
    done = fleet.play("-vvvv", *arguments, playbook=ROTATE, ANSIBLE_DEBUG="1")
    answers = {device: talk(process, "still here") for device, process in running.items()}
    # The daemon of that session lives on: else there is nothing to kill.
    fleet.shell("debian12", "kill $(cat /run/forwarding.pid)")
    said = talk(forwarding, "still here")
    return Rotated(predicted, untouched, done, key, vault, answers, said, lingering, fields)


# Somebody's process that belongs to no session, and would outlive them all. Prints its number.
LINGERING = """
loginctl enable-linger admin
place=/run/user/$(id -u admin)
tries=100
until [ -S "$place/systemd/private" ]; do tries=$((tries - 1)); [ "$tries" -gt 0 ] || exit 1; sleep 0.2; done
export XDG_RUNTIME_DIR="$place"
as="setpriv --reuid admin --regid admin --init-groups"
$as systemd-run --quiet --user --unit=intruder sleep 3600 && $as systemctl --user show -P MainPID intruder
"""


def open_session_with_key(fleet: Access, device: str) -> subprocess.Popen[str]:
    """A session that somebody opened with the key that leaked."""
    return session_of(device, [*fleet.ssh(device, "-i", str(fleet.key), "-o", "BatchMode=yes")])


def open_forwarding_session(fleet: Access, device: str, key: Path) -> subprocess.Popen[str]:
    """A session that listens itself, by a daemon that nobody hardened."""
    fleet.shell(
        device,
        "mkdir -p /run/sshd; /usr/sbin/sshd -f /dev/null -o Port=2023 -o ListenAddress=127.0.0.1 "
        "-o PidFile=/run/forwarding.pid",
    )
    wait_for(fleet, device, {2023})
    pid = podman("inspect", "--format", "{{.State.Pid}}", fleet.lab.container(device)).strip()
    session = session_of(device, [
        "nsenter", "-t", pid, "-n", "ssh", "-F", "none", "-p", "2023", "-i", str(key), "-o", "BatchMode=yes",
        "-o", "UserKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "ExitOnForwardFailure=yes",
        "-R", "127.0.0.1:2024:127.0.0.1:22", "root@127.0.0.1",
    ])  # fmt: skip
    wait_for(fleet, device, {2023, 2024})
    return session


def session_of(device: str, ssh: list[str]) -> subprocess.Popen[str]:
    """cat at the other end of this ssh, once it answers."""
    process = subprocess.Popen(
        [*ssh, "cat"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("hello\n")
    process.stdin.flush()
    assert process.stdout.readline() == "hello\n", f"no session on {device}"
    return process


def test_a_rotation_replaces_keys_and_passwords_on_every_device(rotated: Rotated) -> None:
    assert rotated.done.status == 0, rotated.done.output[-3000:]
    results = rotated.done.of("rotate")
    assert {host: one["state"] for host, one in results.items()} == dict.fromkeys(DEVICES, "confirmed")
    for host, one in results.items():
        assert {"account": "admin", "action": "replaced"} in one["accounts"], host
        assert {"friend"} < {key["comment"] for key in one["keys_removed"]}, host


def test_check_mode_of_a_rotation_predicts_it_and_touches_nothing(rotated: Rotated) -> None:
    assert rotated.untouched
    said, done = rotated.predicted.of("rotate"), rotated.done.of("rotate")
    for device in DEVICES:
        assert said[device]["accounts"] == done[device]["accounts"]
        assert said[device]["keys_removed"] == done[device]["keys_removed"]


@pytest.mark.parametrize("device", DEVICES)
def test_after_a_rotation_the_new_key_works_alone_and_old_sessions_are_over(
    hardened: Hardened, rotated: Rotated, device: str
) -> None:
    fleet = hardened.fleet
    assert fleet.operator_gets_in(device, rotated.key)
    assert not fleet.operator_gets_in(device) and not fleet.operator_gets_in(device, fleet.work / "friend")
    assert rotated.sessions[device] == "" and rotated.forwarding == ""
    after = fleet.shell(device, "grep ^admin: /etc/shadow")
    assert after != rotated.before[device] and abs(int(after.split(":")[2]) - time.time() // 86400) <= 1


def test_what_lingers_for_a_user_without_a_session_ends_with_a_rotation_and_the_users_manager_starts_anew(
    hardened: Hardened, rotated: Rotated
) -> None:
    fleet = hardened.fleet
    assert "sleep" not in fleet.shell("debian12", f"cat /proc/{rotated.lingering}/comm 2>&1")
    assert fleet.shell("debian12", "pgrep -u admin sleep") == ""
    # It is started and not waited for.
    up = "for n in $(seq 150); do systemctl is-active --quiet user@$(id -u admin).service && echo up && break; sleep 0.2; done"
    assert fleet.shell("debian12", up).strip() == "up"
    fleet.shell("debian12", "loginctl disable-linger admin")


def test_new_passwords_of_a_rotation_are_kept_unique_and_of_the_strongest_scheme_that_login_reads(
    hardened: Hardened, rotated: Rotated
) -> None:
    fleet = hardened.fleet
    passwords = set()
    for device in DEVICES:
        shown = subprocess.run(
            [str(TOOLS / "ansible-vault"), "view", "--vault-password-file", str(rotated.vault), f"{fleet.work}/rotated/{device}.yml"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        password = re.search(r"admin: (\S{24})", shown)
        assert password is not None and password[1] not in rotated.done.output
        passwords.add(password[1])
        field = fleet.shell(device, "grep ^admin: /etc/shadow").split(":")[1]
        assert field.startswith("$6$" if device == "vendor" else "$y$"), device
        # By the very program that asks at a console.
        said = fleet.shell(
            device, f"printf '%s\\n' {password[1]} | su -s /bin/sh nobody -c 'su admin -c \"echo in\"' 2>&1"
        )
        assert said.strip().endswith("in"), (device, said)
    assert len(passwords) == len(DEVICES)
    shown_hash = HASH.search(rotated.done.output)
    assert shown_hash is None, rotated.done.output[shown_hash.start() - 2000 : shown_hash.end()]


# An ssh daemon for loopback that takes passwords: the device's own, with its own PAM or none.
PASSWORD_SSH = {
    "debian": "mkdir -p /run/sshd; /usr/sbin/sshd -f /dev/null -o Port=2022 -o ListenAddress=127.0.0.1 -o UsePAM=yes "
    "-o PasswordAuthentication=yes -o KbdInteractiveAuthentication=no -o PidFile=/run/trial.pid",
    "vendor": "dropbear -R -p 127.0.0.1:2022 -P /run/trial.pid",
}


@pytest.mark.parametrize("device", DEVICES)
def test_the_scheme_of_new_passwords_is_the_strongest_that_ssh_login_and_su_all_verify(
    hardened: Hardened, rotated: Rotated, device: str
) -> None:
    fleet = hardened.fleet
    container = fleet.lab.container(device)
    pid = podman("inspect", "--format", "{{.State.Pid}}", container).strip()
    fleet.shell(device, PASSWORD_SSH["vendor" if device == "vendor" else "debian"])
    wait_for(fleet, device, {2022})
    fleet.shell(
        device,
        "cp -p /etc/passwd /root/p; cp -p /etc/shadow /root/s; echo 'trier:x:1700:1700::/:/bin/sh' >>/etc/passwd",
    )

    def over_ssh(password: str) -> bool:
        command = [
            "nsenter", "-t", pid, "-n", "sshpass", "-e", "ssh", "-F", "none", "-p", "2022", "-o", "PubkeyAuthentication=no",
            "-o", "UserKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "NumberOfPasswordPrompts=1",
            "trier@127.0.0.1", "echo in",
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False,
            env={**os.environ, "SSHPASS": password},
        )  # fmt: skip
        # 5 is how sshpass says that the password was wrong; it may have ended ssh before ssh can say so.
        assert done.returncode in (0, 5) or "Permission denied" in done.stderr, done.stderr
        return counted(done.stdout.strip() == "in")

    def by_su(password: str) -> bool:
        words = f"printf '%s\\n' {password} | su -s /bin/sh nobody -c 'su trier -c \"echo in\"' 2>&1"
        return counted(fleet.shell(device, words).strip().endswith("in"))

    verified = {}
    for scheme in hashing.STRONGEST_FIRST:
        password = hashing.generate_password()
        line = f"trier:{hashing.hash_password(password, scheme)}:19000:0:99999:7:::"
        fleet.shell(device, f"sed -i '/^trier:/d' /etc/shadow; echo '{line}' >>/etc/shadow")
        verified[scheme] = {
            "ssh": over_ssh(password), "login": log_in(container, "trier", password), "su": by_su(password)
        }  # fmt: skip
    # No scheme is believed because everybody gets in.
    assert not over_ssh("wrong") and not log_in(container, "trier", "wrong") and not by_su("wrong")
    strongest = next(scheme for scheme, by in verified.items() if all(by.values()))
    made = hashing.scheme(fleet.shell(device, "grep ^admin: /etc/shadow").split(":")[1])
    assert made == strongest, verified
    if device == "vendor":
        # Why all of them are asked: its ssh reads what its console does not.
        assert verified["yescrypt"] == {"ssh": True, "login": False, "su": False}
    fleet.shell(
        device,
        "mv /root/p /etc/passwd; mv /root/s /etc/shadow; kill $(cat /run/trial.pid); faillock --user trier --reset",
    )


@pytest.mark.parametrize("method", ["sudo", "su"])
def test_a_leaked_password_of_sudo_or_su_is_replaced_and_the_run_goes_on_with_the_new_one(
    hardened: Hardened, rotated: Rotated, method: str
) -> None:
    fleet = hardened.fleet
    name = "tech" + method
    needed = "root" if method == "su" else name
    key, new = fleet.work / f"key-{name}", fleet.work / f"new-{name}"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    # More generations than are kept: forgetting some must not need the way in that has just gone.
    fleet.shell(
        "debian13",
        f"useradd -m -s /bin/sh -G sudo {name}; echo {needed}:Leaked-Secret-2 | chpasswd; "
        f"install -d -m 700 -o {name} /home/{name}/.ssh; echo '{key.with_suffix('.pub').read_text().strip()}' "
        f">/home/{name}/.ssh/authorized_keys; chown {name} /home/{name}/.ssh/*; "
        "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18; do mkdir -p /var/lib/sallyport/generation/$n; done",
    )

    def become(text: str) -> list[str]:
        path = fleet.work / f"become-{name}.json"
        path.write_text(
            json.dumps(
                {"ansible_become_password": text, "ansible_become_method": method, "ansible_become": True}
            )
        )
        return ["--limit", "debian13", "-e", f"ansible_user={name}", "-e", f"@{path}"]

    run = fleet.play(
        *become("Leaked-Secret-2"), "-e", f"ansible_ssh_private_key_file={key}", "-e", f"rotate_key={new}",
        "--vault-password-file", str(rotated.vault), "-e", f"credentials_vault_directory={fleet.work}/{name}",
        "-vvvv", playbook=ROTATE, ANSIBLE_DEBUG="1",
    )  # fmt: skip
    result = run.of("rotate")["debian13"]
    assert run.status == 0 and result["state"] == "confirmed", run.output[-3000:]
    assert {"account": needed, "action": "replaced"} in result["accounts"]
    assert (
        f"ansible_become_password: the new one of {needed} ({fleet.work}/{name}/debian13.yml)"
        in result["msg"]
    )
    shown = subprocess.run(
        [str(TOOLS / "ansible-vault"), "view", "--vault-password-file", str(rotated.vault), f"{fleet.work}/{name}/debian13.yml"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    password = re.search(rf"{needed}: (\S{{24}})", shown)
    assert password is not None and password[1] not in run.output
    look = [
        "--tags",
        "credentials",
        "-e",
        "credentials_action=report",
        "-e",
        f"ansible_ssh_private_key_file={new}",
    ]
    assert fleet.play(*become(password[1]), *look).status == 0
    leaked = fleet.play(*become("Leaked-Secret-2"), *look)
    assert leaked.status != 0 and "root was not gained" in leaked.output, leaked.output[-2000:]
    fleet.shell(
        "debian13",
        f"userdel -r {name}; rm -f /etc/ssh/authorized_keys.d/{name}; usermod -p '*' root; rmdir /var/lib/sallyport/generation/* 2>/dev/null",
    )


@pytest.mark.parametrize("device", ["debian12", "vendor"])
@pytest.mark.parametrize("to", ["previous", "1"])
def test_no_generation_brings_the_leaked_key_or_password_back(
    hardened: Hardened, rotated: Rotated, to: str, device: str
) -> None:
    fleet = hardened.fleet
    field = fleet.shell(device, "grep ^admin: /etc/shadow")
    run = fleet.play(
        "--limit", device, "-e", f"to={to}", "-e", f"ansible_ssh_private_key_file={rotated.key}",
        playbook=CHECKOUT / "playbooks/rollback.yml",
    )  # fmt: skip
    assert run.status == 0, run.output[-3000:]
    assert fleet.operator_gets_in(device, rotated.key) and not fleet.operator_gets_in(device)
    assert fleet.shell(device, "grep ^admin: /etc/shadow") == field


@pytest.mark.parametrize("device", ["debian11", "vendor"])
def test_a_new_key_that_does_not_get_in_leaves_the_way_in_as_it_was(
    hardened: Hardened, rotated: Rotated, device: str
) -> None:
    fleet = hardened.fleet
    wrong = fleet.work / f"wrong-pair-{device}"
    for name in (wrong, fleet.work / f"stranger-{device}"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(name)], check=True)
    wrong.with_suffix(".pub").write_text((fleet.work / f"stranger-{device}.pub").read_text())
    before = fleet.snapshot(device)
    run = fleet.play(
        "--limit", device, "-e", f"rotate_key={wrong}", "-e", f"ansible_ssh_private_key_file={rotated.key}",
        "-e", "sallyport_confirm_seconds=8", playbook=ROTATE,
    )  # fmt: skip
    result = run.of("rotate")[device]
    assert run.status == 2 and result["state"] == "reverted" and "Permission denied" in result["msg"]
    assert fleet.snapshot(device) == before and fleet.operator_gets_in(device, rotated.key)


def test_a_rotation_to_the_key_in_use_is_refused(hardened: Hardened, rotated: Rotated) -> None:
    run = hardened.fleet.play(
        "--limit", "debian12", "-e", f"rotate_key={rotated.key}",
        "-e", f"ansible_ssh_private_key_file={rotated.key}", playbook=ROTATE,
    )  # fmt: skip
    assert run.status == 2 and "logs in already" in run.of("rotate")["debian12"]["msg"]


@pytest.mark.parametrize("event", ["prepare", "commit"])
def test_passwords_that_nobody_keeps_stop_a_rotation_before_it_begins_or_are_told_after_it(
    hardened: Hardened, rotated: Rotated, event: str
) -> None:
    fleet = hardened.fleet
    key, heard = fleet.work / f"kept-by-nobody-{event}", fleet.work / f"heard-{event}"
    settings = fleet.work / f"kept-by-nobody-{event}.json"
    keeper = f'text=$(cat); echo "$text" >>{heard}; case $text in *\'"{event}"\'*) exit 3 ;; esac'
    settings.write_text(json.dumps({"credentials_command": ["sh", "-c", keeper], "rotate_key": str(key)}))
    fleet.shell("debian12", "echo admin:Nobody-Guesses-This-9 | chpasswd")
    before = fleet.snapshot("debian12")
    run = fleet.play(
        "--limit", "debian12", "-e", f"ansible_ssh_private_key_file={rotated.key}", "-e", f"@{settings}", playbook=ROTATE,
    )  # fmt: skip
    result = run.of("rotate")["debian12"]
    assert run.status == 2 and f"status 3 at {event}" in result["msg"]
    if event == "prepare":
        assert result["state"] == "refused" and not result["changed"]
        assert fleet.snapshot("debian12") == before
    else:
        assert result["changed"] and "the device has its new passwords" in result["msg"]
        assert str(key) in result["msg"] and fleet.operator_gets_in("debian12", key)
        assert "admin" in heard.read_text()
