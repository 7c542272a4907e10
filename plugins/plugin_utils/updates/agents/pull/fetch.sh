#!/bin/sh
# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# Asks the repository of the pull agent, as a user of its own in a unit that can write one folder. Nothing here is believed:
# what came is handed on as a bundle, and agent.sh verifies it. usage: fetch.sh fetch|forget|reach
set -eu
here=/usr/local/lib/sallyport/updates
# shellcheck source=/dev/null
. "$here/settings"
cd /var/lib/sallyport-updates/pull/incoming
exec >log 2>&1

given=/var/lib/sallyport-updates/pull/given
HOME=$PWD
LC_ALL=C
GIT_CONFIG_NOSYSTEM=1
GIT_CONFIG_GLOBAL=/dev/null
GIT_TERMINAL_PROMPT=0
GIT_ASKPASS=/bin/false
# What an address of the repository may lead to: no helper program, whatever its name says.
GIT_ALLOW_PROTOCOL=https:ssh:file:http:git
GIT_SSH_COMMAND="ssh -F /dev/null -o BatchMode=yes -o IdentitiesOnly=yes -o IdentityAgent=none -o IdentityFile=$given/key \
-o StrictHostKeyChecking=yes -o UserKnownHostsFile=$given/known_hosts -o GlobalKnownHostsFile=/dev/null -o UpdateHostKeys=no \
-o ConnectTimeout=30 -o ServerAliveInterval=15 -o ServerAliveCountMax=4"
export HOME LC_ALL GIT_CONFIG_NOSYSTEM GIT_CONFIG_GLOBAL GIT_TERMINAL_PROMPT GIT_ASKPASS GIT_ALLOW_PROTOCOL GIT_SSH_COMMAND
if [ -f "$given/ca.pem" ]; then export GIT_SSL_CAINFO="$given/ca.pem"; fi
if [ -f "$given/proxy" ]; then
    http_proxy=$(cat "$given/proxy")
    https_proxy=$http_proxy
    export http_proxy https_proxy
fi

# Whatever the server sends, so much stays free: git is told that a file is too large, in blocks of 512 bytes. The same is here, in
# the bundle and in root's copy, each with an index: a fourth for each. Without the trap it would be killed, and could not say why.
trap '' XFSZ
ulimit -f "$(($(cat ../room) / 2))"
# Nor does it take all memory: what comes can unfold to many times its size.
# shellcheck disable=SC3045 # dash and BusyBox have it
ulimit -v "$(awk '$1 == "MemAvailable:" {m = int($2 * 3 / 4)} END {print (m > 262144 ? m : 262144)}' /proc/meminfo)"

# forget: what came was not believed, or a fetch was cut short: it goes before anything else comes.
forget() {
    have=$(git rev-parse --quiet --verify refs/incoming || :)
    if [ -n "$have" ] && [ "$have" != "$known" ]; then
        git update-ref -d refs/incoming
        if [ -n "$known" ] && git cat-file -e "$known" 2>/dev/null; then git update-ref refs/incoming "$known"; fi
        git -c gc.reflogExpire=now gc --quiet --prune=now || :
    fi
    rm -f objects/pack/tmp_*
}

case ${1:-} in
    reach) timeout 20 git ls-remote --quiet --exit-code "$PULL_URL" "$PULL_REF" >/dev/null ;;
    fetch)
        known=$(cat ../known)
        rm -f bundle tip
        [ -d git ] || git init --quiet --bare --template= git
        cd git
        forget
        git -c core.bigFileThreshold=1m -c pack.threads=1 -c http.lowSpeedLimit=100 -c http.lowSpeedTime=60 -c fetch.fsckObjects=true -c fetch.unpackLimit=1 fetch --quiet --force --no-tags --no-recurse-submodules \
            --no-write-fetch-head --no-auto-maintenance "$PULL_URL" "+$PULL_REF:refs/incoming"
        tip=$(git rev-parse refs/incoming)
        if [ "$tip" != "$known" ]; then
            if [ -n "$known" ] && git cat-file -e "$known" 2>/dev/null; then
                # A revision that is part of the known one has nothing to bring, and its name alone says so.
                git bundle create --quiet ../bundle refs/incoming "^$known" || rm -f ../bundle
            else
                git bundle create --quiet ../bundle refs/incoming
            fi
        else
            git -c gc.autoDetach=false -c gc.autoPackLimit=20 gc --quiet --auto || :
        fi
        printf '%s\n' "$tip" >../tip
        ;;
    forget)
        known=$(cat ../known)
        cd git
        forget
        ;;
    *)
        printf 'usage: fetch.sh fetch|forget|reach\n' >&2
        exit 2
        ;;
esac
