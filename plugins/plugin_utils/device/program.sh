#!/bin/sh
# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
#
# Sallyport's device program: changes files and live state so that the change takes itself back
# unless the controller confirms it over a new connection. States and transitions: docs/commit.md.
#
# It lives at <state>/device; <state> is /var/lib/sallyport unless the site says otherwise:
#   stage.<id>/     what a controller has sent; private, not locked, nothing live depends on it
#   armed/          the lock, by mkdir; armed/tx is the one pending transaction
#   reverted/       the last transaction that was taken back, with its reason
#   generation/<n>/ confirmed transactions, with what was there before them
#   live/<name>     digest of the live state right after a confirmation
#
# Marks inside armed/tx, in the order in which they appear:
#   program worker guard1 guard2 confirmer   "<pid> <start time>" of who does that part; `program` while still staging
#   open        the swap may have begun; from here on the old state must come back, or a confirm must come
#   failed      the worker gave up; the guards take the change back
#   live        activated and verified; may be confirmed
#   confirmed | reverted    the verdict: `open`, renamed. One rename decides, so there is one winner.
set -eu
umask 077
LC_ALL=C
PATH="${PATH:-}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
export LC_ALL PATH
STATE=${0%/*}
ARMED=$STATE/armed
TX=$ARMED/tx
LIVE=yes

say() { printf '%s\n' "$*" >&3; }
blob() { # KEY FILE
  say blob "$1"
  while IFS= read -r line || [ -n "$line" ]; do printf '|%s\n' "$line" >&3; done <"$2"
}
refuse() { say refused "$*"; exit 1; }
pause() { sleep 0.1 2>/dev/null || sleep 1; }
digest() { if command -v sha256sum >/dev/null; then sha256sum; elif command -v md5sum >/dev/null; then md5sum; else cksum; fi; }

# Everything written so far, directory entries included, is on the medium when this returns. Every call below
# stands between two writes that must not change places when the power fails.
flush() { with_folders sync -f "$STATE" /etc 2>/dev/null || sync; }

# --- processes -------------------------------------------------------------------------------------------------

stat_of() { # PID: sets $status, $parent and $started (ticks since boot: with the pid, a name that is never reused)
  status='' parent='' started=''
  { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 0
  # shellcheck disable=SC2086 # numbers and one letter, split on purpose; the process name before ") " is cut off
  set -- ${line##*) }
  status=$1 parent=$2 started=${20}
}
sign() { stat_of "$$"; printf '%s %s\n' "$$" "$started" >"$TX/$1"; }
alive() { # MARK [FOLDER]: is the process that signed it still there?
  pid='' began=''
  { read -r pid began <"${2:-$TX}/$1"; } 2>/dev/null || return 1
  stat_of "$pid"
  [ -n "$started" ] && [ "$started" = "$began" ] && [ "$status" != Z ]
}
kill_tree() { # PID: with all that it started and that has not become a daemon of its own
  victims=" $1 " before=''
  while [ "$victims" != "$before" ]; do
    before=$victims
    # shellcheck disable=SC2086 # a list of process ids; stopped, none can start another one unseen
    kill -STOP $victims 2>/dev/null || :
    for proc in /proc/[0-9]*; do
      proc=${proc#/proc/}
      case $victims in *" $proc "*) continue ;; esac
      stat_of "$proc"
      case $victims in *" ${parent:-none} "*) victims="$victims$proc " ;; esac
    done
  done
  # shellcheck disable=SC2086 # a list of process ids
  kill -9 $victims 2>/dev/null || :
}
session() { # sets $peer to address and port of the ssh client that this program came with; sudo and doas hide it
  peer='' walk=$$
  while [ "${walk:-1}" -gt 1 ]; do
    text=$(cat "/proc/$walk/environ" 2>/dev/null) || text=''
    case $text in
      *SSH_CONNECTION=*)
        text=${text#*SSH_CONNECTION=}
        peer=${text%% *} text=${text#* }
        peer="$peer ${text%% *}"
        return 0 ;;
    esac
    stat_of "$walk"
    walk=$parent
  done
}
daemon_is_new() { # did the daemon that answered this session start after the worker, and so read the new files?
  walk=$$
  while stat_of "$walk" && [ "${parent:-1}" -gt 1 ]; do walk=$parent; done
  answered=$started
  read -r _ began <"$TX/worker"
  [ "$answered" -ge "$began" ]
}

# --- the manifest: sh functions that the controller wrote, every word quoted -------------------------------------

load() { # TRANSACTION: defines entries, folders, unfolders, with_folders, leave; sets ID, NAME, LIMIT, FACTORY, UNDONE and SALLYPORT_FIRST
  TX=$1
  # shellcheck disable=SC1091
  . "$TX/manifest"
  SALLYPORT_FIRST=1
  for other in "$STATE/generation"/*/name; do
    { read -r known <"$other"; } 2>/dev/null || continue
    [ "$known" != "$NAME" ] || SALLYPORT_FIRST=0
  done
  export SALLYPORT_FIRST
}
current() { # ID: is it the pending one?
  other=''
  { read -r other <"$ARMED/tx/id"; } 2>/dev/null && [ "$other" = "$1" ]
}
each() { step=$1; entries; }
entry() { # INDEX KIND DEST MODE OWNER GROUP [TARGET]
  dir=${3%/*}
  temp=$dir/.sallyport-$ID-$1
  "$step" "$@"
}
folder() { # INDEX PATH: a folder that a file of the change needs
  if [ "$step" = save ]; then
    [ -d "$2" ] || { : >"$TX/made.$1"; mkdir -m 755 "$2"; }
  else
    [ ! -e "$TX/made.$1" ] || rmdir "$2" 2>/dev/null || : # somebody else may use it by now
  fi
}
# Both copies that a swap or a restore needs are made before either: then neither needs space, only renames.
save() {
  if [ -L "$3" ]; then
    cp -pP "$3" "$TX/old/$1"
    cp -pP "$3" "$temp.old"
  elif [ -e "$3" ]; then
    [ ! -d "$3" ] || refuse "$3 is a directory; a file was expected there"
    [ -f "$3" ] || refuse "$3 is neither a regular file nor a link"
    # Opening for append changes nothing, and fails on an immutable file.
    (: >>"$3") 2>/dev/null || refuse "$3 cannot be replaced: it is immutable or on a read-only file system"
    cp -pP "$3" "$TX/old/$1"
    # A second name for the very file keeps all its attributes and needs no space; not every file system has them.
    ln "$3" "$temp.old" 2>/dev/null || cp -pP "$3" "$temp.old"
  else
    : >"$TX/old/$1.absent"
  fi
  case $2 in
    file)
      (set -C; cat "$TX/new/$1" >"$temp.new") # never through a link: the folder may be a user's own
      { [ "$5:$6" = root:root ] && [ ! -g "$dir" ]; } || chown -h "$5:$6" "$temp.new"
      [ "$4" = 0600 ] || chmod "$4" "$temp.new" ;;
    keep) cp -pP "$TX/new/$1" "$temp.new" ;;
    link) ln -s "$7" "$temp.new" ;;
  esac
}
swap() { if [ "$2" = absent ]; then rm -f "$3"; else mv -f "$temp.new" "$3"; fi; }
restore() { # may be done again; one file that resists must not keep the others
  if [ -e "$TX/old/$1.absent" ]; then rm -f "$3" "$temp.new"
  elif [ -L "$temp.old" ] || [ -e "$temp.old" ]; then
    # Two names of one file are not renamed: some mv say nothing, others fail.
    # shellcheck disable=SC3013 # dash and every ash have -ef
    { mv -f "$temp.old" "$3" || [ "$temp.old" -ef "$3" ]; } 2>/dev/null && rm -f "$temp.new" "$temp.old"
  else rm -f "$temp.new"
  fi || printf 'and %s could not be restored\n' "$3" >>"$TX/reason" || :
}
forget() { rm -f "$temp.new" "$temp.old"; }

# --- commands of the role ----------------------------------------------------------------------------------------

run() { # SNIPPET, from the lists activate and verify; the first failure ends the list, the guards bound its time
  code=0
  (trap - HUP INT TERM; umask 022; exec sh -eu -c "$1" sallyport) </dev/null >"$TX/output" 2>&1 3>&- || code=$?
  [ "$code" -ne 0 ] || return 0
  { printf '%s: status %s from: %s\n' "$phase" "$code" "$1"; cat "$TX/output"; } >"$TX/reason"
  return 1
}
run_bounded() { # SNIPPET, from the lists revert and settle: all are run, and none may hang the way out
  (trap - HUP INT TERM; umask 022; exec sh -eu -c "$1" sallyport) </dev/null >"$TX/output" 2>&1 3>&- &
  child=$! count=0
  while stat_of "$child" && [ -n "$started" ] && [ "$status" != Z ]; do
    count=$((count + 1))
    if [ "$count" -gt 600 ]; then kill_tree "$child"; break; fi
    pause
  done
  wait "$child" || { printf '%s: status %s from: %s\n' "$phase" "$?" "$1"; cat "$TX/output"; } >>"$TX/$complaints" || :
}
list() { # LIST
  phase=$1
  # dash forgets in a sourced file that the caller tests the result, and -e would end the shell.
  set +e
  # shellcheck disable=SC1090
  . "$TX/$1"
  set -- "$?"
  set -e
  return "$1"
}
live_digest() { # FILE of run lines
  (
    # shellcheck disable=SC2317 # the list calls it
    run() { sh -eu -c "$1" </dev/null 2>/dev/null || printf 'status %s\n' "$?"; }
    # shellcheck disable=SC1090
    . "$1"
  ) | digest
}

# --- the ways out ------------------------------------------------------------------------------------------------

drop() { # nothing live was touched yet
  # A manifest that the power cut tore is a syntax error, which would end this shell.
  (each forget; unfolders) || :
  rm -rf "$TX"
  rmdir "$ARMED" 2>/dev/null || :
}
revert() { # REASON; may be done again from the start
  [ -s "$TX/reason" ] || printf '%s\n' "$1" >"$TX/reason" || : # a full disk must not stop the way back
  mv "$TX/open" "$TX/reverted" 2>/dev/null || [ -e "$TX/reverted" ] || return 0
  if alive worker; then kill_tree "$pid"; fi
  count=0
  while alive worker && [ "$count" -lt 50 ]; do count=$((count + 1)); pause; done
  each restore
  unfolders
  flush
  if [ "$LIVE" = yes ]; then
    run() { run_bounded "$1"; }
    complaints=reason
    list revert
  fi
  rm -rf "$TX/new" "$TX/old" "$STATE/reverted"
  mv "$TX" "$STATE/reverted"
  rmdir "$ARMED"
  flush
}
finish() { # after the verdict `confirmed`; may be done again from the start
  each forget
  leave
  if [ "$LIVE" = yes ]; then
    run() { run_bounded "$1"; }
    complaints=settle_failed
    list settle
    [ ! -e "$TX/settle_failed" ] || { rm "$TX/settle_failed"; list settle; } # once more: it may have been killed
    [ -d "$STATE/live" ] || mkdir "$STATE/live"
    # shellcheck disable=SC2086 # names hold letters, digits and underscores only
    for other in $UNDONE; do rm -f "$STATE/live/$other"; done
    live_digest "$TX/live_state" >"$STATE/live/$NAME.new"
    mv -f "$STATE/live/$NAME.new" "$STATE/live/$NAME"
  else
    rm -f "$STATE/live/$NAME" # what runs after a boot is judged anew by the next run
  fi
  if [ -n "$FACTORY" ]; then forget_all; return 0; fi
  [ -d "$STATE/generation" ] || mkdir "$STATE/generation"
  number=0
  for other in "$STATE/generation"/*; do
    other=${other##*/}
    [ "$other" = '*' ] || [ "$other" -le "$number" ] || number=$other
  done
  rm -rf "$TX/new" "$TX/output" "$TX/connected"
  mv "$TX" "$STATE/generation/$((number + 1))"
  rmdir "$ARMED"
  flush
}
recover() { # REASON: for a controller that found a transaction of nobody
  attended || end "$1"
}
end() { # REASON: whoever held the lock is gone: end the transaction the way that its marks say
  if [ -e "$TX/confirmed" ]; then load "$TX"; finish
  elif [ -e "$TX/open" ] || [ -e "$TX/reverted" ]; then load "$TX"; revert "$1"
  elif [ -d "$TX" ]; then ID=''; entries() { :; }; unfolders() { :; }; (load "$TX"; drop) || drop
  else rmdir "$ARMED" 2>/dev/null || :; fi
}

