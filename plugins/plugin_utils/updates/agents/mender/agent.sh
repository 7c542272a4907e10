# shellcheck shell=sh
# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# Mender's client, as run.sh wants every agent. Read by run.sh in its state folder, behind slots.sh.
#
# Mender's own service installs what it is offered as soon as it is offered, so it does not run. What there is is asked of the
# server here, by its documented interface for devices, and fetched by curl: nothing of that is before window, mode and health
# have had their say. The artefact then goes to Mender's client, as by hand: signature, device type, checksums, writing,
# commit and the way back are the client's.
#
# Its versions have no order, and its server may offer an older one. Here an artefact is called NAME-VERSION, and `sort -V`
# says which version is the older one.

conf=/etc/mender/mender.conf
ask=/etc/mender/sallyport.curl
info=/etc/mender/artifact_info
data=/var/lib/mender
begin=131072 # bytes, in which an artefact has said what it is

# client WORD...: Mender's client, with this role's configuration and no other.
client() { mender --no-syslog --config "$conf" --fallback-config /nonexistent "$@" </dev/null; }

device_type() { sed -n 's/^device_type=//p' "$TYPE_FILE" 2>/dev/null | head -n 1; }

# older VERSION THAN
older() { [ "$1" != "$2" ] && [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

# --- the server ------------------------------------------------------------------------------------------------------

# call METHOD PATH [OPTION...]: one request; `said` is its status, answer.json what came. Where nobody answered: `problem` says
# why, in words.
call() {
    method=$1 path=$2
    shift 2
    rm -f answer.json
    (umask 077 && : >answer.json)
    if said=$(curl -sS -g -K "$ask" -m 60 --max-filesize 1048576 -X "$method" -o answer.json -w '%{http_code}' "$@" \
        "$SERVER/api/devices/v1$path" 2>&1); then return 0; fi
    problem=$(printf '%s' "$said" | sed -n 's/^curl: //p' | head -n 1)
    return 1
}

# request METHOD PATH [OPTION...]: the same, as the device that this is; and 1 where the answer is no.
request() {
    # Its token may have run out.
    # shellcheck disable=SC2034 # twice
    for again in yes no; do
        [ -s token ] || admission || return 1
        call "$@" -K token || return 1
        [ "$said" = 401 ] || break
        rm -f token
    done
    case $said in
        2??) ;;
        *) problem="HTTP $said" && return 1 ;;
    esac
}

# admission: a token of the server's, for which the device signs who it is. It has none to give until somebody has accepted the
# device there. The key is the client's own.
admission() {
    said='' key=$data/mender-agent.pem
    if [ ! -s "$key" ]; then
        (umask 077 && openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -out "$key.new" 2>/dev/null) || {
            problem="there is no $key, and openssl makes none"
            return 1
        }
        mv -f "$key.new" "$key"
    fi
    (
        umask 077
        identity >identity.json && openssl pkey -in "$key" -pubout >public.pem &&
            jq -c --slurpfile identity identity.json --rawfile key public.pem '{id_data: ($identity[0] | tojson), pubkey: $key} +
                if .TenantToken then {tenant_token: .TenantToken} else {} end' "$conf" >request.json &&
            openssl dgst -sha256 -sign "$key" -out signature request.json &&
            printf 'header = "X-MEN-Signature: %s"\n' "$(openssl base64 -A <signature)" >request.curl
    ) 2>admission.log || {
        problem="this device cannot say who it is: $(tail -n 1 admission.log)"
        return 1
    }
    call POST /authentication/auth_requests -K request.curl -H 'Content-Type: application/json' --data-binary @request.json ||
        return 1
    rm -f identity.json public.pem request.json request.curl signature admission.log
    [ "$said" = 200 ] || {
        problem="HTTP $said: it does not know this device, or nobody has accepted it yet"
        return 1
    }
    given=$(tr -d '\r\n' <answer.json)
    rm -f answer.json
    case $given in
        '' | *[!A-Za-z0-9._-]*)
            problem='what it gave is no token'
            return 1
            ;;
    esac
    (umask 077 && printf 'header = "Authorization: Bearer %s"\n' "$given" >token)
}

