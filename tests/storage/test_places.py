"""Paths of one file, device or free place are one place, by whatever they lead there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.places import around, place_at
from tests.support.partitions import add_partition

MIB = 1 << 20


def test_links_lead_to_one_place(tmp_path: Path) -> None:
    file = tmp_path / "disk"
    file.write_bytes(b"x")
    (tmp_path / "soft").symlink_to(file)
    os.link(file, tmp_path / "hard")
    assert place_at(file) == place_at(tmp_path / "soft") == place_at(tmp_path / "hard")
    (tmp_path / "copy").write_bytes(b"x")
    assert place_at(tmp_path / "copy") != place_at(file)


def test_a_free_place_is_known_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    (tmp_path / "link").symlink_to("pool")
    assert place_at(tmp_path / "pool/disk") == place_at(tmp_path / "link/disk")
    assert place_at(tmp_path / "pool/disk") != place_at(tmp_path / "pool/other")
    assert place_at(tmp_path / "gone/disk") == place_at(f"{tmp_path}/./gone/disk")


@pytest.mark.root
def test_a_folder_that_is_mounted_twice(tmp_path: Path) -> None:
    pool, bound = tmp_path / "pool", tmp_path / "bound"
    pool.mkdir()
    bound.mkdir()
    (pool / "disk").write_bytes(b"x")
    subprocess.run(["mount", "--bind", pool, bound], check=True)
    try:
        assert place_at(pool / "disk") == place_at(bound / "disk")
        assert place_at(pool / "free") == place_at(bound / "free")
    finally:
        subprocess.run(["umount", bound], check=True)


@pytest.mark.root
def test_a_loop_device_is_where_its_file_is(tmp_path: Path, attach: Callable[..., Path]) -> None:
    file = tmp_path / "disk"
    file.write_bytes(bytes(1 << 20))
    device = attach(file)
    assert place_at(device) == place_at(file)
    assert place_at(attach(device)) == place_at(file)


@pytest.fixture
def devices(tmp_path: Path) -> dict[str, Path]:
    """Folders in a sysfs that is made up: two partitions of a disk, and a mapping of the first."""
    made = {
        "disk": tmp_path / "sda",
        "first": tmp_path / "sda/sda1",
        "second": tmp_path / "sda/sda2",
        "mapping": tmp_path / "dm-0",
    }
    for number, folder in enumerate(made.values()):
        folder.mkdir()
        (folder / "dev").write_text(f"8:{number}\n")
        for links in ("holders", "slaves"):
            (folder / links).mkdir()
    for name in ("first", "second"):
        (made[name] / "partition").write_text("1\n")
    (made["first"] / "holders/dm-0").symlink_to(made["mapping"])
    (made["mapping"] / "slaves/sda1").symlink_to(made["first"])
    return made


@pytest.mark.root
@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("disk", {"first", "second", "mapping"}),
        ("first", {"disk", "mapping"}),
        ("second", {"disk"}),
        ("mapping", {"disk", "first"}),
    ],
)
def test_devices_with_bytes_in_common(
    which: str,
    expected: set[str],
    devices: dict[str, Path],
    tmp_path: Path,
    attach: Callable[..., Path],
) -> None:
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    node = attach(tmp_path / "file")
    number = node.stat().st_rdev
    sysfs = tmp_path / "numbers"
    sysfs.mkdir()
    (sysfs / f"{os.major(number)}:{os.minor(number)}").symlink_to(devices[which])
    numbers = {name: os.makedev(8, at) for at, name in enumerate(devices)}
    assert around(node, sysfs) == {("device", numbers[name]) for name in expected}


@pytest.mark.root
def test_loop_devices_on_devices_have_bytes_in_common(
    tmp_path: Path, attach: Callable[..., Path]
) -> None:
    file = tmp_path / "disk"
    file.write_bytes(bytes(8 * MIB))
    disk = attach(file, "--partscan")
    first, second = (
        add_partition(disk, number, number * 2 * MIB, 2 * MIB, tmp_path / f"part{number}")
        for number in (1, 2)
    )
    upper = attach(first, "--partscan")
    of_upper = add_partition(upper, 1, 0, MIB, tmp_path / "part of a part")
    assert place_at(upper) == place_at(first)
    assert around(disk) == {*map(place_at, (first, second, of_upper))}
    assert around(first) == {*map(place_at, (disk, of_upper))}
    assert around(second) == {place_at(disk)}
    assert around(upper) == {*map(place_at, (disk, of_upper))}
    assert around(of_upper) == {*map(place_at, (disk, first))}


@pytest.mark.root
def test_loop_devices_on_one_file_have_bytes_in_common(
    tmp_path: Path, attach: Callable[..., Path]
) -> None:
    file = tmp_path / "disk"
    file.write_bytes(bytes(4 * MIB))
    disk, other, alone = (attach(file, "--partscan") for _ in range(3))
    first, second = (
        add_partition(disk, number, number * MIB, MIB, tmp_path / f"part{number}")
        for number in (1, 2)
    )
    its = add_partition(other, 1, MIB, MIB, tmp_path / "other's")
    assert around(alone) == {*map(place_at, (first, second, its))}
    assert around(first) == {*map(place_at, (file, its))}
    assert around(its) == {*map(place_at, (file, first, second))}


def test_nothing_is_around_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert around(tmp_path / "file") == around(tmp_path / "nothing") == frozenset()
