# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The sh programs that commit sends. Pure: values in, bytes out; every value is quoted or octal, never spliced."""

from __future__ import annotations

import posixpath
import secrets
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from ansible_collections.sallyport.iot.plugins.plugin_utils.device import hook
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.transaction import File, Transaction, shown

_DIGEST = (
    b'digest() { if command -v sha256sum >/dev/null; then sha256sum "$@"; elif command -v md5sum >/dev/null; then '
    b'md5sum "$@"; else cksum "$@"; fi; }\n'
)
# A stage is signed with the number and the start time of its program; one without a signature has no content yet, and may
# be about to be signed. One that still waits for its second half (generated files) goes too: that half says so.
_SWEEP = rb"""
for stage in "$STATE"/stage.*; do
  { read -r pid began <"$stage/program"; } 2>/dev/null || continue
  status='' started=''
  if { read -r line <"/proc/$pid/stat"; } 2>/dev/null; then
    set -- ${line##*) }
    status=$1; shift 19; started=$1
  fi
  [ "$started" = "$began" ] && [ "$status" != Z ] || rm -rf "$stage" 2>/dev/null || :
done
"""


def quote(text: str | bytes) -> bytes:
    """``text`` as one word of sh, whatever bytes it holds (NUL cannot be in a word and is refused earlier)."""
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return b"'" + raw.replace(b"'", b"'\\''") + b"'"


@lru_cache(maxsize=1)
def device_program() -> bytes:
    """The program that stays on the device, without the comments that only its readers need."""
    lines = (Path(__file__).parent / "program.sh").read_bytes().split(b"\n")
    return b"\n".join(line for line in lines if not line.lstrip().startswith(b"#") or line.startswith(b"#!"))


_PLAIN = frozenset(range(0x20, 0x7F)) | {0x09}


def write(content: bytes, target: bytes) -> bytes:
    """sh that writes ``content`` to ``target`` (a word, already quoted).

    Plain lines travel in quoted here-documents. Everything else travels as octal for printf: a here-document ends
    in a newline whether the content does or not, some shells lose NUL, and some mistake bytes from 0x81 on for
    marks of their own.
    """
    out = [b"{ :\n"]
    plain: list[bytes] = []
    odd = bytearray()
    mark = b"END_" + secrets.token_hex(8).encode()

    def end_plain() -> None:
        if plain:
            out.append(b"cat <<'" + mark + b"'\n" + b"".join(plain) + mark + b"\n")
            plain.clear()

    def end_odd() -> None:
        for start in range(0, len(odd), 4096):
            out.append(
                b"printf '" + b"".join(b"\\%03o" % byte for byte in odd[start : start + 4096]) + b"'\n"
            )
        odd.clear()

    for line in content.splitlines(keepends=True) if content.isascii() else _lines(content):
        if line.endswith(b"\n") and _PLAIN.issuperset(line[:-1]):
            end_odd()
            plain.append(line)
        else:
            end_plain()
            odd += line
    end_plain()
    end_odd()
    out.append(b"} >" + target + b"\n")
    return b"".join(out)


def _lines(content: bytes) -> list[bytes]:
    parts = content.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


SHOWN_BYTES = 262144
"""Longer files are not fetched for ``--diff``: nobody reads them, and a list of prefixes travels once."""


