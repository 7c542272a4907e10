#!/bin/sh
# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
#
# Gives the device's services their certificate; lives at /etc/sallyport/tls/deploy.
#
#   deploy take FOLDER   a new pair from FOLDER (fullchain.pem, privkey.pem) becomes the device's, if its services take it
#   deploy certbot       the same, as certbot's deploy hook (RENEWED_LINEAGE names the folder); another lineage than the one
#                        that the file `lineage` names is left alone: certbot goes on renewing what nobody wants any more
#   deploy reload        services read what is there
#   deploy open|close    port 80 for a challenge, in the gate of the firewall; the kernel closes it after ten minutes
#
# A pair that a service refuses is put away again, and the old one goes on being served. The last line of `status` says
# how the last deployment ended: "ok TIME" or "failed TIME REASON"; the audit reads it.
set -eu
umask 077
LC_ALL=C
PATH="${PATH:-}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
export LC_ALL PATH
HERE=/etc/sallyport/tls
CERT=$HERE/fullchain.pem
KEY=$HERE/privkey.pem
REASON=''
INTERRUPTED='it was interrupted'

systemd() { [ -d /run/systemd/system ]; }
have() { command -v "$1" >/dev/null 2>&1; }
fail() { REASON=$*; printf 'sallyport-tls: %s\n' "$*" >&2; return 1; }
last() { tail -n 5 | tr '\n' ' '; }

# copy FILE TARGET OWNER MODE: whole, or not at all. Callers test the result, so -e is off in here.
copy() {
    if mkdir -p "${2%/*}" && cp "$1" "$2" && chown "$3" "$2" && chmod "$4" "$2" && cmp -s "$1" "$2"; then return 0; fi
    rm -f "$2"
    fail "$2 could not be written: is the disk full?"
    return 1
}

# put FILE TARGET OWNER MODE: a whole file or the old one, never a part of one
put() { copy "$1" "$2.new" "$3" "$4" && mv -f "$2.new" "$2"; }

# keep FILE: as FILE.old, a second name that needs no space where the file system has them
keep() { ln "$1" "$1.old" 2>/dev/null || { cp -p "$1" "$1.old.new" && cmp -s "$1" "$1.old.new" && mv -f "$1.old.new" "$1.old"; }; }

back() { # FILE: what was kept of it counts again; two names of one file are not renamed, so one goes
    # shellcheck disable=SC3013 # dash and every ash have -ef
    [ "$1.old" -ef "$1" ] || mv -f "$1.old" "$1"
    rm -f "$1.old"
}

again() { # UNIT: a start, whatever failed just now; systemd refuses the sixth within seconds
    systemctl reset-failed "$1" 2>/dev/null || :
    systemctl restart "$1" 2>&1
}

matches() { # a key of another certificate would take every service down at its next start
    have openssl || return 0
    public=$(openssl x509 -in "$1" -noout -pubkey 2>/dev/null) || return 1
    [ "$public" = "$(openssl pkey -in "$2" -pubout 2>/dev/null)" ]
}

serves() { # PORT: is it this certificate that clients get?
    if ! have openssl; then return 0; fi
    want=$(openssl x509 -in "$CERT" -noout -fingerprint -sha256)
    # Who takes a connection and then says nothing is not waited for; older BusyBoxes want the seconds behind an option.
    limit=''
    if timeout 4 true 2>/dev/null; then limit='timeout 4'; elif timeout -t 4 true 2>/dev/null; then limit='timeout -t 4'; fi
    left=40
    while :; do
        code=0
        # shellcheck disable=SC2086 # words
        got=$($limit openssl s_client -connect "127.0.0.1:$1" </dev/null 2>/dev/null) || code=$?
        got=$(printf '%s\n' "$got" | openssl x509 -noout -fingerprint -sha256 2>/dev/null) || got=''
        [ "$got" != "$want" ] || return 0
        [ "$left" -gt 0 ] || return 1
        case $code in 124 | 143) left=$((left - 15)) ;; esac # cut off: it took as long as many
        left=$((left - 1))
        sleep 0.25 2>/dev/null || sleep 1
    done
}

