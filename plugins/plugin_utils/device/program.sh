#!/bin/sh
# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
#
# Sallyport's device program: changes files and live state so that the change takes itself back
# unless the controller confirms it over a new connection. States and transitions: docs/commit.md.
#
# It lives at <state>/device; <state> is /var/lib/sallyport unless the site says otherwise:
#   stage.<id>/     what a controller has sent; private, not locked, nothing live depends on it (stage.<id>.<pid>.<start time>: not yet signed)
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
clock() { # sets $now, seconds since boot, which nobody can set
  { read -r now _ </proc/uptime && now=${now%%.*}; } 2>/dev/null || now=$((${now:-0} + 1))
}
within() { # SECONDS COMMAND...: does it succeed, tried again and again for so long?
  clock
  deadline=$((now + $1))
  shift
  until "$@"; do
    [ "$now" -lt "$deadline" ] || return 1
    sleep 0.05 2>/dev/null || sleep 1
    clock
  done
}

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
dead() { ! alive "$1"; }
ended() { stat_of "$1"; [ -z "$started" ] || [ "$status" = Z ]; }
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
session() { # sets $peer: address and port of the ssh client we came with (sudo and doas hide it); $daemon: its start time,
  peer='' walk=$$ daemon='' # and not that of a loop which starts it again and again
  while [ "${walk:-1}" -gt 1 ]; do
    text=''
    [ -n "$peer" ] || text=$(cat "/proc/$walk/environ" 2>/dev/null) || :
    case $text in
      *SSH_CONNECTION=*)
        text=${text#*SSH_CONNECTION=}; peer=${text%% *} text=${text#* }
        peer="$peer ${text%% *}" ;;
    esac
    stat_of "$walk"
    case $line in *" (sshd"* | *" (dropbear"*) daemon=$started ;; esac
    walk=$parent top=$started
  done
  daemon=${daemon:-$top}
}

