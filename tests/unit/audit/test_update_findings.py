"""What a device says of its updates, as findings."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit import evidence
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.report import as_html
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.updates import describe, judge_updates
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates import record

DAY = 86400
NOW = 100 * DAY
WELL = f"ran {NOW - 60}\nresult ok\nmessage nothing to install\nchecked {NOW - 60}\nsucceeded {NOW - 60}\n"


def result(
    status: str = WELL,
    mode: str = "automatic",
    timer: str = "active",
    agent: str = "unattended-upgrades",
    until: int = 0,
) -> dict[str, Any]:
    settings = (
        f"AGENT={agent}\nMODE={mode}\nUNTIL={until}\nREASON='certified as it is'\nRING=ring0\nEVERY=21600\n"
    )
    records = (("now", str(NOW)), ("settings", settings), ("status", status), ("timers", f"{timer} inactive"))
    return {"updates": record.read(Reply(records, 0))}


def fresh(age: int, timer: str = "active") -> dict[str, Any]:
    """A device that was set up so many seconds ago and has not looked yet."""
    settings = "AGENT=unattended-upgrades\nMODE=automatic\nEVERY=21600\nFIRST=2100\n"
    records = (
        ("now", str(NOW)), ("set_up", str(NOW - age)), ("settings", settings), ("timers", f"{timer} inactive"),
    )  # fmt: skip
    return {"updates": record.read(Reply(records, 0))}


def found(said: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one.kind, one.weight) for one in judge_updates(said, 14)]


def test_a_device_that_updates_and_is_well_has_no_finding() -> None:
    assert found(result()) == []
    assert found(result(mode="postponed", until=NOW)) == [], "the day until which it was postponed has come"


@pytest.mark.parametrize(
    ("said", "kind", "weight", "text"),
    [
        (result(timer="inactive"), "no_timer", "difference", "the update timer is inactive"),
        (result(mode="manual", timer="inactive"), "opted_out", "note", "certified as it is"),
        (result(mode="postponed", until=NOW + 1), "opted_out", "note", "not automatic (postponed)"),
        (result(WELL.replace("ok", "rolled_back")), "update_failed", "difference", "ended as rolled back: nothing"),
        (result(WELL.replace("ok", "blocked")), "update_failed", "difference", "blocked"),
        (result(WELL + "held panel 2.0 5 failed: panel.service\n"), "held", "difference", "panel 2.0 harmed this device"),
        (result(WELL + "reboot needed\n"), "reboot_needed", "note", "only after a reboot"),
        (result(WELL + "refused signature bad\n"), "update_refused", "difference", "refused (signature): bad"),
        (result(WELL + f"pending panel 1 2 security {NOW - 15 * DAY}\n"), "update_overdue", "difference", "for 15 days"),
        (fresh(300), "not_checked", "note", "will within 30 minutes"),
        (fresh(2400), "not_checked", "not_assessed", "not looked for updates yet"),
        (fresh(-60), "not_checked", "not_assessed", "not looked for updates yet"),
        (fresh(300, timer="inactive"), "not_checked", "not_assessed", "not looked for updates yet"),
        (result("", ""), "not_checked", "not_assessed", "not looked for updates yet"),
        (result(f"ran {NOW}\nresult ok\nchecked {NOW - 20 * DAY}\n"), "not_checked", "difference", "for 20 days"),
        ({"updates": {**result()["updates"], "agent": ""}}, "no_agent", "note", "no update agent here"),
    ],
)  # fmt: skip
def test_each_trouble_is_one_finding_that_says_what_to_do(
    said: dict[str, Any], kind: str, weight: str, text: str
) -> None:
    mine = [one for one in judge_updates(said, 14) if one.kind == kind]
    assert [one.weight for one in mine] == [weight] and text in mine[0].message and mine[0].remedy


def test_what_is_young_or_blocked_on_purpose_is_not_overdue() -> None:
    young = WELL + f"pending panel 1 2 security {NOW - 13 * DAY}\npending other 1 2 other {NOW - 90 * DAY}\n"
    assert found(result(young)) == []


def test_a_device_that_could_not_be_asked_is_not_green() -> None:
    kinds = found({"unreachable": True, "msg": "no route"})
    assert kinds == [("updates_not_assessed", "not_assessed")] * 3
    assert found({}) == [] and found({"skipped": True}) == []


def test_the_report_says_of_each_device_agent_mode_last_check_last_success_pending_and_refused() -> None:
    more = (
        f"pending panel 1.0 2.0 security {NOW - 3 * DAY}\nrefused tampered pump\nheld pump 2.0 5 it is sick\n"
    )
    assert describe(result(WELL + more)["updates"]) == (
        "unattended-upgrades, automatic: certified as it is; last check 1 min ago; last success 1 min ago; "
        "pending panel 1.0 to 2.0 (security, 3 days); refused tampered; held pump 2.0"
    )
    fresh = describe(result("")["updates"])
    assert "last check never; last success never; pending none" in fresh and "refused" not in fresh
    many = "".join(f"pending p{i} 1 2 update {NOW}\n" for i in range(7))
    assert describe(result(WELL + many)["updates"]).endswith("p4 1 to 2 (update, 0 min) and 2 more")
    device = {
        "reached": True,
        "system": "Debian",
        "vantages": {},
        "updates": result(WELL + "held <b> 2 5 x\n")["updates"],
    }
    page = as_html(
        evidence.document("2027-01-31", True, evidence.load_controls(), {"gw1": device}, {"gw1": []})
    )
    assert "<p>Updates: unattended-upgrades, automatic" in page and "held &lt;b&gt; 2</p>" in page
    assert describe({}) == "" and describe(result(agent="")["updates"]) == ""