service_nginx() {
    out=$(nginx -t -q 2>&1) || { fail "nginx refuses its configuration: $(printf '%s' "$out" | last)"; return 1; }
    # A reload starts new workers and lets the old ones finish what they serve.
    if systemd; then
        out=$(systemctl reload-or-restart nginx 2>&1) || { fail "nginx does not reload: $(printf '%s' "$out" | last)"; return 1; }
    else
        out=$(nginx -s reload 2>&1 || nginx 2>&1) || { fail "nginx does not reload: $(printf '%s' "$out" | last)"; return 1; }
    fi
}

service_mosquitto() {
    # It reads them again after it has become its own user.
    put "$CERT" /etc/mosquitto/certs/sallyport.crt mosquitto:mosquitto 0644 || return 1
    put "$KEY" /etc/mosquitto/certs/sallyport.key mosquitto:mosquitto 0600 || return 1
    if systemctl -q is-active mosquitto && [ "$(cat "$HERE/mosquitto.loaded" 2>/dev/null || :)" = "$(cksum </etc/mosquitto/conf.d/sallyport.conf)" ]; then
        systemctl kill -s HUP --kill-who=main mosquitto # certificates only: sessions live on
    else
        out=$(again mosquitto) || { fail "mosquitto does not start: $(journalctl -u mosquitto -n 5 -o cat --no-pager 2>/dev/null | last)"; return 1; }
        cksum </etc/mosquitto/conf.d/sallyport.conf >"$HERE/mosquitto.loaded"
    fi
}