# --- the manifest: sh functions that the controller wrote, every word quoted -------------------------------------
load() { # TRANSACTION: defines what each file and folder needs; sets ID, NAME, LIMIT, SALLYPORT_FIRST
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
  temp=${3%/*}/.sallyport-$ID-$1
  "$step" "$@"
}
folder() { # INDEX PATH: a folder that a file of the change needs
  if [ "$step" = save ]; then
    [ -d "$2" ] || { : >"$TX/made.$1"; mkdir -m 755 "$2"; }
  else
    [ ! -e "$TX/made.$1" ] || rmdir "$2" 2>/dev/null || : # somebody else may use it by now
  fi
}
# Never through a link, and no mode by name: the folder may be that of a user who swaps one for another meanwhile.
copy() { if [ -L "$1" ]; then cp -a "$1" "$2"; else (set -C; exec 4>"$2"; cp -a "$1" /proc/self/fd/4); fi; }
# Both copies that a swap or a restore needs are made before either: then neither needs space, only renames.
save() {
  if [ -L "$3" ]; then
    cp -a "$3" "$TX/old/$1"
    cp -a "$3" "$temp.old"
  elif [ -e "$3" ]; then
    [ -f "$3" ] || refuse "$3 is neither a regular file nor a link"
    # Opening for append changes nothing, and fails on an immutable file.
    (: >>"$3") 2>/dev/null || refuse "$3 cannot be replaced: it is immutable, on a read-only file system, or a program that runs"
    cp -a "$3" "$TX/old/$1"
    # A second name for the very file keeps all its attributes and needs no space; not every file system has them.
    ln "$3" "$temp.old" 2>/dev/null || copy "$3" "$temp.old"
  else : >"$TX/old/$1.absent"; fi
  case $2 in
    file | keep) ln "$TX/new/$1" "$temp.new" 2>/dev/null || copy "$TX/new/$1" "$temp.new" ;;
    link) ln -s "$7" "$temp.new" ;;
  esac
}
swap() { if [ "$2" = absent ]; then rm -f "$3"; else mv -f "$temp.new" "$3"; fi; }
restore() { # may be done again; one file that resists must not keep the others
  if [ -e "$TX/old/$1.absent" ]; then rm -f "$3" "$temp.new"
  elif [ -L "$temp.old" ] || [ -e "$temp.old" ]; then
    # Two names of one file are not renamed: some mv say nothing, others fail. An append-only file is still the old one.
    # shellcheck disable=SC3013 # dash and every ash have -ef
    { mv -f "$temp.old" "$3" || [ "$temp.old" -ef "$3" ] || cmp -s "$temp.old" "$3"; } 2>/dev/null &&
      rm -f "$temp.new" "$temp.old"
  else rm -f "$temp.new"
  fi || resists=$3
}

# --- commands of the role ----------------------------------------------------------------------------------------
snippet() { (trap - HUP INT TERM; umask 022; exec sh -eu -c "$1" sallyport) </dev/null >"$TX/output" 2>&1 3>&-; }
complaint() { printf '%s: status %s from: %s\n' "$phase" "$1" "$2"; cat "$TX/output"; }
run() { # SNIPPET, one line of a list
  case $phase in
    activate | verify) # the first failure ends the list, the guards bound its time
      snippet "$1" || { complaint "$?" "$1" >"$TX/reason"; return 1; } ;;
    *) # revert, settle: all are run, and none may hang the way out
      snippet "$1" &
      child=$!
      within 60 ended "$child" || kill_tree "$child"
      wait "$child" || complaint "$?" "$1" >>"$TX/${phase}_failed" || : ;;
  esac
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
to_the_end() { # LIST; once more if any of it failed: it may have been killed
  list "$1"
  [ ! -e "$TX/$1_failed" ] || { rm "$TX/$1_failed"; list "$1"; }
}

# --- the ways out ------------------------------------------------------------------------------------------------
drop() { # nothing live was touched yet
  # A manifest that the power cut tore is a syntax error, which would end this shell.
  (forget; unfolders) || :
  rm -rf "$TX"; rmdir "$ARMED" 2>/dev/null || :
}
file_away() { mv "$TX" "$STATE/$1"; rmdir "$ARMED"; flush; }
revert() { # REASON; may be done again from the start
  [ -s "$TX/reason" ] || printf '%s\n' "$1" >"$TX/reason" || : # a full disk must not stop the way back
  mv "$TX/open" "$TX/reverted" 2>/dev/null || [ -e "$TX/reverted" ] || return 0
  if alive worker; then kill_tree "$pid"; fi
  within 5 dead worker || :
  resists=''
  each restore
  [ -z "$resists" ] || { resists=''; each restore; } # once more: its mv or rm may have been killed
  [ -z "$resists" ] || printf 'and %s could not be restored\n' "$resists" >>"$TX/reason" || :
  unfolders
  flush
  if [ "$LIVE" = yes ]; then
    to_the_end revert
    [ ! -e "$TX/revert_failed" ] || cat "$TX/revert_failed" >>"$TX/reason" || :
  fi
  rm -rf "$TX/new" "$TX/old" "$TX/hook" "$TX/output" "$STATE/reverted"
  file_away reverted
}
finish() { # after the verdict `confirmed`; may be done again from the start
  forget
  leave
  if [ "$LIVE" = yes ]; then
    to_the_end settle
  else
    rm -f "$STATE/live/$NAME" # what runs after a boot is judged anew by the next run
  fi
  number=0
  for other in "$STATE/generation"/*; do
    other=${other##*/}
    [ "$other" = '*' ] || [ "$other" -le "$number" ] || number=$other
  done
  rm -rf "$TX/new" "$TX/hook" "$TX/output" "$TX/connected"
  file_away "generation/$((number + 1))"
}
end() { # REASON: whoever held the lock is gone: end the transaction the way that its marks say
  if [ -e "$TX/confirmed" ]; then load "$TX"; finish
  elif [ -e "$TX/open" ] || [ -e "$TX/reverted" ]; then load "$TX"; revert "$1"
  elif [ -d "$TX" ]; then ID=''; forget() { :; }; unfolders() { :; }; (load "$TX"; drop) || drop
  else rmdir "$ARMED" 2>/dev/null || :; fi
}

