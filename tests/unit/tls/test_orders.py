"""What costs an order at a CA, and what does not: each run with a device and a CA that are played, and the real decisions."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.action import tls
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import (
    certbot,
    certificates,
    controller,
    options,
    services,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import device as devices
from cryptography import x509

from tests.unit.tls.makers import CA, CA_KEY, authority, pair
from tests.unit.tls.shells import SHELLS, answer

NOW = datetime.now(timezone.utc)
SITE: dict[str, Any] = {"mode": "device", "names": ["a.example", "b.example"], "acme_agree": True}
REFUSED = {"changed": False, "failed": True, "state": "reverted", "msg": "nginx refuses its configuration"}
DONE = {"changed": True, "state": "confirmed"}
DEVICE = {"init": "systemd", "listening": [], "interfaces": []}


class Played:
    """A device: what the role may ask it, and what certbot there would make of it.

    Args:
        gives: the names that the CA puts into a certificate for those that were asked for.
    """

    def __init__(self, gives: Callable[[list[str]], list[str]] = list, webroot: str = "") -> None:
        self.gives, self.webroot = gives, webroot
        self.lineages: dict[str, str] = {}
        self.renewals: dict[str, str] = {}
        self.files: dict[str, str] = {}
        self.orders: list[tuple[str, list[str]]] = []
        self.openssl, self.renews = True, "timer"
        self.answers: Callable[[], dict[str, Any]] = lambda: dict(DONE)
        self.count = 0

    def site(self, **changed: Any) -> options.Wanted:
        defaults = {name: spec["default"] for name, spec in options.SPEC.items()}
        return options.parse({**defaults, **SITE, **changed}, NOW)

    def ask(self, program: str) -> Reply:
        return self.run(program)

    def run(self, program: str) -> Reply:
        self.count += 1
        if "certonly" in program:
            self._issue(program)
        elif "deploy take" in program:
            self._take(re.findall(r"live/(\S+)", program)[0])
        elif "blob request" in program and "openssl req" in program:
            key = self.files.setdefault("privkey.next", certificates.new_key("ecdsa"))
            names = re.findall(r"DNS:([^,' ]+)", program)
            return Reply((("request", certificates.request(key, names)),), 0)
        elif "privkey.next.new" in program:
            found = re.findall(r"cat >\S+/(\S+)\.new <<'END'\n(.*?)\nEND\n", program, re.S)
            self.files.update({name: f"{text}\n" for name, text in found})
        for reason in re.findall(r"printf '%s\\n' '(.*)' >\S+/still", program):
            self.files["still"] = reason
        if f"rm -f {certbot.STILL}\n" in program:
            self.files.pop("still", None)
        return Reply(tuple(self._found()), 0)

    def _issue(self, program: str) -> None:
        (command,) = set(re.findall(r"certbot certonly.*", program))
        names = re.findall(r"-d (\S+)", command)
        name = re.findall(r"--cert-name (\S+)", command)[0]
        self.orders.append((name, names))
        self.lineages[name] = pair(*self.gives(names), now=NOW)[0]
        settings = certbot.ini(
            self.site(names=names),
            webroot=self.webroot or options.WEBROOT,
            hook="",
            credentials="",
            deploy=True,
        )
        told = settings.replace("webroot-path", "webroot_path").replace("deploy-hook", "renew_hook")
        self.renewals[name] = f"[renewalparams]\n{told}"
        self._take(name)

    def _take(self, name: str) -> None:
        self.files |= {"fullchain.pem": self.lineages[name], "status": "ok 1 "}

    def _found(self) -> Iterator[tuple[str, str]]:
        yield from (
            ("epoch", str(int(NOW.timestamp()))),
            ("has", "nginx nginx/1.22.1"),
            ("has", "certbot x"),
        )
        yield from (("code", "0"), ("taken", "0"), ("renews", self.renews))
        if self.openssl:
            yield "has", "openssl OpenSSL 3.0"
        names = {"fullchain.pem": "certificate", "lineage": "recorded", "request.next": "request"}
        for name, text in self.files.items():
            yield names.get(name, name), text
        if "fullchain.pem" in self.files:
            yield "key", "-rw------- root"
        for name, text in self.renewals.items():
            yield from (("lineage", name), (f"renewal {name}", text), (f"issued {name}", self.lineages[name]))

    def commit(self, files: list[Any]) -> dict[str, Any]:
        """Files that the role itself delivers."""
        outcome = self.answers()
        if outcome.get("failed"):
            return outcome
        for one in files:
            path = Path(one.dest)
            if path.parent == Path("/etc/letsencrypt/renewal"):
                self.renewals[path.stem] = one.content.decode()
            elif one.kind == "absent":
                self.files.pop(path.name, None)
            else:
                self.files[path.name] = one.content.decode()
        if any(one.generate for one in files):
            self.files.pop("privkey.next", None)
            self.files.pop("request.next", None)
        return outcome


TODAYS = authority(days=36500)


@pytest.fixture
def converge(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """One run of the role on a played device."""

    class Task:
        check_mode = False

    def run(played: Played, **changed: Any) -> dict[str, Any]:
        action = object.__new__(tls.ActionModule)
        action._task, action._host, action._vars, action._remarks = Task(), "gw", {}, []
        action._settings = {"confirm_seconds": 60, "keep": 10, "state_dir": "/var/lib/sallyport"}
        action._exchange = played
        monkeypatch.setattr(tls, "quiet", contextlib.nullcontext)
        monkeypatch.setattr(
            tls.driver, "run", lambda action, v, change, exchange: played.commit(change.files)
        )
        monkeypatch.setattr(tls.driver, "with_fresh_facts", lambda action, outcome, *rest: outcome)
        wanted = played.site(**changed)
        found = devices.read(played.run(devices.query(wanted)))
        result: dict[str, Any] = action._converge(wanted, DEVICE, found)
        return result

    return run


def test_where_nothing_would_renew_no_certificate_is_asked_for(converge: Any) -> None:
    device = Played()
    device.renews = ""
    with pytest.raises(services.Refused, match=r"no certbot\.timer, so nothing would renew"):
        converge(device)
    assert device.orders == []


def test_the_same_names_in_another_order_cost_nothing_and_a_new_first_name_leaves_no_lineage_behind(
    converge: Any,
) -> None:
    device = Played()
    assert converge(device)["reason"] == "there is none"
    converge(device, names=["b.example", "a.example"])
    assert device.orders == [("a.example", ["a.example", "b.example"])]
    converge(device, names=["c.example"])
    assert device.orders[1:] == [("a.example", ["c.example"])]
    assert list(device.renewals) == ["a.example"] and device.files["lineage"] == "a.example\n"


def test_a_ca_that_leaves_a_name_out_is_asked_once_and_the_run_says_so_each_time(converge: Any) -> None:
    device = Played(gives=lambda names: names[:1])
    for _ in range(3):
        result = converge(device)
        assert result["failed"] and "it is for a.example, wanted is a.example, b.example" in result["msg"]
        assert certbot.STILL in result["msg"] and result["verdict"]["state"] == "failing"
    assert len(device.orders) == 1
    result = converge(device, names=["a.example"])
    assert not result.get("failed") and len(device.orders) == 1, "what it gave is what is wanted now"
    device.gives = list
    assert not converge(device, names=["a.example", "c.example"]).get("failed")
    assert len(device.orders) == 2 and "still" not in device.files


def test_what_one_ca_left_out_another_one_is_asked_for(converge: Any, site: dict[str, Any]) -> None:
    device, asked = Played(gives=lambda names: names[:1]), site.pop("asked")
    converge(device)
    assert converge(device)["failed"] and len(device.orders) == 1
    converge(device, acme_directory="https://ca.example/dir")
    assert len(device.orders) == 2
    fleet = converge(device, mode="own", ca_certificate=TODAYS[0], ca_key=TODAYS[1])
    assert not fleet.get("failed") and fleet["verdict"]["state"] == "ok"
    device.files["fullchain.pem"] = pair("a.example", now=NOW)[0]
    device.files["still"] = (
        f"device {options.LETS_ENCRYPT} it is for a.example, wanted is a.example, b.example"
    )
    assert not converge(device, **site).get("failed") and len(asked) == 1


def test_a_ca_that_adds_a_name_is_asked_once_and_a_name_less_is_a_new_certificate(converge: Any) -> None:
    device = Played(gives=lambda names: [*names, f"www.{names[0]}"])
    for _ in range(3):
        result = converge(device)
        assert not result.get("failed") and result["verdict"]["state"] == "ok"
    assert len(device.orders) == 1
    converge(device, names=["a.example"])
    assert len(device.orders) == 2


def test_a_renewal_that_certbot_goes_on_writing_down_otherwise_costs_one_order(converge: Any) -> None:
    device = Played(webroot="/elsewhere")
    for _ in range(3):
        result = converge(device)
        assert result["failed"] and "its renewal would use /elsewhere" in result["msg"]
    assert len(device.orders) == 1


@pytest.mark.parametrize("written", ["/srv/acme/", "//srv//acme", "/srv/./acme"])
def test_a_folder_is_the_same_however_it_is_written(converge: Any, written: str) -> None:
    device = Played(webroot="/srv/acme")  # as certbot writes it down
    for _ in range(2):
        assert not converge(device, webroot=written).get("failed")
    assert len(device.orders) == 1


def test_another_kind_of_key_and_another_time_to_renew_reach_certbot(converge: Any) -> None:
    device = Played()
    converge(device)
    assert "its key is ecdsa, wanted is rsa" in converge(device, key_type="rsa")["reason"]
    device.lineages.clear()
    device.renewals.clear()
    converge(device)
    orders = len(device.orders)
    told = converge(device, renew_days=10)
    assert told["changed"] and told["msg"].startswith("certbot was told: renew_before_expiry = 240 hours")
    assert len(device.orders) == orders


@pytest.mark.parametrize("shell", SHELLS, ids=["sh", "busybox"])
def test_a_key_that_waits_is_used_again_unless_it_is_of_another_kind_or_half_written(
    shell: list[str], tmp_path: Path
) -> None:
    class There:
        def run(self, program: str) -> Reply:
            return answer(shell, program, {services.HOME: tmp_path})

    def ask(**changed: Any) -> tuple[str, bytes]:
        action = object.__new__(tls.ActionModule)
        action._exchange = There()
        wanted = Played().site(**changed)
        csr = action._request(wanted)
        assert certificates.asks_for(csr, wanted.names, wanted.key_type)
        assert [path.name for path in tmp_path.iterdir()] == ["privkey.next"]
        return csr, (tmp_path / "privkey.next").read_bytes()

    long = f"{'a' * 40}.{'b' * 40}.example"
    first, key = ask()
    assert x509.load_pem_x509_csr(first.encode()).subject.rfc4514_string() == "CN=a.example"
    second, same = ask(names=[long, "198.51.100.7"])
    assert same == key and certificates.requested(first) == certificates.requested(second)
    assert x509.load_pem_x509_csr(second.encode()).subject.rfc4514_string() == "CN=198.51.100.7"
    third, _ = ask(names=[long])
    assert x509.load_pem_x509_csr(third.encode()).subject.rfc4514_string() == ""
    _, other = ask(key_type="rsa")
    assert other != key
    (tmp_path / "privkey.next").write_bytes(other[: len(other) // 2])
    ask(key_type="rsa")


def test_after_another_mode_certbot_renews_nothing_for_this_role_and_keeps_none_of_its_secrets(
    converge: Any,
) -> None:
    device = Played()
    converge(device)
    foreign = "[renewalparams]\nrenew_hook = systemctl reload postfix\n"
    device.renewals["mail.example"], device.lineages["mail.example"] = (
        foreign,
        pair("mail.example", now=NOW)[0],
    )
    was = device.renewals["a.example"]
    device._found = with_traces(device, [certbot.INI, certbot.HOOK, certbot.TIMER_DROP_IN, services.LINEAGE])  # type: ignore[method-assign]
    made, key = pair("a.example", "b.example", now=NOW)
    result = converge(device, mode="own", certificate=made, private_key=key)
    assert not result.get("failed")
    assert "lineage" not in device.files and "dns-hook" not in device.files
    now = device.renewals["a.example"]
    assert "autorenew = False\n" in now and "sallyport" not in now.replace(options.WEBROOT, "")
    assert certbot.renews_otherwise(now, device.site()) == "nothing renews it"
    assert "server = " in now and was != now
    assert device.renewals["mail.example"] == foreign


def with_traces(device: Played, traces: list[str]) -> Callable[[], Iterator[tuple[str, str]]]:
    told = device._found
    return lambda: iter([*told(), *(("trace", path) for path in traces)])


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Mode controller; `asked` counts what the CA was asked there."""
    asked: list[str] = []

    def ask(wanted: options.Wanted, csr: str, home: Path) -> str:
        asked.append(csr)
        home.mkdir(exist_ok=True)
        return certificates.issue(CA, CA_KEY, csr, wanted.names, days=90, now=NOW)

    monkeypatch.setattr(controller, "_ask", ask)
    return {
        "mode": "controller",
        "controller_dir": str(tmp_path / "acme"),
        "challenge": "standalone",
        "asked": asked,
    }


