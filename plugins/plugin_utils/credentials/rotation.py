# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""New passwords and keys for a device, now: which files change, what ends, and what no way back may bring again.

Two changes. The first puts the new key beside the old ones, and is confirmed by a login with the new key alone.
Only then the second takes the old keys and passwords away, confirmed in the same way.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.access import shell
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.dropbear import keys_file
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.host_keys import blob, fingerprint, parts
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.second_factor import KEYS_DIR, SECRETS_DIR
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials import shadow
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.reading import SECRET_FILES
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.shadow import Account
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.transaction import File

ACCOUNT_FILES = (shadow.PASSWD, shadow.SHADOW, f"{shadow.PASSWD}-", *SECRET_FILES[1:])
OPENWRT = "/etc/dropbear/authorized_keys"
LONGEST = 1 << 20
"""Bytes of a file of keys that is read."""


@dataclass(frozen=True)
class KeyFile:
    """A file of public keys that some daemon on this device believes."""

    path: str
    user: str
    text: str
    real: str = ""
    """Where it is once links are followed, where that is another place."""
    private: bool = False
    """Below the home of somebody else than root, who may put a link in its place at any moment: root must write nothing
    there."""
    goes: str = ""
    """What is taken away unread in its place: the file, too long to be read, or a link of theirs instead of its folder."""


@dataclass
class Plan:
    """What is to change.

    Attributes:
        add: files of the first change.
        replace: files of the second.
        removed: keys that stop working: account, file, fingerprint and comment.
        by_user: user, path and text of files that their users write by themselves at the end.
        gone: what is taken away at the end by its name alone, for no copy of it can be made.
    """

    add: list[File] = field(default_factory=list)
    replace: list[File] = field(default_factory=list)
    removed: list[dict[str, str]] = field(default_factory=list)
    by_user: list[tuple[str, str, str]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)


def patterns(device: Mapping[str, Any]) -> list[str]:
    """Where the device's ssh daemon looks for keys, in the words of ``AuthorizedKeysFile``."""
    ssh = device.get("ssh") or {}
    if ssh.get("server") != "openssh":
        return ["%h/.ssh/authorized_keys", OPENWRT]
    listed = " ".join((ssh.get("config") or {}).get("authorizedkeysfile") or []).split()
    found = _absolute(listed) or ["%h/.ssh/authorized_keys", "%h/.ssh/authorized_keys2"]
    # The user's own file counts again as soon as somebody goes back to the settings that the device came with.
    return list(dict.fromkeys([*found, "%h/.ssh/authorized_keys", "%h/.ssh/authorized_keys2"]))


def everywhere(device: Mapping[str, Any]) -> list[str]:
    """``patterns``, and what stands anywhere in the settings: for some users, or for a daemon of its own."""
    written: list[str] = []
    for path, text in sorted((device.get("files") or {}).items()):
        if path.startswith("/etc/ssh/sshd_config"):
            for _, values in _settings(text, "authorizedkeysfile"):
                written += [value.strip('"') for value in values.split()]
    return list(dict.fromkeys([*patterns(device), *_absolute(written)]))


def asks_a_program(device: Mapping[str, Any]) -> bool:
    """Whether keys come from a program too, which no rotation of files ends."""
    config = (device.get("ssh") or {}).get("config") or {}
    said = [str(value) for value in config.get("authorizedkeyscommand") or []]
    for path, text in sorted((device.get("files") or {}).items()):
        if path.startswith("/etc/ssh/sshd_config"):
            said += [value for _, value in _settings(text, "authorizedkeyscommand")]
    return any(value.strip() not in ("", "none") for value in said)


def _settings(text: str, wanted: str) -> Iterable[tuple[str, str]]:
    for line in text.splitlines():
        key, value = [*re.split(r"[ \t=]+", line.strip(), maxsplit=1), ""][:2]
        if key.lower() == wanted:
            yield key, value


def _absolute(listed: Iterable[str]) -> list[str]:
    found = (one for one in listed if one and one != "none")
    return [one if one.startswith(("/", "%h")) else f"%h/{one}" for one in found]


