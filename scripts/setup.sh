#!/bin/sh
# Sets up everything that the lab, the demo and the tests need on a bare Debian 12 or later: Debian packages, a Python
# environment in .venv, the images of the lab's devices. Quick when all of it is there.
# usage: scripts/setup.sh [--no-images|--all-images]      default: images of the standard fleet
set -eu
cd -- "$(dirname -- "$0")/.."

packages="podman netavark mmdebstrap debian-archive-keyring nftables iptables ipset iproute2 conntrack nmap sshpass \
openssh-client python3-venv procps git shellcheck busybox gcc libc6-dev e2fsprogs testssl.sh"
# Where cgroups are v1 or hybrid, crun cannot start systemd in a container.
[ -e /sys/fs/cgroup/cgroup.controllers ] || packages="$packages runc"
images=standard
case "${1:-}" in
    --no-images) images=no ;;
    --all-images) images=all ;;
esac

say() { printf 'setup: %s\n' "$*"; }
as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

missing=""
for package in $packages; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
    command -v apt-get >/dev/null || {
        printf 'setup: this script installs Debian packages, and apt-get is not here; needed:%s\n' "$missing" >&2
        exit 1
    }
    say "installing Debian packages:$missing"
    as_root apt-get update -qq
    # shellcheck disable=SC2086 # a list of package names
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
fi

stamp=$(cat pyproject.toml scripts/setup.sh | sha256sum | cut -c1-16)
if [ "$(cat .venv/setup-stamp 2>/dev/null)" != "$stamp" ]; then
    say "installing Python packages into .venv"
    [ -x .venv/bin/python ] || python3 -m venv .venv
    .venv/bin/python -m pip install --quiet --upgrade "pip>=25.1"
    .venv/bin/python -m pip install --quiet --group dev
    [ -x .venv/scanners/bin/python ] || .venv/bin/python -m venv .venv/scanners
    .venv/scanners/bin/python -m pip install --quiet --upgrade "pip>=25.1"
    .venv/scanners/bin/python -m pip install --quiet --group scanners
    printf '%s\n' "$stamp" >.venv/setup-stamp
fi

case $images in
    standard) as_root lab/lab images ;;
    all) as_root lab/lab images --all ;;
esac
say "ready"
