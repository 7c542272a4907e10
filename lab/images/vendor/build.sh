#!/bin/sh
# Picks the gateway's root file system, /out, from installed and extracted Debian packages; runs while the image is built.
# usage: build.sh "NAME:PASSWORD ..." [PROGRAM ...]     PROGRAMs are taken along too
#
# Two BusyBoxes, because of what Debian builds into each: the dynamic one obeys PATH and is the shell and the tools;
# the static one has init, telnetd, su, login and passwd, which the other lacks. Its ash ignores PATH, so it is no shell here.
set -eu

out=/out
mkdir -p "$out/bin" "$out/sbin" "$out/usr/bin" "$out/usr/sbin" "$out/lib" "$out/etc/dropbear" "$out/root" \
    "$out/home/admin" "$out/proc" "$out/sys" "$out/dev" "$out/run" "$out/tmp" "$out/var/log" "$out/var/lib" "$out/mnt"
chmod 0700 "$out/root"
chmod 1777 "$out/tmp"
ln -s ../run "$out/var/run"

# copy FILE...: the file with every library it loads, at the paths it expects.
copy() {
    for file in "$@"; do
        mkdir -p "$out$(dirname "$file")"
        cp -L "$file" "$out$file"
        ldd "$file" 2>/dev/null | sed -n 's|.*[[:space:]]\(/[^ ]*\) (.*|\1|p' | while read -r library; do
            mkdir -p "$out$(dirname "$library")"
            [ -e "$out$library" ] || cp -L "$library" "$out$library"
        done
    done
}

copy /bin/busybox
/bin/busybox --list-full | while read -r applet; do
    case $applet in linuxrc | bin/dpkg | bin/rpm | usr/bin/dpkg | usr/bin/rpm) continue ;; esac
    mkdir -p "$out/$(dirname "$applet")"
    [ -e "$out/$applet" ] || ln -s /bin/busybox "$out/$applet"
done
cp /extra/bin/busybox "$out/bin/busybox-static"
cp /extra/bin/busybox "$out/bin/busybox-suid"
chmod 4755 "$out/bin/busybox-suid"
for applet in sbin/init usr/sbin/telnetd; do ln -sf /bin/busybox-static "$out/$applet"; done
for applet in bin/su bin/login usr/bin/passwd; do ln -sf /bin/busybox-suid "$out/$applet"; done

accounts=$1
shift
copy "$@" /usr/sbin/dropbear /usr/bin/dropbearkey /usr/sbin/minissdpd /usr/sbin/xtables-legacy-multi /usr/sbin/ipset
for tool in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
    ln -sf xtables-legacy-multi "$out/usr/sbin/$tool"
done
modules=$(dirname "$(find /usr/lib -name libxt_conntrack.so)")
mkdir -p "$out$modules"
cp "$modules"/libxt_*.so "$modules"/libipt_*.so "$modules"/libip6t_*.so "$out$modules/"
for module in "$modules"/libxt_*.so; do copy "$module"; done

cp /etc/services /etc/protocols "$out/etc/"
printf 'root:x:0:0:root:/root:/bin/sh\nadmin:x:1000:1000:admin:/home/admin:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$out/etc/passwd"
printf 'root:x:0:\nadmin:x:1000:\nnogroup:x:65534:\n' >"$out/etc/group"
: >"$out/etc/shadow"
chmod 0600 "$out/etc/shadow"
for account in $accounts; do
    # md5crypt, as gateways of that age have it
    hash=$(perl -e 'print crypt($ARGV[0], q($1$sallypor$))' "${account#*:}")
    printf '%s:%s:19000:0:99999:7:::\n' "${account%%:*}" "$hash" >>"$out/etc/shadow"
done
printf 'nobody:*:19000:0:99999:7:::\n' >>"$out/etc/shadow"
chown 1000:1000 "$out/home/admin"
printf '/bin/sh\n' >"$out/etc/shells"
: >"$out/etc/resolv.conf"
printf 'ID=gatewayos\nNAME="Gateway OS"\nPRETTY_NAME="Gateway OS 4.2 (lab)"\nVERSION_ID="4.2"\n' >"$out/etc/os-release"