# identity: who this device is to the server, as the operator says, or as the image's own program does.
identity() {
    if [ -n "$IDENTITY" ]; then
        printf '%s\n' "$IDENTITY"
        return
    fi
    /usr/share/mender/identity/mender-device-identity | jq -Rn '[inputs | capture("^(?<key>[^=]+)=(?<value>.*)$")] |
        group_by(.key) | map({key: .[0].key, value: (map(.value) | if length == 1 then .[0] else . end)}) | from_entries'
}

# step DEPLOYMENT WORD: what is about to happen; 1 where the server has taken the deployment back.
step() {
    [ -n "$SERVER" ] || return 0
    if request PUT "/deployments/device/deployments/$1/status" -H 'Content-Type: application/json' \
        --data-binary "{\"status\":\"$2\"}"; then return 0; fi
    [ "$said" != 409 ]
}

# outcome DEPLOYMENT WORD [TEXT]: what the server is to hear, and has not yet; kept until it has.
outcome() {
    [ -n "$SERVER" ] || return 0
    printf '%s %s\n%s\n' "$1" "$2" "${3:-}" >report.new
    settle_file report
}

# report: it hears it, once; from then on it offers that no more.
report() {
    [ -s report ] || return 0
    read -r deployment outcome <report
    if [ "$outcome" = failure ]; then
        sed 1d report | jq -Rsc --arg at "$(date -u +%Y-%m-%dT%H:%M:%SZ)" \
            '{messages: [{timestamp: $at, level: "error", message: rtrimstr("\n")}]}' >log.json
        request PUT "/deployments/device/deployments/$deployment/log" -H 'Content-Type: application/json' \
            --data-binary @log.json || :
        rm -f log.json
    fi
    if ! request PUT "/deployments/device/deployments/$deployment/status" -H 'Content-Type: application/json' \
        --data-binary "{\"status\":\"$outcome\"}"; then
        # What it has taken back, or knows no more, waits for nobody.
        case $said in 400 | 404 | 409) ;; *) return 1 ;; esac
    fi
    rm -f report
}

# turn_away DEPLOYMENT KIND TEXT: refused. It stays in the record until something better has gone in; the server hears of it once.
turn_away() {
    refuse "$2" "$3"
    printf 'refused %s %s\n' "$2" "$3" >turned-away.new
    settle_file turned-away
    outcome "$1" failure "refused ($2): $3"
    report || :
}

# --- what there is ---------------------------------------------------------------------------------------------------

# name_in FILE: the name that an artefact gives itself, in its beginning, which its signature covers. Nothing is unpacked.
name_in() {
    part=$(tar -tf "$1" 2>/dev/null | grep '^header\.tar' | head -n 1) || :
    case $part in
        header.tar) unpack='' ;;
        header.tar.gz) unpack=z ;;
        header.tar.xz) unpack=J ;;
        *) return 0 ;;
    esac
    { tar -xOf "$1" "$part" | tar "-xO${unpack}f" - header-info; } 2>/dev/null |
        jq -r '.artifact_provides.artifact_name // .artifact_name // empty | gsub("[^!-~]"; "?")' 2>/dev/null | head -n 1
}

# offered_name DEPLOYMENT NAME: its version, in `offered`; anything that is not called NAME-VERSION is refused.
offered_name() {
    offered=${2#"$SOFTWARE-"}
    case $offered in
        "$2" | '' | *[!A-Za-z0-9.+~_-]*)
            turn_away "$1" malformed "expected an artefact $SOFTWARE-VERSION, of letters, digits and .+~_-, found $(plain "$2")"
            return 1
            ;;
    esac
}

# plain TEXT: what somebody else says, as one short line of a record.
plain() { printf '%.200s' "$1" | tr -c '[:alnum:] .,:;/()[]{}<>_+=~%@!?-' '?'; }

