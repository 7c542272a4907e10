"""What is said of the window at boot, from what the loader noted."""

from __future__ import annotations

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.boot_window import read

EARLY = """\
of 4c0ffee0-0000-4000-8000-000000000001 3000
loaded 31.37
link loopback lo
link up eth0
link never wwan0
asked ip=dhcp
socket tcp 00000000:0016 101
socket tcp 0100007F:0019 102
socket tcp6 00000000000000000000000000000000:0016 103
socket udp 0A0A0A0A:0044 104
held 101 3100 sshd
held 101 3050 init of the vendor
held 103 3100 sshd
"""


def test_a_network_of_the_kernels_own_is_a_window_with_its_listeners() -> None:
    window = read(EARLY)
    assert (window["measured"], window["seconds"], window["links"]) == (True, 1.37, ["eth0"])
    assert [
        (one["address"], one["protocol"], one["port"], one["process"], one["seconds"])
        for one in window["listeners"]
    ] == [
        ("0.0.0.0", "tcp", 22, "init of the vendor", 0.87),
        ("::", "tcp", 22, "sshd", 0.37),
        ("10.10.10.10", "udp", 68, "", 1.37),
    ]
    assert "eth0 was up before the rules" in window["text"]
    assert "asks for it (ip=dhcp)" in window["text"]
    assert "sshd on :: tcp/22 for at most 0.37 s" in window["text"]


def test_a_containers_links_are_its_engines_and_the_machines_command_line_says_nothing_of_them() -> None:
    assert "the engine (podman)" in read(EARLY, "podman")["text"]


def test_the_tables_of_a_big_endian_machine_are_read_its_way() -> None:
    swapped = EARLY.replace("0100007F:0019", "7F000001:0019") + "big_endian\n"
    assert [one["port"] for one in read(swapped)["listeners"]] == [22, 22, 68]


def test_links_that_were_never_up_leave_no_window() -> None:
    window = read("of b 3000\nloaded 31.37\nlink loopback lo\nlink never eth0\n")
    assert (window["measured"], window["seconds"], window["listeners"]) == (True, 0.0, [])
    assert window["text"].startswith("no window at boot")


def test_a_link_that_was_up_in_the_initramfs_and_is_down_again_counts() -> None:
    window = read("of b 3000\nloaded 31.37\nlink earlier eth0\n")
    assert (window["seconds"], window["links"]) == (1.37, ["eth0"])
    assert "nothing that others could reach" in window["text"]


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ("", "it has not booted with these rules"),
        ("of b 3000\n", "loaded by a run since it booted"),
        # Without /sys nothing is known of any link: that is not the same as no window.
        ("of b 3000\nloaded 31.37\n", "links could not be seen"),
        ("of b 3000\nloaded nan\nlink up eth0\n", "loaded by a run since it booted"),
    ],
)
def test_what_was_not_noted_is_not_measured(told: str, why: str) -> None:
    window = read(told)
    assert (window["measured"], window["seconds"]) == (False, 0.0)
    assert why in window["text"]


def test_a_hostile_note_makes_no_trouble() -> None:
    told = "of\nloaded 1.5\nlink up e\x1b[2Jth0\nlink up\nsocket tcp zz:zz 1\nsocket tcp\nheld x y z\nheld\nlink up eth1\n"
    window = read(told)
    assert window["links"] == ["e\ufffd[2Jth0", "eth1"] and window["listeners"] == []
