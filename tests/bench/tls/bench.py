#!/usr/bin/env python3
# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What certificates cost: the first one, a converged run, and renewing 50 of them on the lab's fleet.

usage: bench.py LAB_PREFIX [COUNT]
  (the lab must run: lab/lab up --prefix LAB_PREFIX --device tls11 --device tls12 --device tls13 --device tlsvendor)

COUNT certificates are spread over the Debian devices, and renewed there by certbot's own renewal, on all at once, each
with its deploy hook and a reload of nginx. The controller's way is the same number of requests, five at a time, as Ansible's
five forks would hand them over. The ACME server is the lab's own, without its pauses: what is measured is certbot, the
devices and the services.
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / ".collections"), str(CHECKOUT / "molecule/tls/tests")]

# Only now can these be found: the scenario's own helpers and the collection lie in the checkout.
from acme import Acme  # noqa: E402
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import certificates, controller, options  # noqa: E402
from fleet import DEBIAN, DEVICES, Fleet  # noqa: E402
from test_2_device import HOOK, RENEW  # noqa: E402

from lab.fleet import load  # noqa: E402
from lab.labs import Lab  # noqa: E402


def main() -> int:
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 50
    with tempfile.TemporaryDirectory(prefix="sallyport-bench-") as folder:
        lab = Lab(load(), sys.argv[1], print)
        acme = Acme(lab)
        fleet = Fleet(lab, acme, Path(folder))
        acme.names = {fleet.name(device): fleet.address(device) for device in DEVICES}
        acme.start()
        try:
            site = {"mode": "device", **fleet.from_acme()}
            roles(fleet, site)
            on_devices(fleet, count)
            on_controller(fleet, count)
        finally:
            acme.stop()
    return 0


def roles(fleet: Fleet, site: dict[str, Any]) -> None:
    limit = ":".join(DEBIAN)
    orders = fleet.acme.orders()
    first = fleet.play(limit, **site)
    assert first.status == 0, first.output
    each = ", ".join(f"{device} {first[device]['issue_seconds']} s" for device in DEBIAN)
    print(
        f"first run   {first.seconds:5.1f} s for {len(DEBIAN)} devices, Ansible's start included (issue: {each})"
    )
    issued = fleet.acme.orders()
    again = fleet.play(limit, **site)
    assert again.status == 0 and not any(again[device]["changed"] for device in DEBIAN), again.output
    print(
        f"converged   {again.seconds:5.1f} s for {len(DEBIAN)} devices; "
        f"ACME orders: {issued - orders} in the first run, {fleet.acme.orders() - issued} in this one"
    )


def on_devices(fleet: Fleet, count: int) -> None:
    share = {device: count // len(DEBIAN) + (i < count % len(DEBIAN)) for i, device in enumerate(DEBIAN)}

    def get(device: str) -> None:
        for number in range(1, share[device]):  # the role's own is one of them
            fleet.acme.dns(f"b{number}.{device}.lab", fleet.address(device))
            # The role's own hook takes the role's own certificate only.
            fleet.sh(
                device,
                "REQUESTS_CA_BUNDLE=/etc/sallyport/tls/acme-root.pem certbot certonly -q "
                "--deploy-hook '/bin/sh /etc/sallyport/tls/deploy take \"$RENEWED_LINEAGE\"' "
                f"-c /etc/sallyport/tls/certbot.ini --cert-name b{number} -d b{number}.{device}.lab",
            )

    def renew(device: str) -> float:
        began = time.monotonic()
        fleet.sh(device, f"{RENEW} --force-renewal")
        return time.monotonic() - began

    with ThreadPoolExecutor(len(DEBIAN)) as pool:
        list(pool.map(get, DEBIAN))
        orders, began = fleet.acme.orders(), time.monotonic()
        seconds = dict(zip(DEBIAN, pool.map(renew, DEBIAN), strict=True))
        whole = time.monotonic() - began
    assert fleet.acme.orders() - orders == count
    each = ", ".join(f"{device} {share[device]} in {seconds[device]:.1f} s" for device in DEBIAN)
    print(f"renewed     {whole:5.1f} s for {count} certificates on their devices ({each})")


def on_controller(fleet: Fleet, count: int) -> None:
    defaults = {name: spec["default"] for name, spec in options.SPEC.items()}
    hook = HOOK.replace("@ACME@", fleet.acme.address).replace("/usr/bin/python3", "/usr/bin/env python3")
    given = {**defaults, **fleet.from_acme(), "mode": "controller", "acme_agree": True, "challenge": "dns"}
    given |= {"dns_hook": hook, "controller_dir": str(fleet.work / "acme")}

    def one(number: int) -> None:
        name = f"c{number}.lab"
        wanted = options.parse({**given, "names": [name]}, datetime.now(timezone.utc))
        key = certificates.new_key("ecdsa")
        made = controller.issue(wanted, certificates.request(key, [name]), datetime.now(timezone.utc))
        assert certificates.describe(made).names == (name,)

    began = time.monotonic()
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(one, range(count)))
    print(f"controller  {time.monotonic() - began:5.1f} s for {count} certificates, five at a time")


if __name__ == "__main__":
    sys.exit(main())
