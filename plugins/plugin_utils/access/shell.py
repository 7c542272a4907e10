# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Snippets of POSIX sh that the access roles hand to ``commit``, for devices that may have little but
BusyBox.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable

# Process ids that hold a listening TCP or a bound UDP socket. Arguments: PROTOCOL:PORT with the port as four
# hexadecimal digits, as the kernel's tables write it. One `ls` for all processes: a readlink for each
# descriptor would be a process each. A file's name may hold anything, an arrow, a line's end and the number of
# somebody's socket too: so only what stands behind the first arrow is looked at, and a hit is asked again by itself.
HOLDERS = r"""
holders() {
  inodes=' '
  for want in "$@"; do
    for table in "/proc/net/${want%%:*}" "/proc/net/${want%%:*}6"; do
      [ -r "$table" ] || continue
      while read -r _ address _ state _ _ _ _ _ inode _; do
        case "$address" in *":${want#*:}") ;; *) continue ;; esac
        case "${want%%:*}:$state" in tcp:0A|udp:07) inodes="$inodes$inode " ;; esac
      done <"$table"
    done
  done
  { ls -l /proc/[0-9]*/fd 2>/dev/null || :; } | while read -r line; do
    case "$line" in
      /proc/*/fd:) pid=${line#/proc/}; pid=${pid%%/*} ;;
      *' -> '*)
        descriptor=${line%%' -> '*} target=${line#*' -> '}
        inode=${target#'socket:['}
        [ "$inode" != "$target" ] || continue
        case "$inodes" in *" ${inode%]} "*) ;; *) continue ;; esac
        link="/proc/$pid/fd/${descriptor##* }"
        found=$(ls -l "$link" 2>/dev/null || :)
        if [ "${found#*" $link -> "}" = "$target" ]; then printf '%s\n' "$pid"; fi ;;
    esac
  done
}
stop_holders() {
  only=" $1 "
  shift
  for pid in $(holders "$@"); do
    [ "$pid" -gt 1 ] || continue
    name=''
    read -r name <"/proc/$pid/comm" 2>/dev/null || continue
    case "$only" in *" $name "*) stop_loop "$pid"; kill "$pid" 2>/dev/null || : ;; esac
  done
}
about() { # PID: sets name, parent and tty
  name='' line='' parent=0 tty=0
  { read -r name <"/proc/$1/comm" && read -r line <"/proc/$1/stat"; } 2>/dev/null || return 0
  # The name may hold anything; what follows the last ") " is state, parent, group, session and terminal.
  # shellcheck disable=SC2086
  set -- ${line##*) }
  parent=$2 tty=$5
}
stop_loop() { # PID: ends the shell that would start it again, unless somebody sits at it or it looks after others too
  about "$1"
  loop=$parent
  [ "$loop" -gt 1 ] || return 0
  about "$loop"
  case "$name:$tty" in sh:0 | ash:0 | bash:0 | dash:0 | hush:0) ;; *) return 0 ;; esac
  about "$parent"
  case "$name" in sshd* | dropbear | login | su | sudo) return 0 ;; esac
  for each in /proc/[0-9]*; do
    about "${each#/proc/}"
    if [ "$parent" = "$loop" ] && [ "$each" != "/proc/$1" ]; then return 0; fi
  done
  kill "$loop" 2>/dev/null || :
}
reload_named() {
  for each in /proc/[0-9]*/comm; do
    name=''
    read -r name <"$each" 2>/dev/null || continue
    pid=${each#/proc/}
    case " $* " in *" $name "*) kill -HUP "${pid%/comm}" 2>/dev/null || : ;; esac
  done
}
""".strip("\n")


# Shells on a terminal that init itself started: an inittab that no longer names them does not end them.
END_CONSOLES = r"""
for each in /proc/[0-9]*; do
  name='' line=''
  { read -r name <"$each/comm" && read -r line <"$each/stat"; } 2>/dev/null || continue
  case "$name" in sh | ash | bash | dash | hush | getty | login) ;; *) continue ;; esac
  # The name may hold anything; what follows the last ") " is state, parent, group, session and terminal.
  set -- ${line##*) }
  if [ "$2" = 1 ] && [ "$5" != 0 ]; then kill -9 "${each#/proc/}" 2>/dev/null || :; fi
done
""".strip("\n")


def ports(sockets: Iterable[tuple[str, int]]) -> str:
    """Sockets as arguments of the functions above.

    >>> ports([("tcp", 23)])
    'tcp:0017'
    """
    return " ".join(sorted(f"{protocol}:{port:04X}" for protocol, port in set(sockets)))


def stop_holders(names: Iterable[str], sockets: Iterable[tuple[str, int]]) -> str:
    """Ends processes of these names that listen on these sockets, and loops of shell that start them. Their sessions of
    today, which do not listen, live on.

    Args:
        names: as the kernel knows them (``/proc/PID/comm``, at most 15 bytes).
        sockets: (protocol, port).
    """
    return f"{HOLDERS}\nstop_holders {shlex.quote(' '.join(sorted({name[:15] for name in names})))} {ports(sockets)}"


