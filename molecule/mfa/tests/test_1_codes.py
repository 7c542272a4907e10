"""One-time codes for people, and the automation that needs none: tried on each release of OpenSSH."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.fleet import CHECKOUT
from tests.logins import OPENSSH, Doors, Run, Try, code

ALL = ",".join(OPENSSH)
GIVEN = "JBSW Y3DP EHPK 3PXP JBSW Y3DP EHPK 3PXQ"
"""A secret that the site gave this person before, and that the app has on all devices."""


@dataclass
class Enrolled:
    doors: Doors
    variables: dict[str, Any]
    predicted: Run
    done: Run
    folder: Path

    def file(self, device: str, user: str = "alice") -> Path:
        return self.folder / device / f"{user}.txt"

    def secret(self, device: str, user: str = "alice") -> str:
        """As the app reads it from the link."""
        found = re.search(r"secret=(\w+)&issuer=", self.file(device, user).read_text(encoding="utf-8"))
        assert found is not None
        return found[1]

    def alice(self, device: str, answer: str | None, **how: Any) -> Try:
        return self.doors.ssh(device, "alice", **{"key": self.doors.key("alice"), "code": answer, **how})


@pytest.fixture(scope="module")
def enrolled(doors: Doors) -> Enrolled:
    for device in OPENSSH:
        doors.account(device, "alice")
        doors.account(device, "bob")
        doors.account(device, "carol")
        doors.account(device, "dave")
        doors.sh(device, "echo alice:Nobody-Guesses-This-7 | chpasswd")
        # A key of the operator's account that somebody put there by hand.
        doors.sh(
            device, f"mkdir -p -m 700 /root/.ssh; echo '{doors.public('stray')}' >/root/.ssh/authorized_keys"
        )
    folder = doors.work / "enrolment"
    variables = {
        "ssh_users": [
            {"name": "alice", "keys": [doors.public("alice")]},
            {"name": "bob", "keys": [doors.public("bob")], "second_factor": "none"},
            {"name": "carol", "keys": [doors.public("carol")]},
            {"name": "dave", "keys": [doors.public("dave")], "totp_secret": GIVEN},
        ],
        "ssh_second_factor": "totp",
        "ssh_enrolment_directory": str(folder),
    }
    predicted = doors.apply(ALL, variables, "--check", "--diff")
    assert not folder.exists()
    return Enrolled(doors, variables, predicted, doors.apply(ALL, variables, "--diff", "-vvv"), folder)


def test_check_mode_predicted_the_run_and_made_no_secret(enrolled: Enrolled) -> None:
    for device in OPENSSH:
        said, made = enrolled.predicted.of[device], enrolled.done.of[device]
        assert (
            said["state"] == "would_change"
            and said["files"] == made["files"]
            and said["notes"] == made["notes"]
        )
        assert made["enrolled"] == [
            {"user": user, "file": str(enrolled.file(device, user))} for user in ("alice", "carol")
        ]
        # Facts for the next role, which everybody sees.
        assert GIVEN.replace(" ", "") not in json.dumps(said)


def test_a_secret_is_in_the_operators_file_and_nowhere_else(enrolled: Enrolled) -> None:
    secrets = {device: enrolled.secret(device) for device in OPENSSH}
    assert len(set(secrets.values())) == len(OPENSSH)
    printed = enrolled.done.output + json.dumps(enrolled.done.of)
    for device, secret in secrets.items():
        assert len(base64.b32decode(secret)) == 20 and secret not in printed
        path = enrolled.file(device)
        assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
        assert sorted(one.name for one in path.parent.iterdir()) == ["alice.txt", "carol.txt"]
        shown = enrolled.doors.sh(device, "stat -c '%a %U' /var/lib/sallyport-totp/alice")
        assert shown.split() == ["600", "root"]
    assert GIVEN.replace(" ", "") not in printed


@pytest.mark.parametrize("device", OPENSSH)
def test_key_and_code_together_get_in_once_and_each_alone_does_not(enrolled: Enrolled, device: str) -> None:
    doors, secret = enrolled.doors, enrolled.secret(device)
    assert enrolled.alice(device, None).refused
    # The module takes three tries in half a minute, ours included: wrong, right, the same again.
    assert enrolled.alice(device, "Nobody-Guesses-This-7").refused
    now = code(secret)
    first = enrolled.alice(device, now)
    assert first.got_in, first.text
    again = enrolled.alice(device, now)
    assert again.refused, again.text
    assert enrolled.alice(device, code(secret), key=doors.key("stray")).refused


@pytest.mark.parametrize("device", OPENSSH)
def test_an_emergency_code_gets_in_once_and_only_once(enrolled: Enrolled, device: str) -> None:
    doors = enrolled.doors
    text = enrolled.file(device, "carol").read_text(encoding="utf-8")
    emergency = re.findall(r"^  (\d{8})$", text, re.M)
    assert len(set(emergency)) == 5

    def carol(answer: str) -> Try:
        return doors.ssh(device, "carol", key=doors.key("carol"), code=answer)

    # Three tries in half a minute.
    first = carol(emergency[0])
    assert first.got_in, first.text
    again = carol(emergency[0])
    assert again.refused, again.text
    other = carol(emergency[3])
    assert other.got_in, other.text
    left = doors.sh(device, "cat /var/lib/sallyport-totp/carol").splitlines()
    assert [one for one in left if re.fullmatch(r"\d{8}", one)] == [emergency[at] for at in (1, 2, 4)]


@pytest.mark.parametrize("device", OPENSSH)
def test_a_secret_that_the_site_gave_before_counts_on_every_device(enrolled: Enrolled, device: str) -> None:
    tried = enrolled.doors.ssh(device, "dave", key=enrolled.doors.key("dave"), code=code(_base32(GIVEN)))
    assert tried.got_in, tried.text
    assert enrolled.doors.ssh(device, "dave", key=enrolled.doors.key("dave")).refused


@pytest.mark.parametrize("device", OPENSSH)
def test_the_automation_needs_no_code_by_its_key_and_from_its_network_alone(
    enrolled: Enrolled, device: str
) -> None:
    doors = enrolled.doors
    assert doors.operator_gets_in(device)
    assert doors.ssh(device, "root", key=doors.key("stray")).refused
    assert not doors.ssh(device, "root", key=doors.operator, place="vantage-wan").got_in
    assert doors.ssh(device, "bob", key=doors.key("bob")).got_in


def test_a_second_run_changes_nothing_though_every_login_writes_the_secrets_file(enrolled: Enrolled) -> None:
    before = enrolled.file("debian12").read_text(encoding="utf-8")
    again = enrolled.doors.apply(ALL, enrolled.variables)
    for device, result in again.of.items():
        assert not result["changed"] and "enrolled" not in result, (device, result)
    assert enrolled.file("debian12").read_text(encoding="utf-8") == before


def test_another_secret_of_the_sites_own_replaces_the_one_before(enrolled: Enrolled) -> None:
    users = [dict(one) for one in enrolled.variables["ssh_users"]]
    users[-1]["totp_secret"] = other = "KRSXG5CTMVRXEZLUKRSXG5CTMVRXEZLU"
    run = enrolled.doors.apply("debian12", {**enrolled.variables, "ssh_users": users}, "-vvvv", "--diff")
    assert other not in run.output + json.dumps(run.of)
    dave = enrolled.doors.key("dave")
    assert enrolled.doors.ssh("debian12", "dave", key=dave, code=code(_base32(GIVEN), step=1)).refused
    tried = enrolled.doors.ssh("debian12", "dave", key=dave, code=code(other))
    assert tried.got_in, tried.text
    enrolled.variables["ssh_users"] = users[:-1]
    enrolled.doors.apply("debian12", enrolled.variables)
    assert "dave" not in enrolled.doors.sh("debian12", "ls /var/lib/sallyport-totp")


def test_a_lost_factor_is_made_anew_and_the_old_one_no_longer_counts(enrolled: Enrolled) -> None:
    old = enrolled.secret("debian13")
    result = enrolled.doors.apply("debian13", {**enrolled.variables, "ssh_enrol_again": ["alice"]}).of[
        "debian13"
    ]
    assert [one["user"] for one in result["enrolled"]] == ["alice"] and enrolled.secret("debian13") != old
    assert enrolled.alice("debian13", code(old, step=1)).refused
    tried = enrolled.alice("debian13", code(enrolled.secret("debian13")))
    assert tried.got_in, tried.text
    # Nor does a way back bring it again; whoever has seen it may be waiting for that.
    back = enrolled.doors.play("debian13", {"to": "previous"}, playbook=CHECKOUT / "playbooks/rollback.yml")
    assert back.status == 0, back.output[-2500:]
    held = enrolled.doors.sh("debian13", "cat /var/lib/sallyport-totp/alice")
    assert enrolled.secret("debian13") in held and old not in held
    assert enrolled.alice("debian13", code(old, step=1)).refused
    assert not enrolled.doors.apply("debian13", enrolled.variables).of["debian13"].get("enrolled")


@pytest.mark.parametrize(
    ("device", "before", "text", "after"),
    [
        ("debian12", "printf '#!/bin/sh\\necho 86400\\n' >/usr/local/bin/date; chmod 755 /usr/local/bin/date",
         "this device's clock differs from the controller's by", "rm /usr/local/bin/date"),
        ("debian12", "mv /lib/x86_64-linux-gnu/security/pam_google_authenticator.so /root/ 2>/dev/null || "
         "mv /usr/lib/x86_64-linux-gnu/security/pam_google_authenticator.so /root/; dpkg --remove libpam-google-authenticator",
         "one-time codes need the package libpam-google-authenticator, and apt could not install it", ""),
    ],
    ids=["clock", "package"],
)  # fmt: skip
def test_codes_are_refused_with_the_reason_where_they_cannot_work(
    enrolled: Enrolled, device: str, before: str, text: str, after: str
) -> None:
    doors = enrolled.doors
    files = "cat /etc/ssh/sshd_config.d/* /etc/pam.d/sshd | md5sum; ls /var/lib/sallyport-totp"
    doors.sh(device, before)
    state = doors.sh(device, files)
    more = {**enrolled.variables, "ssh_enrol_again": ["alice"]}
    run = doors.play(device, more)
    assert run.status == 2 and text in run.of[device]["msg"], run.output[-2000:]
    assert doors.sh(device, files) == state and doors.operator_gets_in(device)
    assert sorted(one.name for one in enrolled.file(device).parent.iterdir()) == ["alice.txt", "carol.txt"]
    if after:
        doors.sh(device, after)


# What is installed, as a package again: its own files and its maintainer's scripts, in a source of the device's own.
SOURCE = r"""
set -e
rm -rf /srv/apt; mkdir -p /srv/apt/of/DEBIAN
package=libpam-google-authenticator
dpkg-query -s $package | sed '/^Status:/d; /^Conffiles:/,/^[^ ]/{/^Conffiles:/d; /^ /d}' >/srv/apt/of/DEBIAN/control
for part in preinst postinst prerm postrm conffiles; do
  if [ -f /var/lib/dpkg/info/$package.$part ]; then cp /var/lib/dpkg/info/$package.$part /srv/apt/of/DEBIAN/$part; fi