def expand(pattern: str, user: str, home: str, uid: int) -> str:
    """``AuthorizedKeysFile`` for one account."""
    values = {"%h": home.rstrip("/"), "%u": user, "%U": str(uid), "%%": "%"}
    return re.sub("%[huU%]", lambda found: values[found[0]], pattern)


def forms(device: Mapping[str, Any]) -> list[str]:
    """Where keys may ever have stood, ``*`` for anything: of people too who were taken out since, and whose files are gone."""
    found = []
    for pattern in everywhere(device):
        form = re.sub("%[huU%]", lambda token: "%" if token[0] == "%%" else "*", pattern)
        folder, _, name = form.rpartition("/")
        # One that is nothing but wildcards would forget more than keys.
        if "*" not in name or "*" not in folder:
            found.append(form)
    return list(dict.fromkeys([*found, f"{KEYS_DIR}/*", OPENWRT]))


def reading(device: Mapping[str, Any]) -> str:
    """sh that shows every file of keys on the device; goes into ``reading.read`` as ``more``."""
    words = []
    quoted = {"%h": "'\"${home%/}\"'", "%u": "'\"$user\"'", "%U": "'\"$uid\"'", "%%": "%"}
    for pattern in everywhere(device):
        # Quoted piece by piece, so that only the variables are expanded.
        text = "'" + pattern.replace("'", "'\\''") + "'"
        words.append(re.sub("%[huU%]", lambda found: quoted[found[0]], text))
    return f"""
# By ls, since to read a file of holes would take hours.
# shellcheck disable=SC2012 # find is not on every device
of() {{ ls -ld "$1" | {{ read -r _ _ owner _ size _; printf '%s %s' "$owner" "$size"; }}; }}
shown=' '
while IFS=: read -r user _ uid _ _ home _; do
  for file in {" ".join(words)}; do
    case "$shown" in *" $file "*) continue ;; esac
    private='' goes='' folder=${{file%/*}} real=$file
    case $uid:$file in 0:*) ;; *:"${{home%/}}"/*) private=yes ;; esac
    if [ -f "$file" ] && [ -r "$file" ]; then
      real=$(readlink -f "$file" 2>/dev/null) || real=$file
      size=$(of "$real")
      [ "${{size#* }}" -le {LONGEST} ] || goes=$file
    elif [ -n "$private" ] && [ -L "$file" ]; then
      goes=$file # it leads nowhere yet
    else
      continue
    fi
    if [ -n "$private" ] && [ -L "$folder" ]; then
      case $(of "$folder") in 'root '* | '0 '*) ;; *) goes=$folder ;; esac
    fi
    shown="$shown$file "
    say keyfile "$file"
    say keyuser "$user"
    say keyplace "$real"
    say keyprivate "$private"
    say keygoes "$goes"
    [ -z "$goes" ] || continue
    blob "keys $file" <"$file"
  done
done </etc/passwd
for file in {SECRETS_DIR}/*; do
  if [ -f "$file" ]; then say enrolled "${{file##*/}}"; fi
done
{_asking_sshd(device)}"""


def _asking_sshd(device: Mapping[str, Any]) -> str:
    """sh that says where sshd looks for the login's own keys: a Match block may have sent it elsewhere than all others."""
    ssh, connection = device.get("ssh") or {}, device.get("connection") or {}
    if ssh.get("server") != "openssh":
        return ""
    client = str(connection.get("client") or "127.0.0.1").partition("%")[0]
    who = shlex.quote(f"user={device.get('login_user')},addr={client},host={client}")
    sshd = shlex.quote(str(ssh.get("binary") or "/usr/sbin/sshd"))
    return f"""{{ {sshd} -T -C {who} 2>/dev/null || :; }} | while read -r key value; do
  if [ "$key" = authorizedkeysfile ]; then say loginkeys "$value"; fi
done
"""


def key_files(reply: Reply) -> list[KeyFile]:
    """What ``reading`` showed."""
    result = []
    said = (reply.all(f"key{what}") for what in ("file", "user", "place", "private", "goes"))
    for path, user, real, theirs, goes in zip(*said, strict=True):
        result.append(KeyFile(path, user, reply.get(f"keys {path}"), real, bool(theirs), goes))
    return result


