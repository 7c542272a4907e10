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

# What a run that was cut off has left mounted: an image must not be written under a file system that is in use.
release_slot() {
    while awk -v place="$(pwd -P)/slot" '$5 == place {found = 1} END {exit !found}' /proc/self/mountinfo; do
        umount slot || return 1
    done
}

# managed: every path that Sallyport has changed on this device, by its roles' own records.
managed() {
    for kept in "$COMMITS"/generation/*/manifest; do
        # shellcheck source=/dev/null
        # shellcheck disable=SC2317 # the record calls it
        [ ! -f "$kept" ] || (. "$kept" && entry() { printf '%s\n' "$3"; } && entries)
    done | sort -u
}

# what_goes_along: what the operator names and this role has; and where that is so, all that Sallyport has set up, and who the
# device is to its operators. Without it the new slot would be as open as its vendor made it.
what_goes_along() {
    # shellcheck disable=SC2154 # run.sh says where they are
    cat "$here/carried"
    [ "$CARRY_OWN" = yes ] || return 0
    managed | while IFS= read -r path; do
        # shellcheck disable=SC2154
        case $path in "$COMMITS"/* | "$state"/*) ;; /*) printf '%s\n' "$path" ;; esac
    done
    for path in /etc/ssh/ssh_host_*_key* /etc/dropbear/dropbear_*_host_key; do
        [ ! -f "$path" ] || printf '%s\n' "$path"
    done
}

# place_in SLOT FOLDER: where that folder is once the slot runs, as `place`. Its absolute links are followed within it: what
# runs now would be changed otherwise.
place_in() {
    place='' rest=$2 links=0
    while [ -n "$rest" ]; do
        part=${rest%%/*}
        case $rest in */*) rest=${rest#*/} ;; *) rest='' ;; esac
        case $part in
            '' | .) ;;
            ..) place=${place%/*} ;;
            *)
                if [ ! -L "$1$place/$part" ]; then
                    place=$place/$part
                    continue
                fi
                links=$((links + 1))
                [ "$links" -lt 40 ] || return 1
                part=$(readlink "$1$place/$part") || return 1
                case $part in /*) place='' ;; esac
                rest=$part/$rest
                ;;
        esac
    done
    place=$1$place
}

# make_folder FOLDER LIKE: it may hold what not everybody reads.
make_folder() {
    [ ! -d "$1" ] || return 0
    mkdir -p "$1" && chmod "$(stat -c %a "$2")" "$1" && chown "$(stat -c %u:%g "$2")" "$1"
}

# accounts MINE ITS: which accounts there are is the image's business. Those that both have keep their passwords, and stay
# without a shell; another root that was taken away stays away.
accounts() {
    cp -a "$2" "$2.sallyport" || return 1
    awk -F : -v OFS=: -v passwd="${1##*/}" '
        FILENAME == ARGV[1] {mine[$1] = $0; next}
        !($1 in mine) {if (passwd != "passwd" || $3 != 0 || $1 == "root") print; next}
        passwd != "passwd" {print mine[$1]; next}
        {
            split(mine[$1], field, ":")
            if ($2 != "x" && field[2] != "x") $2 = field[2]
            if (field[7] ~ /\/(nologin|false)$/) $7 = field[7]
            print
        }' "$1" "$2" >"$2.sallyport" && mv -f "$2.sallyport" "$2"
}

# bring PATH SLOT: as it is on what runs. What is there goes when the new one is whole: the slot may be the next to start by now.
bring() {
    place_in "$2" "${1%/*}" || {
        printf '%s leads nowhere in the new slot\n' "${1%/*}"
        return 1
    }
    its=$place/${1##*/}
    case $1 in
        /etc/passwd | /etc/shadow)
            [ ! -f "$its" ] || [ -L "$its" ] || accounts "$1" "$its"
            return
            ;;
        /etc/group | /etc/gshadow) return 0 ;;
    esac
    if [ -e "$1" ] || [ -L "$1" ]; then
        make_folder "$place" "${1%/*}" && rm -rf "$its.sallyport" && cp -a "$1" "$its.sallyport" && rm -rf "$its" &&
            mv "$its.sallyport" "$its"
    elif [ -f "$its" ] || [ -L "$its" ]; then
        # Sallyport took it away, and the image has it again. What the operator only names is not taken away.
        ! managed | grep -qxF -e "$1" || rm -f "$its"
    fi
}

# carry SLOT: what goes along into the other slot, before it is tried. One that is started without this role's own would never
# be confirmed.
carry() {
    if [ "$1" = "$SLOT_1" ]; then target=$PLACE_1; else target=$PLACE_2; fi
    mounted=''
    {
        if unconfirmed; then
            printf 'a change of this device waits for its confirmation\n'
            return 1
        fi
        rm -f went
        what_goes_along >going
        [ -s going ] || return 0
        as_of=$(look_of going)
        if [ -b "$target" ]; then
            mkdir -p slot
            mount "$target" slot || return 1
            target=$PWD/slot mounted=yes
        fi
        target=$(readlink -f "$target")
        # Never over what runs.
        case $target in '' | /) return 1 ;; esac
        failed=''
        while IFS= read -r path; do bring "$path" "$target" || failed=yes; done <going
        sync
        if [ -n "$mounted" ]; then umount slot || failed=yes; fi
        [ -n "$failed" ] || printf '%s\n' "$as_of" >went
    } >carry.log 2>&1
    [ -z "$failed" ]
}

# look_of LIST: another line whenever anything that the list names has changed.
look_of() {
    while IFS= read -r path; do
        if [ -e "$path" ] || [ -L "$path" ]; then find "$path" ! -type d -exec ls -ld {} + -exec cksum {} +; fi
    done <"$1" 2>&1 | cksum
}

# carry_on: what has been set up since the installation; a slot is not written again for nothing.
carry_on() {
    what_goes_along >going
    if [ -s went ] && [ "$(look_of going)" = "$(cat went)" ]; then return 0; fi
    slot=$(other_slot) && carry "$slot"
}