def query(
    transaction: Transaction, show: Iterable[int], *, together: int = 200, sweep: bool = False
) -> bytes:
    """The exchange that asks what is there now, and changes nothing of it.

    Args:
        show: indices of files whose content is wanted for ``--diff``.
        together: how many files one digest tool looks at; :func:`looked_at` tells when it must be 1.
        sweep: take away what killed programs have staged: where nothing differs no arming comes that would.
    """
    state = quote(transaction.state_dir)
    shown = set(show)
    parts = [
        b"STATE=" + state + b"\n",
        _SWEEP if sweep else b"",
        _DIGEST,
        rb"""
say uid "$(id -u 2>/dev/null || { [ -w /etc/passwd ] && echo 0; } || echo unknown)"
init=unknown
pid1=$(readlink /proc/1/exe 2>/dev/null) || pid1=''
if [ -d /run/systemd/system ]; then init=systemd
elif [ -d /run/openrc ]; then init=openrc
elif [ -f /etc/inittab ]; then
  case $pid1 in *busybox*) init=busybox ;; *) { read -r comm </proc/1/comm; } 2>/dev/null || comm=''; init="sysv $comm" ;; esac
fi
say init "$init"
say pid1 "$pid1"
while read -r _ mount type options _; do say mount "$mount $type $options"; done </proc/mounts
if [ -f "$STATE/device" ]; then say program "$(digest <"$STATE/device")"; sh "$STATE/device" pending; fi
if [ -d "$STATE/armed/tx" ] && [ ! -f "$STATE/device" ]; then say pending empty nobody ''; fi
for entry in "$STATE"/* "$STATE"/.[!.]*; do
  case ${entry##*/} in
    device | armed | reverted | generation | live | stage.* | lost+found) ;;
    *) [ ! -e "$entry" ] || { printf '%s' "$entry" | blob stranger; break; } ;;
  esac
done
generations=0
for g in "$STATE"/generation/*; do [ ! -d "$g" ] || generations=$((generations + 1)); done
say generations "$generations"
look() {
  path=''
  if [ "$2" = follow ] && [ -L "$3" ]; then
    real=$(readlink -f -- "$3" && echo x) || real=''
    if [ -z "$real" ]; then say kind "$1 dangling"; return 0; fi
    real=${real%x}; real=${real%?}
    printf '%s' "$real" | blob "real $1"
    set -- "$1" "$2" "$real" "$4"
  fi
  if [ -L "$3" ]; then say kind "$1 link"; target=$(readlink -- "$3" && echo x) || target=''; target=${target%x}; printf '%s' "${target%?}" | blob "target $1"
  elif [ -d "$3" ]; then say kind "$1 directory"
  elif [ -f "$3" ]; then
    say kind "$1 file"
    path=$3 numbers="$numbers $1"
    if [ "$4" -gt 0 ] && [ "$(wc -c <"$3")" -le "$4" ]; then blob "content $1" <"$3"; fi
  elif [ -e "$3" ]; then say kind "$1 special"
  else say kind "$1 none"; fi
}
where() { # INDEX FOLDER: where it really lies, or the deepest part of it that exists, if that is not what it says
  folder=$2
  while [ -n "$folder" ] && [ ! -d "$folder" ]; do folder=${folder%/*}; done
  real=$(cd -P -- "${folder:-/}" 2>/dev/null && pwd -P && echo x) || return 0
  real=${real%x}; real=${real%?}
  [ "$real" = "${folder:-/}" ] || printf '%s' "$real" | blob "place $1"
}
if stat -c %a / >/dev/null 2>&1; then metas() { stat -c '%a %U %G %u %g %s' "$@"; }
else metas() { for file; do ls -ld "$file" | { read -r m _ u g s _; printf '%s %s %s - - %s\n' "$m" "$u" "$g" "$s"; }; done; }; fi
files() {
  [ -n "$numbers" ] || return 0
  say files "$numbers"
  { digest "$@" 2>/dev/null || :; } | blob digests
  { metas "$@" 2>/dev/null || :; } | blob metas
}
""",
    ]
    parts.extend(b"where %d %s\n" % (index, quote(path)) for index, path in enumerate(places(transaction)))
    for index, item in enumerate(transaction.files):
        if index % together == 0:
            parts.append(b"numbers=''; set --\n")
        follow = b"follow" if item.kind == "file" and item.follow else b"stay"
        show_it = b"%d" % (SHOWN_BYTES if index in shown else 0)
        parts.append(
            b'look %d %s %s %s; [ -z "$path" ] || set -- "$@" "$path"\n'
            % (index, follow, quote(item.dest), show_it)
        )
        if index % together == together - 1 or index + 1 == len(transaction.files):
            parts.append(b'files "$@"\n')
    if transaction.live:
        parts.append(_live(transaction))
        parts.append(
            b'if [ -f "$STATE/live/' + transaction.name.encode() + b'" ]; then\n'
            # Empty on a medium that was full, or just replaced: then it is no longer known, which is drift.
            b"  before=''; { read -r before <\"$STATE/live/"
            + transaction.name.encode()
            + b'"; } 2>/dev/null || :; now=$(live | digest)\n'
            b'  if [ "${before%% *}" = "${now%% *}" ]; then say live same; else say live differs; fi\n'
            b"else say live unknown; fi\n"
        )
    if transaction.tell:
        parts.append(
            b"{ sh -eu -c " + quote(transaction.tell) + b" </dev/null 2>/dev/null || :; } | blob told\n"
        )
    return b"".join(parts)


