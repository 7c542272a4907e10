#!/bin/sh
# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# One run of this device's update agent, by its own timer: what every agent does the same way, in this order. What
# differs between agents is in agent.sh beside it, what the operator wants is in settings, what health means is in
# health.sh. The record of the last run is /var/lib/sallyport-updates/status; docs/updates.md says how to read it.
# usage: run.sh update|reboot
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
DEBIAN_FRONTEND=noninteractive
export PATH LC_ALL DEBIAN_FRONTEND
umask 022
here=/usr/local/lib/sallyport/updates
state=/var/lib/sallyport-updates
# A device that was off for longer than this, in seconds, is not told from one whose clock was wrong.
LONGEST_SLEEP=2592000
# Whether what this agent brings may be what a sick device needs.
agent_mends() { return 1; }
# Whether what was fetched is still there in the next run. Where it is not, a window that has closed meanwhile is too late to
# matter: a slow line would fetch it again in each window, and never have it.
agent_holds() { return 1; }
# What an agent need not have. Does what it installs count only once the device has started with it? Then it also says here
# what makes it stay.
agent_tries() { return 1; }
agent_keep() { :; }
# What has to be done at the latest before the device starts with what it is to try.
agent_leave() { :; }
# this_start: something that is another one after each start of the device, and of a container too.
this_start() { printf '%s %s\n' "$(cat /proc/sys/kernel/random/boot_id)" "$(sed 's/.*) //' /proc/1/stat | cut -d ' ' -f 20)"; }
# shellcheck source=/dev/null
. "$here/settings"
# shellcheck source=/dev/null
. "$here/agent.sh"

# --- the record ------------------------------------------------------------------------------------------------------

# settle_file FILE: FILE.new takes its place, whole; what a killed run or a power cut leaves is the old one.
settle_file() {
    sync -f "$1.new" 2>/dev/null || sync
    mv -f "$1.new" "$1"
}

# refuse KIND TEXT: what came from the network and was not taken.
refuse() { printf 'refused %s %s\n' "$1" "$2" >>told; }
tell() { printf '%s\n' "$*" >>told; }
# A line of somebody's list, or nothing; files that are not there have no lines.
lines() { if [ -f "$1" ]; then cat "$1"; fi; }

# since NAME VERSION: when this device first heard of it.
since() { awk -v n="$1" -v v="$2" -v d="$now" '$1 == n && $2 == v {d = $3} END {print d}' seen; }

# finish RESULT TEXT: write down how the run ended, and end.
finish() {
    rm -f spare # a full disk has room for the record all the same
    {
        printf 'agent %s\nmode %s\nran %s\nresult %s\nmessage %s\n' "$AGENT" "$MODE" "$now" "$1" "$2"
        lines told
        lines pending | while read -r name old new kind; do
            printf 'pending %s %s %s %s %s\n' "$name" "$old" "$new" "$kind" "$(since "$name" "$new")"
        done
        lines held | sed 's/^/held /'
        lines installed | sed 's/^/installed /'
        lines stale | sed 's/^/restart /'
        if agent_wants_reboot; then printf 'reboot needed\n'; fi
        if [ -f checked ]; then printf 'checked %s\n' "$(cat checked)"; fi
        if [ "$1" = ok ]; then printf 'succeeded %s\n' "$now"; elif [ -f succeeded ]; then
            printf 'succeeded %s\n' "$(cat succeeded)"
        fi
    } >status.new
    settle_file status
    [ "$1" != ok ] || printf '%s' "$now" >succeeded
    dd if=/dev/zero of=spare bs=1024 count=64 2>/dev/null || rm -f spare
    printf 'sallyport-update: %s: %s\n' "$1" "$2"
    case $1 in
        ok | waiting | unreachable) exit 0 ;;
        *) exit 10 ;; # whatever else ends a run was not meant to
    esac
}

# --- gates -----------------------------------------------------------------------------------------------------------

