# shellcheck shell=sh
# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# The pull agent, as run.sh wants every agent. Two things can be pending: `revision`, a signed commit that this device has not
# applied, and `drift`, where the device is no longer as the commit says that it has applied. Read by run.sh in its state folder.

# shellcheck disable=SC2154 # run.sh and its settings say where and what these are
pull=$state/pull
tree=$pull/tree
reached=no

# --- git, which nothing but this file tells what to do ------------------------------------------------------------------

g() {
    if [ -s "$here/pull/revoked" ]; then set -- -c "gpg.ssh.revocationFile=$here/pull/revoked" "$@"; fi
    env -i PATH="$PATH" LC_ALL=C HOME="$pull/home" GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null GIT_ATTR_NOSYSTEM=1 \
        GIT_NO_REPLACE_OBJECTS=1 GIT_TERMINAL_PROMPT=0 GIT_ALLOW_PROTOCOL=file \
        git --git-dir="$pull/git" -c core.hooksPath=/dev/null -c core.fsmonitor=false -c gc.autoDetach=false \
        -c gpg.format=ssh -c gpg.ssh.program=/usr/bin/ssh-keygen -c "gpg.ssh.allowedSignersFile=$here/pull/signers" \
        -c gpg.program=/bin/false -c gpg.openpgp.program=/bin/false -c gpg.x509.program=/bin/false "$@"
}

# word FILE: what a file of ours holds, "" where there is none.
word() { if [ -s "$1" ]; then cat "$1"; fi; }

# keep FILE TEXT: whole, or as it was.
keep() {
    printf '%s\n' "$2" >"$1.new"
    settle_file "$1"
}

# shown FILE: the first line that says something, fit for the record: it may hold what a server said.
shown() {
    tr -cd '\n -~' <"$1" | sed -n '/^hint:/d; /^Warning: Permanently/d; s/^\(fatal\|error\): //; /[^ ]/ {p; q}' | cut -c 1-300
}