def places(transaction: Transaction) -> list[str]:
    """Every folder that the change lives in: its own state first, then those of boot and of its files."""
    return list(
        dict.fromkeys(
            (
                transaction.state_dir,
                posixpath.dirname(hook.INITTAB),
                *(item.folder for item in transaction.files),
            )
        )
    )


def looked_at(reply: Reply) -> tuple[dict[str, str], dict[str, str]] | None:
    """Lines of digests and of modes and owners by the file's index; None where the tools said more or fewer lines than
    there are files: one has just gone, or its name has more than one line.
    """
    digests: dict[str, str] = {}
    metas: dict[str, str] = {}
    for numbers, *told in zip(reply.all("files"), reply.all("digests"), reply.all("metas"), strict=True):
        keys = numbers.split()
        lines = [text.removesuffix("\n").split("\n") for text in told]
        if any(len(each) != len(keys) for each in lines) and len(keys) > 1:
            return None
        # GNU tools put a backslash before the digest of a file whose name they had to escape.
        digests.update(zip(keys, (line.removeprefix("\\") for line in lines[0]), strict=False))
        metas.update(zip(keys, lines[1], strict=False))
    return digests, metas


def _live(transaction: Transaction) -> bytes:
    """sh that defines ``live``, which prints the live state."""
    return (
        b'live() {\nrun() { sh -eu -c "$1" </dev/null 2>/dev/null || printf \'status %s\\n\' "$?"; }\n:\n'
        + b"".join(b"run " + quote(snippet) + b"\n" for snippet in transaction.live)
        + b"}\n"
    )


def _record(transaction: Transaction) -> tuple[bytes, ...]:
    """The last commands after a confirmation: keep the digest of the live state, with which queries compare it."""
    if not transaction.live and not transaction.undone:
        return ()
    own = quote(transaction.name)
    commands = b"umask 077\ncd " + quote(transaction.state_dir) + b"\n[ -d live ] || mkdir live\ncd live\n"
    commands += b"".join(b"rm -f " + quote(name) + b"\n" for name in transaction.undone)
    if transaction.live:
        commands += _DIGEST + _live(transaction) + b"(cd /; live) | digest >" + own + b".new\n"
        # BusyBox does not say that a full medium took nothing.
        commands += b"[ -s " + own + b".new ]\nmv -f " + own + b".new " + own + b"\n"
    return (commands,)