done
dpkg -L $package | while read -r file; do
  if [ -e "$file" ] && [ ! -d "$file" ]; then mkdir -p "/srv/apt/of${file%/*}"; cp -a "$file" "/srv/apt/of$file"; fi
done
cd /srv/apt
dpkg-deb -b of one.deb >/dev/null
{ cat of/DEBIAN/control; echo "Filename: one.deb"; echo "Size: $(stat -c %s one.deb)"
  echo "SHA256: $(sha256sum one.deb | cut -d ' ' -f 1)"; } >Packages
"""


def test_the_module_comes_from_the_devices_own_package_source_and_asks(enrolled: Enrolled) -> None:
    doors = enrolled.doors
    # A device whose image lacks the package, and whose apt can get it; its other sources are out of reach.
    said = doors.sh("debian13", f"({SOURCE}) 2>&1 && dpkg --purge libpam-google-authenticator && echo gone")
    assert said.endswith("gone\n"), said
    doors.sh(
        "debian13",
        "rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /var/lib/apt/lists/*; "
        "echo 'deb [trusted=yes] file:/srv/apt ./' >/etc/apt/sources.list; apt-get -q update",
    )
    said = doors.sh("debian13", "ls /usr/lib/*/security/pam_google_authenticator.so 2>&1")
    assert "No such file" in said
    variables = {**enrolled.variables, "ssh_enrol_again": ["alice"]}
    predicted = doors.apply("debian13", variables, "--check").of["debian13"]
    assert "libpam-google-authenticator would be installed first" in predicted["notes"]
    made = doors.apply("debian13", variables).of["debian13"]
    assert "libpam-google-authenticator was installed" in made["notes"]
    assert "install ok installed" in doors.sh(
        "debian13", "dpkg-query -W -f '${Status}' libpam-google-authenticator"
    )
    assert enrolled.alice("debian13", None).refused
    tried = enrolled.alice("debian13", code(enrolled.secret("debian13")))
    assert tried.got_in, tried.text
    again = doors.apply("debian13", enrolled.variables).of["debian13"]
    assert not again["changed"] and not any("installed" in note for note in again["notes"])


def test_who_no_longer_has_a_factor_loses_its_secret_and_pam_is_as_it_was(enrolled: Enrolled) -> None:
    doors = enrolled.doors
    pam = doors.sh("debian11", "cat /etc/pam.d/sshd")
    assert pam.startswith("# BEGIN Sallyport")
    users = [{"name": "alice", "keys": [doors.public("alice")]}]
    doors.apply("debian11", {"ssh_users": users})
    assert doors.ssh("debian11", "alice", key=doors.key("alice")).got_in
    after = doors.sh("debian11", "cat /etc/pam.d/sshd; ls /var/lib/sallyport-totp 2>/dev/null")
    assert after == pam.partition("# END Sallyport\n")[2]


def _base32(text: str) -> str:
    return text.replace(" ", "")


def test_dropbear_is_refused_by_name(enrolled: Enrolled) -> None:
    run = enrolled.doors.play(
        "vendor", {**enrolled.variables, "ssh_users": [{"name": "admin", "second_factor": "totp"}]}
    )
    assert run.status == 2 and "nor ask for a second factor (it has no PAM" in run.of["vendor"]["msg"]