attended() { alive program || alive guard1 || alive guard2 || alive confirmer; }
recover() { attended || { sign program || :; end "$1"; }; } # REASON: for a controller that found a transaction of nobody
pending() { # for a controller that comes new: what stands in the way, and does somebody look after it?
  [ -d "$ARMED" ] || return 0
  who=nobody; ! attended || who=somebody
  say pending "$(cat "$TX/id" 2>/dev/null || echo empty)" "$who" "$(cat "$TX/name" 2>/dev/null)"
}

# --- arming ------------------------------------------------------------------------------------------------------
lock() { mkdir "$ARMED" 2>/dev/null || { [ ! -d "$ARMED/tx" ] || refuse "another change is pending on this device"; false; }; }
watched() { alive guard1 && alive guard2 && [ -e "$TX/worker" ]; }
decided() { ! current "$1" || [ -e "$TX/live" ] || ! attended; } # ID: is it live, or will it never be?
arm() { # ID: from stage.<id> to a running worker with two guards
  TX=$STATE/stage.$1
  # Before it is a transaction: one of nobody is taken back by the next controller. Half a signature is nobody's: by rename.
  sign arming; mv "$TX/arming" "$TX/program"
  TX=$ARMED/tx
  # A lock that stays empty: its owner died between mkdir and mv.
  within 3 lock || { rmdir "$ARMED" 2>/dev/null || :; within 3 lock; } || refuse "the lock $ARMED cannot be had"
  mv "$STATE/stage.$1" "$TX"
  current "$1" || { rm -rf "$TX/stage.$1"; refuse "another change took the lock at the same moment"; }
  load "$TX"
  trap 'drop' EXIT # until the guards are there, leaving means that nothing has happened
  for other in "$STATE"/stage.*; do # what dead controllers left; a live one has signed its own, or is in its name
    pid=${other%.*}; stat_of "${pid##*.}"; [ "$started" != "${other##*.}" ] || [ "$status" = Z ] || continue
    [ ! -d "$other" ] || alive program "$other" || rm -rf "$other"
  done
  : >"$TX/output"; mkdir "$TX/old"
  mkdir -p "$STATE/live" "$STATE/generation" # after the verdict nothing may need space any more
  flush # the manifest names the temporary files: it must outlive them
  hooked || { sh -eu "$TX/hook" || exit 1; hooked; } || refuse "the boot hook is not where it was put"
  dress # owner and mode of every new file
  step=save; folders
  each save
  session
  printf '%s\n' "$peer" >"$TX/session"
  flush # all old and new copies, before `open` says that they can be relied on
  if [ -d /run/systemd/system ]; then
    # Only a unit of its own survives a logout with KillUserProcesses=yes.
    systemd-run --quiet --collect --unit="sallyport-$ID" -p KillMode=process -p TimeoutStopSec=2 \
      /bin/sh "$STATE/device" guards "$ID" 3>&- || refuse "systemd-run could not start the timer"
  else
    sh "$STATE/device" guards "$ID" </dev/null >/dev/null 2>&1 3>&- &
  fi
  within 10 watched || refuse "the timer did not start"
  trap - EXIT
  : >"$TX/go"
  # A new connection that comes before the change is live proves nothing, see was_connected: let it not come too early.
  within 3 decided "$1" || :
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
  within 10 [ -e "$TX/go" ] || exit 1 # the guards are there, and the controller's program has seen them
  : >"$TX/open"
  flush # no rename below may reach the medium before the mark that undoes it
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
# Sets $state; in the order in which the marks appear, so that one that is being renamed is not missed.
look() { state=starting; for mark in open live reverted confirmed; do [ ! -e "$TX/$mark" ] || state=$mark; done; }
guard() { # ID WHICH
  trap '' HUP INT TERM
  load "$TX"
  sign "guard$2"
  since=0 was=''
  while current "$1"; do
    look; clock
    [ "$state" = "$was" ] || { since=$now was=$state; }
    spent=$((now - since))
    if [ "$2" = 2 ] && alive guard1; then # it watches too, and takes over if the first is killed, or stopped
      [ "$status" != T ] || kill -9 "$pid" || :
    else case $state in
      reverted) revert '' ;;
      confirmed) [ "$spent" -lt 3 ] || alive confirmer || finish ;;
      starting) alive program || alive worker || { look; [ "$state" != starting ] || drop; } ;; # they may have been quick
      *)
        if [ -e "$TX/failed" ]; then revert 'the worker failed'
        elif [ "$state" = live ]; then
          [ "$spent" -lt "$LIMIT" ] || revert "no confirmation came within $LIMIT seconds"
        elif [ "$spent" -ge "$LIMIT" ]; then revert "activate and verify: not finished after $LIMIT seconds"
        elif ! alive worker && [ ! -e "$TX/live" ]; then revert 'the program was killed while it made the change'
        fi ;;
    esac; fi
    sleep 1
  done
}