def stage(
    transaction: Transaction,
    identity: str,
    changed: Sequence[tuple[int, File]],
    *,
    install: bool,
    arm: bool,
    by: str,
    when: str,
    first: bytes = b"",
) -> bytes:
    """The exchange that sends the change: staged, checked, and (with ``arm``) set going.

    Args:
        changed: (number, file) of what differs on the device; numbers are stable names within the transaction.
        install: send the device program along.
        by, when: for the list of generations.
        first: sh that may refuse before anything is written.
    """
    state = quote(transaction.state_dir)
    folders = sorted({posixpath.dirname(item.dest) or "/" for _, item in changed})
    parts = [
        b"umask 077\n",
        b"STATE=" + state + b" ID=" + quote(identity) + b'\nS="$STATE/stage.$ID"\n',
        first,
        # mkdir -p under this umask would close /var/lib too if it had to make it. Another controller may be quicker.
        b'(umask 022; mkdir -p "${STATE%/*}")\n[ -d "$STATE" ] || mkdir "$STATE" || [ -d "$STATE" ]\nchmod 700 "$STATE" 2>/dev/null || :\n',
        # The same mark as `sign` makes: whose program is gone, his stage may be swept away. Until it is signed the mark is in
        # its name: another controller that arms at this very moment would take it away else.
        b'read -r line </proc/$$/stat\nbegan=$(set -- ${line##*) }; shift 19; echo "$1")\n[ ! -e "$S" ]\n'
        b'mkdir "$S.$$.$began" "$S.$$.$began/new"\necho "$$ $began" >"$S.$$.$began/program"\nmv "$S.$$.$began" "$S"\n',
        # Signals end a shell without its trap for EXIT; whose session is gone, his next answer is a SIGPIPE.
        b"trap 'rm -rf \"$S\"' EXIT\ntrap 'exit 1' HUP INT PIPE TERM\n",
    ]
    for number, item in changed:
        target = b'"$S/new/%d"' % number
        if item.generate:
            parts.append(write(item.generate.encode() + b"\n", b'"$S/generate"'))
            parts.append(b'(set -eu; set -- "$S/new/%d"; . "$S/generate")\n' % number)
            parts.append(
                b'[ -f "$S/new/%d" ] || { say refused "%d generated nothing"; exit 1; }\n' % (number, number)
            )
            parts.append(
                b'[ ! -f "$S/new/%d.pub" ] || blob "public %d" <"$S/new/%d.pub"\n' % (number, number, number)
            )
        elif item.kind == "file":
            parts.append(write(item.content, target))
        elif item.kind == "keep":
            parts.append(b'cp -a "$STATE/"' + quote(item.source) + b" " + target + b"\n")
    parts.append(write(manifest(transaction, identity, changed, folders), b'"$S/manifest"'))
    parts.append(write(hook.install(transaction.state_dir), b'"$S/hook"'))
    parts.append(write(identity.encode() + b"\n", b'"$S/id"'))
    parts.append(write(transaction.name.encode() + b"\n", b'"$S/name"'))
    parts.append(
        # One line each, whatever the names and the note hold: the list of generations reads them so.
        write(
            "".join(f"{' '.join(text.split())}\n" for text in (when, by, transaction.note)).encode(
                "utf-8", "surrogateescape"
            ),
            b'"$S/label"',
        )
    )
    lists: dict[str, tuple[str | bytes, ...]] = {
        "activate": transaction.activate,
        "verify": transaction.verify,
        "revert": transaction.revert or transaction.activate,
        "settle": (*transaction.settle, *_record(transaction)),
    }
    for name, snippets in lists.items():
        body = b"".join(b"run " + quote(snippet) + b" || return 1\n" for snippet in snippets)
        parts.append(write(body or b":\n", b'"$S/' + name.encode() + b'"'))
    for name, sources in (("activate", transaction.activate_from), ("revert", transaction.revert_from)):
        for source in sources:
            parts.append(b'cat "$STATE/"' + quote(source) + b' >>"$S/' + name.encode() + b'"\n')
    parts.append(_checks(transaction, changed))
    if any(item.replaces for _, item in changed):
        parts.append(_DIGEST)
    for _, item in changed:
        if item.replaces:
            # Asked once more: somebody may have changed it since the question, a password for example.
            parts.append(
                b"case $(digest <%s 2>/dev/null) in %s*) ;; *) say refused %s; exit 1 ;; esac\n"
                % (
                    quote(item.dest),
                    quote(item.replaces),
                    quote(
                        f"{shown(item.dest)} is not the file that this change was made for; somebody changed it. Run again."
                    ),
                )
            )
    if install:
        parts.append(write(device_program(), b'"$S/device"'))
        parts.append(b'sync -f "$S" 2>/dev/null || sync\nmv -f "$S/device" "$STATE/device"\n')
    if arm:
        parts.append(
            b'say staged\ntrap - EXIT HUP INT PIPE TERM\nsh "$STATE/device" arm "$ID" || { rm -rf "$S"; exit 1; }\nsay armed\n'
        )
    else:
        parts.append(b"say staged\ntrap - EXIT HUP INT PIPE TERM\n")
    return b"".join(parts)


