"""A device may say anything. The facts stay well formed, and nothing is believed that was not said whole."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import probe
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.probe.recordings import recorded

Make = Callable[..., Reply]

KEYS = sorted({key for name in ("vendor", "debian12") for key, _ in recorded(name).records})


def test_a_hostname_of_quotes_and_control_bytes_becomes_one_harmless_line(reply: Make) -> None:
    raw = b"a'b\"$(touch /tmp/x)\x1b[31m\xff{{ 1 }}".decode("utf-8", "surrogateescape")
    name = probe.device(reply(("hostname", raw)))["hostname"]
    assert name == "a'b\"$(touch /tmp/x)�[31m�{{ 1 }}"
    json.dumps(name).encode()


def test_a_reply_that_stopped_early_is_an_error_that_says_what_the_device_said() -> None:
    cut = Reply((("protocol", "1"), ("hostname", "x")), 2, "sh: out of memory\n")
    with pytest.raises(probe.ProbeError, match=r"did not reach its end \(status 2\).*sh: out of memory"):
        probe.device(cut)


def test_a_file_that_is_not_utf8_or_too_long_is_named_and_not_shown(reply: Make) -> None:
    device = probe.device(
        reply(
            ("file /etc/inittab", "::x\udcff\n"),
            ("file /etc/crontab", "x" * (probe.MAX_FILE + 1)),
            ("file /etc/rc.local", "ü\n"),
        )
    )
    assert device["files"] == {"/etc/rc.local": "ü\n"}
    assert device["files_omitted"] == {
        "/etc/inittab": "is not UTF-8",
        "/etc/crontab": "is longer than 65536 bytes",
    }


def test_what_commit_left_is_told(reply: Make) -> None:
    device = probe.device(
        reply(
            ("transaction", "armed/tx id 42"),
            ("transaction", "armed/tx name firewall"),
            ("transaction", "reverted id 41"),
            ("transaction", "reverted name ssh"),
            ("reason reverted", "verify: status 1\nsshd: no\x1b such file\n"),
        )
    )
    assert device["transaction"] == {
        "pending": "42",
        "last_reverted": {"id": "41", "name": "ssh", "reason": "verify: status 1\nsshd: no� such file"},
    }


def test_a_lock_without_a_name_yet_is_still_pending(reply: Make) -> None:
    assert probe.device(reply(("transaction", "armed/tx id ")))["transaction"]["pending"] == "unnamed"


@pytest.mark.parametrize(
    ("epoch", "plausible"), [("0", False), ("1795347705", True), ("4102444801", False), ("x", False)]
)
def test_a_clock_that_was_never_set_is_not_plausible(reply: Make, epoch: str, plausible: bool) -> None:
    assert probe.device(reply(("epoch", epoch)))["clock"]["plausible"] is plausible


values = st.text(
    alphabet=st.characters(codec="utf-8", exclude_characters="\n"), max_size=60
) | st.sampled_from(
    [
        "",
        " ",
        ":",
        "a:b:c:d:e:f:g:h",
        "0 0 0 0 0 0 0 0 0 0",
        "-" * 9,
        "\udcff\udc80",
        "٣ ٣ ٣",
        "1" * 5000,
        "=" * 9,
    ]
)
records = st.lists(
    st.tuples(st.sampled_from(KEYS), values | st.lists(values, max_size=5).map("\n".join)), max_size=25
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(said=records)
def test_whatever_a_device_says_the_facts_are_text_that_can_be_stored(said: list[tuple[str, str]]) -> None:
    whole = Reply((*said, ("protocol", "1"), ("complete", "")), 0)
    json.dumps(probe.device(whole), ensure_ascii=False).encode("utf-8")


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data())
def test_a_real_reply_with_some_words_replaced_breaks_nothing(data: st.DataObject) -> None:
    said = list(recorded(data.draw(st.sampled_from(["vendor", "debian12"]))).records)
    for _ in range(data.draw(st.integers(1, 6))):
        # Chosen by key first: a long blob is otherwise hardly ever met.
        key = data.draw(st.sampled_from(sorted({key for key, _ in said} - {"protocol", "complete"})))
        at = data.draw(st.sampled_from([index for index, (other, _) in enumerate(said) if other == key]))
        words = re.split(r"([\s:=,/]+)", said[at][1])
        for place in data.draw(st.lists(st.integers(0, len(words) - 1), min_size=1, max_size=8)):
            words[place] = data.draw(values)
        said[at] = (key, "".join(words))
    json.dumps(probe.device(Reply(tuple(said), 0)), ensure_ascii=False).encode("utf-8")
