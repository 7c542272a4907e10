# shellcheck shell=sh
# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# SWUpdate, as run.sh wants every agent. Read by run.sh in its state folder, behind slots.sh.
#
# What is offered is asked of the hawkBit server directly: that costs two small answers, and nothing goes in before window,
# mode and health have had their say. All the rest is done by SWUpdate's own client (suricatta), which is started for that
# and ends with it: download, signature, hardware, writing, and what the server is told.
#
# The bootloader's environment is what survives a restart. `slot` is what it starts; upgrade_available and bootcount are its
# own trial of a new slot; ustate is SWUpdate's: 0 nothing to tell, 1 installed and not tried, 2 good, 3 bad, 7 half written.

cfg=/etc/swupdate.cfg
ask=/etc/swupdate/sallyport.curl

env_get() { fw_printenv -n "$1" 2>/dev/null || :; }

# env_set NAME=VALUE...: all of it in one write, so that a power cut leaves the old or the new.
env_set() {
    printf '%s\n' "$@" >env.new
    fw_setenv -s env.new
    rm -f env.new
}

# --- the server ------------------------------------------------------------------------------------------------------

# answer PATH: what the server says there, in answer.json. Says why not, in words.
answer() {
    if said=$(curl -sS -K "$ask" -o answer.json -w '%{http_code}' "$CONTROLLER$1" 2>&1); then
        case $said in
            200) jq -e . answer.json >/dev/null 2>&1 || { why='an answer that is no JSON' && return 1; } ;;
            401 | 403) why="HTTP $said: it does not know this target, or its token" && return 1 ;;
            *) why="HTTP $said" && return 1 ;;
        esac
    else
        why=$(printf '%s' "$said" | sed -n 's/^curl: //p' | head -n 1)
        return 1
    fi
}

# suricatta [OPTION...]: SWUpdate's client, until it has done what there is to do and told the server, which is when it goes
# to sleep. What it says is in install.log, without what curl says, which names the token.
suricatta() {
    # One that a killed run has left would answer in the place of this one.
    ended "$cfg"
    rm -f transcript
    (umask 077 && : >transcript)
    TMPDIR=${TEMPORARY:-/tmp} swupdate -f "$cfg" -l 5 "$@" -u --server=hawkbit >transcript 2>&1 </dev/null &
    child=$!
    # The other sleep is that of one that cannot tell the server what became of the last image, and tries for ever.
    while kill -0 "$child" 2>/dev/null && ! grep -qE '(suricatta_wait|server_start)\] : Sleeping' transcript; do sleep 1; done
    kill "$child" 2>/dev/null || :
    # It ends its helpers and writes its state: it is given some seconds, and then ended.
    left=20
    while [ "$left" -gt 0 ] && kill -0 "$child" 2>/dev/null; do
        sleep 0.2 2>/dev/null || sleep 1
        left=$((left - 1))
    done
    ended "$cfg"
    wait "$child" 2>/dev/null || :
    grep '^\[' transcript >install.log || :
    slept=no
    if grep -q 'suricatta_wait\] : Sleeping' transcript; then slept=yes; fi
    rm -f transcript
    [ "$slept" = yes ]
}

# ended WORD: no SWUpdate with that word on its command line is left. Its helpers can outlive it, and hold what it wrote to.
ended() {
    for process in /proc/[0-9]*; do
        if [ "$(cat "$process/comm" 2>/dev/null)" = swupdate ] && grep -qF "$1" "$process/cmdline" 2>/dev/null; then
            kill -9 "${process#/proc/}" 2>/dev/null || :
        fi
    done
}

# What was decided here and the server does not know yet. It closes the action, and offers it no more.
report() {
    case $(env_get ustate) in 2 | 3) ;; *) return 0 ;; esac
    # Until it has got through, suricatta tries again and again: whether there is a server is known first.
    answer '' || return 1
    # suricatta tells it of whatever action is open. Where that is another one by now, nobody waits for this.
    if [ -s tried ] && [ "$(open_action)" = "$(cat tried)" ]; then
        suricatta || return 1
    fi
    [ "$(env_get ustate)" = 0 ] || env_set ustate=0
    rm -f tried
}

# The number of the action that answer.json tells of; a number alone is taken of what it says: where the token goes is for
# the operator to say.
open_action() {
    jq -r '._links.deploymentBase.href // empty | capture("/deploymentBase/(?<n>[0-9]+)").n' answer.json
}