def arm(transaction: Transaction, identity: str) -> bytes:
    """Set a change going that was staged before."""
    return (
        b"STATE=" + quote(transaction.state_dir) + b" ID=" + quote(identity) + b"\n"
        b'[ -d "$STATE/stage.$ID" ] || { say refused "what was staged is gone: another run has begun on this device"; exit 1; }\n'
        b'sh "$STATE/device" arm "$ID" || { rm -rf "$STATE/stage.$ID"; exit 1; }\nsay armed\n'
    )


def call(state_dir: str, command: str, *arguments: str) -> bytes:
    """Run one command of the device program; where there is none yet, say whether somebody may be about to bring it."""
    words = b" ".join(quote(word) for word in (command, *arguments))
    return (
        b"STATE="
        + quote(state_dir)
        + b"""
if [ ! -f "$STATE/device" ]; then
  for other in "$STATE"/stage.*/program; do
    if { read -r pid _ <"$other"; } 2>/dev/null && [ -d "/proc/$pid" ]; then say waiting; exit 0; fi
  done
  say unknown no_program; exit 0
fi
sh "$STATE/device" """
        + words
        + b"\n"
    )


def reinstall(state_dir: str) -> bytes:
    """Put the device program back that somebody has removed; what is pending needs it."""
    return b"umask 077\nSTATE=" + quote(state_dir) + b"\n" + write(device_program(), b'"$STATE/device"')


def manifest(
    transaction: Transaction, identity: str, changed: Sequence[tuple[int, File]], folders: Sequence[str]
) -> bytes:
    """sh that defines what the transaction consists of; see the part "the manifest" in program.sh."""
    ancestors: list[str] = []
    for deepest in folders:
        chain = []
        folder = deepest
        while folder not in ("/", "") and folder not in ancestors:
            chain.append(folder)
            folder = posixpath.dirname(folder)
        ancestors.extend(reversed(chain))
    lines = [
        b"ID=" + quote(identity),
        b"NAME=" + quote(transaction.name),
        b"LIMIT=%d" % transaction.confirm.seconds,
        b"entries() { :",
    ]
    for number, item in changed:
        words = [
            b"entry",
            b"%d" % number,
            item.kind.encode(),
            quote(item.dest),
            item.mode.encode(),
            quote(item.owner),
            quote(item.group),
        ]
        if item.kind == "link":
            words.append(quote(item.target))
        lines.append(b" ".join(words))
    lines.append(b"}\nfolders() { :")
    lines.extend(b"folder %d %s" % (index, quote(path)) for index, path in enumerate(ancestors))
    lines.append(b"}\nunfolders() { step=unfold")
    lines.extend(
        b"folder %d %s" % (index, quote(path))
        for index, path in 2 * list(reversed(list(enumerate(ancestors))))
    )
    lines.append(b"}\nleave() { :")
    # Twice: one that was killed alone would leave its folder for ever.
    lines.extend(
        b"rmdir " + quote(path) + b" 2>/dev/null || :" for path in (*transaction.leaves, *transaction.leaves)
    )
    if transaction.forgets or transaction.forgets_like:
        lines += 2 * [_forgetting(transaction)]
    # In the transaction's own folder, where nobody else can put a link in the way of chmod.
    lines.append(b"}\ndress() { :")
    new = [(item, b'"$TX/new/%d"' % number) for number, item in changed if item.kind == "file"]
    for owner in sorted({f"{item.owner}:{item.group}" for item, _ in new}):
        lines += _many(
            b"chown " + quote(owner), [copy for item, copy in new if f"{item.owner}:{item.group}" == owner]
        )
    for mode in sorted({item.mode for item, _ in new}):
        lines += _many(b"chmod " + mode.encode(), [copy for item, copy in new if item.mode == mode])
    lines.append(b"}\nforget() { :")
    lines += _many(
        b"rm -f",
        [quote(_beside(item, identity, n, which)) for n, item in changed for which in ("new", "old")],
    )
    lines.append(b'}\nwith_folders() { "$@" ' + b" ".join(quote(path) for path in folders) + b"; }\n")
    return b"\n".join(lines)


