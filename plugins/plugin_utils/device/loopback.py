# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The way in of a device that is its own controller: its own SSH daemon, asked over the loopback.

Nobody can come back to such a device over a new connection. What can be shown is that the daemon still lets in whom it
let in before: the strongest of :data:`LEVELS` that works before a change has to work after it. docs/commit.md says what
each of them proves, and what it does not.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ansible import constants
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.loader import connection_loader
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import (
    Exchange,
    ExchangeError,
    Reply,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.payload import call, quote

VARIABLE = "sallyport_loopback"
LEVELS = ("login", "handshake", "banner", "none")
"""Strongest first: a whole login; a key exchange with the device's own host key; a daemon that answers; nothing."""

_ALIAS = "sallyport-loopback"
# What OpenSSH says in place of a banner to a source that has failed too often (PerSourcePenalties).
_PUNISHED = "Not allowed at this time"
# Where the daemon is told to listen, and the public halves of the keys that it is told to answer with.
_LOOK = rb"""
{ sshd -T 2>/dev/null || :; } | while read -r word value _; do
  case $word in
    listenaddress) say listen "$value" ;;
    hostkey) key=$(ssh-keygen -y -f "$value" </dev/null 2>/dev/null) || continue; say key "$key" ;;
  esac
done
for file in /etc/ssh/ssh_host_*_key.pub; do [ ! -f "$file" ] || say key "$(cat "$file")"; done
for file in /etc/dropbear/dropbear_*_host_key; do
  [ -f "$file" ] || continue
  dropbearkey -y -f "$file" 2>/dev/null | while read -r line; do
    case $line in ssh-* | ecdsa-*) say key "$line" ;; esac
  done
done
"""
# Is the change live? Then, is one of the daemons that listen on the port older than the worker, who made it live?
_LIVE = rb"""
tries=0
while :; do
  id=''; { read -r id <"$TX/id"; } 2>/dev/null || :
  [ "$id" = "$ID" ] || exit 0
  [ ! -e "$TX/live" ] || break
  tries=$((tries + 1))
  [ "$tries" -le 100 ] || { say waiting; exit 0; }
  sleep 0.1 2>/dev/null || sleep 1
done
say live
[ "$PORT" != 0000 ] || exit 0
sockets=' '
for table in /proc/net/tcp /proc/net/tcp6; do
  [ ! -r "$table" ] || while read -r _ local _ state _ _ _ _ _ inode _; do
    case "$local $state" in *":$PORT 0A") sockets="$sockets$inode " ;; esac
  done <"$table"
done
read -r _ began <"$TX/worker"
for process in /proc/[0-9]*; do
  { read -r name <"$process/comm"; } 2>/dev/null || continue
  case $name in sshd* | dropbear*) ;; *) continue ;; esac
  for fd in "$process"/fd/*; do
    is=$(readlink "$fd" 2>/dev/null) || continue
    is=${is#'socket:['}
    case $sockets in *" ${is%']'} "*) ;; *) continue ;; esac
    { read -r line <"$process/stat"; } 2>/dev/null || continue
    (set -- ${line##*) }; shift 19; [ "$1" -ge "$began" ]) || { say old_daemon; exit 0; }
  done
done
"""


class Unproven(ExchangeError):
    """The way in over the loopback does not work as it must. The message says what does not."""


@dataclass(frozen=True)
class Door:
    """Where the daemon listens."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"{self.address} port {self.port}"


class Loopback:
    """What works over the loopback: looked at before a change, and asked for after it.

    Args:
        exchange: the road that carries the change, as root.
        asked: ``auto``, or the one of ``LEVELS`` that must work.
    """

    def __init__(
        self, action: Any, task_vars: Mapping[str, Any], exchange: Exchange, asked: str, timeout: int
    ) -> None:
        self._action = action
        self._variables = task_vars
        self._exchange = exchange
        self._timeout = timeout
        self._pause = 0.0
        self._looked = False
        self.level = "none"
        self.door = Door("127.0.0.1", 22)
        if asked not in ("auto", *LEVELS):
            raise ExchangeError(f"{VARIABLE} must be auto, {', '.join(LEVELS)}, got {asked!r}")
        if asked != "none":
            self._look(asked)
        self._looked = True

    def _look(self, asked: str) -> None:
        reply = self._exchange.run(_LOOK)
        for _ in range(12):
            why = self._strongest(asked, reply)
            if _PUNISHED not in why:
                break
            time.sleep(5)
        if asked not in ("auto", self.level):
            raise ExchangeError(
                f"{VARIABLE} asks for a {asked} over the loopback, which does not work before the change: {why}"
            )

    def _strongest(self, asked: str, reply: Reply) -> str:
        """Finds the strongest level that works; why the last one did not."""
        why = "no SSH daemon answers"
        for level in LEVELS[:-1] if asked == "auto" else (asked,):
            for door in self._doors(reply):
                try:
                    self._try(level, door, reply.all("key"), sparing=asked == "auto" and level == "login")
                except (AnsibleError, OSError) as error:
                    why = str(error)
                    continue
                self.level, self.door = level, door
                return ""
        return why

    def _doors(self, reply: Reply) -> list[Door]:
        """Where to knock: what the daemon is told, else the site's port, else 22."""
        found = [door for door in map(listening, reply.all("listen")) if door]
        port = self._variables.get("ansible_port")
        if port is not None:
            number = int(self._action._templar.template(port))
            found = [door for door in found if door.port == number] or [Door("127.0.0.1", number)]
        return list(dict.fromkeys(found)) or [Door("127.0.0.1", 22), Door("::1", 22)]

    def prove(self, state_dir: str, identity: str, new_daemon: bool) -> bool:
        """Once the change is live: does it still work? False where there is nothing to confirm (yet, or any more).

        Raises:
            Unproven: it is live, and the way in does not work.
        """
        time.sleep(self._pause)
        # A daemon that is asked in vain too often shuts its door for a while: OpenSSH's PerSourcePenalties.
        self._pause = min(8.0, self._pause * 2 or 1.0)
        port = self.door.port if new_daemon and self.level != "none" else 0
        head = b"TX=" + quote(f"{state_dir}/armed/tx") + b" ID=" + quote(identity) + b" PORT=%04X\n" % port
        reply = self._exchange.run(head + _LIVE)
        if "live" not in reply:
            self._pause = 0.0
            if "waiting" in reply:  # as a confirmation would: what nobody looks after will never be live
                why = "the program that made the change was killed, and its guards too"
                self._exchange.run(call(state_dir, "recover", why))
            return False
        if "old_daemon" in reply:
            raise Unproven(
                "the daemon that answers over the loopback was started before the change: it never read the new files"
            )
        if self.level == "none":
            return True
        told = self._exchange.run(_LOOK)
        others = [door for door in map(listening, told.all("listen")) if door and door.port == self.door.port]
        why = ""
        for door in dict.fromkeys((self.door, *others)):
            try:
                self._try(self.level, door, told.all("key"))
                return True
            except (AnsibleError, OSError) as error:
                why = why or str(error)
        raise Unproven(
            f"the {self.level} over the loopback ({self.door}) worked before the change, and does not any more: {why}. If "
            f"that is what the change is for, set {VARIABLE} to what must still work ({', '.join(LEVELS)})"
        )

    def _try(self, level: str, door: Door, keys: list[str], sparing: bool = False) -> None:
        """Raises what went wrong.

        Args:
            sparing: not where there is nothing to log in with: daemons punish vain trials, see PerSourcePenalties.
        """
        if level == "banner":
            _banner(door, self._timeout)
            return
        if not keys:
            raise Unproven("the device's own host keys could not be read")
        with (
            tempfile.NamedTemporaryFile("w", prefix="sallyport-", encoding="utf-8") as known_hosts,
            self._through(door, level, sparing) as exchange,
            exchange.as_new_connection(known_hosts.name, self._timeout),
        ):
            known_hosts.write("".join(f"{_ALIAS} {key}\n" for key in keys))
            known_hosts.flush()
            try:
                exchange.run(b"say inside\n")
            except AnsibleConnectionFailure as error:
                # Only who has exchanged keys with the daemon, and believes its host key, is told so.
                if level == "login" or "Permission denied" not in str(error):
                    raise

    @contextlib.contextmanager
    def _through(self, door: Door, level: str, sparing: bool) -> Iterator[Exchange]:
        """An exchange over ssh, without privilege, with this play's own variables for ssh."""
        action = self._action
        connection = connection_loader.get("ansible.builtin.ssh", action._play_context, new_stdin=None)
        names = set(constants.config.get_plugin_vars("connection", connection._load_name))
        variables = {
            name: action._templar.template(self._variables[name]) for name in names & {*self._variables}
        }
        keywords = action._task.dump_attrs()
        for name in ("retries", "timeout"):  # of the task, not of a connection
            keywords.pop(name, None)
        connection.set_options(task_keys=keywords, var_options=variables)
        connection.set_option("host", door.address)
        connection.set_option("port", door.port)
        ssh = str(connection.get_option("ssh_executable"))
        if not shutil.which(ssh):
            raise Unproven("there is no ssh on this device to try it with")
        if sparing and not connection.get_option("password") and not _has_a_key(ssh, connection):
            raise Unproven("there is no key, no agent and no password to log in with")
        if self._exchange.next_key and self._looked:
            connection.set_option("private_key_file", str(self._exchange.next_key))
        first = f"-o HostKeyAlias={_ALIAS} -o ProxyCommand=none"
        if level == "handshake":
            connection.set_option("password", None)
            first += " -o PreferredAuthentications=none"
        connection.set_option("ssh_args", f"{first} {connection.get_option('ssh_args') or ''}".strip())
        own = action._connection
        action._connection = connection
        try:
            yield Exchange(action)
        finally:
            action._connection = own


def listening(text: str) -> Door | None:
    """``0.0.0.0:22`` or ``[::]:22`` of ``sshd -T`` as the address at which a device reaches itself."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if not port.isdigit() or address.is_link_local:
        return None
    if address.is_unspecified:
        return Door("127.0.0.1" if address.version == 4 else "::1", int(port))
    return Door(str(address), int(port))


def _has_a_key(ssh: str, connection: Any) -> bool:
    """Is there any key that ssh would offer?"""
    files = [str(connection.get_option("private_key_file") or "")]
    told = subprocess.run([ssh, "-G", _ALIAS], capture_output=True, text=True, check=False).stdout
    files += [line.partition(" ")[2] for line in told.splitlines() if line.startswith("identityfile ")]
    return "SSH_AUTH_SOCK" in os.environ or any(
        name and os.path.exists(os.path.expanduser(name)) for name in files
    )


def _banner(door: Door, timeout: int) -> None:
    with socket.create_connection((door.address, door.port), timeout) as connection:
        said = b""
        while not any(line.startswith(b"SSH-2.0-") for line in said.split(b"\n")):
            more = connection.recv(256)
            if not more or len(said) > 8192:
                raise Unproven(
                    f"no SSH daemon answers at {door}, but {said[:80].decode('utf-8', 'replace')!r}"
                )
            said += more
