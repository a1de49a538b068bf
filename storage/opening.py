"""Opening a guest's disk by the path that its configuration gives."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from storage.contracts import PoolVolume
from storage.devices.volume import BlockDevice
from storage.errors import UnsupportedVolume, VolumeError, VolumeNotFound, reason
from storage.files.volume import RawFile


def open_source(path: str | os.PathLike[str], *, exclusive: bool = False) -> PoolVolume:
    """Open a file or block device for reading, whoever else has it open.

    With `exclusive` nobody may: raises `VolumeInUse`.

    Symbolic links are followed; a loop device is a block device like others. The volume is named
    after the path. Raises `VolumeNotFound`, `UnsupportedVolume` for anything else than a regular
    file or block device, and `VolumeError`.
    """
    name = os.fspath(path)
    try:
        mode = Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise VolumeNotFound(f"volume {name}: {reason(error)}") from error
    except OSError as error:
        raise VolumeError(f"volume {name}: cannot open it: {reason(error)}") from error
    if stat.S_ISBLK(mode):
        return BlockDevice.open(name, name=name, writable=exclusive)
    if stat.S_ISREG(mode):
        return RawFile.open(name, name=name, writable=exclusive)
    raise UnsupportedVolume(f"volume {name} is neither a regular file nor a block device")
