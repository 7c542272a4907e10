#!/bin/sh
# Turns an installed Debian into a device as shipped; runs while the image is built.
# usage: debian.sh "NAME:PASSWORD NAME:PASSWORD ..."
set -eu

for account in $1; do
    name=${account%%:*}
    id "$name" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash --groups sudo "$name"
    printf '%s\n' "$account" | chpasswd
done

# Every device makes its own identity at its first boot, or is given its series' at the start of the lab.
rm -f /etc/ssh/ssh_host_*
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id

# Without a console these only fail, and then the boot counts as degraded.
systemctl mask console-getty.service getty.target systemd-networkd-wait-online.service systemd-firstboot.service

# The update agent is there, and nobody has switched it on.
rm -f /etc/apt/apt.conf.d/20auto-upgrades

cat >/etc/default/minissdpd <<'END'
START_DAEMON=1
MiniSSDPd_INTERFACE_ADDRESS="eth0 eth1"
MiniSSDPd_OTHER_OPTIONS="-6"
END
systemctl enable gateway-upnp.service minissdpd.service

printf '<!doctype html><title>Gateway</title><h1>Gateway</h1><p>Log in to configure.</p>\n' >/var/www/html/index.html
printf '# No name server: the lab has no way out.\n' >/etc/resolv.conf
