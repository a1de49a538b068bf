"""What tells a volume of this host from others, and what it outlives."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.contracts import UNKNOWN, VolumeIdentity
from storage.identify import device_identity, file_identity
from tests.support.volumes import run

MIB = 1 << 20
Mount = Callable[..., Path]
Attach = Callable[..., Path]


def test_what_is_not_known_equals_nothing() -> None:
    assert not UNKNOWN
    assert UNKNOWN != UNKNOWN  # noqa: PLR0124
    assert VolumeIdentity("") not in {VolumeIdentity("")}
    assert VolumeIdentity("a") == VolumeIdentity("a")
    assert VolumeIdentity("a") != VolumeIdentity("b")
    assert VolumeIdentity("a") != "a"


def test_what_has_none(tmp_path: Path) -> None:
    assert not file_identity(tmp_path / "nothing")
    assert not device_identity("/dev/null")
    assert not device_identity(tmp_path)


FILE_SYSTEMS = {
    "small inodes": ("-I", "128"),  # no time of birth
    "large inodes": ("-I", "256"),
}


@pytest.fixture(params=FILE_SYSTEMS)
def folder(request: pytest.FixtureRequest, tmp_path: Path, mount: Mount) -> Path:
    image = tmp_path / "image"
    _make_file_system(image, request.param)
    return mount(image, tmp_path / "mounted", "-o", "loop")


def _make_file_system(image: Path, kind: str) -> None:
    image.touch()
    os.truncate(image, 8 * MIB)
    run("mkfs.ext4", "-q", "-F", *FILE_SYSTEMS[kind], image)


@pytest.mark.root
def test_a_file_stays_the_same(folder: Path, tmp_path: Path) -> None:
    file = folder / "web"
    file.write_bytes(b"a")
    known = file_identity(file)
    assert known
    file.write_bytes(b"b" * 5000)
    file.chmod(0o600)
    os.utime(file, (1, 1))
    file = file.rename(folder / "other")
    assert file_identity(file) == known
    (folder / "link").symlink_to("other")
    assert file_identity(folder / "link") == known
    run("umount", folder)
    # Another loop device: the file system has another number then.
    busy = run("losetup", "--find", "--show", tmp_path / "image")
    try:
        run("mount", "-o", "loop", tmp_path / "image", folder)
        assert file_identity(file) == known
    finally:
        run("losetup", "--detach", busy)


def _remade(file: Path) -> None:
    file.unlink()
    file.write_bytes(b"another")


def _moved_over(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(b"another")
    other.replace(file)


def _copied_with_all_attributes(file: Path) -> None:
    os.setxattr(file, "user.mark", b"x")
    run("cp", "--archive", file, file.with_name("copy"))
    file.unlink()
    file.with_name("copy").rename(file)


@pytest.mark.root
@pytest.mark.parametrize("change", [_remade, _moved_over, _copied_with_all_attributes])
def test_another_file_under_its_name_is_another(
    folder: Path, change: Callable[[Path], None]
) -> None:
    file = folder / "web"
    file.write_bytes(b"a")
    known = file_identity(file)
    change(file)
    assert file_identity(file)
    assert file_identity(file) != known


@pytest.mark.root
@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_a_file_system_made_anew_has_other_files(tmp_path: Path, kind: str, mount: Mount) -> None:
    found = []
    for name in ("first", "second"):
        _make_file_system(tmp_path / f"{name}.image", kind)
        mounted = mount(tmp_path / f"{name}.image", tmp_path / name, "-o", "loop")
        (mounted / "web").write_bytes(b"a")
        found.append(((mounted / "web").stat().st_ino, file_identity(mounted / "web")))
    (inode, first), (same_inode, second) = found
    assert inode == same_inode
    assert first
    assert first != second


@pytest.mark.root
def test_where_nothing_tells_files_apart_none_is_known(tmp_path: Path, mount: Mount) -> None:
    folder = mount("ramfs", tmp_path / "ram", "-t", "ramfs")
    (folder / "web").write_bytes(b"a")
    assert not file_identity(folder / "web")
    assert file_identity(folder / "web") != file_identity(folder / "web")


@pytest.mark.root
def test_a_loop_device_is_the_part_of_the_file_behind_it(tmp_path: Path, attach: Attach) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.write_bytes(bytes(2 * MIB))
    device = attach(files[0])
    known = device_identity(device)
    assert known
    assert device_identity(attach(files[0])) == known  # whatever its number
    assert device_identity(attach(files[1])) != known
    assert device_identity(attach(files[0], "--offset", str(MIB))) != known
    (tmp_path / "link").symlink_to(device)
    assert device_identity(tmp_path / "link") == known
    shutil.copyfile(files[0], tmp_path / "copy")
    (tmp_path / "copy").replace(files[0])
    assert not device_identity(device)  # its file has no name any more, and another has
    assert device_identity(attach(files[0])) != known


@pytest.mark.root
def test_a_loop_device_that_shows_all_of_something_is_that(tmp_path: Path, attach: Attach) -> None:
    file = tmp_path / "a"
    file.write_bytes(bytes(2 * MIB))
    device = attach(file)
    assert str(device_identity(device)) == str(file_identity(file))
    assert str(device_identity(attach(device))) == str(file_identity(file))
    parts = [attach(file, *options) for options in (("--sizelimit", f"{MIB}"), ("-o", f"{MIB}"))]
    first, second = (device_identity(part) for part in parts)
    assert first
    assert second
    assert first not in (second, file_identity(file))
    assert device_identity(attach(parts[0])) == first


@pytest.fixture
def loop(tmp_path: Path, attach: Attach) -> Path:
    """A block device, whose place in sysfs is made up."""
    (tmp_path / "backing").write_bytes(bytes(MIB))
    return attach(tmp_path / "backing")


def _device(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _found(loop: Path, device: Path, udev: Path) -> VolumeIdentity:
    sysfs = device.parent / "numbers"
    sysfs.mkdir(exist_ok=True)
    number = loop.stat().st_rdev
    here = sysfs / f"{os.major(number)}:{os.minor(number)}"
    here.unlink(missing_ok=True)
    here.symlink_to(device)
    return device_identity(loop, sysfs, udev)


@pytest.mark.root
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"wwid": "nvme.1234"}, "nvme.1234"),
        ({"device__wwid": "t10.ATA   Disk   S1"}, "t10.ATA Disk S1"),
        ({"serial": "S17"}, "serial S17"),
        ({"device__cid": "1501"}, "serial 1501"),
        ({"dm__uuid": "LVM-abcdef"}, "LVM-abcdef"),
        (
            {"dm__uuid": f"LVM-{'a' * 32}zZ3aEoYm7tAbcdefghIjkl0123QRstuv"},
            "zZ3aEo-Ym7t-Abcd-efgh-Ijkl-0123-QRstuv",
        ),
        ({"dm__uuid": "mpath-36001"}, "mpath-36001"),
        ({"md__uuid": "AAAA:BBBB"}, "md aaaabbbb"),
        ({"md__uuid": "aaaa-bbbb"}, "md aaaabbbb"),
        ({"dm__uuid": ""}, ""),
        ({"dm__uuid": "CRYPT-LUKS2-x"}, ""),  # of which disk?
        ({"md__level": "raid1"}, ""),
        ({}, ""),
    ],
)
def test_devices(loop: Path, tmp_path: Path, files: dict[str, str], expected: str) -> None:
    assert str(_found(loop, _device(tmp_path / "sys/sda", **files), tmp_path)) == expected


@pytest.mark.root
def test_a_partition_is_known_by_its_uuid_and_its_disk(loop: Path, tmp_path: Path) -> None:
    disk = _device(tmp_path / "sys/sda", wwid="naa.6001")
    part = _device(disk / "sda2", partition="2", dev="8:2")
    assert not _found(loop, part, tmp_path)  # one that was made anew has this number, too
    (tmp_path / "b8:2").write_text("S:disk/by-id/x\nE:ID_PART_ENTRY_UUID=ABCD-1\n")
    assert str(_found(loop, part, tmp_path)) == "naa.6001 partition abcd-1"
    (part / "uevent").write_text("DEVTYPE=partition\nPARTUUID=abcd-1\n")
    (tmp_path / "b8:2").unlink()
    assert str(_found(loop, part, tmp_path)) == "naa.6001 partition abcd-1"
    (disk / "wwid").unlink()
    assert not _found(loop, part, tmp_path)  # a copy of the disk has the same uuids


@pytest.mark.root
def test_an_encrypted_device_is_known_with_its_disk(loop: Path, tmp_path: Path) -> None:
    disk = _device(tmp_path / "sys/sdb", wwid="naa.7")
    device = _device(tmp_path / "sys/dm-0", dm__uuid="CRYPT-LUKS2-12-name")
    (device / "slaves").mkdir()
    (device / "slaves/sdb").symlink_to(disk)
    assert str(_found(loop, device, tmp_path)) == "CRYPT-LUKS2-12-name on naa.7"
