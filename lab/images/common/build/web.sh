#!/bin/sh
# Turns an installed Debian with a web server into a device as shipped; runs while the image is built.
# usage: web.sh "NAME:PASSWORD NAME:PASSWORD ..."
set -eu

for account in $1; do printf '%s\n' "$account" | chpasswd; done
rm -f /etc/ssh/ssh_host_*
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id

# Without a console these only fail, and then the boot counts as degraded.
systemctl mask console-getty.service getty.target systemd-networkd-wait-online.service systemd-firstboot.service
# The clock is the machine's own: nothing in a container may try to set it, but a test starts it with -x.
systemctl disable chrony.service systemd-timesyncd.service 2>/dev/null || :
systemctl enable nginx.service certbot.timer
if [ -d /etc/lighttpd ]; then
    sed -i 's/^server.port .*/server.port = 8080/' /etc/lighttpd/lighttpd.conf
    systemctl enable lighttpd.service
fi
[ ! -d /etc/mosquitto ] || systemctl enable mosquitto.service
sed -i 's/^#*PermitRootLogin .*/PermitRootLogin yes/' /etc/ssh/sshd_config
printf '<!doctype html><title>Gateway</title><h1>Gateway</h1>\n' >/var/www/html/index.html
rm -f /var/www/html/index.nginx-debian.html
printf '# No name server: the lab has no way out.\n' >/etc/resolv.conf