@pytest.mark.parametrize("openssl", [True, False], ids=["key made there", "key made here"])
def test_a_delivery_that_a_device_refuses_costs_no_second_order(
    converge: Any, site: dict[str, Any], openssl: bool
) -> None:
    asked = site.pop("asked")
    device = Played()
    device.openssl, device.answers = openssl, lambda: dict(REFUSED)
    kept = Path(site["controller_dir"]) / "undelivered"
    for _ in range(3):
        assert converge(device, **site)["failed"]
        assert len(asked) == 1 and len(list(kept.iterdir())) == 1
        assert "PRIVATE KEY" not in next(kept.iterdir()).read_text(encoding="utf-8")
    device.answers = lambda: dict(DONE)
    result = converge(device, **site)
    assert not result.get("failed") and len(asked) == 1
    assert result["key_made"] == ("device" if openssl else "controller")
    assert list(kept.iterdir()) == [] and "privkey.next" not in device.files
    assert converge(device, **site).get("reason", "") == "" and len(asked) == 1
    device.answers = lambda: dict(REFUSED)
    converge(device, **site, names=["c.example"])
    converge(device, **site, names=["d.example"])
    assert len(asked) == 3, "an answer for other names is no answer"


def test_a_ca_that_the_controller_asks_and_that_leaves_a_name_out_is_asked_once(
    converge: Any, site: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = site.pop("asked")
    device, whole = Played(), controller._ask

    def some(wanted: options.Wanted, csr: str, home: Path) -> str:
        return whole(dataclasses.replace(wanted, names=wanted.names[:1]), csr, home)

    monkeypatch.setattr(controller, "_ask", some)
    for _ in range(3):
        result = converge(device, **site)
        assert result["failed"] and "it is for a.example, wanted is a.example, b.example" in result["msg"]
        assert certificates.describe(device.files["fullchain.pem"]).names == ("a.example",)
    assert len(asked) == 1
    monkeypatch.setattr(controller, "_ask", whole)
    assert not converge(device, **site, names=["a.example", "c.example"]).get("failed")
    assert len(asked) == 2 and "still" not in device.files


def test_an_answer_that_is_due_itself_is_not_delivered(site: dict[str, Any]) -> None:
    asked = site.pop("asked")
    wanted = Played().site(**site)
    csr = certificates.request(certificates.new_key("ecdsa"), wanted.names)
    first = controller.issue(wanted, csr, NOW)
    assert controller.issue(wanted, csr, NOW) == first and len(asked) == 1
    later = certificates.describe(first).not_after
    assert controller.issue(wanted, csr, later) and len(asked) == 2
