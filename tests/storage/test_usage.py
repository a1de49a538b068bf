"""Who has a path in use, in words."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from storage import usage
from storage.usage import in_use, writer
from tests.support.volumes import run

Attach = Callable[..., Path]
Mount = Callable[..., Path]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "an image.img"
    path.touch()
    os.truncate(path, 4 << 20)
    return path


def test_free_files_and_missing_paths(image: Path) -> None:
    assert in_use(image) is None
    assert in_use(image.parent / "nothing") is None
    assert in_use(image / "below") is None


@pytest.mark.root
def test_free_device(image: Path, attach: Attach) -> None:
    assert in_use(attach(image)) is None


@pytest.mark.root
def test_backing_file_under_any_of_its_names(image: Path, attach: Attach) -> None:
    device = attach(image)
    (image.parent / "hard").hardlink_to(image)
    (image.parent / "soft").symlink_to(image)
    for name in (image, image.parent / "hard", image.parent / "soft"):
        assert in_use(name) == f"backs {device}"


@pytest.mark.root
def test_device_beneath_another_loop_device(image: Path, attach: Attach) -> None:
    device = attach(image)
    assert in_use(device) is None
    above = attach(device)
    assert in_use(device) == f"backs {above}"
    assert in_use(above) is None


@pytest.mark.root
def test_mounted_device(image: Path, attach: Attach, mount: Mount) -> None:
    device = attach(image)
    run("mkfs.ext4", "-q", device)
    folder = mount(device, image.parent / "a mount\tpoint")
    assert in_use(device) == f"mounted at {folder}"
    link = image.parent / "link"
    link.symlink_to(device)
    assert in_use(link) == f"mounted at {folder}"


@pytest.mark.root
def test_device_with_a_mounted_partition(
    image: Path, attach: Attach, mount: Mount, cleanup: ExitStack
) -> None:
    device = attach(image)
    run("addpart", device, "1", "2048", "4096")  # sectors; needs no partition table on it
    cleanup.callback(run, "delpart", device, "1")
    partition = Path(f"{device}p1")
    run("mkfs.ext4", "-q", partition)
    folder = mount(partition, image.parent / "mounted")
    assert in_use(partition) == f"mounted at {folder}"
    assert in_use(device) == f"its partition {partition.name} is in use: mounted at {folder}"


@pytest.mark.root
@pytest.mark.parametrize("on", ["file", "device"])
def test_swap_space(image: Path, attach: Attach, cleanup: ExitStack, on: str) -> None:
    image.write_bytes(bytes(4 << 20))
    image.chmod(0o600)
    swap = attach(image) if on == "device" else image
    run("mkswap", swap)
    run("swapon", swap)
    cleanup.callback(run, "swapoff", swap)
    assert in_use(swap) == "in use as swap space"


@pytest.mark.root
def test_claimed_device(image: Path, attach: Attach) -> None:
    device = attach(image)
    claim = os.open(device, os.O_RDONLY | os.O_EXCL)
    assert in_use(device) == "claimed by another program"
    os.close(claim)
    assert in_use(device) is None


@pytest.mark.parametrize("kind", [fcntl.LOCK_SH, fcntl.LOCK_EX])
def test_locked_file(image: Path, kind: int) -> None:
    command = Path("/proc/self/comm").read_text().strip()
    with image.open() as holder:
        fcntl.flock(holder, kind)
        assert in_use(image) == f"locked by process {os.getpid()} ({command})"
        fcntl.flock(holder, fcntl.LOCK_UN)
        assert in_use(image) is None


def test_asking_takes_no_lock(image: Path) -> None:
    with image.open() as holder:
        in_use(image)
        fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)


def fake_device(folder: Path, monkeypatch: pytest.MonkeyPatch, device: Path) -> Path:
    """Let sysfs be a folder of ours, as far as this device is concerned."""
    number = device.stat().st_rdev
    entry = folder / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}"
    entry.mkdir(parents=True)
    monkeypatch.setattr(usage, "SYS", folder)
    return entry


@pytest.mark.root
def test_device_held_by_the_device_mapper(
    image: Path, attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = attach(image)
    entry = fake_device(image.parent / "sys", monkeypatch, device)
    assert in_use(device) is None
    (entry / "holders" / "dm-3").mkdir(parents=True)
    assert in_use(device) == "part of /dev/dm-3"
    names = image.parent / "sys" / "block" / "dm-3" / "dm"
    names.mkdir(parents=True)
    (names / "name").write_text("vg-root\n")
    assert in_use(device) == "part of /dev/dm-3 (vg-root)"


@pytest.mark.parametrize(
    ("line", "command", "expected"),
    [
        ("1: OFDLCK ADVISORY  READ -1 {id} 100 100", "", "locked by another process"),
        ("1: POSIX  ADVISORY  WRITE 77 {id} 0 EOF", "qemu", "locked by process 77 (qemu)"),
        ("1: FLOCK  ADVISORY  WRITE 77 {id} 0 EOF", "", "locked by process 77"),
        ("1: FLOCK  ADVISORY  READ 77 {id} 0 EOF", "(udev-worker)", None),
        ("1: LEASE  ACTIVE    READ 77 {id} 0 EOF", "nfsd", None),
        ("1: -> FLOCK  ADVISORY  WRITE 77 {id} 0 EOF", "waiter", None),
        ("1: FLOCK  ADVISORY  WRITE 77 ff:ff:1 0 EOF", "other", None),
    ],
)
def test_lines_of_proc_locks(
    image: Path, monkeypatch: pytest.MonkeyPatch, line: str, command: str, expected: str | None
) -> None:
    status = image.stat()
    proc = image.parent / "proc"
    (proc / "77").mkdir(parents=True)
    if command:
        (proc / "77" / "comm").write_text(f"{command}\n")
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    (proc / "locks").write_text(line.format(id=device) + "\n")
    monkeypatch.setattr(usage, "PROC", proc)
    assert in_use(image) == expected


def test_writers_of_a_file(image: Path) -> None:
    command = Path("/proc/self/comm").read_text().strip()
    other = image.parent / "other"
    assert writer(image) is None
    with image.open("rb"), other.open("wb"):
        assert writer(image) is None
    with image.open("r+b"):
        (image.parent / "hard").hardlink_to(image)
        assert writer(image.parent / "hard") == f"process {os.getpid()} ({command})"
        image.unlink()
        assert writer(image.parent / "hard") == f"process {os.getpid()} ({command})"
    assert writer(image.parent / "hard") is None
    assert writer(image) is None