agent_repair() {
    release_slot 2>repair.log || return 1
    # What a cut left in the other slot is written anew.
    if [ -f trial ] || [ -f working ]; then return 0; fi
    case $(env_get ustate) in
        1 | 7)
            env_set "$SLOT_VARIABLE=$(running_slot)" ustate=0 upgrade_available=0 bootcount=0
            tell 'repaired an installation that was cut short'
            ;;
    esac
}

# offer: what the server has for this device, one line: ACTION VERSION BYTES KIND.
agent_refresh() {
    rm -f offer
    # A refusal stays in the record until something better has come: the server is told once, and offers it no more.
    if [ -f turned-away ]; then
        find turned-away -mtime +30 -exec rm -f {} +
        lines turned-away >>told
    fi
    if [ ! -f trial ] && ! report; then
        tell "unreachable $CONTROLLER: ${why:-what became of the last update could not be told}"
        return 1
    fi
    answer '' || {
        tell "unreachable $CONTROLLER: $why"
        return 1
    }
    if [ -n "$(jq -r '._links.cancelAction.href // empty' answer.json)" ]; then
        # Taken back by the server: suricatta says that it has heard.
        [ -f trial ] || suricatta || :
        return 0
    fi
    action=$(open_action)
    [ -n "$action" ] || return 0
    answer "/deploymentBase/$action" || {
        tell "unreachable $CONTROLLER: $why"
        return 1
    }
    jq -r --arg action "$action" '.deployment | . as $d |
        [.chunks[]? | .version as $v | .artifacts[]? | select(.filename | endswith(".swu")) | [$v, .size]] |
        if length == 1 then .[0] else ["", 0] end |
        [$action, .[0], (.[1] | tostring),
         (if $d.update == "skip" or $d.maintenanceWindow == "unavailable" then "other" else "update" end)] |
        join(" ")' answer.json >offer.new
    read -r _ version bytes kind <offer.new || :
    case $version in
        '' | *[!A-Za-z0-9.+~_-]*)
            refuse malformed "action $action: expected one .swu with a version of letters, digits and .+~_-"
            return 1
            ;;
    esac
    if [ "$version" = "$(agent_version "$SOFTWARE")" ] && [ ! -f trial ]; then
        # It runs already, and the server does not know.
        printf '%s' "$action" >tried
        env_set ustate=2
        report || :
        return 0
    fi
    [ "$kind" != other ] || tell "waiting $SOFTWARE $version: the server holds it back"
    printf '%s %s %s %s\n' "$action" "$version" "$bytes" "$kind" >offer
}

agent_pending() {
    [ -s offer ] || return 0
    read -r _ version _ kind <offer
    printf '%s %s %s %s\n' "$SOFTWARE" "$(agent_version "$SOFTWARE")" "$version" "$kind"
}

# Where an image is not streamed into its slot, it is unpacked first.
agent_needs() {
    [ -n "$TEMPORARY" ] || return 0
    read -r _ _ bytes _ <offer
    printf '%s %s\n' "$TEMPORARY" "$((bytes / 1024 + 1))"
}

# Into the slot that does not run: nothing of what runs is touched. SWUpdate believes the description first, then each image
# by its hash in there; what is not whole leaves `ready`.
agent_fetch() {
    read -r name old new _ <ready
    slot=$(other_slot) || finish failed "$name $new could not go anywhere: see journalctl -u sallyport-update"
    suricatta -N "$old" -e "$SELECTION,$slot" || :
    if [ "$(env_get ustate)" = 1 ] && grep -q 'Update successful, executing post-update' install.log; then
        carry "$slot" || {
            env_set ustate=3
            finish failed "$name $new: slot $slot cannot take over what this role has set up: $(tail -n 1 carry.log)"
        }
        cut -d ' ' -f 1 offer >tried.new
        settle_file tried
        if [ -f turned-away ]; then
            grep -vxF -f turned-away told >told.new || :
            mv -f told.new told
            rm -f turned-away
        fi
        return 0
    fi
    env_set ustate=0
    : >ready
    verdict
    case $kind in
        unreachable)
            # run.sh: not every source has answered
            # shellcheck disable=SC2034
            heard=no
            tell "unreachable $name $new: $error"
            ;;
        failed) finish failed "$name $new was not installed: ${error:-see $state/install.log}" ;;
        *)
            refuse "$kind" "$name $new: $error"
            printf 'refused %s %s\n' "$kind" "$name $new: $error" >turned-away.new
            settle_file turned-away
            # suricatta can miss what became of an image that is refused at once. It says then that all is well, and closes nothing.
            if answer '' && [ "$(open_action)" = "$(cut -d ' ' -f 1 offer)" ]; then
                cut -d ' ' -f 1 offer >tried.new
                settle_file tried
                env_set ustate=3
                report || :
            fi
            ;;
    esac
}