service_lighttpd() {
    put "$CERT" /etc/lighttpd/sallyport/fullchain.pem www-data:www-data 0644 || return 1
    put "$KEY" /etc/lighttpd/sallyport/privkey.pem www-data:www-data 0600 || return 1
    chown www-data:www-data /etc/lighttpd/sallyport
    out=$(lighttpd -tt -f /etc/lighttpd/lighttpd.conf 2>&1) || { fail "lighttpd refuses its configuration: $(printf '%s' "$out" | last)"; return 1; }
    if systemctl -q is-active lighttpd && [ "$(cat "$HERE/lighttpd.loaded" 2>/dev/null || :)" = "$(cat /etc/lighttpd/lighttpd.conf /etc/lighttpd/conf-enabled/* | cksum)" ]; then
        # Another process finishes what it serves. It goes on as its own user, who may write the file with its number only now.
        trouble=''
        number=$(lighttpd -p -f /etc/lighttpd/lighttpd.conf 2>/dev/null | sed -n 's/^[^#]*server\.pid-file"* *= "\(.*\)"$/\1/p')
        if [ -f "$number" ]; then
            roots=$(find "$number" -user root)
            # Whoever is killed from here on leaves word whose file it is.
            printf '%s' "$roots" >"$HERE/lighttpd.asked"
            [ -z "$roots" ] || chown www-data "$number"
        fi
        out=$(systemctl reload lighttpd 2>&1) || trouble="lighttpd does not reload: $(printf '%s' "$out" | last)"
        if [ -f "$number" ]; then
            left=40
            while [ -z "$trouble" ] && [ -z "$(find "$number" -newer "$HERE/lighttpd.asked")" ]; do
                [ "$left" -gt 0 ] || trouble="lighttpd does not come back from a reload"
                left=$((left - 1))
                sleep 0.25 2>/dev/null || sleep 1
            done
            [ -z "$roots" ] || chown root "$number"
            rm -f "$HERE/lighttpd.asked"
        fi
        [ -z "$trouble" ] || { fail "$trouble"; return 1; }
    else
        out=$(again lighttpd) || { fail "lighttpd does not start: $(journalctl -u lighttpd -n 5 -o cat --no-pager 2>/dev/null | last)"; return 1; }
        cat /etc/lighttpd/lighttpd.conf /etc/lighttpd/conf-enabled/* | cksum >"$HERE/lighttpd.loaded"
    fi
}

sockets() { # PORT: those that listen there, by number
    hex=$(printf '%04X' "$1")
    for table in /proc/net/tcp /proc/net/tcp6; do
        [ -r "$table" ] || continue
        while read -r _ address _ state _ _ _ _ _ inode _; do
            case $state:$address in 0A:*":$hex") printf '%s ' "$inode" ;; esac
        done <"$table"
    done
}

service_stunnel() { # PORT: a front for what cannot do TLS; init keeps it running
    # What it refuses leaves its sockets as they are; else it opens new ones. So nothing has to be written down for each connection.
    before=$(sockets "$1")
    running=''
    for pid in $(pidof stunnel4 || :) $(pidof stunnel || :); do # there may be others of somebody else's
        case $(tr '\0' ' ' <"/proc/$pid/cmdline" || :) in *" $HERE/stunnel.conf "*) kill -HUP "$pid" && running=yes ;; esac
    done
    [ -n "$running" ] || kill -HUP 1
    left=15
    while now=$(sockets "$1"); [ -z "$now" ] || [ "$now" = "$before" ]; do
        if [ "$left" = 12 ] && why=$(stunnel_refuses); then fail "stunnel refuses its configuration: $why"; return 1; fi
        [ "$left" -gt 0 ] || { fail "stunnel does not listen on port $1 again"; return 1; }
        left=$((left - 1))
        sleep 1
    done
}

stunnel_refuses() { # and why: one more is started, which ends at the port that is taken, if not before
    sed -e 's/^foreground = .*/foreground = yes/' -e 's/^syslog = .*/syslog = no/' -e 's/^debug = .*/debug = 5/' \
        "$HERE/stunnel.conf" >"$HERE/stunnel.asked"
    "$(command -v stunnel4 || command -v stunnel)" "$HERE/stunnel.asked" >"$HERE/stunnel.said" 2>&1 &
    patience=5
    while kill -0 "$!" 2>/dev/null && [ "$patience" -gt 0 ]; do
        patience=$((patience - 1))
        sleep 1
    done
    kill "$!" 2>/dev/null || :
    if grep -q 'Configuration successful' "$HERE/stunnel.said"; then refused=1; else refused=0; fi
    grep '^\[!\]' "$HERE/stunnel.said" | last
    rm -f "$HERE/stunnel.asked" "$HERE/stunnel.said"
    return "$refused"
}

reload() {
    [ -f "$HERE/services" ] || return 0
    while read -r name port <&3; do
        "service_$name" "$port" || return 1
        [ "$port" = 0 ] || serves "$port" || { fail "$name does not serve the new certificate on port $port"; return 1; }
    done 3<"$HERE/services"
}

state() { # STATE REASON; a full disk keeps the last one, on which nothing that is served depends
    { printf '%s %s %s\n' "$1" "$(date +%s)" "$2" >"$HERE/status.new" && mv -f "$HERE/status.new" "$HERE/status"; } || rm -f "$HERE/status.new"
}

note() { # STATE REASON
    state "$1" "$2"
    if have logger; then logger -t sallyport-tls -- "$1 $2" || :; fi
}

