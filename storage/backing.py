"""What a path, a descriptor or a device number is at this moment: which thing, and how large.

A guest's backend keeps open what it opened once, while the path in the guest's configuration may
come to lead elsewhere (`mv`, `lvrename`, another link), and while what it leads to may be resized.
Two looks at the same thing give the same `Backing.what` for as long as this host runs.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from storage.contracts import FILE_SECTOR, Backing
from storage.errors import VolumeError, VolumeNotFound, VolumeReplaced, VolumeResized, reason
from storage.loops import node_of
from storage.syscalls import device_size, loop_backing, sector_size
from storage.sysfs import SYSFS, device_folder, read_attribute


def backing_of(path: str | os.PathLike[str]) -> Backing:
    """Tell what a path leads to, links followed. Raises `VolumeNotFound` or `VolumeError`."""
    name = os.fspath(path)
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise VolumeNotFound(f"{name}: {reason(error)}") from error
    except OSError as error:
        raise VolumeError(f"{name} cannot be looked at: {reason(error)}") from error
    try:
        return backing_of_descriptor(descriptor)
    except OSError as error:
        raise VolumeError(f"{name} cannot be looked at: {reason(error)}") from error
    finally:
        os.close(descriptor)


def backing_of_descriptor(descriptor: int) -> Backing:
    """Tell what a descriptor has open. Raises `OSError`."""
    status = os.fstat(descriptor)
    if not stat.S_ISBLK(status.st_mode):
        return Backing(_file(status.st_dev, status.st_ino), status.st_size, FILE_SECTOR)
    thing, sequence = number_and_sequence(status.st_rdev)
    file = ""
    try:
        device, inode, offset, _ = loop_backing(descriptor)
        file = _file(device, inode) if offset == 0 else ""
        thing = f"{thing} with {_file(device, inode)} from {offset}"
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL, errno.ENXIO):  # no loop device, no file
            raise
    return Backing(thing, device_size(descriptor), sector_size(descriptor), file, sequence)


def backing_of_device(number: int) -> Backing:
    """Tell what the block device of a number is. Raises `VolumeError`."""
    shown = f"block device {os.major(number)}:{os.minor(number)}"
    try:
        folder = device_folder(number)
    except OSError as error:
        raise VolumeError(f"{shown} is not there: {reason(error)}") from error
    return backing_of(node_of(folder))


def check_backing(path: str | os.PathLike[str], opened: Backing) -> None:
    """See that a path still leads to what was opened by it, and that this has its size.

    Raises `VolumeReplaced`, `VolumeResized`, or `VolumeNotFound` when nothing is there any more.
    """
    compare_backings(path, opened, backing_of(path))


def compare_backings(path: str | os.PathLike[str], opened: Backing, now: Backing) -> None:
    """See that what is found now is what was opened. Raises `VolumeReplaced` or `VolumeResized`."""
    name = os.fspath(path)
    if now.is_resized(opened):
        raise VolumeResized(f"{name} has {now.size} bytes now, and had {opened.size}")
    if now.what != opened.what:
        raise VolumeReplaced(f"{name} leads to {now.what} now, and led to {opened.what}")


def _file(device: int, inode: int) -> str:
    return f"file {os.major(device)}:{os.minor(device)}/{inode}"


def number_and_sequence(number: int, sysfs: Path = SYSFS) -> tuple[str, str]:
    """Name a device, and its sequence number: numbers are given again, these and uuids are not."""
    shown = f"{os.major(number)}:{os.minor(number)}"
    folder = sysfs / shown
    disk = folder.resolve().parent if (folder / "partition").exists() else folder
    # Linux before 5.15 has no sequence numbers, and only the device mapper's have uuids.
    uuid = read_attribute(disk / "dm/uuid")
    name = f"device {shown} uuid {uuid}" if uuid else f"device {shown}"
    return name, read_attribute(disk / "diskseq") or ""