attended() { alive program || alive guard1 || alive guard2 || alive confirmer; }
pending() { # for a controller that comes new: what stands in the way, and does somebody look after it?
  [ -d "$ARMED" ] || return 0
  NAME='' who=nobody
  { read -r ID <"$TX/id" && read -r NAME <"$TX/name"; } 2>/dev/null || ID=empty
  ! attended || who=somebody
  say pending "$ID" "$who" "$NAME"
}

# --- arming ------------------------------------------------------------------------------------------------------

arm() { # ID: from stage.<id> to a running worker with two guards
  TX=$STATE/stage.$1
  sign program # before it is a transaction: a transaction of nobody is taken back by the next controller
  TX=$ARMED/tx count=0
  until mkdir "$ARMED" 2>/dev/null; do
    count=$((count + 1))
    [ ! -d "$TX" ] || refuse "another change is pending on this device"
    # Empty: its owner is between mkdir and mv, or died there.
    [ "$count" -lt 30 ] || rmdir "$ARMED" 2>/dev/null || :
    [ "$count" -lt 60 ] || refuse "the lock $ARMED cannot be had"
    pause
  done
  mv "$STATE/stage.$1" "$TX"
  current "$1" || { rm -rf "$TX/stage.$1"; refuse "another change took the lock at the same moment"; }
  load "$TX"
  trap 'drop' EXIT # until the guards are there, leaving means that nothing has happened
  for other in "$STATE"/stage.*; do # what dead controllers left; a live one has signed its own
    [ ! -d "$other" ] || alive program "$other" || rm -rf "$other"
  done
  : >"$TX/output"
  mkdir "$TX/old"
  flush # the manifest names the temporary files: it must outlive them
  hook
  step=save; folders
  each save
  session
  printf '%s\n' "$peer" >"$TX/session"
  flush # all old and new copies, before `open` says that they can be relied on
  if [ -d /run/systemd/system ]; then
    # Only a unit of its own survives a logout with KillUserProcesses=yes.
    systemd-run --quiet --collect --unit="sallyport-$ID" -p KillMode=process -p TimeoutStopSec=2 \
      /bin/sh "$STATE/device" run "$ID" 3>&- || refuse "systemd-run could not start the timer"
  else
    sh "$STATE/device" run "$ID" </dev/null >/dev/null 2>&1 3>&- &
  fi
  count=0
  until alive guard1 && alive guard2 && [ -e "$TX/worker" ]; do
    count=$((count + 1))
    [ "$count" -lt 100 ] || refuse "the timer did not start"
    pause
  done
  trap - EXIT
  : >"$TX/go"
  # A new connection that comes before the change is live proves nothing, see was_connected: let it not come too early.
  count=0
  while current "$1" && [ ! -e "$TX/live" ] && [ ! -e "$TX/failed" ] && [ "$count" -lt 30 ]; do
    count=$((count + 1))
    pause
  done
}
guards() { # ID: two of them, so that no single process can take the way back with it
  # The worker first: a shell that was started with signals ignored cannot give them back to what it starts.
  sh "$STATE/device" worker "$1" &
  trap '' HUP INT TERM
  sh "$STATE/device" guard "$1" 2 &
  guard "$1" 1
}
worker() { # ID
  trap '' HUP INT TERM
  load "$TX"
  sign worker
  count=0
  until [ -e "$TX/go" ]; do # the guards are there, and the controller's program has seen them
    count=$((count + 1))
    [ "$count" -lt 100 ] || exit 1
    pause
  done
  : >"$TX/open"
  flush # no rename below may reach the medium before the mark that undoes it
  code=0
  set +e # a condition would switch -e off inside of it
  (set -e; each swap; flush; list activate; list verify) 2>"$TX/errors"
  code=$?
  set -e
  if [ "$code" -eq 0 ]; then
    # Whoever is connected by now came in before the change was live: that proves nothing, see was_connected.
    cat /proc/net/tcp /proc/net/tcp6 >"$TX/connected" 2>/dev/null || :
    : >"$TX/live"
    return 0
  fi
  [ -s "$TX/reason" ] || { printf 'the change was not finished: '; cat "$TX/errors"; } >"$TX/reason"
  : >"$TX/failed"
}
guard() { # ID WHICH
  trap '' HUP INT TERM
  load "$TX"
  sign "guard$2"
  now=0 since=0 was=''
  while current "$1"; do
    state=starting
    for mark in open live reverted confirmed; do [ ! -e "$TX/$mark" ] || state=$mark; done
    # Time since boot, which nobody can set.
    { read -r now _ </proc/uptime && now=${now%%.*}; } || now=$((now + 1))
    [ "$state" = "$was" ] || { since=$now was=$state; }
    spent=$((now - since))
    if [ "$2" = 2 ] && alive guard1; then : # it watches too, and takes over if the first is killed
    else case $state in
      reverted) revert '' ;;
      confirmed) [ "$spent" -lt 3 ] || alive confirmer || finish ;;
      starting) alive program || alive worker || [ -e "$TX/open" ] || drop ;;
      *)
        if [ -e "$TX/failed" ]; then revert 'the worker failed'
        elif [ "$state" = live ]; then
          [ "$spent" -lt "$LIMIT" ] || revert "no confirmation came within $LIMIT seconds"
        elif [ "$spent" -ge "$LIMIT" ]; then revert "activate: not finished after $LIMIT seconds"
        elif ! alive worker && [ ! -e "$TX/live" ]; then revert 'the program was killed while it made the change'
        fi ;;
    esac; fi
    sleep 1
  done
}

