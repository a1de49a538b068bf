"""What is behind a loop device, and which loop devices a block device is made of."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from storage.syscalls import loop_backing
from storage.sysfs import SYSFS, backing_file, device_folder


class Behind(NamedTuple):
    """What a loop device shows, and which part of it."""

    path: Path
    status: os.stat_result
    offset: int
    limit: int
    """Bytes that it shows at most, 0 where that is not limited."""

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.status.st_mode)

    @property
    def is_whole(self) -> bool:
        """Whether all of it is shown."""
        size = self.status.st_size if self.is_file else None
        return not self.offset and (not self.limit or (size is not None and self.limit >= size))


def behind(device: Path, node: str | os.PathLike[str]) -> Behind:
    """Tell what is behind a loop device, by its folder in sysfs and its node.

    Raises `OSError`, also where the path of its file leads to another one by now.
    """
    path = backing_file(device)
    descriptor = os.open(node, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        filesystem, inode, offset, limit = loop_backing(descriptor)
    finally:
        os.close(descriptor)
    status = path.stat()
    if (status.st_dev, status.st_ino) != (filesystem, inode):
        raise FileNotFoundError(f"{path} is another file by now")
    return Behind(path, status, offset, limit)


def is_loop(device: Path) -> bool:
    """Whether a folder in sysfs is that of a loop device with something behind it."""
    return (device / "loop").exists()


def node_of(device: Path) -> str:
    """Return the node of a device, by its folder in sysfs."""
    return f"/dev/{device.name.replace('!', '/')}"


def reached(devices: Iterable[Path], step: Callable[[Path], Iterable[Path]]) -> set[Path]:
    """Return what is reached from devices by any number of steps, by folders in sysfs."""
    found: set[Path] = set()
    waiting = [*devices]
    while waiting:
        further = {one.resolve() for one in step(waiting.pop())} - found
        found |= further
        waiting += further
    return found


def beneath(device: Path, sysfs: Path = SYSFS) -> list[Path]:
    """Return the devices that a device is made of, or on, by folders in sysfs."""
    disk = [device.parent] if (device / "partition").exists() else []
    return [*disk, *(device / "slaves").glob("*"), *_device_behind(device, sysfs)]


def _device_behind(device: Path, sysfs: Path) -> list[Path]:
    try:
        status = backing_file(device).stat()
        return [device_folder(status.st_rdev, sysfs)] if stat.S_ISBLK(status.st_mode) else []
    except OSError:
        return []
