"""What comes from the server and is not what the operator signed for this device does not go in, and is told."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import DEVICES

from tests.images_site import Images
from tests.updates_site import shown


def tampered(image: bytes) -> bytes:
    """One bit of what would be installed is another one; description and signature are whole."""
    place = image.rindex(b"system.tar.gz") + 40
    return image[:place] + bytes([image[place] ^ 1]) + image[place + 1 :]


def described_anew(image: bytes) -> bytes:
    """The description says something else than what was signed."""
    return image.replace(b'version = "3.0"', b'version = "3.1"', 1)


CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "unsigned": ("signature", "it is not signed", {"unsigned": True}),
    "signed by somebody else": ("signature", "", {"stranger": True}),
    "described anew": ("signature", "", {"change": described_anew}),
    "tampered": ("tampered", "", {"change": tampered}),
    "for another revision": ("hardware", "not compatible with hardware", {"revision": "9"}),
    "for another board": ("hardware", "", {"board": "pump"}),
    "older": ("downgrade", "No downgrading allowed", {"version": "1.0", "promised": "3.0"}),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_and_the_device_stays_as_it_is(site: Images, case: str) -> None:
    kind, words, how = CASES[case]
    how = dict(how)
    version, promised, change = (
        how.pop("version", "3.0"),
        how.pop("promised", "3.0"),
        how.pop("change", bytes),
    )
    signer = (
        None if how.pop("unsigned", False) else site.stranger if how.pop("stranger", False) else site.signer
    )
    image = change(site.image(version, signer=signer, **how))
    before = {device: (site.env(device), site.start(device)) for device in DEVICES}
    for device in DEVICES:
        site.offer(device, version, image, promised)
    for device, said in site.turn(*DEVICES).items():
        assert said["result"] == "refused", shown(said)
        assert (
            said["refused"][-1].startswith(f"{kind} panel-os {promised}: ") and words in said["refused"][-1]
        ), shown(said)
        assert site.version_of(device) == "2.0" and site.slot(device) == "b"
        env, start = before[device]
        now = site.env(device)
        assert {**env, "recovery_status": ""} == {**now, "recovery_status": ""} and site.start(
            device
        ) == start
        assert not site.open(device) and site.closed(device) == "failure", shown(said)


def test_a_refusal_stays_in_the_record_and_in_the_audit(site: Images) -> None:
    for said in site.turn(*DEVICES).values():
        assert said["result"] == "refused" and said["refused"][0].startswith("downgrade "), shown(said)
    findings, line = site.judged(DEVICES[0])
    assert "refused (downgrade): panel-os 3.0: No downgrading allowed" in findings["update_refused"]
    assert "refused downgrade" in line


def test_nothing_of_it_was_written_but_the_tampered_one_that_never_starts(site: Images) -> None:
    for device in DEVICES:
        assert site.installations(device) == ["2.0"]


def test_a_server_that_does_not_answer_or_that_nobody_vouches_for_is_said(site: Images) -> None:
    site.offer(DEVICES[0], "3.0", site.image("3.0"))
    good = site.sh(DEVICES[0], "cat /etc/swupdate/sallyport-ca.pem")
    site.put({"sallyport-ca.pem": site.stranger[0]}, "/etc/swupdate", DEVICES[0])
    (said,) = site.turn(DEVICES[0]).values()
    site.put({"sallyport-ca.pem": good}, "/etc/swupdate", DEVICES[0])
    assert "certificate" in said["unreachable"][0] and "checked" in said, shown(said)
    assert site.version_of(DEVICES[0]) == "2.0"
    before = site.downloads(DEVICES[0])
    site.put({"tokens.json": "{}"})
    (said,) = site.turn(DEVICES[0]).values()
    site.admit()
    assert "HTTP 401" in said["unreachable"][0] and site.downloads(DEVICES[0]) == before, shown(said)
