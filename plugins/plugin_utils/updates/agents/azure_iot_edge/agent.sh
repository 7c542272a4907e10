# shellcheck shell=sh
# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# Azure IoT Edge, on top of unattended-upgrades: its packages bring services and users, and its own program makes the services'
# configuration of the one file that an operator writes.

after_packages() { runtime_apply; }

runtime_apply() {
    if [ -z "$(agent_version aziot-edge)" ]; then return 0; fi
    # The service that keeps keys has a user of its own, which came with the package.
    # shellcheck disable=SC2154 # settings has them
    for key in $EDGE_KEYS; do chown aziotks "$key"; done
    # shellcheck disable=SC2086 # names of files
    applied="$(agent_version aziot-edge) $(cat /etc/aziot/config.toml $EDGE_FILES | sha256sum | cut -c 1-64)"
    if [ "$(cat /var/lib/sallyport-updates/iot-edge 2>/dev/null)" = "$applied" ]; then
        systemctl is-active -q aziot-edged.service || systemctl start aziot-edged.service
        return
    fi
    rm -f /var/lib/sallyport-updates/iot-edge
    said=$(iotedge config apply 2>&1) || {
        printf 'iotedge config apply: %s\n' "$(printf '%s' "$said" | tail -n 1)" >&2
        return 1
    }
    systemctl restart aziot-edged.service
    mkdir -p /var/lib/sallyport-updates
    printf '%s' "$applied" >/var/lib/sallyport-updates/iot-edge
}