# signed OBJECT: whether somebody signed it who may. Says what is wrong in $wrong.
signed() {
    object=$(g rev-parse --quiet --verify "$1" 2>/dev/null) || object=$1
    kind=$(g cat-file -t "$object" 2>/dev/null) || kind=none
    case $PULL_REF:$kind in
        refs/tags/*:tag)
            # A signed tag of another name is a promise of something else.
            if ! g cat-file tag "$object" | sed '/^$/q' | grep -qxF "tag ${PULL_REF#refs/tags/}"; then
                wrong="$object is the tag of another name than ${PULL_REF#refs/tags/}"
                return 1
            fi
            verb=verify-tag
            mark='^-----BEGIN SSH SIGNATURE-----$'
            ;;
        refs/heads/*:commit)
            verb=verify-commit
            mark='^gpgsig'
            ;;
        *)
            wrong="$PULL_REF is no ${PULL_REF#refs/}, but a $kind: a branch holds commits, and a tag must be a signed one"
            return 1
            ;;
    esac
    # Its own word for a signature of a key that is on the list: one of an unknown key is "good" too, for nobody.
    if g "$verb" --raw "$object" >verify.log 2>&1 && grep -q '^Good "git" signature for ' verify.log; then return 0; fi
    if g cat-file "$kind" "$object" | grep -q "$mark"; then
        wrong="$object is signed, but not as it is or not by anybody who may: $(shown verify.log)"
    else
        wrong="$object is not signed"
    fi
    return 1
}

# unpack REF: the files of a signed revision into $tree, from git's own objects each time. No working copy, so no hook, no
# filter, no submodule takes part.
unpack() {
    if ! signed "$1"; then
        refuse signature "$wrong"
        return 1
    fi
    rm -rf "$tree" "$pull/broken"
    mkdir -m 700 "$tree"
    { g archive --format=tar "$1" || : >"$pull/broken"; } 2>unpack.log |
        tar -x -C "$tree" --no-same-owner 2>>unpack.log || : >"$pull/broken"
    [ -e "$pull/broken" ] || return 0
    # Its name is signed, and its files are not all there: what flash or a power cut has done to this copy of them.
    : >"$pull/damaged"
    return 1
}

# --- what comes from the network ----------------------------------------------------------------------------------------

agent_repair() {
    mkdir -p "$pull" || return 1
    id -u sallyport-pull >/dev/null 2>&1 ||
        useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin sallyport-pull >repair.log 2>&1 || return 1
    [ -s "$pull/begun" ] || return 0
    # shellcheck disable=SC2046 # three words
    set -- $(cat "$pull/begun")
    # Where there is no way back (somebody has changed the device meanwhile) the revision is applied once more, and whole.
    if [ "$1" = revision ] && ! way_back "$3"; then tell "unprepared the way back from what was applied in part"; fi
    rm -f "$pull/begun"
    tell "repaired a run that was cut short while it applied $2"
}

# hand_over: what the unprivileged half may read of the settings. The folder is root's, so nobody can lead it elsewhere.
hand_over() {
    rm -rf "$pull/given"
    mkdir -m 750 "$pull/given"
    for file in key known_hosts ca.pem proxy; do
        [ ! -f "$here/pull/$file" ] || (umask 077 && cp "$here/pull/$file" "$pull/given/$file" && chmod 640 "$pull/given/$file")
    done
    chown -R root:sallyport-pull "$pull/given"
}

# ready_to_ask: the copies of the repository, root's and that of the unprivileged half. One that is damaged goes as soon as there is
# another to be had; what was the newest is remembered apart.
ready_to_ask() {
    mkdir -p "$pull"
    hand_over
    if [ -s "$pull/newest" ] && ! g cat-file -t refs/sallyport/newest >/dev/null 2>&1; then : >"$pull/damaged"; fi
    # shellcheck disable=SC2034 # twice
    for again in yes no; do
        [ -d "$pull/git" ] || g init --quiet --bare --template= || return 1
        chmod 700 "$pull/git"
        [ -d "$pull/incoming" ] || mkdir -m 700 "$pull/incoming"
        chown sallyport-pull "$pull/incoming"
        if [ ! -e "$pull/damaged" ] || ! systemctl start sallyport-pull@reach.service >reach.log 2>&1; then break; fi
        rm -rf "$pull/git" "$pull/incoming" "$pull/damaged"
        tell "repaired the copy of the repository, which was broken"
    done
}

# The unprivileged half brings it. 1 where the server did not answer, or was not believed.
agent_refresh() {
    ready_to_ask || return 1
    room "$pull" 0 || return 1
    printf '%s\n' $((free - RESERVE_KB)) >"$pull/room"
    { g rev-parse --quiet --verify refs/sallyport/newest || :; } >"$pull/known" 2>/dev/null
    if ! systemctl start sallyport-pull@fetch.service >refresh.log 2>&1; then
        if [ -f "$pull/incoming/log" ] && [ ! -L "$pull/incoming/log" ]; then cp "$pull/incoming/log" refresh.log; fi
        case $(cat refresh.log) in
            *'ost key verification failed'* | *'certificate'* | *'SSL'*)
                refuse server "$PULL_URL is not whom this device knows: $(shown refresh.log)"
                ;;
            *'File too large'* | *'No space left'*)
                refuse size "what $PULL_URL offers would leave less than $RESERVE_KB kB free"
                ;;
            *'ut of memory'*)
                refuse size "what $PULL_URL offers needs more memory than there is"
                ;;
            # A line that breaks looks to the reader like a pack that is cut short.
            *'disconnect'* | *'early EOF'* | *'hung up'* | *'timed out'*) tell "unreachable $PULL_URL: $(shown refresh.log)" ;;
            *'bad hash'* | *'hash mismatch'* | *'corrupt'* | *'fsck'* | *'inflate'* | *'bad pack'* | *'index-pack'* | *'did not match'*)
                refuse tampered "$(shown refresh.log)"
                ;;
            *) tell "unreachable $PULL_URL: $(shown refresh.log)" ;;
        esac
        return 1
    fi
    reached=yes
    believe
}

# believe: what is, becomes the newest; what is not, goes at once, or a bad server would fill the disk bit by bit.
believe() {
    if judge; then
        g gc --quiet --auto >/dev/null 2>&1 || :
        return 0
    fi
    g update-ref -d refs/sallyport/incoming
    g gc --quiet --prune=now >/dev/null 2>&1 || :
    systemctl start sallyport-pull@forget.service >/dev/null 2>&1 || :
    return 1
}

# take_in: the objects of a bundle, whoever made it.
take_in() {
    # git would follow a link, and a file that says where a repository is; a pipe would be read for ever.
    begins=''
    if [ -f "$pull/bundle" ] && [ ! -L "$pull/bundle" ]; then begins=$(head -c 15 "$pull/bundle" | tr -cd ' -~'); fi
    case $begins in
        '# v2 git bundle' | '# v3 git bundle') ;;
        *)
            refuse tampered "what came is no bundle of git's"
            return 1
            ;;
    esac
    # git computes every name anew from what it names: nobody can put other files under a signed one. What it holds in memory for
    # that is bounded: some hundred kilobytes can be said to unfold to gigabytes.
    (
        # shellcheck disable=SC3045 # dash and BusyBox have it
        ulimit -v "$(awk '$1 == "MemAvailable:" {m = int($2 * 3 / 4)} END {print (m > 262144 ? m : 262144)}' /proc/meminfo)"
        g -c core.bigFileThreshold=1m -c core.packedGitWindowSize=16m -c core.packedGitLimit=64m -c pack.threads=1 \
            -c fetch.fsckObjects=true fetch --quiet --no-tags --no-write-fetch-head "$pull/bundle" \
            +refs/incoming:refs/sallyport/incoming
    ) >refresh.log 2>&1 || {
        case $(cat refresh.log) in
            *'ut of memory'*) refuse size "what $PULL_URL offers needs more memory than there is" ;;
            *) refuse tampered "$(shown refresh.log)" ;;
        esac
        return 1
    }
}

# judge: is what came signed, and does it come after all that was ever believed?
judge() {
    if [ ! -f "$pull/incoming/tip" ] || [ -L "$pull/incoming/tip" ]; then return 1; fi
    tip=$(head -c 64 "$pull/incoming/tip" | tr -cd 0-9a-f)
    case ${#tip} in 40 | 64) ;; *) return 1 ;; esac
    rm -rf "$pull/bundle"
    # Where its writer cannot reach it, it stays what was looked at.
    mv -f "$pull/incoming/bundle" "$pull/bundle" 2>/dev/null || :
    if [ -e "$pull/bundle" ] || [ -L "$pull/bundle" ]; then
        believed=yes
        take_in || believed=no
        rm -rf "$pull/bundle"
        [ "$believed" = yes ] || return 1
    fi
    if ! signed "$tip"; then
        refuse signature "$wrong"
        return 1
    fi
    commit=$(g rev-parse "$tip^{commit}")
    since=$(word "$pull/newest")
    # A controller that names a revision begins anew from there, also where history was rewritten on purpose.
    if [ -n "$PULL_SINCE" ] && [ "$PULL_SINCE" != "$(word "$pull/since")" ]; then since=$PULL_SINCE; fi
    if [ -n "$since" ] && ! g merge-base --is-ancestor "$since" "$commit" 2>/dev/null; then
        if g merge-base --is-ancestor "$commit" "$since" 2>/dev/null; then
            refuse downgrade "$commit is older than $since, which this device knows"
        else
            refuse downgrade "$commit does not come after $since, which this device knows: the history was rewritten"
        fi
        return 1
    fi
    inner=$(g ls-tree -r "$commit" | awk '$1 == "160000" {print $4; exit}')
    if [ -n "$inner" ]; then
        refuse contents "$commit has a submodule, $inner, whose files are no part of what was signed: put them into the repository"
        return 1
    fi
    # Where the copy of the repository was lost, what this device has applied is found again.
    for object in $(word "$pull/applied.signed"); do
        if g cat-file -e "$object" 2>/dev/null; then g update-ref refs/sallyport/applied "$object"; fi
    done
    g update-ref refs/sallyport/newest "$tip" && keep "$pull/newest" "$commit" || return 1
    keep "$pull/since" "$PULL_SINCE"
}

# --- what is pending ----------------------------------------------------------------------------------------------------

agent_version() {
    have=$(word "$pull/applied")
    case $1 in
        drift) printf '%s' "$have${have:+$(word "$pull/drifted")}" ;;
        *) printf '%s' "${have:-none}" ;;
    esac
}

# Drift is asked of Ansible's check mode, against the revision that this device has applied. A play that cannot be checked
# counts as drift: applying it again tells.
agent_pending() {
    have=$(word "$pull/applied")
    newest=$(word "$pull/newest")
    if [ -n "$newest" ] && [ "$have" != "$newest" ]; then printf 'revision %s %s update\n' "${have:-none}" "$newest"; fi
    [ -n "$have" ] || return 0
    rm -f "$pull/drifted"
    if ! g cat-file -e refs/sallyport/applied 2>/dev/null; then
        tell "unprepared $have, which this device has applied, is not at hand any more: whether it drifted is not known"
        return 0
    fi
    # A signature that no longer counts is no reason to refuse what is newer.
    if ! signed refs/sallyport/applied; then
        tell "unprepared whether this device drifted is not known: $wrong"
        return 0
    fi
    if ! unpack refs/sallyport/applied; then
        # Its server may have what is damaged here; it is asked once.
        if [ "$reached" = yes ]; then
            reached=no
            agent_refresh && agent_pending
            return
        fi
        tell "unprepared $have is damaged here, and is fetched anew as soon as its server answers: $(shown unpack.log)"
        printf 'the copy of the repository is damaged\n' >pending.log
        return 1
    fi
    if apply pending.log --check && [ "$changes" = 0 ]; then return 0; fi
    printf '%s\n' -drifted >"$pull/drifted"
    printf 'drift %s %s update\n' "$(agent_version drift)" "$have"
}

agent_needs() {
    awk '{print $1}' ready | while read -r name; do
        ref=refs/sallyport/newest
        [ "$name" = revision ] || ref=refs/sallyport/applied
        g ls-tree -r -l "$ref" | awk -v p="$pull" '{s += $4 / 1024 + 4} END {printf "%s %d\n", p, s + 1024}'
    done
}

# A new revision mends what drifted, too.
agent_fetch() {
    if grep -q '^revision ' ready; then
        grep '^revision ' ready >ready.new
        mv -f ready.new ready
    fi
    ref=refs/sallyport/newest
    if grep -q '^drift ' ready; then ref=refs/sallyport/applied; fi
    if ! unpack "$ref"; then
        [ ! -e "$pull/damaged" ] || finish failed "$ref is damaged here, and is fetched anew: $(shown unpack.log)"
        : >ready
    fi
}

# --- applying it --------------------------------------------------------------------------------------------------------

# apply LOG ARGUMENT...: the playbook of $tree on this very device. $changes is how many tasks changed something.
apply() {
    case $PULL_PLAYBOOK in
        */* | *.yml | *.yaml) play "$@" "$tree/$PULL_PLAYBOOK" ;;
        *) play "$@" "$PULL_PLAYBOOK" ;;
    esac
}

