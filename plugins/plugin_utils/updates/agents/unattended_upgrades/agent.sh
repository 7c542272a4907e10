# shellcheck shell=sh
# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# unattended-upgrades and apt, as run.sh wants every agent. Read by run.sh in its state folder.

# What cut a run short, power or a killed dpkg, is finished before anything else: a half-installed package is no state
# to look at. Whoever holds dpkg's lock may be somebody at work, and is waited for. Conffiles that people changed stay
# theirs, and what could only be put right by taking a package away is left for people to see.
agent_repair() {
    if whole; then return 0; fi
    {
        for _ in 1 2 3; do
            apt-get -y -q -o DPkg::Lock::Timeout=300 --no-remove --fix-broken install || :
            dpkg --force-confdef --force-confold --configure -a || :
            # What was only unpacked in part is put in again.
            broken=$(dpkg-query -W -f '${db:Status-Eflag} ${db:Status-Status} ${Package}\n' |
                awk '$1 == "reinstreq" || $2 == "half-installed" {print $3}')
            # shellcheck disable=SC2086 # names of packages
            [ -z "$broken" ] || apt-get -y -q -o DPkg::Lock::Timeout=300 --reinstall install $broken || :
            if whole; then break; fi
            sleep 1
        done
    } >repair.log 2>&1
    whole || return 1
    tell "repaired an interrupted installation"
}

# Whether dpkg has nothing left to finish.
whole() { [ -z "$(ls /var/lib/dpkg/updates 2>/dev/null)" ] && [ -z "$(dpkg --audit 2>&1)" ]; }

# Fetch and verify the indexes. 1 where any source did not answer, or was not believed.
agent_refresh() {
    lax=$(apt-config dump | grep -iE "$LAX" | head -n 1)
    if [ -n "$lax" ]; then
        # Somebody's file behind ours, since the role was here: what is fetched or installed now may be anybody's.
        refuse signature "apt would take what nobody has signed, or an index of any age: take $lax out of /etc/apt"
        finish refused 'nothing was fetched and nothing installed, since apt would believe anybody'
    fi
    good=0
    apt-get -q -o APT::Update::Error-Mode=any update >refresh.log 2>&1 || good=1
    while IFS= read -r line; do
        case $line in
            W:* | E:*) ;;
            *) continue ;;
        esac
        text=${line#?: }
        case $line in
            *'is expired'* | *'not valid yet'*) refuse expired "$text" ;;
            *'not signed'* | *NO_PUBKEY* | *BADSIG* | *'signature'* | *EXPKEYSIG* | *REVKEYSIG* | *'Clearsigned file'*)
                refuse signature "$text"
                ;;
            *'Hash Sum mismatch'* | *'unexpected size'* | *'Mirror sync in progress'*) refuse tampered "$text" ;;
            *'Some index files failed'*) continue ;;
            *) tell "unreachable $text" ;;
        esac
        good=1
    done <refresh.log
    older_than_ours
    return "$good"
}

# A repository that once offered more, and now less than what runs here, was turned back: by accident, or by somebody who
# wants an old hole open. apt never goes back by itself, and says nothing; this does. `best` holds the best version ever
# heard of from the operator's own repository, of packages that are installed.
older_than_ours() {
    [ -n "$OWN_URI" ] || return 0
    # shellcheck disable=SC2016 # apt fills that in
    apt-get -q indextargets --format '$(FILENAME)' "Created-By: Packages" "Repo-URI: $OWN_URI/" "Release: $OWN_SUITE" |
        while read -r file; do
            for file in "$file" "$file".*; do
                [ ! -f "$file" ] || /usr/lib/apt/apt-helper cat-file "$file"
            done
        done | awk '/^Package: / {p = $2} /^Version: / {print p, $2}' | sort -u >all
    dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' | awk '$1 == "ii" {print $2}' | sort -u | join - all >offered
    rm -f all
    [ -s best ] || cp offered best
    comm -13 best offered | while read -r name version; do
        top=$(awk -v n="$name" '$1 == n {print $2}' best)
        if [ -z "$top" ] || dpkg --compare-versions "$version" gt "$top"; then
            { grep -v "^$name " best || :; printf '%s %s\n' "$name" "$version"; } | sort >best.new
            mv -f best.new best
            continue
        fi
        # The best is offered too, or this device itself has turned it away: no surprise.
        if grep -qxF "$name $top" offered || grep -q "^$name " held; then continue; fi
        ours=$(agent_version "$name")
        if dpkg --compare-versions "$version" lt "$ours"; then
            refuse downgrade "$name: $ours is installed, the repository offers $version"
        fi
    done
}

# NAME INSTALLED OFFERED KIND; `other` is what no allowed origin offers, or what is blocked: told, never installed.
agent_pending() {
    # shellcheck disable=SC2154 # run.sh says where that is
    python3 "$here/pending.py" >sizes 2>pending.log || return 1
    cut -d ' ' -f 1-4 sizes
}

