"""Mounts, room and memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.facts import storage

Make = Callable[..., Reply]

DISK = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"
TMPFS = "30 1 0:9 / /run rw,nosuid - tmpfs tmpfs rw"


def overlay(upper: str, point: str = "/") -> str:
    return f"22 1 0:30 / {point} rw,relatime - overlay overlay rw,lowerdir=/ro,upperdir={upper},workdir=/w"


@pytest.mark.parametrize(
    ("lines", "volatile", "read_only"),
    [
        ([DISK], False, False),
        (["22 1 0:2 / / rw - rootfs rootfs rw"], True, False),
        (["22 1 0:2 / / rw - tmpfs tmpfs rw"], True, False),
        (["22 1 0:2 / / ro,relatime - squashfs /dev/mtdblock2 ro"], False, True),
        # Writable to the mount, but not to its file system.
        (["22 1 8:1 / / rw,relatime - ext4 /dev/sda1 ro,errors=remount-ro"], False, True),
        ([overlay("/run/rw/upper"), TMPFS], True, False),
        ([TMPFS, overlay("/run/rw/upper")], True, False),
        ([overlay("/media/rw/upper"), "31 1 8:2 / /media/rw rw - ext4 /dev/sda2 rw"], False, False),
        # Hidden by whatever mounted the root.
        ([overlay("/overlay/upper")], True, False),
        ([overlay("/var/lib/containers/storage/overlay/x/diff")], True, False),
        # /runway is not below /run.
        ([overlay("/runway/upper"), TMPFS, "31 1 8:2 /runway /runway rw - ext4 /dev/sda2 rw"], False, False),
        (["22 1 0:30 / / rw - overlay overlay rw,lowerdir=/a:/b"], False, True),
        # The later of two mounts at one place is the one that counts.
        ([DISK, "40 22 0:2 / / rw - tmpfs tmpfs rw"], True, False),
    ],
)
def test_a_root_that_forgets_or_refuses_writes_is_seen(
    reply: Make, lines: list[str], volatile: bool, read_only: bool
) -> None:
    found = storage.root(reply(("mountinfo", "\n".join(lines) + "\n")))
    assert (found["volatile"], found["read_only"]) == (volatile, read_only)


@pytest.mark.parametrize(
    ("upper", "volatile"),
    [
        ("/var/lib/containers/storage/overlay/41c0/diff", False),
        ("/var/lib/docker/overlay2/41c0/diff", False),
        ("/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/5/fs", False),
        ("/rw/upper", True),
    ],
)
def test_in_a_container_only_the_engines_own_overlay_is_lasting(
    reply: Make, upper: str, volatile: bool
) -> None:
    answer = reply(("container", "podman"), ("mountinfo", overlay(upper) + "\n"))
    assert storage.root(answer)["volatile"] is volatile


def test_an_upper_directory_is_looked_for_from_the_root_that_mounted_it(reply: Make) -> None:
    outside = f"{DISK}\n31 1 8:2 / /rw rw - ext4 /dev/sda2 rw\n"
    answer = reply(("mountinfo", overlay("/rw/upper") + "\n"), ("mountinfo_init", outside))
    assert storage.root(answer)["volatile"] is False


def test_the_state_directory_is_judged_by_the_mount_it_lies_on(reply: Make) -> None:
    lines = f"{DISK}\n31 22 0:9 / /var/lib rw,noexec - tmpfs tmpfs rw\n"
    found = storage.state_dir(
        reply(("mountinfo", lines), ("state_dir", "/var/lib"), ("statfs", "100 4096 7"))
    )
    assert found == {
        "path": "/var/lib",
        "fstype": "tmpfs",
        "read_only": False,
        "volatile": True,
        "noexec": True,
        "free_kb": 400,
        "free_inodes": 7,
    }


def test_mount_points_with_spaces_are_read_as_written(reply: Make) -> None:
    line = r"31 22 8:2 / /data\040dir\134x rw - ext4 /dev/sda2 rw"
    assert storage.mounts(f"{DISK}\n{line}\n")[1].point == "/data dir\\x"


def test_df_serves_where_stat_is_missing(reply: Make) -> None:
    answer = reply(
        ("mountinfo", DISK + "\n"),
        ("state_dir", "/var/lib"),
        ("df", "//server/my share 1000 600 400 60% /"),
        ("df_inodes", "/dev/sda1 50 10 40 20% /"),
    )
    found = storage.state_dir(answer)
    assert (found["free_kb"], found["free_inodes"]) == (400, 40)


@pytest.mark.parametrize("text", ["", "-", "df: unknown option", "overlay - - - - /"])
def test_room_that_nobody_knows_is_zero(reply: Make, text: str) -> None:
    found = storage.state_dir(reply(("mountinfo", DISK + "\n"), ("df", text), ("df_inodes", text)))
    assert (found["free_kb"], found["free_inodes"]) == (0, 0)


def test_the_tightest_limit_below_the_machines_memory_counts(reply: Make) -> None:
    answer = reply(
        ("memory", "MemTotal: 1000000"),
        ("memory", "MemAvailable: 500"),
        ("memory_limit", "9223372036854771712"),
        ("memory_limit", "max"),
        ("memory_limit", "67108864"),
        ("memory_limit", "134217728"),
    )
    assert storage.memory(answer) == {"total_kb": 1000000, "available_kb": 500, "limit_kb": 65536}


def test_old_kernels_get_a_rough_estimate_of_free_memory(reply: Make) -> None:
    records = [
        ("memory", f"{key}: {value}") for key, value in (("MemTotal", 64), ("MemFree", 1), ("Cached", 2))
    ]
    assert storage.memory(reply(*records)) == {"total_kb": 64, "available_kb": 3, "limit_kb": 0}