def keys_in(text: str) -> list[str]:
    """The lines that are keys, options in front included, or that nobody can say what they are."""
    lines = (line.strip() for line in text.split("\n"))
    return [line for line in lines if line and not line.startswith("#")]


def plan(
    device: Mapping[str, Any],
    account: Mapping[str, Any],
    found: Iterable[KeyFile],
    new_key: str,
    kept: Iterable[str],
    login_keys: Sequence[str] = (),
) -> Plan:
    """The files of keys, before and after.

    Args:
        account: the login's, from ``sallyport_device``.
        new_key: its public half, one line.
        kept: public keys of other people that stay.
        login_keys: where sshd looks for the login's own, in its own words; where it did not say, as for all.
    """
    user, home = str(account["name"]), str(account["home"])
    stays = ({blob(key) for key in kept} | {blob(new_key)}) - {""}
    listed = list(found)
    result = Plan(gone=list(dict.fromkeys(one.goes for one in listed if one.goes)))
    unread = {one.path for one in listed if one.goes}
    there = {one.path: one for one in listed if not one.goes}
    own = [
        path for path in dict.fromkeys(_own_files(device, account, login_keys)) if path and path not in unread
    ]
    inside = [
        path for path in own if int(account.get("uid") or 0) and path.startswith(f"{home.rstrip('/')}/")
    ]
    if len(inside) < len(own):
        own = [path for path in own if path not in inside]
        result.by_user += [(user, path, f"{new_key}\n") for path in inside]
    for path in own:
        before = there[path].text if path in there else ""
        mode, owner = ("keep", "root") if path in there else _as_made(path, home, user)
        wanted = [
            *(key for key in keys_in(before) if blob(key) in stays and blob(key) != blob(new_key)),
            new_key,
        ]
        follow = path not in inside
        if blob(new_key) not in {blob(key) for key in keys_in(before)}:
            joint = before if not before or before.endswith("\n") else f"{before}\n"
            text = _bytes(f"{joint}{new_key}\n")
            result.add.append(File(path, content=text, mode=mode, owner=owner, follow=follow))
        after = "".join(f"{key}\n" for key in wanted)
        # By the second change the file is there.
        result.replace.append(File(path, content=_bytes(after), mode="keep", follow=follow))
    # A user may have made a link of the folder: the same file must not be written twice, least of all taken away where
    # the new key has just been put.
    handled = {there[path].real for path in own if path in there}
    for path, one in sorted(there.items(), key=lambda item: (item[1].real not in ("", item[0]), item[0])):
        if path not in own and one.real and one.real in handled:
            continue
        handled.add(one.real or path)
        for key in keys_in(one.text):
            if blob(key) not in stays:
                entry = {"account": one.user, "file": path, "key": fingerprint(key), "comment": _comment(key)}
                result.removed.append(entry)
        if path in own:
            continue
        wanted = [key for key in keys_in(one.text) if blob(key) in stays]
        if wanted == keys_in(one.text):
            continue
        after = "".join(f"{key}\n" for key in wanted)
        if wanted and not one.private:
            result.replace.append(File(path, content=_bytes(after), mode="keep"))
            continue
        result.replace.append(File(path, kind="absent"))
        if wanted and path not in inside:
            result.by_user.append((one.user, path, after))
    for one in listed:
        if one.goes:
            entry = {"account": one.user, "file": one.path, "key": "", "comment": f"unread, with {one.goes}"}
            result.removed.append(entry)
    return result


def _own_files(
    device: Mapping[str, Any], account: Mapping[str, Any], login_keys: Sequence[str]
) -> Iterable[str]:
    user, home = str(account["name"]), str(account["home"])
    if (device.get("ssh") or {}).get("server") != "openssh":
        yield keys_file({**device, "files": device.get("files") or {}}, account)
    else:
        for pattern in (*_absolute(" ".join(login_keys).split()), *patterns(device)):
            if not pattern.endswith("2"):
                yield expand(pattern, user, home, int(account.get("uid") or 0))