def _forgetting(transaction: Transaction) -> bytes:
    """sh for ``leave``, which runs after every verdict, at boot too: what generations keep of these files goes.

    This change's own copies, which are about to become a generation, count too. Nothing here needs space, and one that
    resists must not keep the others.
    """
    gone = b" | ".join(quote(path) for path in transaction.forgets)
    forms = b" | ".join(b"*".join(map(quote, form.split("*"))) for form in transaction.forgets_like)
    return (
        b'for kept in "$STATE"/generation/* "$TX"; do\n(. "$kept/manifest"; entry() { case $3 in '
        + (gone + b') rm -f "$kept/old/$1" "$kept/old/$1.absent" ;; ' if gone else b"")
        # That there was nothing may be remembered.
        + (forms + b') rm -f "$kept/old/$1" ;; ' if forms else b"")
        + b"esac; }; entries) || :\ndone"
    )


def _beside(item: File, identity: str, number: int, which: str) -> str:
    """The temporary name beside a destination; the same as ``$temp`` in program.sh."""
    return f"{posixpath.dirname(item.dest).rstrip('/')}/.sallyport-{identity}-{number}.{which}"


def _many(command: bytes, words: Sequence[bytes]) -> list[bytes]:
    """One command for many files: on a device, starting a process costs more than what it does."""
    return [command + b" " + b" ".join(words[start : start + 200]) for start in range(0, len(words), 200)]


def _checks(transaction: Transaction, changed: Sequence[tuple[int, File]]) -> bytes:
    """The checks on the staged files. ``staged PATH`` prints the staged copy of PATH, or PATH itself."""
    snippets = [(f"{number}", item.check, b'"$S/new/%d"' % number) for number, item in changed if item.check]
    snippets += [("all", snippet, b'""') for snippet in transaction.check]
    if not snippets:
        return b""
    parts = [b"staged() {\ncase $1 in\n"]
    for number, item in changed:
        if item.kind in ("file", "keep"):
            parts.append(quote(item.dest) + b") printf '%%s' \"$S/new/%d\" ;;\n" % number)
    parts.append(b"*) printf '%s' \"$1\" ;;\nesac\n}\n")
    for label, snippet, argument in snippets:
        # From a file, so that a snippet with a syntax error is one failed check and not an unreadable program.
        parts.append(write(snippet.encode("utf-8", "surrogateescape") + b"\n", b'"$S/check"'))
        parts.append(
            b"set +e\n(set -eu; set -- "
            + argument
            + b'; . "$S/check") >"$S/output" 2>&1 3>&-\ncode=$?\nset -e\n'
            b'if [ "$code" -ne 0 ]; then say refused '
            + quote(label)
            + b' "$code"; blob output <"$S/output"; exit 1; fi\n'
        )
    return b"".join(parts)