take() {
    if [ ! -f "$1/fullchain.pem" ] || [ ! -f "$1/privkey.pem" ]; then fail "$1 holds no certificate"; return 1; fi
    if cmp -s "$1/fullchain.pem" "$CERT" 2>/dev/null && cmp -s "$1/privkey.pem" "$KEY" 2>/dev/null; then return 0; fi
    matches "$1/fullchain.pem" "$1/privkey.pem" || { fail "the key in $1 is not the certificate's"; return 1; }
    rm -f "$CERT.old" "$KEY.old"
    # All that needs space comes before anything that counts.
    copy "$1/privkey.pem" "$KEY.new" root:root 0600 || return 1
    copy "$1/fullchain.pem" "$CERT.new" root:root 0644 || { rm -f "$KEY.new"; return 1; }
    if [ -f "$CERT" ] && [ -f "$KEY" ] && ! { keep "$KEY" && keep "$CERT"; }; then
        rm -f "$KEY.new" "$CERT.new" "$CERT.old" "$KEY.old" "$KEY.old.new" "$CERT.old.new"
        fail "the old pair could not be kept beside the new one: is the disk full?"
        return 1
    fi
    # Who is killed from here on leaves this for the audit, and for the next run.
    state failed "$INTERRUPTED"
    sync
    mv -f "$KEY.new" "$KEY"
    mv -f "$CERT.new" "$CERT"
    sync
    if (reload) 2>"$HERE/said"; then
        rm -f "$CERT.old" "$KEY.old" "$HERE/said"
        return 0
    fi
    why=$(last <"$HERE/said")
    rm -f "$HERE/said"
    if [ -f "$CERT.old" ]; then
        back "$KEY"
        back "$CERT"
        reload || fail "even the old certificate cannot be loaded again: $REASON"
    fi
    fail "$why; the old certificate is still served"
}

gate() { # open|close
    if have nft && nft list set inet sallyport gate >/dev/null 2>&1; then
        case $1 in
            open) nft 'add element inet sallyport gate { 80 timeout 600s }' ;;
            close) nft 'delete element inet sallyport gate { 80 }' 2>/dev/null || : ;;
        esac
    elif have ipset && ipset list -t sallyport-gate >/dev/null 2>&1; then
        case $1 in
            open) ipset -exist add sallyport-gate 80 timeout 600 ;;
            close) ipset -exist del sallyport-gate 80 ;;
        esac
    else
        fail "the firewall in force has no gate: the challenge finds port 80 closed"
    fi
}
case $1 in open | close) gate "$1"; exit ;; esac

if [ "$1" = certbot ]; then
    wanted=$(cat "$HERE/lineage" 2>/dev/null || :)
    if [ "${RENEWED_LINEAGE##*/}" != "$wanted" ]; then
        said="certbot renewed ${RENEWED_LINEAGE##*/}, which is not what is served here (${wanted:-none of its own}): left alone"
        printf 'sallyport-tls: %s\n' "$said"
        if have logger; then logger -t sallyport-tls -- "$said" || :; fi
        exit 0
    fi
fi

# Two at once (certbot's timer and a run) would mix their pairs.
LOCK=/run/sallyport-tls.lock
if have flock && [ "${SALLYPORT_LOCKED:-}" != "$LOCK" ]; then
    SALLYPORT_LOCKED=$LOCK exec flock "$LOCK" /bin/sh "$0" "$@"
fi
if [ -s "$HERE/lighttpd.asked" ]; then
    # Killed while lighttpd had been lent its process number: root's programs kill by it.
    number=$(cat "$HERE/lighttpd.asked")
    [ ! -f "$number" ] || chown root "$number"
    rm -f "$HERE/lighttpd.asked"
fi
if [ -f "$CERT.old" ] && [ "$1" != reload ]; then
    # Killed between two pairs: the old one first, its key before its certificate, then on.
    [ ! -f "$KEY.old" ] || back "$KEY"
    back "$CERT"
fi
case $1 in
    take) if take "$2"; then note ok ''; else note failed "$REASON"; exit 1; fi ;;
    certbot) if take "$RENEWED_LINEAGE"; then note ok ''; else note failed "$REASON"; exit 1; fi ;;
    reload) if reload; then note ok ''; else note failed "$REASON"; exit 1; fi ;;
    *) printf 'sallyport-tls: unknown command: %s\n' "$1" >&2; exit 2 ;;
esac
