"""Which block device sees the writes to a volume, and where the volume lies on it."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage import usage
from storage.errors import reason
from storage.syscalls import loop_backing
from storage.tracking.ringpages import event_device

SYS: Final = Path("/sys")

_IDENTITY: Final = (
    "dev",
    "diskseq",  # another one each time that a disk appears or gets other media (Linux 5.15)
    "loop/backing_file",
    "loop/offset",
    "loop/sizelimit",
    "dm/name",
    "dm/uuid",
)


class CannotTrack(Exception):
    """No block device sees all the writes to a volume. The message says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """A block device and the place of a volume on it.

    Two are equal as long as nothing was replaced in between. `node` is where programs open it and
    `number` what they get. Events name the whole `disk`, also for a partition, and count from its
    start: the volume's first byte is there at `first` (negative if the device is a window that
    begins within the volume), and it has `size` bytes.
    """

    node: str
    number: int
    disk: int
    first: int
    size: int
    identity: tuple[str, ...]


def find_target(path: str | os.PathLike[str]) -> Target:
    """Return the device that sees what is written to the file or block device at `path`.

    Writes that go around it are not seen: to what lies beneath a device (the physical volume of a
    logical one, the file of a loop device), or to a file otherwise than through its loop device.
    The latter is refused as far as it can be told. Raises `CannotTrack`.
    """
    try:
        status = Path(path).stat()
    except OSError as error:
        raise CannotTrack(f"{os.fspath(path)}: {reason(error)}") from None
    if stat.S_ISBLK(status.st_mode):
        return _of_device(os.fspath(path), status.st_rdev)
    if stat.S_ISREG(status.st_mode):
        return _of_file(path, status)
    raise CannotTrack(f"{os.fspath(path)} is neither a regular file nor a block device")


def _of_device(node: str, number: int) -> Target:
    folder = SYS / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}"
    try:
        folder = folder.resolve(strict=True)
        size = int(_text(folder, "size")) * 512
        is_partition = (folder / "partition").exists()
        disk = folder.parent if is_partition else folder
        first = int(_text(folder, "start")) * 512 if is_partition else 0
        major, minor = _text(disk, "dev").split(":")
    except (OSError, ValueError) as error:
        raise CannotTrack(f"{node} is not described in {SYS}: {error}") from None
    if _text(disk, "queue/zoned") not in ("none", ""):
        raise CannotTrack(f"{node} is a zoned device, which may choose itself where it writes")
    return Target(
        node=node,
        number=number,
        disk=event_device(int(major), int(minor)),
        first=first,
        size=size,
        identity=(*(_text(disk, name) for name in _IDENTITY), *_slaves(disk)),
    )


def _of_file(path: str | os.PathLike[str], status: os.stat_result) -> Target:
    loops = _loops(status)
    if not loops:
        raise CannotTrack("no loop device backs it: its backend writes the file itself, as qdisk")
    if len(loops) > 1:
        raise CannotTrack(f"several loop devices write it: {', '.join(sorted(loops))}")
    if (who := usage.writer(path)) is not None:
        raise CannotTrack(f"{who} has it open for writing, not only its loop device")
    ((node, offset),) = loops.items()
    device = _of_device(node, Path(node).stat().st_rdev)
    return Target(node, device.number, device.disk, -offset, status.st_size, device.identity)


def _loops(status: os.stat_result) -> dict[str, int]:
    """Loop devices on a file, and the bytes of the file at which they begin."""
    found = {}
    for mark in sorted((SYS / "block").glob("loop*/loop")):
        node = f"/dev/{mark.parent.name}"
        try:
            descriptor = os.open(node, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                device, inode, offset, _ = loop_backing(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno in (errno.ENXIO, errno.ENOENT):  # it was just detached
                continue
            raise CannotTrack(f"{node} cannot be asked for its file: {reason(error)}") from None
        if (device, inode) == (status.st_dev, status.st_ino):
            found[node] = offset
    return found


def _slaves(disk: Path) -> list[str]:
    return sorted(slave.name for slave in (disk / "slaves").glob("*"))


def _text(folder: Path, name: str) -> str:
    """Return the text of an attribute in sysfs, empty when there is none."""
    try:
        return (folder / name).read_text(errors="surrogateescape").strip()
    except OSError:
        return ""