# look: the beginning of the artefact at the place in `address`, as `beginning`; and its size, if that is told, as `size`.
look() {
    rm -f beginning headers
    : >size
    read -r place <address
    case $place in
        /*)
            [ -r "$place" ] || { problem="there is no $place" && return 1; }
            head -c "$begin" "$place" >beginning
            wc -c <"$place" >size
            return 0
            ;;
    esac
    # Where ranges are not known, the rest is not waited for.
    curl -sS -g -L --max-redirs 3 -K "$ask" -K address.curl -m 60 -r "0-$((begin - 1))" -D headers 2>look.log | head -c "$begin" >beginning
    said=$(sed -n 's/^HTTP[^ ]* \([0-9]*\).*/\1/p' headers 2>/dev/null | tail -n 1)
    case $said in
        200) tr -d '\r' <headers | sed -n 's/^[Cc]ontent-[Ll]ength: *\([0-9]*\)$/\1/p' | tail -n 1 >size ;;
        206) tr -d '\r' <headers | sed -n 's/^[Cc]ontent-[Rr]ange: *bytes .*\/\([0-9]*\)$/\1/p' | tail -n 1 >size ;;
        '') problem=$(sed -n 's/^curl: //p' look.log | head -n 1) && return 1 ;;
        *) problem="HTTP $said" && return 1 ;;
    esac
}