# PATH KB, one a line: what the chosen updates need where, and what comes with them: a kernel is new each time. dpkg keeps the
# old files until the new ones are there.
agent_needs() {
    # shellcheck disable=SC2046 # one word for each package
    apt-get -q -s --only-upgrade install $(awk '{print $1 "=" $3}' ready) 2>/dev/null |
        sed -n 's/^Inst \([^ ]*\) [^(]*(\([^ ]*\) .*/\1=\2/p' >coming || :
    # shellcheck disable=SC2046
    [ ! -s coming ] || apt-cache show --no-all-versions $(cat coming) | awk '
        $1 == "Package:" {p = $2} $1 == "Version:" {v = $2} $1 == "Architecture:" {a = $2}
        $1 == "Installed-Size:" {u = $2} $1 == "Size:" {d = $2}
        # A version that several sources offer is shown for each; one that only dpkg knows has no size.
        $0 == "" {if (d && !((p " " v " " a) in told)) {told[p " " v " " a]; print p, v, d, u}; d = u = 0}
        END {if (d && !((p " " v " " a) in told)) print p, v, d, u}' >come.new
    # What apt cannot foretell counts as it was told.
    [ -s come.new ] || awk 'NR == FNR {r[$1 " " $3] = 1; next} ($1 " " $3) in r {print $1, $3, $5, $6}' ready sizes >come.new
    awk '{d += $3 / 1024 + 1; u += $4}
        END {printf "/var/cache/apt/archives %d\n/var/lib/dpkg %d\n/usr %d\n", d, d, d + u}' come.new
    rm -f coming come.new
}

# Everything is fetched and its hashes are compared before anything is installed; what is not whole leaves `ready`. The
# versions to go back to are fetched too, as long as the network is there.
agent_fetch() {
    words=$(awk '{print $1 "=" $3}' ready)
    # shellcheck disable=SC2086 # one word for each package
    if ! apt-get -y -q --download-only --only-upgrade install $words >fetch.log 2>&1; then
        : >whole
        while read -r name old new kind; do
            if apt-get -y -q --download-only --only-upgrade install "$name=$new" >fetch.log 2>&1; then
                printf '%s %s %s %s\n' "$name" "$old" "$new" "$kind" >>whole
                continue
            fi
            why=$(sed -n 's/^E: //p' fetch.log | head -n 1)
            case $(cat fetch.log) in
                *'Hash Sum mismatch'* | *'unexpected size'* | *'File has'*) refuse tampered "$name $new: $why" ;;
                *) tell "unreachable $name $new: $why" ;;
            esac
        done <ready
        mv -f whole ready
    fi
    mkdir -p previous
    while read -r name old _; do
        case " $ROLLBACK " in *" $name "*) ;; *) continue ;; esac
        [ "$(saved "$name" "$old")" = "" ] || continue
        rm -f previous/"${name%%:*}"_*.deb
        (cd previous && apt-get -q download "$name=$old") >>fetch.log 2>&1 || tell "unprepared $name $old is not to be had any more"
    done <ready
}

# saved NAME VERSION: the package of that version which was kept.
saved() {
    for file in previous/"${1%%:*}"_*.deb; do
        if [ -f "$file" ] && [ "$(dpkg-deb -f "$file" Version)" = "$2" ]; then printf '%s' "$file"; fi
    done
}

agent_install() {
    # What was not chosen is kept out, and nothing else is changed for it.
    {
        printf 'Unattended-Upgrade::Package-Blacklist {\n'
        awk 'NR == FNR {r[$1] = 1; next} !($1 in r) {print $1}' ready pending |
            sed 's/:.*//; s/[.+]/\\&/g; s/.*/  "^&$";/'
        printf '};\n'
    } >run.conf
    APT_CONFIG=$PWD/run.conf unattended-upgrade -v >install.log 2>&1 || return 1
    after_packages
}

# For agents that build on this one: what is to be done once packages have changed.
after_packages() { :; }

# agent_back NAME VERSION: to the package that was kept. With it go all that are listed, since they may need each other in
# these very versions; alone, where that cannot be. What would take a package away is no way back.
agent_back() {
    file=$(saved "$1" "$2")
    [ -n "$file" ] || return 1
    if [ "$(agent_version "$1")" != "$2" ]; then
        all=''
        while read -r one before _; do
            case " $ROLLBACK " in *" $one "*) all="$all $(saved "$one" "$before")" ;; esac
        done <leaving
        # shellcheck disable=SC2086 # names of files
        downgrade $all || downgrade "$file" || return 1
    fi
    [ "$(agent_version "$1")" = "$2" ] && after_packages
}

downgrade() {
    for deb in "$@"; do
        shift
        set -- "$@" "$PWD/$deb"
    done
    apt-get -y -q -o DPkg::Lock::Timeout=300 --no-remove --allow-downgrades -o Dpkg::Options::=--force-confold install "$@" >>install.log 2>&1
}

# Of a package that is there for several architectures, the device's own one counts: the others are named NAME:ARCHITECTURE.
agent_version() {
    dpkg-query -W -f '${Architecture} ${Version}\n' "$1" 2>/dev/null |
        awk -v own="$(dpkg --print-architecture)" 'NR == 1 || $1 == own {v = $2} END {printf "%s", v}'
}

# apt keeps what it has fetched.
agent_holds() { :; }

# Services that still run code which is no longer on the disk. needrestart restarts them where it is installed.
agent_restart_services() {
    if command -v needrestart >/dev/null; then needrestart -r a </dev/null >needrestart.log 2>&1 || :; fi
    for maps in /proc/[0-9]*/maps; do
        grep -q '\.so[.0-9]* (deleted)$' "$maps" 2>/dev/null || continue
        sed -n 's|.*/\([^/]*\.service\)$|\1|p' "${maps%maps}cgroup" 2>/dev/null | head -n 1
    done | sort -u >stale
}

agent_wants_reboot() { [ -e /run/reboot-required ]; }
