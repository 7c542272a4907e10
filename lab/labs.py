"""Labs: started, stopped, put back as shipped.

Podman's own labels say what belongs to which lab; there is no second record of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lab import images, inventory, machine
from lab.fleet import (
    CHECKOUT,
    NETWORKS,
    SLOTS,
    Device,
    Fleet,
    LabError,
    addresses,
    check_prefix,
    mac,
    subnets,
)
from lab.images import Say
from lab.podman import listing, podman, run_options

LABEL = "sallyport.lab"
OWNER = "sallyport.checkout"
RUN = "sallyport.run"
BOOT_SECONDS = 90
SLOT_SECONDS = 600  # others' tests end by themselves
# What root has on a real device and a container's root lacks: its own network and mounts, other users'
# processes (who listens on a port), immutable files, the audit record that telnet's login insists on.
CAPABILITIES = "NET_ADMIN,NET_RAW,SYS_ADMIN,SYS_PTRACE,LINUX_IMMUTABLE,AUDIT_WRITE,MKNOD"


class Lab:
    """One lab, known by its prefix. `slot` says which addresses it has; it is read from the networks."""

    def __init__(self, fleet: Fleet, prefix: str, say: Say) -> None:
        self.fleet = fleet
        self.prefix = check_prefix(prefix)
        self.say = say
        self.state = CHECKOUT / ".sallyport" / "lab" / prefix
        self._slot: int | None = None

    # What exists

    def networks(self) -> list[dict[str, Any]]:
        return listing("network", "ls", "--filter", f"label={LABEL}={self.prefix}")

    def containers(self) -> dict[str, str]:
        """Device name to podman's state of its container."""
        rows = listing("ps", "--all", "--filter", f"label={LABEL}={self.prefix}")
        return {row["Labels"]["sallyport.device"]: row["State"] for row in rows}

    def slot(self) -> int:
        """This lab's slot, which it keeps for as long as it runs; LabError when it does not."""
        if self._slot is not None:
            return self._slot
        for row in self.networks():
            self._slot = int(row["labels"]["sallyport.slot"])
            return self._slot
        raise LabError(
            f"no lab runs under the prefix {self.prefix}: start it with `lab/lab up --prefix {self.prefix}`"
        )

    def device(self, name: str) -> Device:
        """A device that runs in this lab."""
        if name not in self.containers():
            running = ", ".join(self.containers()) or "none"
            raise LabError(f"no device {name} in the lab {self.prefix}; running: {running}")
        return self.fleet.devices[name]

    def container(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    # What can be done

    def up(self, names: list[str]) -> None:
        """Start the named devices, or the standard fleet. What already runs stays as it is."""
        with self._alone():
            self._up(names)

    def _up(self, names: list[str]) -> None:
        self._slot = None  # others may have removed this lab, and taken its place
        self._refuse_other_checkout()
        devices = self.fleet.choose(names)
        if self.networks() and not self.state.exists():
            self.say(
                f"the lab {self.prefix} has lost its keys with the checkout that started it: starting afresh"
            )
            self._down()
        fresh = not self.networks()
        try:
            images.ensure(self.fleet, [device.image for device in devices], self.say)
            self._prepare(fresh)
            there = self.containers()
            self._start([device for device in devices if device.name not in there])
        except BaseException:
            if fresh:
                self.say("cleaning up what was started")
                self._down()
            raise

    def down(self) -> None:
        """Remove this lab's containers, networks and state, by name and nothing else; a start under way is ended."""
        with self._alone(end_others=True):
            self._down()

    def _down(self) -> None:
        self._refuse_other_checkout()
        self._forget_connections()
        self._remove()
        with _register():
            if not running():
                machine.restore()
        shutil.rmtree(self.state, ignore_errors=True)

    def _remove(self) -> None:
        """Containers and networks of this lab's name."""
        self._slot = None
        names = [self.container(name) for name in self.containers()]
        if names:
            podman("rm", "--force", "--time=0", "--volumes", *names)
        for row in self.networks():
            podman("network", "rm", "--force", row["name"])
            # Podman leaves a bridge that still had the cable of a device with own links, and its slot stays taken.
            subprocess.run(
                ["ip", "link", "delete", row["network_interface"]], capture_output=True, check=False
            )

    def reset(self, names: list[str]) -> None:
        """Put devices back as shipped: the same addresses and factory keys, everything else new."""
        chosen = [self.device(name) for name in names or self.containers()]
        images.ensure(self.fleet, [device.image for device in chosen], self.say)
        self._forget_connections()
        podman("rm", "--force", "--time=0", "--volumes", *(self.container(device.name) for device in chosen))
        (self.state / "known_hosts").unlink(missing_ok=True)
        self._start(chosen)

    def power_cut(self, name: str) -> None:
        """Take the power away without warning, give it back, and wait until the device answers."""
        device = self.device(name)
        podman("kill", "--signal=KILL", self.container(name), check=False)
        podman("wait", self.container(name), check=False)
        self._power_on(device)
        self._join(self.slot())
        self.wait(device, ["lan"])

    def run(self, name: str, command: list[str]) -> int:
        """Run a command on a device, past its SSH. Its exit status."""
        self.device(name)
        terminal = ["--tty"] if os.isatty(0) and os.isatty(1) else []
        return subprocess.call(["podman", "exec", "--interactive", *terminal, self.container(name), *command])

    # How

    @contextlib.contextmanager
    def _alone(self, end_others: bool = False) -> Iterator[None]:
        """One command at a time changes which devices a lab has; without this a start could outrun a stop."""
        with Path(f"/run/lock/sallyport-lab-{self.prefix}").open("a+", encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                holder = handle.read()
                if end_others and holder.isdecimal():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(holder), signal.SIGTERM)
                fcntl.flock(handle, fcntl.LOCK_EX)
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            yield

    def _refuse_other_checkout(self) -> None:
        for row in self.networks():
            owner = row["labels"][OWNER]
            if owner != str(CHECKOUT) and Path(owner).exists():
                raise LabError(
                    f"the prefix {self.prefix} is in use by the checkout {owner}: "
                    f"stop it there (lab/lab down --prefix {self.prefix}) or choose another --prefix"
                )

    def _prepare(self, fresh: bool) -> None:
        """Networks, the machine, keys, and a clean state folder."""
        started = time.monotonic()
        while fresh and not self._enter():
            if time.monotonic() - started > SLOT_SECONDS:
                raise LabError(
                    f"all {SLOTS} slots for labs are taken by {', '.join(running())} and none was given up "
                    f"in {SLOT_SECONDS} s: stop one of them (lab/lab down --prefix NAME)"
                )
            time.sleep(1)
        with _register():
            machine.prepare()
        key = self.state / "operator"
        if not key.exists():
            _keygen(
                "-q", "-t", "ed25519", "-N", "", "-C", f"operator of the lab {self.prefix}", "-f", str(key)
            )

    def _enter(self) -> bool:
        """Take the first free slot, with a clean state folder; False when there is none."""
        with _register():
            self._clear_the_abandoned()
            rows = listing("network", "ls", "--filter", f"label={LABEL}")
            taken = {row["labels"].get("sallyport.slot") for row in rows}
            free = [slot for slot in range(SLOTS) if str(slot) not in taken]
            if free:
                shutil.rmtree(self.state, ignore_errors=True)
                self.state.mkdir(parents=True, mode=0o700)
                self._create_networks(free[0])
        return bool(free)

    def _create_networks(self, slot: int) -> None:
        labels = {LABEL: self.prefix, OWNER: str(CHECKOUT), "sallyport.slot": str(slot)}
        labels[RUN] = os.environ.get("SALLYPORT_RUN", "")
        options = [f"--label={name}={value}" for name, value in labels.items()]
        options += ["--internal", "--ipv6", "--disable-dns"]
        for network in NETWORKS:
            ranges = [f"--subnet={subnet}" for subnet in subnets(network, slot)]
            podman("network", "create", *options, *ranges, f"{self.prefix}-{network}")

    def _clear_the_abandoned(self) -> None:
        """Remove labs of test runs that are no more: a run that was killed could not, and would keep its slots."""
        for row in listing("network", "ls", "--filter", f"label={LABEL}"):
            prefix, run = row["labels"][LABEL], row["labels"].get(RUN, "")
            if prefix != self.prefix and run and not _is_held(Path(run)):
                self.say(f"the run that started the lab {prefix} has died: removing that lab")
                Lab(self.fleet, prefix, self.say)._remove()

    def _start(self, devices: list[Device]) -> None:
        slot = self.slot()
        self._host_keys(devices)
        with ThreadPoolExecutor(max_workers=4) as pool:
            list(pool.map(lambda device: self._create(device, slot), devices))
            # Bridges exist from the first device that podman itself plugs in.
            list(pool.map(self._power_on, sorted(devices, key=lambda device: device.own_link)))
        self._join(slot)
        self._write_inventory(slot)
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(self.wait, devices))

    def _join(self, slot: int) -> None:
        """Give the controller, host 1, its address on each bridge.

        An internal network has no gateway by itself, and its bridge comes and goes with its containers.
        """
        for network in NETWORKS:
            bridge = self.bridge(network)
            for address, subnet in zip(addresses(network, slot, 1), subnets(network, slot), strict=True):
                cidr = f"{address}/{subnet.partition('/')[2]}"
                _ip("address", "replace", cidr, "dev", bridge, *(["nodad"] if ":" in address else []))

    def _create(self, device: Device, slot: int) -> None:
        name = self.container(device.name)
        options = [f"--name={name}", f"--hostname={device.name}", "--pull=never", *run_options()]
        options += [f"--label={LABEL}={self.prefix}", f"--label=sallyport.device={device.name}"]
        options += [f"--systemd={'always' if device.image.init == 'systemd' else 'false'}"]
        options += ["--no-hosts"]  # real devices own /etc/hosts and /etc/resolv.conf
        options += [f"--cap-add={CAPABILITIES}", "--security-opt=unmask=/proc/sys"]
        if device.own_link:
            options += ["--network=none"]
        else:
            options += ["--dns=none", "--restart=always"]  # a device that reboots comes back by itself
        for index, network in enumerate(() if device.own_link else device.networks):
            ipv4, ipv6 = addresses(network, slot, device.number)
            link = f"mac={mac(network, slot, device.number)},interface_name=eth{index}"
            options += ["--network", f"{self.prefix}-{network}:ip={ipv4},ip6={ipv6},{link}"]
        podman("create", *options, images.reference(self.fleet, device.image), *device.image.command)
        podman("cp", "-", f"{name}:/", stdin=self._factory_files(device, slot))

    def _power_on(self, device: Device) -> None:
        if device.own_link:
            podman("init", self.container(device.name), folder=self.state)  # everything but its first process
            self.plug_in(device)
        podman("start", self.container(device.name), folder=self.state)

    def plug_in(self, device: Device) -> None:
        """Give a device that brings up its own links cables: interfaces that are down and have no address."""
        slot = self.slot()
        state = "{{.State.Pid}}"
        process = podman("inspect", "--format", state, self.container(device.name)).strip()
        for index, network in enumerate(device.networks):
            cable = f"sally{slot}-{device.number}-{index}"
            # The kernel takes its time with the network of a device that lost power.
            subprocess.run(["ip", "link", "delete", cable], capture_output=True, check=False)
            link = ["name", f"eth{index}", "address", mac(network, slot, device.number), "netns", process]
            _ip("link", "add", cable, "type", "veth", "peer", *link)
            _ip("link", "set", cable, "master", self.bridge(network), "up")

    def inside(self, process: str, *command: str) -> str:
        """Run a command of this machine in a device's network: what the device lacks, or before its first process."""
        done = subprocess.run(
            ["nsenter", "-t", process, "-n", *command], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise LabError(f"{' '.join(command)} in the network of process {process}: {done.stderr.strip()}")
        return done.stdout

    def bridge(self, network: str) -> str:
        """The interface of this machine that a network's cables lead to."""
        return str(listing("network", "inspect", f"{self.prefix}-{network}")[0]["network_interface"])

    def _factory_files(self, device: Device, slot: int) -> bytes:
        """What is this one device's own, as a tar: names, host keys; on a vantage point the lab's key."""
        files = {
            "etc/hosts": (f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {device.name}\n".encode(), 0o644),
            "etc/hostname": (f"{device.name}\n".encode(), 0o644),
        }
        if device.image.server == "openssh":
            for path in sorted((self.state / "factory" / device.host_keys / "etc" / "ssh").iterdir()):
                files[f"etc/ssh/{path.name}"] = (path.read_bytes(), 0o644 if path.suffix == ".pub" else 0o600)
        if device.own_link:
            lines = ""
            for index, network in enumerate(device.networks):
                lengths = [subnet.partition("/")[2] for subnet in subnets(network, slot)]
                pairs = zip(addresses(network, slot, device.number), lengths, strict=True)
                lines += f"eth{index} {' '.join('/'.join(pair) for pair in pairs)}\n"
            files["etc/gateway-links"] = (lines.encode(), 0o644)
        if device.group == "vantages":
            files["root/.ssh/authorized_keys"] = ((self.state / "operator.pub").read_bytes(), 0o600)
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name, (content, mode) in files.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode, member.mtime = len(content), mode, int(time.time())
                archive.addfile(member, io.BytesIO(content))
        return stream.getvalue()

    def _host_keys(self, devices: list[Device]) -> None:
        for series in {device.host_keys for device in devices if device.image.server == "openssh"}:
            folder = self.state / "factory" / series
            if not folder.exists():
                (folder / "etc" / "ssh").mkdir(parents=True)
                _keygen("-A", "-f", str(folder))

    def _write_inventory(self, slot: int) -> None:
        """The inventory of what runs, and the folder for ssh's masters: a fresh one after each start and reset."""
        note = self.state / "control"
        if not note.exists():
            # Short, because a socket's path is limited.
            note.write_text(tempfile.mkdtemp(prefix=f"sallyport-{self.prefix}-"), encoding="utf-8")
        control = Path(note.read_text(encoding="utf-8"))
        devices = [self.fleet.devices[name] for name in sorted(self.containers())]
        inventory.write(self.state, self.prefix, slot, devices, control)
        _give_to_caller(self.state, control)

    def _forget_connections(self) -> None:
        """End ssh masters of this lab and remove their folder."""
        note = self.state / "control"
        if not note.exists():
            return
        folder = Path(note.read_text(encoding="utf-8"))
        note.unlink()
        for path in folder.glob("*") if folder.is_dir() else ():
            if path.is_socket():
                command = ["ssh", "-o", f"ControlPath={path}", "-O", "exit", "lab"]
                subprocess.run(command, capture_output=True, check=False, timeout=10)
        shutil.rmtree(folder, ignore_errors=True)

    def wait(self, device: Device, networks: Sequence[str] = ()) -> None:
        """Until the device answers SSH and has booted. LabError when it does not.

        ``networks`` says where it must answer, all of its own by default. A hardened one answers on lan only.
        """
        started = time.monotonic()
        pending = [
            address
            for network in networks or device.networks
            for address in addresses(network, self.slot(), device.number)
        ]
        while pending and time.monotonic() - started < BOOT_SECONDS:
            pending = [address for address in pending if not _speaks_ssh(address)]
            if pending:
                time.sleep(0.1)
        if pending:
            logs = podman("logs", "--tail=15", self.container(device.name), check=False)
            raise LabError(
                f"{device.name} did not answer SSH on {', '.join(pending)} in {BOOT_SECONDS} s:\n{logs}"
            )
        if device.image.init == "systemd":
            state = podman(
                "exec", self.container(device.name), "systemctl", "is-system-running", "--wait", check=False
            )
            if state.strip() != "running":
                failed = podman(
                    "exec", self.container(device.name), "systemctl", "--failed", "--no-legend", check=False
                )
                self.say(f"{device.name}: systemd is {state.strip()}: {failed.strip()}")
        self.say(f"{device.name}: up after {time.monotonic() - started:.1f} s")


@contextlib.contextmanager
def _register() -> Iterator[None]:
    """Podman's list of networks is the register of labs; one lab at a time enters or leaves it."""
    with Path("/run/lock/sallyport-lab").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _is_held(path: Path) -> bool:
    """Whether any process of a test run is left: they all keep its file locked, and the kernel never forgets to let go."""
    try:
        with path.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _speaks_ssh(address: str) -> bool:
    try:
        with socket.create_connection((address, 22), timeout=2) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _keygen(*arguments: str) -> None:
    done = subprocess.run(["ssh-keygen", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"ssh-keygen {arguments[0]} failed: {done.stderr.strip()}")


def _give_to_caller(*folders: Path) -> None:
    """With sudo the lab runs as root, but the inventory, its key and the masters are the caller's to use."""
    if "SUDO_UID" not in os.environ:
        return
    uid, gid = int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"])
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, uid, gid)
    with contextlib.suppress(OSError):
        for parent in (CHECKOUT / ".sallyport", CHECKOUT / ".sallyport" / "lab"):
            os.chown(parent, uid, gid)


def running(only_here: bool = False) -> list[str]:
    """The prefixes of all labs on this machine, or of this checkout's alone."""
    rows = listing("network", "ls", "--filter", f"label={LABEL}")
    return sorted(
        {row["labels"][LABEL] for row in rows if not only_here or row["labels"][OWNER] == str(CHECKOUT)}
    )