# play LOG ARGUMENT...: Ansible with our settings; the name in commit's label tells these changes from an operator's. harden.yml
# leaves the update agent out of it: what the site chose for its other devices would take this one's place.
play() {
    log=$1
    shift
    rm -f "$log"
    (umask 077 && : >"$log")
    (
        cd "$tree"
        exec env -i PATH="$PATH" HOME=/root LC_ALL=C.UTF-8 LOGNAME=sallyport-pull XDG_CACHE_HOME="$pull/cache" \
            PYTHONDONTWRITEBYTECODE=1 ANSIBLE_CONFIG="$here/pull/ansible.cfg" ANSIBLE_NOCOLOR=1 \
            "$PULL_ANSIBLE" -i "$tree/$PULL_INVENTORY" --limit "$PULL_HOST" \
            -e '{"ansible_connection": "local", "sallyport_updates": false}' "$@"
    ) >>"$log" 2>&1 </dev/null || return 1
    changes=$(sed -n "s/^$PULL_HOST  *: .* changed=\([0-9]*\) .*/\1/p" "$log" | tail -n 1)
    [ -n "$changes" ] || printf 'no play of %s is for %s\n' "$PULL_PLAYBOOK" "$PULL_HOST" >>"$log"
    [ -n "$changes" ]
}