def _as_made(path: str, home: str, user: str) -> tuple[str, str]:
    # sshd reads the keys as the user; a file in the home directory is the user's own.
    return ("0600", user) if path.startswith(f"{home.rstrip('/')}/") else ("0644", "root")


def _comment(key: str) -> str:
    found, comment = parts(key)
    return comment[:80] if found else "a line that is no plain key"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def new_passwords(
    accounts: Sequence[Account], texts: Mapping[str, str], fields: Mapping[str, str], day: int
) -> dict[str, bytes]:
    """path -> whole content of passwd and shadow with these password fields, for the files that change.

    Args:
        day: of the change, in days since 1970. One that was due at the next login is due no more: the new password was
            chosen by nobody who has to be asked for another, and sudo, or a login by key, would fail on it.
    """
    result = {}
    for path, text in texts.items():
        mine = {one.name: fields[one.name] for one in accounts if one.file == path and one.name in fields}
        if mine:
            after = shadow.replaced(text, mine)
            result[path] = _bytes(shadow.with_change_on(after, mine, day) if path == shadow.SHADOW else after)
    return result


# Every process of a session goes: those of ssh daemons, logins on terminals, all that descends from them, and what
# logind counts to a session or to a user. Left are our own session and the daemons themselves. To listen does not make
# a daemon: a session listens too, for what its client forwards and for windows, and so may whatever runs in it.
_END_SESSIONS = r"""
walk=$$ ours=' '
about() { # PID: sets name, state, parent, session, leader and tty
  name='' state=Z parent=0 session=0 leader=0 tty=0
  { read -r name <"/proc/$1/comm" && read -r line <"/proc/$1/stat"; } 2>/dev/null || return 0
  # The name in the line may hold anything; what follows the last ") " is numbers.
  set -- "$1" ${line##*) }
  state=$2 parent=$3 session=$5 tty=$6
  if [ "$5" = "$1" ]; then leader=1; fi
}
while [ "${walk:-0}" -gt 1 ]; do
  ours="$ours$walk "
  about "$walk"
  walk=$parent
done
scope_of() { # PID: the session or the user's own services that logind counts it to
  grep -oE 'session-[^/]*\.scope|user@[^/]*\.service' "/proc/$1/cgroup" 2>/dev/null | head -n 1 || :
}
mine=$(scope_of "$$")
logind=''
if [ -d /run/systemd/seats ]; then logind=yes; fi
connections() { # PID: those that it holds
  links=$(ls -l "/proc/$1/fd" 2>/dev/null || :)
  for table in /proc/net/tcp /proc/net/tcp6; do
    [ -r "$table" ] || continue
    while read -r _ _ _ state _ _ _ _ _ inode _; do
      case "$state$links" in 01*" -> socket:[$inode]"*) printf ' %s ' "$inode" ;; esac
    done <"$table"
  done
}
daemon() { # PID, after about: one that takes logins, and no session of one
  case "$listening" in *" $1 "*) ;; *) return 1 ;; esac
  owner=''
  while read -r key owner _; do [ "$key" != Uid: ] || break; done 2>/dev/null <"/proc/$1/status" || return 1
  [ "$owner" = 0 ] || return 1
  words=$(tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline") || words=''
  case "$name $words" in
    sshd-session* | sshd-auth* | login* | dropbear*' -i '*) return 1 ;;
    'sshd sshd: '*' [listener]'*) return 0 ;;
    'sshd sshd: '*) return 1 ;;
    dropbear*) ;;
    *) return 0 ;;
  esac
  # A session of dropbear looks like its daemon, and is nobody's child once that was started anew. But it keeps its
  # connection, which a daemon has for a moment only.
  above=''
  read -r above 2>/dev/null <"/proc/$parent/comm" || :
  [ "$above" != dropbear ] || return 1
  held=$(connections "$1")
  [ -n "$held" ] || return 0
  sleep 1 # that moment
  for one in $(connections "$1"); do
    case "$held" in *" $one "*) return 1 ;; esac
  done
}
daemons=' ' managers=' ' scopes=' ' sessions=' '
listening=" $(holders PORTS | tr '\n' ' ') "
collect() { # sets gone to all that has to go and is there
  gone=' '
  for each in /proc/[0-9]*; do
    pid=${each#/proc/}
    case "$ours$daemons" in *" $pid "*) continue ;; esac
    about "$pid"
    [ "$state" != Z ] || continue
    ends=''
    case "$name" in
      sshd | sshd-session | sshd-auth | dropbear | login | telnetd | in.telnetd)
        if daemon "$pid"; then daemons="$daemons$pid "; continue; fi
        ends=yes ;;
      sh | ash | bash | dash | ksh | mksh | zsh) if [ "$leader" = 1 ] && [ "$tty" != 0 ]; then ends=yes; fi ;;
    esac
    # Whose parents are gone is still in their session.
    case "$sessions" in *" $session "*) ends=yes ;; esac
    if [ -z "$ends" ] && [ -n "$logind" ] && scope=$(scope_of "$pid") && [ "${scope:-$mine}" != "$mine" ]; then
      case "$scope" in
        user@*)
          # The manager of a user's services starts anew below; what it started ends now.
          if grep -q 'user@.*/init\.scope' "/proc/$pid/cgroup" 2>/dev/null; then continue; fi
          case "$managers" in *" $scope "*) ;; *) managers="$managers$scope " ;; esac ;;
        *) case "$scopes" in *" $scope "*) ;; *) scopes="$scopes$scope " ;; esac ;;
      esac
      ends=yes
    fi
    if [ -n "$ends" ]; then
      gone="$gone$pid "
      if [ "$leader" = 1 ]; then sessions="$sessions$pid "; fi
    fi
  done
  before=''
  while [ "$before" != "$gone" ]; do
    before=$gone
    for each in /proc/[0-9]*; do
      pid=${each#/proc/}
      case "$gone$ours$daemons" in *" $pid "*) continue ;; esac
      about "$pid"
      [ "$state" != Z ] || continue
      case "$gone" in *" $parent "*) gone="$gone$pid " ;; esac
    done
  done
}
collect
if [ "$gone" != ' ' ]; then
  kill $gone 2>/dev/null || :
  # A moment to say goodbye, for those who would; nothing depends on how long it is.
  sleep 0.2 2>/dev/null || sleep 1
  kill -9 $gone 2>/dev/null || :
fi
# Who makes new processes faster than they are counted: systemd repeats it until a scope is empty.
for scope in $scopes; do systemctl kill --signal=KILL "$scope" >/dev/null 2>&1 || :; done
tries=0
while collect && [ "$gone" != ' ' ]; do
  tries=$((tries + 1))
  if [ "$tries" -gt 20 ]; then
    echo "sessions have not ended, processes:$gone" >&2
    exit 1
  fi
  kill -STOP $gone 2>/dev/null || :
  kill -9 $gone 2>/dev/null || :
done
# What a user's own files start, lingering services for instance, comes back with the manager.
if [ "$managers" != ' ' ]; then systemctl --no-block try-restart $managers >/dev/null 2>&1 || :; fi
"""


def end_sessions(device: Mapping[str, Any]) -> str:
    """sh that ends every session on the device but the one that it runs in."""
    sockets = {("tcp", int(one["port"])) for one in device.get("listening") or [] if one["protocol"] == "tcp"}
    return f"{shell.HOLDERS}\n{_END_SESSIONS.replace('PORTS', shell.ports(sockets))}"


_BY_USER = """umask 077
[ -d "${0%/*}" ] || mkdir "${0%/*}"
rm -f "$0"
set -C
printf "%s" "$1" >"$0"
"""


def afterwards(wanted: Plan) -> list[str]:
    """sh for the end: what goes by its name alone goes, and users write their own files, with their rights and not root's."""
    result = [f"rm -f -- {shlex.quote(path)}" for path in wanted.gone]
    for user, path, text in wanted.by_user:
        program = f"/bin/sh -eu -c {shlex.quote(_BY_USER)} {shlex.quote(path)} {shlex.quote(text)}"
        result.append(f"su -s /bin/sh {shlex.quote(user)} -c {shlex.quote(program)}")
    return result
