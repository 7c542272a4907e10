# shellcheck shell=sh
# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# Two slots, of which one runs: what agents need that write into the other. Stands before their own half.

# The slot that runs, and the other one.
running_slot() {
    if [ -n "$RUNNING" ]; then
        sh -euc "$RUNNING"
        return
    fi
    root=$(awk '$5 == "/" {for (i = 7; i <= NF; i++) if ($i == "-") print $(i + 2)}' /proc/self/mountinfo | tail -n 1)
    case $(readlink -f "$root") in
        "$(readlink -f "$PLACE_1")") printf '%s\n' "$SLOT_1" ;;
        "$(readlink -f "$PLACE_2")") printf '%s\n' "$SLOT_2" ;;
    esac
}
other_slot() {
    this=$(running_slot)
    case $this in
        "$SLOT_1") printf '%s\n' "$SLOT_2" ;;
        "$SLOT_2") printf '%s\n' "$SLOT_1" ;;
        *)
            printf 'the running slot is %s, and update_agent_%s.slots has %s and %s\n' "${this:-unknown}" "$AGENT" "$SLOT_1" \
                "$SLOT_2" >&2
            return 1
            ;;
    esac
}

# carry SLOT: a slot that is started without this role's files would never be confirmed.
carry() {
    # shellcheck disable=SC2154 # run.sh says where that is
    [ -s "$here/carried" ] || return 0
    if [ "$1" = "$SLOT_1" ]; then target=$PLACE_1; else target=$PLACE_2; fi
    mounted=''
    {
        if [ -b "$target" ]; then
            mkdir -p slot
            mount "$target" slot || return 1
            target=$PWD/slot mounted=yes
        fi
        # Never over what runs.
        case $(readlink -f "$target") in '' | /) return 1 ;; esac
        failed=''
        while IFS= read -r path; do
            if [ ! -e "$path" ] && [ ! -L "$path" ]; then continue; fi
            mkdir -p "$target${path%/*}" && rm -rf "$target$path" && cp -a "$path" "$target$path" || failed=yes
        done <"$here/carried"
        sync
        if [ -n "$mounted" ]; then umount slot || failed=yes; fi
    } >carry.log 2>&1
    [ -z "$failed" ]
}