# reason LOG: why a run failed, in one line.
reason() {
    {
        sed -n '/WHAT WENT WRONG/,$p' "$1" | sed '1d' | grep -v '^[*= ]*$' | head -n 1
        grep -E '^(fatal|\[ERROR\]|ERROR!|no play)' "$1"
        tail -n 1 "$1"
    } >reason 2>/dev/null || :
    shown reason
}

# The number of commit's newest generation, 0 where there is none.
generation() {
    number=0
    for one in "$COMMITS"/generation/*; do
        one=${one##*/}
        case $one in *[!0-9]*) continue ;; esac
        [ "$one" -le "$number" ] || number=$one
    done
    printf '%s' "$number"
}

# way_back NUMBER: everything that this agent has changed since then. Somebody else's change in between is not undone for it.
way_back() {
    newest=$(generation)
    number=$1
    [ "$newest" -gt "$number" ] || return 0
    while [ "$number" -lt "$newest" ]; do
        number=$((number + 1))
        case $(sed -n 2p "$COMMITS/generation/$number/label" 2>/dev/null) in
            'sallyport-pull on '*) ;;
            *)
                tell "unprepared generation $number is not this agent's, so nothing was taken back"
                return 1
                ;;
        esac
    done
    # By what has proven itself, where there is such a thing.
    for ref in refs/sallyport/applied refs/sallyport/newest; do
        g cat-file -e "$ref" 2>/dev/null || continue
        if unpack "$ref" && play back.log -e "to=$1" -e "sallyport_state_dir=$COMMITS" sallyport.iot.rollback; then return 0; fi
    done
    return 1
}