# linked DEPLOYMENT ADDRESS: where the artefact is. An address of the server's may hold a key: it is on no command line.
linked() {
    case $2 in
        /*) ;;
        https://*)
            case $2 in
                *[!A-Za-z0-9._~:/?#@\!\$\&\'\(\)*+,\;=%-]*)
                    turn_away "$1" malformed 'the address of the artefact has characters that none has'
                    return 1
                    ;;
            esac
            ;;
        *)
            turn_away "$1" malformed 'the address of the artefact is not https'
            return 1
            ;;
    esac
    (
        umask 077
        printf '%s\n' "$2" >address
        printf 'url = "%s"\n' "$2" >address.curl
    )
}

agent_repair() {
    release_slot 2>repair.log || return 1
    rm -f "$DOWNLOADS/artefact"
    # What a cut left uncommitted goes back, where no start could have tried it.
    if [ ! -f begun ] || [ -f uncommitted ] || [ -f trial ]; then return 0; fi
    if [ "$RESTARTS" = yes ] && [ -f working ]; then return 0; fi
    client rollback >repair.log 2>&1 || :
    rm -f begun
    tell 'repaired an installation that was cut short'
}

# offer: what there is for this device, one line: DEPLOYMENT VERSION. Where it is stands in address.
agent_refresh() {
    rm -f offer address address.curl
    if [ -f turned-away ]; then
        find turned-away -mtime +30 -exec rm -f {} +
        lines turned-away >>told
    fi
    if [ -n "$SERVER" ]; then from_server; else from_place; fi
}

from_server() {
    have=$(agent_version "$SOFTWARE")
    if ! { report && request GET /deployments/device/deployments/next -G --data-urlencode "artifact_name=$SOFTWARE-$have" \
        --data-urlencode "device_type=$(device_type)"; }; then
        tell "unreachable $SERVER: $problem"
        return 1
    fi
    [ "$said" = 200 ] || return 0
    # Whatever is not one word each is none.
    jq -r '[.id, .artifact.artifact_name, .artifact.source.uri] |
        map(if type == "string" and test("^[!-~]+$") then . else "?" end) | join(" ")' answer.json >offer.new 2>/dev/null || :
    deployment='' named='' address=''
    read -r deployment named address <offer.new || :
    rm -f offer.new answer.json
    case $deployment in
        '' | *[!A-Za-z0-9-]*)
            refuse malformed 'an answer that names no deployment'
            return 1
            ;;
    esac
    offered_name "$deployment" "$named" || return 0
    if [ -f trial ]; then
        printf '%s %s\n' "$deployment" "$offered" >offer
        return 0
    fi
    if [ "$offered" = "$have" ]; then
        outcome "$deployment" already-installed
        report || :
        return 0
    fi
    if awk -v n="$SOFTWARE" -v v="$offered" '$1 == n && $2 == v {f = 1} END {exit !f}' held; then
        outcome "$deployment" failure "$SOFTWARE-$offered harmed this device before, and is held"
        report || :
        return 0
    fi
    if older "$offered" "${have%_INCONSISTENT}"; then
        turn_away "$deployment" downgrade "$SOFTWARE $offered: older than $have, which runs"
        return 0
    fi
    linked "$deployment" "$address" || return 0
    printf '%s %s\n' "$deployment" "$offered" >offer
}

# A place of the operator's is asked for what lies there, by its beginning.
from_place() {
    [ ! -f trial ] || return 0
    linked - "$ARTIFACT" || return 0
    case $ARTIFACT in
        # A medium that is not there has nothing to offer.
        /*) [ -e "$ARTIFACT" ] || return 0 ;;
    esac
    look || {
        tell "unreachable $ARTIFACT: $problem"
        return 1
    }
    # What was refused for what its beginning says is not fetched again as long as it says so.
    [ "$(sha256sum <beginning)" != "$(lines refused-beginning)" ] || return 0
    offered_name - "$(name_in beginning)" || {
        sha256sum <beginning >refused-beginning
        return 0
    }
    have=$(agent_version "$SOFTWARE")
    [ "$offered" != "$have" ] || return 0
    if older "$offered" "${have%_INCONSISTENT}"; then
        turn_away - downgrade "$SOFTWARE $offered: older than $have, which runs"
        sha256sum <beginning >refused-beginning
        return 0
    fi
    printf '%s %s\n' - "$offered" >offer
}

agent_pending() {
    [ -s offer ] || return 0
    read -r _ offered <offer
    printf '%s %s %s update\n' "$SOFTWARE" "$(agent_version "$SOFTWARE")" "$offered"
}

# It is fetched whole before it is written.
agent_needs() {
    look || return 0
    [ ! -s size ] || printf '%s %s\n' "$DOWNLOADS" "$(($(cat size) / 1024 + 1))"
}

# nothing DEPLOYMENT: not this time.
nothing() {
    rm -f "$DOWNLOADS/artefact"
    : >ready
}

agent_fetch() {
    read -r name old new _ <ready
    read -r deployment _ <offer
    if ! step "$deployment" downloading; then
        nothing
        tell "waiting $name $new: the server has taken it back"
        return 0
    fi
    mkdir -p "$DOWNLOADS"
    rm -f "$DOWNLOADS/artefact"
    (umask 077 && : >"$DOWNLOADS/artefact")
    read -r place <address
    case $place in
        /*) cp "$place" "$DOWNLOADS/artefact" 2>fetch.log ;;
        *) # Who says less than a byte a second has stopped; how long a large one takes is nobody's to say.
            # shellcheck disable=SC2086 # two words, or none
            curl -sS -g -f -L --max-redirs 3 -K "$ask" -K address.curl -y 60 -Y 1 ${LIMIT_KB:+--limit-rate "${LIMIT_KB}k"} \
                -o "$DOWNLOADS/artefact" 2>fetch.log
            ;;
    esac || {
        # run.sh: not every source has answered
        # shellcheck disable=SC2034
        heard=no
        tell "unreachable $name $new: $(sed 's/^curl: //' fetch.log | head -n 1)"
        nothing
        return 0
    }
    itself=$(name_in "$DOWNLOADS/artefact")
    [ "$itself" != "$name-$new" ] || return 0
    case $itself in
        "$name-"*) if older "${itself#"$name-"}" "$old"; then
            nothing
            turn_away "$deployment" downgrade "$name $new: it is $(plain "$itself"), older than $old, which runs"
            return 0
        fi ;;
    esac
    nothing
    turn_away "$deployment" malformed "$name $new: it calls itself $(plain "${itself:-nothing}")"
}

# --- the installation ------------------------------------------------------------------------------------------------

agent_tries() { [ "$RESTARTS" = yes ]; }

# All of it by Mender's client, which has the last word on what may go in.
agent_install() {
    read -r name old new _ <ready
    read -r deployment _ <offer
    if ! step "$deployment" installing; then
        nothing
        forget
        finish_by_sources "the server has taken back $name $new"
    fi
    printf '%s' "$deployment" >tried.new
    settle_file tried
    : >begun.new
    settle_file begun
    code=0
    client install --reboot-exit-code "$DOWNLOADS/artefact" >install.log 2>&1 || code=$?
    rm -f "$DOWNLOADS/artefact"
    case $code in
        0 | 4) ;;
        *) not_taken ;;
    esac
    if [ "$code" = 4 ] && [ "$RESTARTS" = no ]; then
        undo "$name $new asks for a restart of the device, and update_agent_mender.restart is false"
    fi
    if [ "$RESTARTS" = yes ] && [ -n "$SLOT_1" ]; then
        { slot=$(other_slot) && carry "$slot"; } 2>>carry.log ||
            undo "$name $new: the new slot cannot take over what this role has set up: $(tail -n 1 carry.log)"
    fi
    printf '%s' "$new" >uncommitted.new
    settle_file uncommitted
    if [ -f turned-away ]; then
        grep -vxF -f turned-away told >told.new || :
        mv -f told.new told
        rm -f turned-away refused-beginning
    fi
    [ "$RESTARTS" = no ] || step "$deployment" rebooting || :
}

# forget: as if the run had begun nothing.
forget() { rm -f working ./*.before begun uncommitted tried; }

# undo WHY: it is written, and may not stay.
undo() {
    client rollback >>install.log 2>&1 || :
    forget
    outcome "$deployment" failure "$1"
    report || :
    finish failed "$1"
}

# not_taken: the client has refused it, or could not install it; its own words say which.
not_taken() {
    forget
    verdict
    if [ "$kind" = failed ]; then
        outcome "$deployment" failure "$error"
        report || :
        finish failed "$name $new was not installed: ${error:-see $state/install.log}"
    fi
    turn_away "$deployment" "$kind" "$name $new: $error"
    # Another copy of what was damaged on its way may be whole.
    [ "$kind" = tampered ] || [ ! -s beginning ] || sha256sum <beginning >refused-beginning
    finish_by_sources 'nothing to install'
}

# verdict: why install.log ends without an installation: `kind` of refusal, or failed, and `error`.
verdict() {
    error=$(sed -n 's/.*level=error msg="\(.*\)"$/\1/p' install.log | tail -n 1)
    case $error in
        *'no signature file found'*) kind=signature error='it is not signed' ;;
        *'invalid signature'*) kind=signature ;;
        *'not compatible with device'*) kind=hardware ;;
        *'invalid checksum'*) kind=tampered ;;
        *'does not contain all required fields'* | *'can not read version file'* | *'error reading archive'*) kind=malformed ;;
        *) kind=failed ;;
    esac
    error=$(plain "$(printf '%s' "$error" | sed 's/^installer: //; s/^failed to read Artifact: //')")
}

agent_leave() { [ -z "$SLOT_1" ] || carry_on; }

agent_keep() {
    # Nothing of it is there: it was cut short.
    if [ "$RESTARTS" = no ] && [ ! -s uncommitted ]; then return 0; fi
    client commit >>install.log 2>&1 || return 1
    done_with success ''
}

# agent_back NAME VERSION: where that runs already, since the bootloader went back, only Mender's record has to follow.
agent_back() {
    code=0
    client rollback >>install.log 2>&1 || code=$?
    case $code in 0 | 2) ;; *) return 1 ;; esac
    # shellcheck disable=SC2154 # run.sh says why
    done_with failure "$why"
    [ "$RESTARTS" = yes ] || [ "$(agent_version "$1")" = "$2" ]
}

# done_with WORD TEXT: what was tried has been judged.
done_with() {
    rm -f begun uncommitted
    [ -s tried ] || return 0
    outcome "$(cat tried)" "$1" "$2"
    rm -f tried
    report || :
}

# What runs says so itself where a start decides; where none does, the client knows what it has put there.
agent_version() {
    if [ "$RESTARTS" = yes ]; then
        runs=$(sed -n 's/^artifact_name=//p' "$info" 2>/dev/null | head -n 1)
    elif [ -s uncommitted ]; then
        runs=$SOFTWARE-$(cat uncommitted)
    else
        runs=$(client show-artifact 2>/dev/null | head -n 1)
    fi
    case $runs in "$SOFTWARE-"?*) printf '%s\n' "${runs#"$SOFTWARE-"}" ;; esac
}

agent_restart_services() { :; }

agent_wants_reboot() { [ -f trial ] && [ "$(cat trial)" = "$(this_start)" ]; }

# --- for the role ----------------------------------------------------------------------------------------------------

# What has to hold on this very device before it is left alone: its client refuses what is not signed, it is known what runs and
# who it is, and versions can be told apart.
agent_proves() {
    [ -n "$(agent_version "$SOFTWARE")" ] || {
        printf '%s and the client (mender show-artifact) name no artefact %s-VERSION that runs, so nothing tells a newer one from an older one\n' \
            "$info" "$SOFTWARE" >&2
        return 1
    }
    [ -n "$(device_type)" ] || {
        printf '%s has no device_type: name it in update_agent_mender.device_type, or put it into the image\n' "$TYPE_FILE" >&2
        return 1
    }
    if older 2.10 2.9 || ! older 2.9 2.10; then
        printf 'the sort of this device cannot tell versions apart (sort -V)\n' >&2
        return 1
    fi
    [ -z "$SLOT_1" ] || other_slot >/dev/null || return 1
    if [ -n "$SERVER" ]; then
        identity 2>/dev/null | jq -e 'type == "object" and length > 0' >/dev/null || {
            printf 'this device cannot say who it is: give update_agent_mender.identity, or put mender-device-identity into the image\n' >&2
            return 1
        }
    fi
    # The client looks whether it knows how to install it before it looks for a signature.
    how=''
    for module in /usr/share/mender/modules/v3/*; do if [ -x "$module" ]; then how=${module##*/}; fi; done
    if jq -e .RootfsPartA "$conf" >/dev/null; then how=rootfs-image; fi
    [ -n "$how" ] || {
        printf 'the client has nothing to install with: give update_agent_mender.slots, or put an update module into the image\n' >&2
        return 1
    }
    place=$(mktemp -d)
    (
        cd "$place"
        # The smallest artefact there is, for this device, by somebody who has no key. It wants to follow another that nobody
        # has: who takes it unsigned does not install it all the same.
        mkdir data headers headers/0000
        printf '{"payloads":[{"type":"%s"}],"artifact_provides":{"artifact_name":"%s-proof"},"artifact_depends":%s}' "$how" "$SOFTWARE" \
            "{\"artifact_name\":[\"sallyport-proof\"],\"device_type\":[\"$(device_type)\"]}" >header-info
        printf '{"type":"%s"}' "$how" >headers/0000/type-info
        printf '{"format":"mender","version":3}' >version
        printf 'x' >payload
        tar -czf header.tar.gz header-info headers/0000/type-info
        tar -czf data/0000.tar.gz payload
        {
            printf '%s  data/0000/payload\n' "$(sha256sum <payload | cut -d ' ' -f 1)"
            printf '%s  header.tar.gz\n' "$(sha256sum <header.tar.gz | cut -d ' ' -f 1)"
            printf '%s  version\n' "$(sha256sum <version | cut -d ' ' -f 1)"
        } >manifest
        tar -cf proof.mender version manifest header.tar.gz data/0000.tar.gz
        # With its own record and without the device's state scripts: this is no installation.
        jq --arg nowhere "$PWD/nowhere" '.RootfsScriptsPath = $nowhere' "$conf" >proof.conf
        conf=proof.conf
        mkdir record
        client --data "$PWD/record" install proof.mender >said 2>&1 && exit 1
        grep -q 'no signature file found' said
    ) && taken=no || taken=yes
    end=$(plain "$(sed -n 's/.*level=error msg=//p' "$place/said" 2>/dev/null | tail -n 1)")
    rm -rf "$place"
    [ "$taken" = no ] || {
        printf 'this client of Mender does not ask for signatures (Debian 12 has one that knows a single key only); the end of what it said: %s\n' \
            "$end" >&2
        return 1
    }
}
