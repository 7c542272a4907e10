# shellcheck shell=sh
# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# AWS IoT Greengrass nucleus, on top of unattended-upgrades: a package holds the vendor's unpacked archive, and the nucleus'
# own installer makes of it what runs. It runs again when the package or the configuration is another one.

after_packages() { runtime_apply; }

runtime_apply() {
    # shellcheck disable=SC2154 # settings has them
    root=$GG_ROOT user=$GG_USER group=$GG_GROUP
    version=$(agent_version greengrass-nucleus)
    if [ -z "$version" ]; then return 0; fi
    applied="$version $(sha256sum </etc/greengrass/config.yaml | cut -c 1-64)"
    if [ "$(cat "$root/.sallyport" 2>/dev/null)" = "$applied" ]; then
        systemctl is-active -q greengrass.service || systemctl start greengrass.service
        return
    fi
    getent group "$group" >/dev/null || groupadd --system "$group"
    getent passwd "$user" >/dev/null ||
        useradd --system --gid "$group" --home-dir "$root/work" --no-create-home --shell /usr/sbin/nologin "$user"
    systemctl stop greengrass.service 2>/dev/null || :
    mkdir -p "$root"
    chmod 755 "$root"
    # What an interrupted run left does not count as applied.
    rm -f "$root/.sallyport"
    (umask 077 && sed "s/@VERSION@/${version%%-*}/" /etc/greengrass/config.yaml >"$root/init-config.yaml")
    java -Droot="$root" -Dlog.store=FILE -jar /usr/lib/greengrass-nucleus/lib/Greengrass.jar \
        --init-config "$root/init-config.yaml" --component-default-user "$user:$group" \
        --setup-system-service false --start false >"$root/installer.log" 2>&1 || {
        tail -n 3 "$root/installer.log" >&2
        return 1
    }
    [ -f "$root/alts/current/distro/bin/loader" ] || {
        echo "the installer of the nucleus ended well and left no $root/alts/current/distro/bin/loader" >&2
        return 1
    }
    printf '%s' "$applied" >"$root/.sallyport"
    systemctl start greengrass.service
}