# reachable: what cannot be reached any more cannot mend this device, should the revision be a bad one. Asked only where it
# could be reached before.
reachable() {
    [ "$reached" = yes ] || return 0
    begun=$(uptime_seconds)
    tries=1
    until systemctl start sallyport-pull@reach.service >reach.log 2>&1; do
        # Twice at least, however long one takes.
        if [ "$tries" -gt 1 ] && [ $(($(uptime_seconds) - begun)) -ge "$HEALTH_SECONDS" ]; then return 1; fi
        tries=$((tries + 1))
        sleep 1
    done
}

# applied REF: that is what this device has now.
applied() {
    g update-ref refs/sallyport/applied "$1"
    keep "$pull/applied.signed" "$(g rev-parse refs/sallyport/applied)"
    keep "$pull/applied" "$(g rev-parse 'refs/sallyport/applied^{commit}')"
    keep "$pull/applied.since" "$now"
}

# A hold forgets what was installed under its name; which revision this device has is known all the same.
say_applied() {
    [ -s "$pull/applied" ] || return 0
    printf 'revision %s %s\n' "$(word "$pull/applied")" "$(word "$pull/applied.since")" >>installed
}

# A revision is applied whole, or not at all. What was taken back because it harmed is not tried again; drift is.
agent_install() {
    read -r name old new _ <ready
    before=$(generation)
    keep "$pull/begun" "$name $new $before"
    keep "$pull/before" "$before $old"
    taken_back=$(word "$COMMITS/reverted/id")
    why=''
    if ! apply install.log; then
        why=$(reason install.log)
    elif ! reachable; then
        why="$PULL_URL answered before, and does not any more"
    fi
    if [ -n "$why" ]; then
        harmed=no
        if [ "$(generation)" != "$before" ] || [ "$(word "$COMMITS/reverted/id")" != "$taken_back" ]; then harmed=yes; fi
        if [ "$name" = revision ] && [ "$harmed" = yes ]; then
            if way_back "$before"; then
                rm -f "$pull/begun"
                hold revision "$new" "$why"
                say_applied
                rm -f working ./*.before
                finish rolled_back "revision $new: $why; the device is as it was before"
            fi
            hold revision "$new" "$why"
            say_applied
        fi
        rm -f "$pull/begun" working ./*.before
        finish failed "$name $new: $why"
    fi
    if [ "$name" = revision ]; then
        g update-ref refs/sallyport/before refs/sallyport/applied 2>/dev/null || :
        applied refs/sallyport/newest
        # Drift from what is no longer applied is none.
        for list in held pending; do
            { grep -v '^drift ' "$list" || :; } >"$list.new"
            mv -f "$list.new" "$list"
        done
    fi
    rm -f "$pull/drifted" "$pull/begun"
    # Which services run is what revisions are about; that none has failed is still asked.
    rm -f services.before
}

# agent_back NAME VERSION: the device is not well since then, by its own checks.
agent_back() {
    # shellcheck disable=SC2046 # two words
    set -- "$1" $(cat "$pull/before")
    way_back "$2" || return 1
    if [ "$1" = drift ]; then
        printf '%s\n' -drifted >"$pull/drifted"
    elif [ "$3" = none ]; then
        rm -f "$pull/applied" "$pull/applied.signed"
        g update-ref -d refs/sallyport/applied
    else
        applied refs/sallyport/before
        say_applied
    fi
}

# Drift may be why a device is sick, and a revision is all that its operator can send.
agent_mends() { :; }

# What comes over the network is asked for and kept before anything is chosen.
agent_holds() { :; }

agent_restart_services() { :; }

agent_wants_reboot() { [ -e /run/reboot-required ]; }