# --- confirming --------------------------------------------------------------------------------------------------

outcome() { # ID: what became of it
  for other in "$STATE/generation"/*/id; do
    { read -r known <"$other"; } 2>/dev/null || continue
    if [ "$known" = "$1" ]; then
      other=${other%/id}
      [ ! -e "$other/settle_failed" ] || blob settle_failed "$other/settle_failed"
      say confirmed "${other##*/}"
      return 0
    fi
  done
  { read -r known <"$STATE/reverted/id"; } 2>/dev/null || known=''
  if [ "$known" != "$1" ]; then say unknown; return 0; fi
  [ ! -e "$STATE/reverted/reason" ] || blob reason "$STATE/reverted/reason"
  say reverted
}
was_connected() { # did the old daemon, or the old firewall, let this connection in? It may be newer than the arming one
  port=$(printf '%04X' "${peer#* }")
  while read -r _ _ remote _; do
    case $remote in *":$port") return 0 ;; esac
  done <"$TX/connected"
  return 1
}
confirm() { # ID NEW_DAEMON OVER
  count=0
  while current "$1" && [ ! -e "$TX/live" ]; do # the guards end it in any case; the controller asks again
    attended || { recover 'the program that made the change was killed, and its guards too'; break; }
    count=$((count + 1))
    [ "$count" -lt 100 ] || { say waiting; return 0; }
    pause
  done
  current "$1" || { outcome "$1"; return 0; }
  load "$TX"
  if [ "$3" = ssh ]; then
    session
    read -r armed_by <"$TX/session" || armed_by=''
    if [ -z "$peer" ]; then say denied no_session; return 0; fi
    if [ "$peer" = "$armed_by" ]; then say denied same_connection; return 0; fi
    if was_connected; then say waiting; return 0; fi
    if [ "$2" = yes ] && ! daemon_is_new; then say denied old_daemon; return 0; fi
  fi
  sign confirmer
  if mv "$TX/open" "$TX/confirmed" 2>/dev/null; then
    flush # only then may the controller believe it
    factory=$FACTORY
    finish
    if [ -n "$factory" ]; then say confirmed 0; return 0; fi
  fi
  outcome "$1"
}

