"""What tells shared volumes apart."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.shared_identity import shared_identity


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """A folder like /sys/dev/block."""
    folder = tmp_path / "sys"
    folder.mkdir()
    return folder


def device(sysfs: Path, name: str, **files: str) -> Path:
    """Make the folder of a device."""
    made = sysfs / name
    for file, text in files.items():
        path = made / file.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    made.mkdir(exist_ok=True)
    return made


@pytest.fixture
def loop(tmp_path: Path, attach: Callable[..., Path]) -> str:
    """A block device, which the kernel says nothing of."""
    backing = tmp_path / "backing"
    backing.write_bytes(bytes(1 << 20))
    return str(attach(backing))


def test_files(tmp_path):
    file, other = tmp_path / "a", tmp_path / "b"
    file.write_bytes(b"x")
    other.write_bytes(b"x")
    assert str(shared_identity(str(file))) == f"inode {file.stat().st_ino}"
    assert shared_identity(str(file)) != shared_identity(str(other))
    (tmp_path / "link").hardlink_to(file)
    assert shared_identity(str(tmp_path / "link")) == shared_identity(str(file))


def test_what_has_none(tmp_path):
    assert not shared_identity(str(tmp_path / "nothing"))
    assert not shared_identity(str(tmp_path))
    assert not shared_identity("/dev/null")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"wwid": "nvme.1234"}, "nvme.1234"),
        ({"device__wwid": "t10.ATA   Disk   S1"}, "t10.ATA Disk S1"),
        ({"dm__uuid": "LVM-abcdef"}, "LVM-abcdef"),
        ({"dm__uuid": "CRYPT-LUKS2-x"}, ""),
        ({}, ""),
    ],
)
@pytest.mark.root
def test_devices(sysfs, loop, files, expected):
    number = Path(loop).stat().st_rdev
    device(sysfs, f"{os.major(number)}:{os.minor(number)}", **files)
    assert str(shared_identity(loop, sysfs)) == expected


@pytest.mark.root
def test_partitions_and_paths(sysfs, loop):
    number = Path(loop).stat().st_rdev
    here = sysfs / f"{os.major(number)}:{os.minor(number)}"
    disk = device(sysfs, "sda", device__wwid="naa.6001")
    here.symlink_to(device(disk, "sda2", partition="2"))
    assert str(shared_identity(loop, sysfs)) == "naa.6001 partition 2"
    here.unlink()
    here.symlink_to(device(sysfs, "dm-0", dm__uuid="mpath-36001"))
    assert not shared_identity(loop, sysfs)
    (sysfs / "dm-0/slaves").mkdir()
    (sysfs / "dm-0/slaves/sda").symlink_to(disk)
    assert str(shared_identity(loop, sysfs)) == "naa.6001"
