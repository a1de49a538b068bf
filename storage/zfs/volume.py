"""Zvols: block devices whose space is given back by discarding whole blocks of ZFS."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from storage.descriptor import zero_by_unit
from storage.devices.volume import BlockDevice

_BLKZNAME: Final = 0x8100127D
_NAME_SIZE: Final = 256


class Zvol(BlockDevice):
    """An open zvol."""

    def zero(self, offset: int, length: int) -> None:
        """Discard the whole blocks of ZFS in the range, and write zeros to what is left of it.

        Raises `VolumeFull` or `VolumeError`.
        """
        with self.using("zero", offset, length) as fd:
            self.changing("zero", offset, length)
            zero_by_unit(fd, offset, length, _granularity(fd))


def dataset_of(device: str) -> str | None:
    """Name of the dataset that a zvol's device shows, None for other devices and for partitions.

    Snapshots have an @ in their names.
    """
    try:
        if not Path(device).resolve().name.startswith("zd"):
            return None
        fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if Path(f"{_sysfs(fd)}/partition").exists():
            return None
        name = fcntl.ioctl(fd, _BLKZNAME, bytes(_NAME_SIZE))
    except OSError:
        return None
    finally:
        os.close(fd)
    return name.rstrip(b"\0").decode(errors="replace")


def _sysfs(fd: int) -> str:
    number = os.fstat(fd).st_rdev
    return f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"


def _granularity(fd: int) -> int:
    """Bytes of a block of ZFS: what a zvol frees at once."""
    return int(Path(f"{_sysfs(fd)}/queue/discard_granularity").read_text())
