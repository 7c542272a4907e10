"""What the audit says of certificates on real devices: before users do."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from acme import authority, certificate, pem
from cryptography.hazmat.primitives.asymmetric import ec
from fleet import DEVICES, Fleet, until

CA, CA_KEY = authority("Fleet CA")
ALL = ":".join(DEVICES)
LIFE = 20


def own(name: str, days: float, age: float) -> dict[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    made = certificate(name, key, CA, CA_KEY, names=(name,), days=days, age=age)
    return {"certificate": made, "key": pem(key)}


def test_the_audit_names_what_expires_what_expired_and_keys_that_two_devices_have(fleet: Fleet) -> None:
    short = own("tlsvendor.lab", LIFE / 86400, 1)
    expires = datetime.now(timezone.utc) + timedelta(seconds=LIFE)
    shared = own("*.lab", 60, 30)
    ending, _ = authority("Panels CA", days=10)
    pairs = {
        "tls11": own("tls11.lab", 10, 80),
        "tls12": shared,
        "tls13": {**shared, "client_ca": ending},
        "tlsvendor": short,
    }
    run = fleet.play(
        ALL,
        mode="own",
        names=[],
        pairs=pairs,
        certificate="{{ tls_pairs[inventory_hostname].certificate }}",
        private_key="{{ tls_pairs[inventory_hostname].key }}",
        client_ca="{{ tls_pairs[inventory_hostname].client_ca | default('') }}",
        upstream="{{ '127.0.0.1:80' if inventory_hostname == 'tlsvendor' else '' }}",
    )
    assert run.status == 0, run.output
    assert until(lambda: datetime.now(timezone.utc) > expires, LIFE + 5)
    # The inventory does not say that there are certificates: the role had its variables elsewhere.
    names = ["{{ inventory_hostname }}.lab"]
    audit = fleet.play(
        ALL, playbook="playbooks/audit.yml", action="tls_report", tls_names=names, **fleet.audit()
    )
    states = {device: audit[device]["verdict"]["state"] for device in DEVICES}
    assert states == {"tls11": "warning", "tls12": "ok", "tls13": "warning", "tlsvendor": "failing"}, (
        audit.output
    )
    report = (fleet.work / "report" / "audit.json").read_text(encoding="utf-8")  # notes are not printed
    for words in (
        "it should have been renewed by now",
        "CN=Panels CA, whose clients are let in (tls_client_ca), expires on",
        "has the same TLS private key as tls13",
        "has the same TLS private key as tls12",
        "the certificate expired on",
    ):
        assert words in report, words
