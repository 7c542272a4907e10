# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Where a change could not be taken back after a power cut, it is refused before it is made."""

from __future__ import annotations

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import mounts

STATE = "/var/lib/sallyport"
ROOT = "/ ext4 rw,relatime"


def test_mount_points_with_spaces_are_read_as_the_kernel_writes_them() -> None:
    assert mounts.unescape(r"/mnt/a\040b\011\134c") == "/mnt/a b\t\\c"
    assert mounts.unescape("/plain") == "/plain"


@pytest.mark.parametrize(
    "lines",
    [[ROOT], [ROOT, "/var ext4 rw"], ["/ overlay rw,upperdir=/data/u,lowerdir=/rom", "/data ext4 rw"]],
)
def test_a_state_that_lasts_is_taken(lines: list[str]) -> None:
    assert mounts.why_not(STATE, mounts.parse(lines)) == ""


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([ROOT, "/var tmpfs rw"], "lies on tmpfs (/var)"),
        ([ROOT, "/var/lib ramfs rw"], "lies on ramfs (/var/lib)"),
        (["/ ext4 ro,relatime"], "read-only file system (/, ext4)"),
        (["/ squashfs ro"], "read-only"),
        (
            ["/ overlay rw,upperdir=/run/up,lowerdir=/rom", "/run tmpfs rw"],
            "upper directory /run/up lies on tmpfs",
        ),
        ([ROOT, "/var ext4 rw", "/var tmpfs rw"], "lies on tmpfs (/var)"),
    ],
)
def test_a_state_that_does_not_last_is_refused_with_its_place(lines: list[str], why: str) -> None:
    assert why in mounts.why_not(STATE, mounts.parse(lines))


def test_busybox_takes_back_only_what_lies_on_the_root() -> None:
    found = mounts.parse([ROOT, "/etc overlay rw,upperdir=/data/etc", "/variable ext4 rw"])
    assert "/etc/inittab lies on /etc (overlay)" in mounts.too_late(["/etc/inittab"], found)
    assert mounts.too_late([STATE, "/root/.ssh/authorized_keys"], found) == ""