# --- boot --------------------------------------------------------------------------------------------------------

UNIT=/etc/systemd/system/sallyport-restore.service
WANT=/etc/systemd/system/sysinit.target.wants/sallyport-restore.service
INITLINE="::sysinit:/bin/sh $STATE/device boot"

only_hook() { # FILE LINE: a device has one state folder; at boot nobody would look into a second one
  while IFS= read -r line || [ -n "$line" ]; do
    case $line in
      "$2") ;;
      ExecStart=*/device\ boot | ::sysinit:/bin/sh\ */device\ boot)
        line=${line#*/bin/sh } line=${line%/device boot}
        refuse "the boot hook looks after $line, not after $STATE: use that state_dir, or go back to factory with it first" ;;
    esac
  done <"$1"
}
hook() { # before the first arming: a power cut must find it
  if [ -d /run/systemd/system ]; then
    if [ -f "$UNIT" ]; then
      only_hook "$UNIT" "ExecStart=/bin/sh $STATE/device boot"
      [ ! -L "$WANT" ] || return 0
    fi
    (umask 022; mkdir -p "${WANT%/*}")
    cat >"$UNIT.new" <<EOF
[Unit]
Description=Sallyport: take back an unconfirmed change before the network comes up
DefaultDependencies=no
RequiresMountsFor=$STATE
After=local-fs.target systemd-remount-fs.service
Before=network-pre.target sysinit.target nftables.service ssh.service sallyport-firewall.service
Wants=network-pre.target
ConditionPathExists=$ARMED

[Service]
Type=oneshot
ExecStart=/bin/sh $STATE/device boot
EOF
    chmod 644 "$UNIT.new"
    sync
    mv -f "$UNIT.new" "$UNIT"
    [ -L "$WANT" ] || ln -s "$UNIT" "$WANT"
  else
    only_hook /etc/inittab "$INITLINE"
    { read -r line </etc/inittab; } || :
    [ "$line" != "$INITLINE" ] || return 0
    cp -p /etc/inittab /etc/.sallyport-inittab
    { printf '%s\n' "$INITLINE"; cat /etc/inittab; } >/etc/.sallyport-inittab
    sync
    mv -f /etc/.sallyport-inittab /etc/inittab
  fi
  sync
}
unhook() {
  rm -f "$WANT" "$UNIT"
  rmdir "${WANT%/*}" 2>/dev/null || : # only if nobody else wants anything there
  [ -f /etc/inittab ] || return 0
  read -r line </etc/inittab || return 0
  [ "$line" = "$INITLINE" ] || return 0
  cp -p /etc/inittab /etc/.sallyport-inittab
  { read -r line; while IFS= read -r line || [ -n "$line" ]; do printf '%s\n' "$line"; done; } </etc/inittab >/etc/.sallyport-inittab
  sync
  mv -f /etc/.sallyport-inittab /etc/inittab
}
forget_all() { # factory: nothing of Sallyport stays
  rm -rf "$STATE/generation" "$STATE/live" "$STATE/reverted"
  unhook
  sync
  # Until here a crash is found by its transaction and ended, at boot or, without a hook, by the next controller. One
  # rename takes that away; the rest is rubbish, which the next way back to factory sweeps up.
  mv "$ARMED" "$STATE/stage.done"
  rm -rf "$STATE"
}
boot() { # before the network: files only, the services start from them
  LIVE=no
  if [ -d "$ARMED" ]; then
    # The first sysinit line of BusyBox runs before anybody has made the root writable.
    (: >"$ARMED/.w") 2>/dev/null || mount -o remount,rw / 2>/dev/null || :
    rm -f "$ARMED/.w"
    end 'the device lost power, or was restarted, before the change was confirmed'
    if [ -d /run/systemd/system ]; then
      systemctl daemon-reload
      systemctl --no-block start default.target
    else
      # It read its table before it ran this line: without this it would start the daemons of the unconfirmed one.
      [ "$PPID" != 1 ] || kill -HUP 1
    fi
  fi
  for stage in "$STATE"/stage.*; do rm -rf "$stage"; done
  [ ! -d /run/systemd/system ] || return 0
  for script in /etc/sallyport/boot.d/*; do
    [ ! -x "$script" ] || "$script" || printf 'sallyport: %s failed\n' "$script"
  done
}

command=$1
shift
case $command in
  pending | arm | worker | guard | confirm | outcome | recover | hook | boot) "$command" "$@" ;;
  run) guards "$@" ;;
  *) printf 'sallyport: unknown command: %s\n' "$command" >&2; exit 2 ;;
esac
