"""When a file or block device was written to last.

A file system keeps the moment for a file. For a device the kernel counts the sectors that were
written and discarded since it came to be: two looks that find the same count have nothing between
them. After a boot, or when a device was set up anew, the count is another one, and nothing tells.
What goes around a device is not counted, as what is written to the disk beneath it.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import Final

from storage.backing import number_and_sequence
from storage.contracts import LastWrite
from storage.errors import VolumeError, reason
from storage.loops import is_loop
from storage.sysfs import SYSFS, backing_file, read_attribute

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_WRITTEN: Final = 6
_DISCARDED: Final = 13
"""Places of the counts of sectors in `stat` of a device."""

NOTHING: Final = "0+0"
"""What is counted of a device that nothing was written to."""
_COUNTING: Final = "counting "
"""Begins the course of a device of which it is certain that all is counted, even if it is nothing.

That of others tells once there is something: some drivers, as of NVMe with many paths, count none.
"""
_SECOND: Final = 10**9
_TICK: Final = _SECOND // 50
"""Nanoseconds that a clock of a kernel which is slow to tick stands still."""


def last_write(path: str | os.PathLike[str]) -> LastWrite | None:
    """Tell when what is at a path was written to last, None where nothing tells.

    What is still in the page cache of a device does not count. Quick, as it is asked for while a
    guest stands still. Raises `VolumeError`.
    """
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise VolumeError(f"volume {os.fspath(path)}: {reason(error)}") from error
    if stat.S_ISREG(status.st_mode):
        return LastWrite("", str(status.st_mtime_ns))
    return of_device(status.st_rdev) if stat.S_ISBLK(status.st_mode) else None


def of_device(number: int, sysfs: Path = SYSFS, boot_id: Path = BOOT_ID) -> LastWrite | None:
    """Tell it of the block device of a number, None where its count is switched off.

    The device mapper counts all the same, but for kernels since 6.11.
    """
    folder = sysfs / f"{os.major(number)}:{os.minor(number)}"
    if is_loop(folder):
        return _of_file_behind(folder)
    disk = folder.resolve().parent if (folder / "partition").exists() else folder
    counts = read_attribute(folder / "stat").split()
    boot = read_attribute(boot_id)
    switch = read_attribute(disk / "queue/iostats")
    mapped, zvol = (folder / "dm").exists(), folder.resolve().name.startswith("zd")
    if not boot or len(counts) <= _DISCARDED or (switch != "1" and not mapped):
        return None
    thing, sequence = number_and_sequence(number, sysfs)
    certain = _COUNTING if switch == "1" and (mapped or zvol) else ""
    course = f"{certain}boot {boot} {thing} sequence {sequence} switch {switch}"
    return LastWrite(course, f"{counts[_WRITTEN]}+{counts[_DISCARDED]}")


def tells(found: LastWrite) -> bool:
    """Whether a later look can show that nothing was written since."""
    return found.moment != NOTHING or found.course.startswith(_COUNTING)


def seconds_to_later(found: LastWrite) -> float:
    """Return how long it takes until a write has another moment than one that was just found.

    Some file systems keep whole seconds.
    """
    if found.course:
        return 0.0
    moment = int(found.moment)
    step = _TICK if moment % _SECOND else _SECOND
    return min(max(moment + step - time.time_ns(), 0), step) / _SECOND


def _of_file_behind(folder: Path) -> LastWrite | None:
    """Tell when the file of a loop device was written to, as may be done past the device, too.

    Nothing tells of one on another device: the node of that keeps no moment of what is written.
    """
    try:
        status = backing_file(folder).stat()
    except OSError:
        return None
    return LastWrite("", str(status.st_mtime_ns)) if stat.S_ISREG(status.st_mode) else None
