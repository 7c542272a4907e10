# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The boot hook: what makes a device run ``<state>/device boot`` before its network comes up.

systemd has a unit for it, BusyBox init the first line of its table. The device program refuses to arm without the hook
and runs :func:`install` itself, under its lock. :func:`remove` is for the way back to factory.
"""

from __future__ import annotations

INITTAB = "/etc/inittab"

_COMMON = rb"""
UNIT=/etc/systemd/system/sallyport-restore.service
WANT=/etc/systemd/system/sysinit.target.wants/sallyport-restore.service
INITLINE="::sysinit:/bin/sh $STATE/device boot"
flush() { sync -f "$1" 2>/dev/null || sync; } # PATH: all that was written to its file system
rewrite() { # COMMAND...: what it prints becomes /etc/inittab, whole or not at all
  cp -p /etc/inittab /etc/.sallyport-inittab
  "$@" >/etc/.sallyport-inittab
  flush /etc
  mv -f /etc/.sallyport-inittab /etc/inittab
}
"""

_INSTALL = rb"""
umask 077
foreign() { # FILE: a device has one state folder; at boot nobody would look into a second one
  while IFS= read -r line || [ -n "$line" ]; do
    case $line in
      *"/bin/sh $STATE/device boot") ;;
      ExecStart=*/device\ boot | ::sysinit:/bin/sh\ */device\ boot)
        line=${line#*/bin/sh } line=${line%/device boot}
        say refused "the boot hook looks after $line, not after $STATE: use that state_dir, or go back to factory with it first"
        exit 1 ;;
    esac
  done <"$1"
}
with_line() { printf '%s\n' "$INITLINE"; cat /etc/inittab; }
if [ -d /run/systemd/system ]; then
  [ ! -f "$UNIT" ] || foreign "$UNIT"
  (umask 022; mkdir -p "${WANT%/*}")
  cat >"$UNIT.new" <<UNIT
[Unit]
Description=Sallyport: take back an unconfirmed change before the network comes up
DefaultDependencies=no
RequiresMountsFor=$STATE
After=local-fs.target systemd-remount-fs.service
Before=network-pre.target sysinit.target nftables.service ssh.service sallyport-firewall.service
Wants=network-pre.target
ConditionPathExists=$STATE/armed

[Service]
Type=oneshot
ExecStart=/bin/sh $STATE/device boot
UNIT
  chmod 644 "$UNIT.new"
  flush "$UNIT.new"
  mv -f "$UNIT.new" "$UNIT"
  [ -L "$WANT" ] || ln -s "$UNIT" "$WANT"
  flush "$UNIT"
else
  foreign /etc/inittab
  rewrite with_line
  flush /etc
fi
"""

_REMOVE = rb"""
rm -f "$WANT" "$UNIT"
rmdir "${WANT%/*}" 2>/dev/null || : # only if nobody else wants anything there
without_line() { read -r line; cat; }
if [ -f /etc/inittab ] && read -r line </etc/inittab && [ "$line" = "$INITLINE" ]; then
  rewrite without_line </etc/inittab
fi
flush /etc
"""


def line(state_dir: str) -> bytes:
    """The first line of BusyBox init's table; the same text as in ``hooked`` of program.sh."""
    return b"::sysinit:/bin/sh " + state_dir.encode() + b"/device boot\n"


def install(state_dir: str) -> bytes:
    """sh that puts the hook there and has it on the medium when it ends; refuses another state folder's."""
    # A state folder has no character that sh could take for anything but itself; see transaction.py.
    return b"STATE='" + state_dir.encode() + b"'\nsay() { printf '%s\\n' \"$*\" >&3; }" + _COMMON + _INSTALL


def remove() -> bytes:
    """sh that takes the hook of the state folder ``$STATE`` away."""
    return _COMMON + _REMOVE