# inside BEGIN LENGTH: whether the device's local time is in that window, in minutes since midnight.
inside() {
    [ "$2" -lt 1440 ] || return 0
    at=$(date +%H:%M)
    hour=${at%:*} minute=${at#*:}
    at=$((${hour#0} * 60 + ${minute#0}))
    [ $(((at - $1 + 1440) % 1440)) -lt "$2" ]
}

# room PATH KB: whether that much is free there, beside what is to stay free. Says what is lacking.
room() {
    free=$(df -kP "$1" | awk 'NR == 2 {print $4}')
    [ "$free" -lt $(($2 + RESERVE_KB)) ] || return 0
    lacking="$1 needs $2 kB and $RESERVE_KB kB to spare, and has $free kB"
    return 1
}

# Services that run, without those that come and go by themselves: people's sessions, one for each connection, what somebody
# has started with systemd-run (a change that waits for its confirmation has), and what D-Bus starts when somebody asks (nothing
# wants it at boot, and it ends when it is idle).
services() {
    systemctl list-units --type=service --state=running --plain --no-legend --no-pager | awk '{print $1}' | lasting >running
    # Where the device starts anew, only what comes by itself at every start can be missed.
    if agent_tries; then passing=1 wants='^(Wanted|Required)By$'; else passing=0 wants='^(Triggered|Wanted|Required)By$'; fi
    # shellcheck disable=SC2046 # names of units
    [ ! -s running ] || systemctl show -p Id,ActiveState,Transient,BusName,TriggeredBy,WantedBy,RequiredBy $(cat running) | awk -F = \
        -v always="$passing" -v wants="$wants" '
        function told() { if (id != "" && !ended && (wanted || !passing)) print id; id = ""; ended = 0; passing = always; wanted = 0 }
        BEGIN {passing = always}
        /^$/ {told()}
        $1 == "Id" {id = $2}
        # It has ended since it was listed; of one that systemd has forgotten by then, it no longer says that it was passing.
        $1 == "ActiveState" && $2 ~ /^(inactive|failed|activating|deactivating)$/ {ended = 1}
        # What a timer starts ends by itself.
        $1 == "TriggeredBy" && $2 ~ /^[^ ]+\.timer$/ {passing = 1; next}
        $1 == "BusName" && $2 != "" || $1 == "Transient" && $2 == "yes" {passing = 1}
        $1 ~ wants && $2 != "" {wanted = 1}
        END {told()}' | sort
}
lasting() { grep -Ev '^(user|user-runtime-dir)@|^session-|^run-|@[0-9]+-' || :; }
failures() { systemctl list-units --state=failed --plain --no-legend --no-pager | awk '{print $1}' | lasting | sort; }

# Accounts that somebody gets into by a key. In a new slot they may be missing, and then nobody gets in.
people() {
    while IFS=: read -r name _ _ _ _ home _; do
        if [ -s "$home/.ssh/authorized_keys" ] || [ -s "/etc/ssh/authorized_keys.d/$name" ]; then printf '%s\n' "$name"; fi
    done </etc/passwd | sort
}

# Of this boot, which no clock that is set can change.
uptime_seconds() { cut -d . -f 1 /proc/uptime; }

# A change of this device that may still be taken back. Its lock alone, which a killed one leaves, is none.
unconfirmed() { [ -d "$COMMITS/armed/tx" ]; }

# healthy SECONDS [LOOKS]: the operator's own checks, and no service that ran before the update has stopped; so many looks in
# a row, a second apart, since what dies again and again runs in between. Says what is wrong.
healthy() {
    first=$(uptime_seconds) looked=0 times=${2:-1} well=0
    while :; do
        looked=$((looked + 1))
        wrong=$(/bin/sh "$here/health.sh" 2>&1) && wrong='' || wrong=$(printf '%s' "$wrong" | tail -n 1)
        if [ -z "$wrong" ] && [ -f services.before ]; then
            services >services.now
            wrong=$(comm -23 services.before services.now | tr '\n' ' ')
            [ -z "$wrong" ] || wrong="no longer running: $wrong"
        fi
        if [ -z "$wrong" ] && [ -f failures.before ]; then
            failures >failures.now
            wrong=$(comm -13 failures.before failures.now | tr '\n' ' ')
            [ -z "$wrong" ] || wrong="failed: $wrong"
        fi
        if [ -z "$wrong" ] && [ -f people.before ]; then
            people >people.now
            wrong=$(comm -23 people.before people.now | tr '\n' ' ')
            [ -z "$wrong" ] || wrong="nobody's key lets in any more: $wrong"
        fi
        if [ -z "$wrong" ]; then
            well=$((well + 1))
            [ "$well" -lt "$times" ] || return 0
        else
            well=0
            # Twice at least, however long one takes.
            if [ "$looked" -gt 1 ] && [ $(($(uptime_seconds) - first)) -ge "$1" ]; then return 1; fi
        fi
        sleep 1
    done
}

# --- the run ---------------------------------------------------------------------------------------------------------

# The first time that this device heard of each version: age is counted from there, and a delay too.
note_when_seen() {
    touch seen
    while read -r name _ new _; do
        printf '%s %s %s\n' "$name" "$new" "$(since "$name" "$new")"
    done <pending >seen.new
    settle_file seen
}

# What was written down while the clock was wrong counts from now: nothing has aged because a clock was set, and nothing waits
# for a day that a wrong clock has named.
mend_times() {
    last=$(lines status | sed -n 's/^ran \([0-9][0-9]*\)$/\1/p')
    oldest=0
    [ $((now - ${last:-$now})) -lt "$LONGEST_SLEEP" ] || oldest=$now
    for file in seen held installed; do
        awk -v now="$now" -v oldest="$oldest" '$3 > now || $3 < oldest {$3 = now} {print}' "$file" >"$file.new"
        if cmp -s "$file" "$file.new"; then rm "$file.new"; else settle_file "$file"; fi
    done
}

# What may go in now: not what failed here before in this very version, not what is younger than the delay.
choose() {
    while read -r name old new kind; do
        [ "$kind" != other ] || continue
        if awk -v n="$name" -v v="$new" '$1 == n && $2 == v {f = 1} END {exit !f}' held; then continue; fi
        if [ $((now - $(since "$name" "$new"))) -lt "$DELAY" ]; then
            tell "waiting $name $new is younger than the delay"
            continue
        fi
        printf '%s %s %s %s\n' "$name" "$old" "$new" "$kind"
    done <pending >ready
}

# settle_installed: after an installation, whole or cut short. Health decides what becomes of it.
settle_installed() {
    while read -r name old new _; do
        have=$(agent_version "$name")
        [ "$have" = "$new" ] || continue
        { grep -v "^$name " installed || :; printf '%s %s %s\n' "$name" "$new" "$now"; } >installed.new
        mv -f installed.new installed
        { grep -v "^$name " pending || :; } >pending.new
        mv -f pending.new pending
        { grep -v "^$name " held || :; } >held.new
        mv -f held.new held
    done <working
    agent_restart_services || :
    if healthy "$HEALTH_SECONDS" "$LOOKS"; then
        agent_keep || finish failed "what was installed is healthy, and could not be confirmed"
        rm -f working trial ./*.before
        return 0
    fi
    if agent_mends && [ "$wrong" = "$sick" ]; then
        # It was to mend the device, and did not: that is no harm, and the next may.
        rm -f working ./*.before
        finish unhealthy "updates installed: $(wc -l <ready); not healthy before, and not after: $wrong"
    fi
    go_back "$wrong"
}

# Whether all of `working` is what runs.
all_run() {
    while read -r name _ new _; do
        [ "$(agent_version "$name")" = "$new" ] || return 1
    done <working
}

# settle_trial: after the start that was to try what was installed. It runs, or what was there before has come back.
settle_trial() {
    if [ ! -f trial ] || [ "$(cat trial)" = "$(this_start)" ]; then return 0; fi
    lost='' strange=''
    while read -r name old new _; do
        have=$(agent_version "$name")
        case $have in
            "$new") ;;
            "$old") lost="$lost $name" ;;
            *) strange="$name $have has started, and $new was meant" ;;
        esac
    done <working
    if [ -n "$strange" ]; then go_back "$strange"; fi
    if [ -z "$lost" ]; then
        [ ! -f returning ] || finish failed "the device was to go back, and has started again with what harmed it: $(cat returning)"
        settle_installed
        return 0
    fi
    why=$(lines returning)
    why=${why:-it was not confirmed, and what was there before has started again}
    while read -r name old new _; do
        if [ ! -f returning ]; then
            agent_back "$name" "$old" || :
            hold "$name" "$new" "$why"
        fi
        tell "back $name"
    done <working
    rm -f working trial returning ./*.before
    # Who offered it hears of it now, not in six hours; whatever that makes of words here, the record is of what happened.
    set -- "after the update: $why; back to what ran before:$lost"
    agent_refresh || :
    finish rolled_back "$1"
}

# hold NAME VERSION WHY: that very version harmed this device, and does not come again.
hold() {
    { grep -v "^$1 " held || :; printf '%s %s %s %s\n' "$1" "$2" "$now" "$3"; } >held.new
    # Before anything goes back: forgotten in a power cut, it would come again.
    settle_file held
    { grep -v "^$1 " installed || :; } >installed.new
    mv -f installed.new installed
}

# go_back WHY: listed packages return to the version that they had. Where that helps, the others have done no harm; where
# it does not, or nothing is listed, they stay as they are, and are held.
go_back() {
    why=$1
    if agent_tries; then go_back_by_restart; fi
    returned='' kept=''
    : >staying
    # One may take others along that need it as it was.
    while read -r name old new _; do
        [ "$(agent_version "$name")" != "$new" ] || printf '%s %s %s\n' "$name" "$old" "$new"
    done <working >leaving
    while read -r name old new; do
        case " $ROLLBACK " in
            *" $name "*)
                hold "$name" "$new" "$why"
                if agent_back "$name" "$old"; then
                    returned="$returned $name"
                    tell "back $name"
                    continue
                fi
                ;;
        esac
        kept="$kept $name"
        printf '%s %s\n' "$name" "$new" >>staying
    done <leaving
    if [ -n "$returned" ] && healthy "$HEALTH_SECONDS" "$LOOKS"; then
        rm -f working ./*.before
        finish rolled_back "after the update: $why; back to what ran before:$returned"
    fi
    while read -r name new; do hold "$name" "$new" "$why"; done <staying
    rm -f working ./*.before
    finish unhealthy "after the update: $why;${returned:+ back to what ran before, which did not help ($wrong):$returned;} held:${kept:-$returned}"
}

# go_back_by_restart: what harms is left at once, in a window or not; an operator who restarts devices himself does it here too.
go_back_by_restart() {
    while read -r name old new _; do
        hold "$name" "$new" "$why"
        agent_back "$name" "$old" || finish unhealthy "after the update: $why; the way back is not there: $name $old"
    done <working
    printf '%s\n' "$why" >returning.new
    settle_file returning
    this_start >trial.new
    settle_file trial
    printf 'now' >rebooting
    finish rolled_back "after the update: $why; the next start brings back what ran before"
}

update() {
    sick=''
    : >told
    touch seen pending held installed
    # Postponed until a day that has come is automatic.
    acting=$MODE
    if [ "$MODE" = postponed ] && [ "$now" -ge "$UNTIL" ]; then acting=automatic; fi
    room "$state" 0 || finish blocked "too little space, nothing was begun: $lacking"
    mend_times
    settle_trial
    if [ "$acting" = automatic ]; then
        agent_repair || finish failed "an interrupted installation could not be finished: see $state/repair.log"
        if [ -f working ] && [ ! -f trial ]; then
            # The run that began this was killed: what it had installed has not been judged yet.
            tell "repaired a run that was cut short; packages: $(wc -l <working)"
            if agent_tries && ! all_run; then
                # Cut before a start could try it: as if it had never been.
                rm -f working ./*.before
                agent_repair
            else
                settle_installed
            fi
        fi
    fi
    heard=yes
    if agent_refresh; then printf '%s' "$now" >checked; else heard=no; fi
    agent_pending >pending.new || finish failed "what is pending could not be told: see $state/pending.log"
    mv -f pending.new pending
    note_when_seen
    if [ -f returning ]; then
        # What was in the way of its restart has passed, perhaps.
        printf 'now' >rebooting
        finish rolled_back "after the update: $(cat returning); the next start brings back what ran before"
    fi
    if [ -f trial ]; then
        # Whoever restarts it by hand has what was done meanwhile, too; before a restart of its own it is asked again.
        agent_leave || :
        reboot_now_or_later
        finish waiting "installed, and counts once the device has started with it: $(cut -d ' ' -f 1,3 working | tr '\n' ' ')"
    fi
    case $acting in
        automatic) ;;
        postponed) finish ok "updates pending: $(wc -l <pending); postponed by the operator" ;;
        *) finish ok "updates pending: $(wc -l <pending); this device only tells" ;;
    esac
    choose
    rm -f ./*.before
    # Asked in every run: what an update does to a device may show hours later, and its ring waits for what it says then.
    if ! healthy 5; then
        # A sick device is left alone, but for a newer version of what made it sick, and for what may mend it.
        sick=$wrong
        if ! agent_mends; then
            awk 'NR == FNR {h[$1] = 1; next} $1 in h' held ready >ready.new
            mv -f ready.new ready
        fi
        [ -s ready ] || finish unhealthy "not healthy before any update, so nothing was installed: $wrong"
    fi
    [ -s ready ] || finish_by_sources "nothing to install"
    inside "$WINDOW_BEGIN" "$WINDOW_LENGTH" || finish waiting "updates that wait for the window: $(wc -l <ready)"
    ! unconfirmed || finish waiting "updates that wait until another change of this device, an operator's perhaps, is confirmed: $(wc -l <ready)"
    agent_needs | while read -r path kb; do room "$path" "$kb" || printf '%s\n' "$lacking"; done >lacking
    [ ! -s lacking ] || finish blocked "too little space, nothing was begun: $(head -n 1 lacking)"
    agent_fetch || :
    if [ -s ready ]; then
        # What is slow to come (update_agent_bandwidth_kb) may have outlasted the window; it is here for the next one.
        inside "$WINDOW_BEGIN" "$WINDOW_LENGTH" || ! agent_holds || finish waiting "fetched, and waiting for the window: $(wc -l <ready)"
        services >services.before
        failures >failures.before
        if agent_tries; then people >people.before; fi
        cp ready working.new
        settle_file working
        if agent_install; then
            if agent_tries; then
                this_start >trial.new
                settle_file trial
                reboot_now_or_later
                finish waiting "installed, and counts once the device has started with it: $(cut -d ' ' -f 1,3 working | tr '\n' ' ')"
            fi
        elif ! agent_repair; then
            finish failed "the installation failed and could not be finished: see $state/install.log"
        fi
        missing=''
        while read -r name _ new _; do
            [ "$(agent_version "$name")" = "$new" ] || missing="$missing $name"
        done <ready
        settle_installed
        reboot_now_or_later
        [ -z "$missing" ] || finish failed "not installed:$missing; see $state/install.log"
    fi
    finish_by_sources "updates installed: $(wc -l <ready)"
}

# finish_by_sources TEXT: a run that did all it could is as good as what its sources told it.
finish_by_sources() {
    if grep -q '^refused' told; then finish refused "what came from the network was not taken; $1"; fi
    [ "$heard" = yes ] || finish unreachable "not every source answered; $1"
    finish ok "$1"
}

# --- reboots ---------------------------------------------------------------------------------------------------------

# A staggered device waits for its own slot, which its timer knows.
reboot_now_or_later() {
    agent_wants_reboot || return 0
    case $REBOOT in window) if inside "$REBOOT_BEGIN" "$REBOOT_LENGTH"; then : >rebooting; fi ;; esac
}

# restart_device [now]: inside the window, or at once.
restart_device() {
    if [ "$REBOOT" = never ] || ! agent_wants_reboot; then return 0; fi
    [ "${1:-}" = now ] || inside "$REBOOT_BEGIN" "$REBOOT_LENGTH" || return 0
    if [ -f working ] && [ ! -f trial ]; then return 0; fi
    if unconfirmed; then
        printf 'sallyport-update: no reboot now: a change of this device waits for its confirmation\n'
        return 0
    fi
    if [ -f trial ] && [ ! -f returning ] && ! agent_leave; then
        printf 'sallyport-update: no reboot now: what has changed since the installation could not go along\n'
        return 0
    fi
    printf 'sallyport-update: reboot, as the last update needs\n'
    reboot
}

# A device that is told to shut down waits for what has begun.
trap : TERM
mkdir -p "$state"
cd "$state"
now=$(date +%s)
case ${1:-} in
    update)
        # In a child: whatever ends it, the record says so, and is written before the device goes down.
        rm -f rebooting
        verdict=0
        /bin/sh "$0" turn || verdict=$?
        if [ "$verdict" != 0 ] && [ "$verdict" != 10 ]; then
            finish failed "the run broke off with status $verdict: see journalctl -u sallyport-update"
        fi
        if [ -f rebooting ]; then
            how=$(cat rebooting)
            rm -f rebooting
            restart_device "$how"
        fi
        exit "$verdict"
        ;;
    turn) update ;;
    reboot) restart_device ;;
    *)
        printf 'usage: run.sh update|reboot\n' >&2
        exit 2
        ;;
esac
