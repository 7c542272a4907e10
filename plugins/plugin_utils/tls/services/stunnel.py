# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""stunnel: a TLS front for devices that have no nginx, started by BusyBox init."""

from __future__ import annotations

from ansible_collections.sallyport.iot.plugins.plugin_utils.access import shell
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import mozilla
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.services.base import Plan, Refused, Site
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.services.paths import (
    BANNER,
    CERT,
    CLIENT_CA,
    CLIENT_CRL,
    KEY,
    STUNNEL,
)

FILE = STUNNEL
# init reads its table, without our line, before it looks for who has ended. There may be others of somebody else's.
DROP = (
    "kill -HUP 1\nfor pid in $(pidof stunnel4 || :) $(pidof stunnel || :); do\n"
    f"  case $(tr '\\0' ' ' <\"/proc/$pid/cmdline\" || :) in *' {STUNNEL} '*) kill \"$pid\" || : ;; esac\ndone"
)


def add(plan: Plan, site: Site) -> None:
    wanted = site.wanted
    if site.device.get("init") != "busybox" or site.inittab is None:
        raise Refused(
            "tls_front stunnel is started by /etc/inittab, and this device has "
            + ("systemd" if site.device.get("init") == "systemd" else "none")
            + ". Install nginx"
        )
    if not wanted.upstream:
        raise Refused("tls_front stunnel needs tls_upstream: it serves no files itself")
    site.refuse_strangers(
        wanted.port,
        "stunnel4",
        "stunnel",
        wanted_for="stunnel is to have as the TLS front",
        otherwise="set tls_port to another one",
    )
    # To syslog, which throws old lines away, and only what went wrong: a file in memory would grow with each connection.
    lines = ["foreground = quiet", "pid =", "syslog = yes", "debug = 4", "[web]"]
    lines += [f"accept = {':::' if site.six else ''}{wanted.port}", f"connect = {wanted.upstream}"]
    lines += [f"cert = {CERT}", f"key = {KEY}", *mozilla.stunnel(wanted.profile)]
    if wanted.client_ca:
        lines += ["verifyChain = yes", f"CAfile = {CLIENT_CA}"]
        lines += [f"CRLfile = {CLIENT_CRL}"] if wanted.client_crl else []
    plan.files.append({"dest": STUNNEL, "content": BANNER + "\n".join(lines) + "\n", "mode": "0644"})
    plan.services["stunnel"] = wanted.port
    plan.verify.append(shell.somebody_listens([("tcp", wanted.port)]))


def line(site: Site) -> str:
    """What init is to start."""
    program = site.has.get("stunnel", "")
    return f"::respawn:{program if program.startswith('/') else '/usr/bin/stunnel4'} {STUNNEL}"