def reload_named(names: Iterable[str]) -> str:
    """Tells every process of these names to read its configuration again."""
    return f"{HOLDERS}\nreload_named {' '.join(shlex.quote(name[:15]) for name in sorted(set(names)))}"


def nobody_listens(sockets: Iterable[tuple[str, int]], seconds: int = 10) -> str:
    """Succeeds once nobody listens on these sockets; fails after about ``seconds``, naming who still does."""
    wanted = ports(sockets)
    return (
        f"{HOLDERS}\nleft={seconds}\n"
        f'while found=$(holders {wanted}); [ -n "$found" ]; do\n'
        '  [ "$left" -gt 0 ] || {\n'
        "    for pid in $found; do\n"
        '      name=unknown; read -r name <"/proc/$pid/comm" 2>/dev/null || :\n'
        f'      printf \'process %s (%s) still listens on one of {wanted}\\n\' "$pid" "$name" >&2\n'
        "    done\n    exit 1\n  }\n"
        "  left=$((left - 1)); sleep 1\ndone"
    )


def somebody_listens(sockets: Iterable[tuple[str, int]], seconds: int = 10) -> str:
    """Succeeds once each of these sockets has a listener; fails after about ``seconds`` in all."""
    checks = "\n".join(
        f'while [ -z "$(holders {ports([socket])})" ]; do\n'
        f'  [ "$left" -gt 0 ] || {{ printf \'%s\\n\' "nobody listens on {socket[0]} port {socket[1]}" >&2; exit 1; }}\n'
        "  left=$((left - 1)); sleep 1\ndone"
        for socket in sorted(set(sockets))
    )
    return f"{HOLDERS}\nleft={seconds}\n{checks}"


def started_as(sockets: Iterable[tuple[str, int]]) -> str:
    """Prints what listens on these sockets and the command line it was started with: its settings, for a daemon without a
    file of them.
    """
    lists = "\n".join(
        f"printf '%s\\n' {ports([socket])}\nseen='|'\nfor pid in $(holders {ports([socket])}); do\n"
        "  found=$(tr '\\0' ' ' <\"/proc/$pid/cmdline\" 2>/dev/null || :)\n"
        # One process holds a socket for each family, and a session may hold its listener's for a moment.
        '  case "$seen" in *"|$found|"*) continue ;; esac\n'
        '  seen="$seen$found|"\n  printf \'%s\\n\' "$found"\ndone'
        for socket in sorted(set(sockets))
    )
    return f"{HOLDERS}\n{lists}"


def runs_as(name: str, sockets: Iterable[tuple[str, int]], command: str, seconds: int = 10) -> str:
    """Succeeds once a process of this name that listens on these sockets has exactly this command line."""
    words = "".join(f"{word}|" for word in command.split())
    return (
        f"{HOLDERS}\nleft={seconds}\nwhile :; do\n"
        f"  for pid in $(holders {ports(sockets)}); do\n"
        f"    found=$(tr '\\0' '|' <\"/proc/$pid/cmdline\" 2>/dev/null || :)\n"
        f'    [ "$found" != {shlex.quote(words)} ] || exit 0\n'
        "  done\n"
        '  [ "$left" -gt 0 ] || break\n'
        "  left=$((left - 1)); sleep 1\ndone\n"
        f"printf '%s\\n' {shlex.quote(f'{name} does not run with the command line that boots: {command}')} "
        ">&2\nexit 1"
    )


# A socket of 127.0.0.1 as the kernel's tables write it on machines of either byte order, of ::1, and of the first one in an
# IPv6 socket.
_BEYOND = r"""
beyond() { # PORT as four hexadecimal digits: sockets that listen there for others than this device itself
  for table in /proc/net/tcp /proc/net/tcp6; do
    [ -r "$table" ] || continue
    while read -r _ address _ state _; do
      case "$state $address" in
        "0A "??????7F:"$1" | "0A "7F??????:"$1") ;;
        "0A "00000000000000000000000001000000:"$1" | "0A "00000000000000000000000000000001:"$1") ;;
        "0A 0000000000000000"FFFF0000??????7F:"$1" | "0A 0000000000000000"0000FFFF7F??????:"$1") ;;
        "0A "*:"$1") printf '%s\n' "$address" ;;
      esac
    done <"$table"
  done
}
""".strip("\n")


def nobody_beyond_loopback(port: int, seconds: int = 10) -> str:
    """Succeeds once nobody listens on this TCP port for others than the device itself; fails after about ``seconds``."""
    return (
        f'{_BEYOND}\nleft={seconds}\nwhile [ -n "$(beyond {port:04X})" ]; do\n'
        f"  [ \"$left\" -gt 0 ] || {{ printf '%s\\n' 'port {port} still listens beyond loopback' >&2; exit 1; }}\n"
        "  left=$((left - 1)); sleep 1\ndone"
    )
