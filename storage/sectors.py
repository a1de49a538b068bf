"""Logical sector sizes of block devices, without opening them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from storage.errors import VolumeError, reason

_SYSFS: Final = Path("/sys/dev/block")


def sector_of(path: str | os.PathLike[str], sysfs: Path = _SYSFS) -> int:
    """Return the logical sector size of a block device in bytes. Raises `VolumeError`."""
    try:
        number = Path(path).stat().st_rdev
        device = (sysfs / f"{os.major(number)}:{os.minor(number)}").resolve(strict=True)
        disk = device.parent if (device / "partition").exists() else device
        return int((disk / "queue" / "logical_block_size").read_text())
    except OSError as error:
        raise VolumeError(f"{os.fspath(path)}: its sectors are unknown: {reason(error)}") from error
