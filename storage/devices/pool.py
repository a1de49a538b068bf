"""Pools of kind ``block``: block devices that the operator made and listed."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Never

from storage import usage
from storage.claiming import closing_on_error, open_path
from storage.contracts import Entry, PoolVolume, VolumeIdentity, VolumeInfo
from storage.devices.volume import BlockDevice
from storage.devices.whole_files import why_not_whole
from storage.errors import PoolFull, UnsupportedVolume, VolumeNotFound
from storage.identify import device_identity
from storage.last_write import last_write
from storage.names import check_name
from storage.same_volume import require_same
from storage.syscalls import device_size, sector_size


@dataclass(frozen=True, slots=True)
class BlockOptions:
    """Options of a pool of kind ``block``: volume names and the paths of their devices."""

    devices: Mapping[str, Path]


class BlockPool:
    """Existing block devices under names of their own. None can be made or removed.

    A loop device is a volume only if it shows all of a file, and so is what is made of one. But
    `everything` tells of the others: what they have of volumes is to be seen.
    """

    kind = "block"
    makes_zeros = False
    holds_files = False
    disk_format = "raw"
    reserves = True

    def __init__(self, name: str, options: BlockOptions) -> None:
        """Raise `InvalidVolumeName` for a name that no volume may have."""
        self.name = name
        self._devices = dict(options.devices)
        for volume in self._devices:
            check_name(name, volume)

    def folder(self) -> None:
        """None: it is a list of devices."""

    def expect(self, folder: VolumeIdentity) -> None:
        """Do nothing."""

    def find(self, volume: str) -> VolumeInfo | None:
        """Describe the device, or None when it is not listed or not there.

        Raises `InvalidVolumeName`, `UnsupportedVolume` for what is no block device, or no volume
        (see above), `VolumeError`.
        """
        check_name(self.name, volume)
        path = self._devices.get(volume)
        if path is None:
            return None
        try:
            size, sector = self._geometry(volume, str(path))
        except VolumeNotFound:
            return None
        return VolumeInfo(
            pool=self.name,
            name=volume,
            path=str(path),
            size=size,
            allocated=None,
            in_use=usage.in_use(path),
            identity=device_identity(path),
            sector=sector,
            alignment=sector,
            written=last_write(path),
        )

    def volumes(self) -> list[VolumeInfo]:
        """Describe every listed device that is there, sorted by name."""
        found = (self.find(volume) for volume in sorted(self._devices))
        return [info for info in found if info is not None]

    def everything(self) -> list[Entry]:
        """Tell of every listed device that is there, whether it is a volume or not."""
        listed = sorted(self._devices.items())
        found = (Entry(device_identity(path), name, str(path)) for name, path in listed)
        return [one for one in found if one.identity]

    def locate(self, path: str) -> str | None:
        """Name of the volume that `path` is too, whatever the paths look like."""
        wanted = _device_number(path)
        if wanted is None:
            return None
        for volume, device in sorted(self._devices.items()):
            if _device_number(device) == wanted:
                return volume if why_not_whole(device) is None else None
        return None

    def path(self, volume: str) -> str:
        """Path of the listed device. Raises `VolumeNotFound` when none of that name is listed."""
        check_name(self.name, volume)
        if (path := self._devices.get(volume)) is None:
            raise VolumeNotFound(f"volume {self.name}:{volume}: pool {self.name} lists no such one")
        return str(path)

    def prospect(self, volume: str, size: int) -> None:
        """None: volumes cannot be created."""

    def create(self, volume: str, size: int) -> Never:
        """Raise `PoolFull`, or `UnsupportedVolume`: devices are made by hand."""
        check_name(self.name, volume)
        path = self._devices.get(volume, Path("/dev/…"))
        self._require_whole(volume, path)
        raise PoolFull(
            f"pool {self.name} holds listed devices only: for volume {volume}, create {path} of "
            f"{size} bytes by hand and have it in the configuration"
        )

    def remove(self, volume: str, identity: VolumeIdentity) -> None:
        """Raise `UnsupportedVolume`, unless there is no such volume: that is not an error.

        Raises `VolumeReplaced` for another device than the one of that identity.
        """
        if (info := self.find(volume)) is not None:
            require_same(f"{self.name}:{volume}", info.identity, identity)
            raise UnsupportedVolume(
                f"pool {self.name} holds listed devices only: remove {self._devices[volume]} by "
                "hand"
            )

    def capacity(self) -> None:
        """None: volumes cannot be created."""

    def history(self, volume: str) -> None:
        """Return None: volumes of this kind have no history."""

    def open(self, volume: str, *, writable: bool) -> PoolVolume:
        """Open the device; see `BlockDevice.open` for writable ones and errors."""
        path = self.path(volume)
        self._require_whole(volume, path)
        return BlockDevice.open(path, name=f"{self.name}:{volume}", writable=writable)

    def _geometry(self, volume: str, path: str) -> tuple[int, int]:
        name = f"{self.name}:{volume}"
        if _device_number(path) is None and Path(path).exists():
            raise UnsupportedVolume(f"volume {name}: {path} is not a block device")
        self._require_whole(volume, path)
        fd = open_path(path, os.O_RDONLY, name)
        with closing_on_error(fd, path, name):
            found = device_size(fd), sector_size(fd)
        os.close(fd)
        return found

    def _require_whole(self, volume: str, path: str | os.PathLike[str]) -> None:
        if (why := why_not_whole(path)) is not None:
            raise UnsupportedVolume(f"volume {self.name}:{volume}: {why}")


def _device_number(path: str | os.PathLike[str]) -> int | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_rdev if stat.S_ISBLK(status.st_mode) else None
