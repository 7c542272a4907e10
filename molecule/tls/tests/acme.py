"""An ACME server for the scenario: pebble, and its DNS server, in the vantage point of the lab's inner network."""

from __future__ import annotations

import base64
import io
import ipaddress
import json
import re
import socket
import ssl
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lab.fleet import addresses
from lab.labs import Lab
from lab.podman import podman

EAB_KID = "kid-1"
EAB_KEY = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
FORBIDDEN = "forbidden.lab"  # this CA issues nothing for it
WHERE = "vantage-lan"


def authority(name: str, days: float = 400) -> tuple[str, str]:
    """A CA's certificate and key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return certificate(name, key, None, None, ca=True, days=days), pem(key)


def pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str | None,
    issuer_key: str | None,
    *,
    ca: bool = False,
    days: float = 30,
    age: float = 1 / 24,
    names: tuple[str, ...] = (),
) -> str:
    """A certificate as PEM, signed by itself where no issuer is named; it began ``age`` days ago."""
    now = datetime.now(timezone.utc)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = serialization.load_pem_private_key(issuer_key.encode(), None) if issuer_key else key
    by = x509.load_pem_x509_certificate(issuer.encode()).subject if issuer else subject
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=age))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
    )
    if ca:
        uses = {"key_cert_sign": True, "crl_sign": True, "digital_signature": False}
        others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        uses |= dict.fromkeys((*others, "encipher_only", "decipher_only"), False)
        builder = builder.add_extension(x509.KeyUsage(**uses), critical=True)
    values: list[x509.GeneralName] = []
    for one in names:
        try:
            values.append(x509.IPAddress(ipaddress.ip_address(one)))
        except ValueError:
            values.append(x509.DNSName(one))
    if values:
        builder = builder.add_extension(x509.SubjectAlternativeName(values), critical=False)
    made = builder.sign(signer, hashes.SHA256())  # type: ignore[arg-type]
    return made.public_bytes(serialization.Encoding.PEM).decode()


class Acme:
    """The server; ``orders`` is what a rate limit would count."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.container = lab.container(WHERE)
        self.address = addresses("lan", lab.slot(), lab.fleet.devices[WHERE].number)[0]
        self.root, self._root_key = authority("Lab ACME root")
        self.directory = f"https://{self.address}:14000/dir"
        self.validity = 90 * 86400
        self.bindings = False

    def put(self, files: dict[str, str]) -> None:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name, text in files.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(text), 0o600
                archive.addfile(member, io.BytesIO(text.encode()))
        podman("cp", "-", f"{self.container}:/tmp", stdin=stream.getvalue())

    def start(
        self,
        *,
        validity: int | None = None,
        bindings: bool | None = None,
        ocsp: bool = False,
        http_port: int = 80,
    ) -> None:
        """Start it, or start it afresh: accounts and orders are forgotten, and its issuing root is another one.

        Args:
            ocsp: whether its certificates name a responder.
            http_port: where it looks for answers to HTTP-01.
        """
        self.stop()
        self.validity = validity if validity is not None else self.validity
        self.bindings = bindings if bindings is not None else self.bindings
        key = ec.generate_private_key(ec.SECP256R1())
        own = certificate("acme", key, self.root, self._root_key, names=(self.address, "ca.plant.example"))
        settings = {
            "listenAddress": "0.0.0.0:14000",
            "managementListenAddress": "0.0.0.0:15000",
            "certificate": "/tmp/acme.pem",
            "privateKey": "/tmp/acme.key",
            "httpPort": http_port,
            "tlsPort": 443,
            "ocspResponderURL": f"http://{self.address}:8888/" if ocsp else "",
            "externalAccountBindingRequired": self.bindings,
            "certificateValidityPeriod": self.validity,
            "domainBlocklist": [FORBIDDEN],
            **({"externalAccountMACKeys": {EAB_KID: EAB_KEY}} if self.bindings else {}),
        }
        self.put({"acme.pem": own, "acme.key": pem(key), "acme.json": json.dumps({"pebble": settings})})
        self.background(
            "pebble-challtestsrv -management :8055 -dns01 127.0.0.1:8053 -http01 '' -https01 '' -tlsalpn01 ''"
        )
        self.background(
            "PEBBLE_VA_NOSLEEP=1 PEBBLE_WFE_NONCEREJECT=0 pebble -config /tmp/acme.json -dnsserver 127.0.0.1:8053"
        )
        # The README's playbook asks it by name, where web servers are.
        self._nft("add table ip named")
        self._nft("add chain ip named in { type nat hook prerouting priority dstnat; }")
        self._nft("flush chain ip named in")
        self._nft("add rule ip named in tcp dport 443 redirect to :14000")
        self._until(self.directory)
        self._until(f"http://{self.address}:8055/", any_answer=True)
        for name, device in self.names.items():
            self.dns(name, device)

    @contextmanager
    def down(self) -> Iterator[None]:
        """Nobody reaches it; its accounts and its root are the same afterwards."""
        self._nft("add table ip down")
        self._nft("add chain ip down in { type filter hook input priority 0; }")
        self._nft("add rule ip down in tcp dport 14000 reject with tcp reset")
        try:
            yield
        finally:
            self._nft("delete table ip down")

    def _nft(self, command: str) -> None:
        podman("exec", self.container, "nft", command)

    def take_updates(self) -> str:
        """Have TXT records of `lab.` taken by signed updates too. Returns what certbot's plugin needs for that."""
        secret = base64.b64encode(b"of the lab, known to all").decode()
        program = (Path(__file__).parent / "updates.py").read_text(encoding="utf-8")
        self.put({"updates.py": program})
        self.background(f"python3 /tmp/updates.py updates.lab {secret}")
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection((self.address, 53), timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < deadline, podman("exec", self.container, "tail", "/tmp/acme.log")
                time.sleep(0.1)
        return (
            f"dns_rfc2136_server = {self.address}\ndns_rfc2136_name = updates.lab.\n"
            f"dns_rfc2136_secret = {secret}\ndns_rfc2136_algorithm = HMAC-SHA256\n"
        )

    def answer_for(self, serial: str) -> None:
        """An OCSP responder that knows one certificate, and says that it is good."""
        number = f"{int(serial, 16):X}"
        number = number if len(number) % 2 == 0 else f"0{number}"
        ca = self.get(f"https://{self.address}:15000/intermediates/0")
        key = self.get(f"https://{self.address}:15000/intermediate-keys/0")
        self.put(
            {"ocsp.pem": ca, "ocsp.key": key, "ocsp.index": f"V\t491231235959Z\t\t{number}\tunknown\t/CN=x\n"}
        )
        self.background(
            "openssl ocsp -port 8888 -index /tmp/ocsp.index -CA /tmp/ocsp.pem -rsigner /tmp/ocsp.pem "
            "-rkey /tmp/ocsp.key -ndays 1"
        )

    names: dict[str, str] = {}  # noqa: RUF012 - filled by the fleet

    def dns(self, name: str, address: str) -> None:
        """What a name leads to, as the CA sees it."""
        self.post("set-default-ipv6", {"ip": ""})
        self.post("clear-a", {"host": f"{name}."})
        self.post("add-a", {"host": f"{name}.", "addresses": [address]})

    def post(self, what: str, values: dict[str, object]) -> None:
        request = urllib.request.Request(f"http://{self.address}:8055/{what}", json.dumps(values).encode())
        urllib.request.urlopen(request, timeout=10).read()

    def stop(self) -> None:
        podman("exec", self.container, "sh", "-c", "pkill -x pebble; pkill -x pebble-challtes; exit 0")
        deadline = time.monotonic() + 10
        while podman(
            "exec", self.container, "sh", "-c", "pgrep -x pebble || pgrep -x pebble-challtes || :"
        ).strip():
            assert time.monotonic() < deadline, "pebble does not end"
            time.sleep(0.1)

    def background(self, command: str) -> None:
        podman("exec", "--detach", self.container, "sh", "-c", f"{command} >>/tmp/acme.log 2>&1")

    def _until(self, url: str, any_answer: bool = False) -> None:
        deadline = time.monotonic() + 20
        while True:
            try:
                self.get(url)
                return
            except OSError as error:
                if any_answer and hasattr(error, "code"):
                    return
                assert time.monotonic() < deadline, podman("exec", self.container, "tail", "/tmp/acme.log")
                time.sleep(0.1)

    def get(self, url: str) -> str:
        context = ssl.create_default_context(cadata=self.root)
        secure = {"context": context} if url.startswith("https") else {}
        with urllib.request.urlopen(url, timeout=5, **secure) as answer:  # type: ignore[arg-type]
            return str(answer.read().decode())

    def issuer(self) -> str:
        """The root of what it issues."""
        return self.get(f"https://{self.address}:15000/roots/0")

    def orders(self) -> int:
        """How many certificates were asked for since the lab began, over all starts."""
        log = podman("exec", self.container, "cat", "/tmp/acme.log")
        return len(re.findall(r"Added order", log))
