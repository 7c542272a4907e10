"""The fleet as lab/fleet.toml defines it: images, devices, and the addresses a slot gives them."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

import tomllib

LAB = Path(__file__).resolve().parent
CHECKOUT = LAB.parent
NETWORKS = ("lan", "wan")
SLOTS = 8
# No hyphen: `down` of one prefix must never match the containers of another that merely begins like it.
PREFIX = re.compile(r"[a-z][a-z0-9]{0,14}")

# Documentation ranges, so that no packet can find a real host. 192.0.2.0/24 and 203.0.113.0/24 are left
# alone: some machines reach their package mirror through them.
_IPV4 = {"lan": ipaddress.ip_network("198.51.100.0/25"), "wan": ipaddress.ip_network("198.51.100.128/25")}
_IPV6 = {"lan": "fd00:db8:1", "wan": "fd00:db8:2"}


class LabError(Exception):
    """Something the person at the keyboard can act on; the text says what and how."""


@dataclass(frozen=True)
class Image:
    """How one kind of device is made. `packages` with a `suite`, or `parent`: the image it starts from."""

    name: str
    suite: str
    packages: tuple[str, ...]
    extract: tuple[str, ...]
    parent: str
    accounts: dict[str, str]
    server: str
    init: str
    command: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return LAB / "images" / self.name


@dataclass(frozen=True)
class Device:
    """One container of the lab."""

    name: str
    image: Image
    number: int
    group: str
    login: str
    host_keys: str
    networks: tuple[str, ...]
    variant: bool
    own_link: bool
    in_place_of: str
    variables: dict[str, object]


@dataclass(frozen=True)
class Fleet:
    """Everything in lab/fleet.toml."""

    images: dict[str, Image]
    devices: dict[str, Device]

    def choose(self, names: list[str]) -> list[Device]:
        """The named devices, or all but the variants; vantage points always. LabError for an unknown name."""
        unknown = sorted(set(names) - set(self.devices))
        if unknown:
            known = ", ".join(self.devices)
            raise LabError(f"no device is called {', '.join(unknown)}; lab/fleet.toml has {known}")
        clashes = [name for name in names if self.devices[name].in_place_of in names]
        if clashes:
            pairs = ", ".join(f"{name} and {self.devices[name].in_place_of}" for name in clashes)
            raise LabError(f"these devices have the same addresses and cannot run together: {pairs}")
        return [
            device
            for device in self.devices.values()
            if device.name in names or device.group == "vantages" or (not names and not device.variant)
        ]


def load(path: Path = LAB / "fleet.toml") -> Fleet:
    """Read the definition."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    images: dict[str, Image] = {}
    for name, entry in data["images"].items():
        # A parent stands above its children.
        parent = images[entry["from"]] if "from" in entry else None
        images[name] = Image(
            name=name,
            suite=entry.get("suite", ""),
            packages=tuple(entry.get("packages", ())),
            extract=tuple(entry.get("extract", ())),
            parent=parent.name if parent else "",
            accounts=entry.get("accounts", parent.accounts if parent else {}),
            server=entry.get("server", parent.server if parent else "openssh"),
            init=entry.get("init", parent.init if parent else "systemd"),
            command=tuple(entry.get("command", parent.command if parent else ("/sbin/init",))),
        )
    devices = {
        name: Device(
            name=name,
            image=images[entry["image"]],
            number=data["devices"][entry.get("in_place_of", name)]["number"],
            group=entry["group"],
            login=entry.get("login", "root"),
            host_keys=entry.get("host_keys", name),
            networks=tuple(entry.get("networks", NETWORKS)),
            variant=entry.get("variant", False),
            own_link=entry.get("link", "") == "own",
            in_place_of=entry.get("in_place_of", ""),
            variables=entry.get("variables", {}),
        )
        for name, entry in data["devices"].items()
    }
    return Fleet(images, devices)


def check_prefix(prefix: str) -> str:
    """The prefix itself; LabError when it cannot be one."""
    if not PREFIX.fullmatch(prefix):
        raise LabError(f"a lab's prefix is 1 to 15 of a-z and 0-9, a letter first; {prefix!r} is not")
    return prefix


def subnets(network: str, slot: int) -> tuple[str, str]:
    """The IPv4 /28 and IPv6 /64 of one network in one slot."""
    ipv4 = list(_IPV4[network].subnets(new_prefix=28))[slot]
    return str(ipv4), f"{_IPV6[network]}:{slot}::/64"


def addresses(network: str, slot: int, number: int) -> tuple[str, str]:
    """The IPv4 and IPv6 address of host `number` in one network; the controller is number 1."""
    ipv4, ipv6 = subnets(network, slot)
    return str(ipaddress.ip_network(ipv4)[number]), str(ipaddress.ip_network(ipv6)[number])


def mac(network: str, slot: int, number: int) -> str:
    """A fixed link address: with a random one a neighbour's cache would make a recreated device look dead."""
    return f"02:53:50:{NETWORKS.index(network):02x}:{slot:02x}:{number:02x}"


def digest(*parts: str) -> str:
    """Twelve hexadecimal digits that change when any part does."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
