#!/bin/sh
# Turns an installed Debian into a device that is updated as a whole; runs while the image is built. Its agents are taken out
# again, and wait in /extra; what they need stays.
# usage: slots.sh "NAME:PASSWORD ..."
set -eu

for account in $1; do printf '%s\n' "$account" | chpasswd; done
rm -f /etc/init.d/swupdate # it wants to stop what does not run
for name in swupdate mender-client; do
    if [ -e "/var/lib/dpkg/info/$name.list" ]; then dpkg --purge "$name"; fi
done
rm -rf /etc/swupdate* /etc/mender /var/lib/mender
find /extra -mindepth 1 -maxdepth 1 ! -name '*.deb' -exec rm -rf {} +

rm -f /etc/ssh/ssh_host_* /var/lib/dbus/machine-id
: >/etc/machine-id
printf 'PermitRootLogin yes\n' >/etc/ssh/sshd_config.d/10-factory.conf
systemctl mask console-getty.service getty.target systemd-networkd-wait-online.service systemd-firstboot.service
printf '# No name server: the lab has no way out.\n' >/etc/resolv.conf

mkdir -p /system /slots/b /data
ln -sf /system/etc/sw-versions /etc/sw-versions
mkdir -p /etc/mender
ln -sf /system/etc/artifact_info /etc/mender/artifact_info
printf 'slot=a\nupgrade_available=0\nbootcount=0\nbootlimit=2\nustate=0\n' >/data/factory
for file in /data/uboot.env /data/uboot-redundant.env; do dd if=/dev/zero of="$file" bs=16384 count=1 2>/dev/null; done
fw_setenv -f /data/factory -s /data/factory
rm /data/factory
systemctl enable panel.service
ln -sf /usr/local/sbin/bootloader /sbin/init