# verdict: why install.log ends without an installation: `kind` of refusal, unreachable or failed, and `error`.
verdict() {
    error=$(sed -n 's/^\[ERROR\] : SWUPDATE failed \[[01]\] //p' install.log)
    case $error in
        *ignature*) kind=signature ;;
        *'not compatible with hardware'* | *'HW compatibility not found'* | *'no parser available'*) kind=hardware ;;
        *'No downgrading allowed'*) kind=downgrade ;;
        *'HASH mismatch'* | *'Checksum does not match'*) kind=tampered ;;
        *channel_curl*) kind=unreachable ;;
        # Builds that tell nothing about hashes say no more than this.
        *'Image invalid or corrupted'*) kind=tampered ;;
        *) kind=failed ;;
    esac
    error=$(printf '%s\n' "$error" | sed 's/^ERROR [^:]* : [^:]* : [0-9]* : //' | head -n 1)
    # For an unsigned image there are no words but that it is no image.
    if grep -q 'instead of sw-description.sig' install.log; then kind=signature error='it is not signed'; fi
}

# --- the trial -------------------------------------------------------------------------------------------------------

agent_tries() { :; }

# From now on the bootloader tries the other slot, and goes back by itself where nobody confirms.
agent_install() {
    slot=$(other_slot) && env_set "$SLOT_VARIABLE=$slot" upgrade_available=1 bootcount=0
}

agent_leave() { carry_on; }

agent_keep() { env_set upgrade_available=0 bootcount=0 ustate=2; }

# The old slot is what starts next; the server hears that this one was bad.
agent_back() {
    # Where it runs already, the bootloader went back by itself, and need not remember to.
    if [ "$(agent_version "$1")" = "$2" ]; then slot=$(running_slot); else slot=$(other_slot); fi
    [ -n "$slot" ] && env_set "$SLOT_VARIABLE=$slot" upgrade_available=0 bootcount=0 ustate=3
}

agent_version() { awk -v n="$1" '$1 == n {print $2; exit}' /etc/sw-versions 2>/dev/null || :; }

agent_restart_services() { :; }

agent_wants_reboot() { [ -f trial ] && [ "$(cat trial)" = "$(this_start)" ]; }

# --- for the role ----------------------------------------------------------------------------------------------------

# What has to hold on this very device before it is left alone: its build refuses what is not signed, the bootloader's
# environment can be read, and it is known what runs.
agent_proves() {
    file=$(mktemp)
    # The smallest image there is, by somebody who has no key: a cpio archive with a description, and no signature.
    {
        member sw-description 'software = { version = "1000000"; };'
        member other x
        member 'TRAILER!!!' ''
    } >"$file"
    swupdate -f "$cfg" -l 5 -c -i "$file" >"$file.said" 2>&1 </dev/null &
    child=$! left=20 taken=no
    # Some builds leave a helper that never ends; what was said by then decides.
    while [ "$left" -gt 0 ] && kill -0 "$child" 2>/dev/null; do
        sleep 1
        left=$((left - 1))
    done
    ended "$file"
    if wait "$child"; then taken=yes; fi
    grep -q 'instead of sw-description.sig' "$file.said" || taken=yes
    end=$(tail -n 1 "$file.said")
    rm -f "$file" "$file.said"
    [ "$taken" = no ] || {
        printf 'this build of SWUpdate does not ask for signatures; the end of what it said: %s\n' "$end" >&2
        return 1
    }
    [ -n "$(env_get "$SLOT_VARIABLE")" ] || {
        printf 'the environment of the bootloader has no %s (fw_printenv, /etc/fw_env.config)\n' "$SLOT_VARIABLE" >&2
        return 1
    }
    other_slot >/dev/null || return 1
    [ -n "$(agent_version "$SOFTWARE")" ] || {
        printf '/etc/sw-versions has no version of %s, so nothing tells a newer image from an older one\n' "$SOFTWARE" >&2
        return 1
    }
}

# member NAME TEXT: one file of a cpio archive in the form "newc".
member() {
    printf '070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\0' \
        1 33188 0 0 1 0 "${#2}" 0 0 0 0 "$((${#1} + 1))" 0 "$1"
    pad "$((110 + ${#1} + 1))"
    printf '%s' "$2"
    pad "${#2}"
}
pad() {
    left=$(((4 - $1 % 4) % 4))
    while [ "$left" -gt 0 ]; do
        printf '\0'
        left=$((left - 1))
    done
}