# --- confirming --------------------------------------------------------------------------------------------------
outcome() { # ID: what became of it
  for other in "$STATE/generation"/* "$STATE/reverted"; do
    { read -r known <"$other/id"; } 2>/dev/null || continue
    [ "$known" = "$1" ] || continue
    for words in reason settle_failed; do [ ! -e "$other/$words" ] || blob "$words" "$other/$words"; done
    if [ "$other" = "$STATE/reverted" ]; then say reverted; else say confirmed "${other##*/}"; fi
    return 0
  done
  if alive program "$STATE/stage.$1"; then say waiting; else say unknown; fi # its session was lost, but it may yet begin
}
was_connected() { # did the old daemon, or the old firewall, let this connection in? It may be newer than the arming one
  port=$(printf '%04X' "${peer#* }")
  while read -r _ _ remote _; do
    case $remote in *":$port") return 0 ;; esac
  done <"$TX/connected"
  return 1
}
confirm() { # ID NEW_DAEMON OVER
  within 10 decided "$1" || { say waiting; return 0; } # the guards end it in any case; the controller asks again
  if current "$1" && [ ! -e "$TX/live" ]; then recover 'the program that made the change was killed, and its guards too'; fi
  current "$1" || { outcome "$1"; return 0; }
  load "$TX"
  if [ "$3" = ssh ]; then
    session
    read -r armed_by <"$TX/session" || armed_by=''
    if [ -z "$peer" ]; then say denied no_session; return 0; fi
    if [ "$peer" = "$armed_by" ]; then say denied same_connection; return 0; fi
    if was_connected; then say waiting; return 0; fi
    read -r _ began <"$TX/worker"
    # One that is older than the worker cannot have read the new files.
    if [ "$2" = yes ] && [ "${daemon:-0}" -lt "$began" ]; then say denied old_daemon; return 0; fi
  fi
  [ ! -e "$TX/open" ] || sign confirmer
  if mv "$TX/open" "$TX/confirmed" 2>/dev/null; then
    flush # only then may the controller believe it
    finish
  elif current "$1"; then # decided, but not over
    if alive guard1 || alive guard2; then say waiting; return 0; fi
    [ ! -e "$TX/confirmed" ] || say unfinished # for the case that what stopped the others stops this one too
    end 'whoever took it back was killed'
  fi
  outcome "$1"
}

# --- boot --------------------------------------------------------------------------------------------------------
hooked() { # is the boot hook in place? The controller sends what puts it there: hook.py
  text=''
  if [ -d /run/systemd/system ]; then text=$(cat /etc/systemd/system/sysinit.target.wants/sallyport-restore.service 2>/dev/null) || :
  else read -r text </etc/inittab || :; fi
  case $text in "::sysinit:/bin/sh $STATE/device boot" | *"ExecStart=/bin/sh $STATE/device boot") ;; *) return 1 ;; esac
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
  rm -rf "$STATE"/stage.* /etc/.sallyport-inittab # what a power cut left half-made
  [ ! -d /run/systemd/system ] || return 0
  for script in /etc/sallyport/boot.d/*; do
    [ ! -x "$script" ] || "$script" || printf 'sallyport: %s failed\n' "$script"
  done
}

case $1 in
  pending | arm | guards | worker | guard | confirm | outcome | recover | boot) "$@" ;;
  *) printf 'sallyport: unknown command: %s\n' "$1" >&2; exit 2 ;;
esac
