"""Pools of kinds ``lvm`` and ``lvm-thin``: logical volumes of one group.

Volumes are at ``/dev/GROUP/NAME``. Sizes are whole numbers of extents of the group, commonly 4 MiB.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

from storage import usage
from storage.commands import run
from storage.contracts import FILE_SECTOR, Capacity, Entry, PoolVolume, VolumeIdentity, VolumeInfo
from storage.devices.volume import BlockDevice
from storage.errors import (
    InvalidVolumeName,
    PoolFull,
    StorageError,
    UnsupportedVolume,
    VolumeError,
    VolumeExists,
    VolumeInUse,
    VolumeNotFound,
)
from storage.last_write import last_write
from storage.lvm.devmapper import LvmDevice, join_name, lvm_device
from storage.lvm.report import LogicalVolume, logical_volumes, physical_volumes, volume_group
from storage.lvm.thin import ThinPlace, ThinVolume, why_not_written
from storage.names import check_name
from storage.same_volume import require_same
from storage.sectors import sector_of

log = logging.getLogger(__name__)

_LONGEST_NAME: Final = 127 - len("-tpool")
"""Characters of a device's name, of which LVM needs some for the parts that it makes."""
_RESERVED_START: Final = ("snapshot", "pvmove")
_RESERVED_PART: Final = re.compile(
    "_(cdata|cmeta|corig|cpool|cvol|wcorig|iorig|imeta|mimage|mlog|pmspare|rimage|rmeta|tdata|"
    "tmeta|vdata|vorigin)"
)
_LVM_NAME: Final = re.compile(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]*")
_DEVICES: Final = Path("/dev")
_UDEV_QUEUE: Final = Path("/run/udev/queue")
_UDEV_PATIENCE: Final = 60.0
_UDEV_NOTICES: Final = 0.05
"""Seconds until udev has noticed that something changed."""


@dataclass(frozen=True, slots=True)
class LvmOptions:
    """Options of a pool of kind ``lvm``.

    `group` is the volume group. `reserve` is how many bytes of it new volumes leave free.
    """

    group: str
    reserve: int = 0


@dataclass(frozen=True, slots=True)
class LvmThinOptions:
    """Options of a pool of kind ``lvm-thin``.

    `group` is the volume group and `thin_pool` the name of the thin pool in it. `reserve` is how
    many bytes of it new volumes leave free. With `overcommit`, volumes may be larger than what is
    free: but writes fail when the space does run out.
    """

    group: str
    thin_pool: str
    overcommit: bool = False
    reserve: int = 0


class _GroupPool:
    """What both kinds have in common."""

    kind: str
    makes_zeros: bool
    holds_files = False
    disk_format = "raw"
    reserves: bool

    def __init__(self, name: str, group: str) -> None:
        self.name = name
        self._group = group
        _check_option(name, "group", group)

    def folder(self) -> None:
        """None: it is no folder."""

    def expect(self, folder: VolumeIdentity) -> None:
        """Do nothing."""

    def find(self, volume: str) -> VolumeInfo | None:
        """Describe the volume, or None when there is no logical volume of that name.

        Raises `InvalidVolumeName`, `UnsupportedVolume` for a logical volume that is none of this
        pool or not active, `VolumeError`.
        """
        self._check_name(volume)
        found = self._volumes_of_group(about=volume)
        if volume not in found:
            return None
        return self._info(self._usable(volume, found))

    def volumes(self) -> list[VolumeInfo]:
        """Describe every volume, sorted by name; leaves out what is none of this pool.

        Raises `VolumeError` when the group cannot be read.
        """
        found = self._volumes_of_group()
        return [
            self._info(found[name]) for name in sorted(found) if self._obstacle(name, found) is None
        ]

    def everything(self) -> list[Entry]:
        """Tell of every logical volume. Raises `VolumeError`."""
        found = logical_volumes(self._group)
        return [
            Entry(VolumeIdentity(found[name].uuid), name, str(_DEVICES / self._group / name))
            for name in sorted(found)
        ]

    def locate(self, path: str) -> str | None:
        """Name of the volume of this pool that `path` leads to, by whatever name of the device."""
        if (described := lvm_device(path)) is None:
            return None
        device, beneath = described
        if device.group != self._group or device.layer or not self._is_ours(beneath):
            return None
        try:
            self._check_name(device.volume)
        except InvalidVolumeName:  # a part of another volume
            return None
        return device.volume

    def path(self, volume: str) -> str:
        """Path of the volume, whether it is there or not."""
        self._check_name(volume)
        return str(_DEVICES / self._group / volume)

    def prospect(self, volume: str, size: int) -> VolumeInfo:
        """Describe a volume of a whole number of extents, on the disks that the group has now.

        Raises `InvalidVolumeName` and `VolumeError`.
        """
        group = volume_group(self._group)
        # Of a volume on disks of two kinds, the larger sectors count; LVM has them mixed only if
        # told to.
        sector = max(map(sector_of, physical_volumes(self._group)), default=FILE_SECTOR)
        return VolumeInfo(
            pool=self.name,
            name=volume,
            path=self.path(volume),
            size=-(-size // group.extent_size) * group.extent_size,
            allocated=0,
            in_use=None,
            sector=sector,
            alignment=sector,
        )

    def create(self, volume: str, size: int) -> VolumeInfo:
        """Make a volume of at least `size` bytes: as many as a whole number of extents has.

        What it has beyond `size` reads as zeros. Raises `VolumeExists`, `PoolFull`,
        `InvalidVolumeName`, `UnsupportedVolume` and `VolumeError`; nothing is left behind then.
        """
        self._check_name(volume)
        if size <= 0:
            raise VolumeError(f"volume {self.name}:{volume}: cannot have {size} bytes")
        found = self._volumes_of_group()
        if volume in found:
            self._usable(volume, found)
            raise VolumeExists(f"volume {self.name}:{volume} is already there")
        arguments = self._creation(volume, size, found)
        # If something goes wrong, it tells what was made here from what somebody else made.
        tag = f"xenmoved_{uuid4().hex}"
        command = ["lvcreate", "-q", "-y", "-n", volume, "--addtag", tag, *arguments, self._group]
        try:
            run(command)
            _await_node(self.path(volume))
            self._finish(volume, size)
            info = self.find(volume)
        except BaseException:
            self._undo(volume, tag)
            raise
        if info is None:
            raise VolumeError(f"volume {self.name}:{volume} vanished when just created")
        return info

    def remove(self, volume: str, identity: VolumeIdentity) -> None:
        """Remove the volume. One that does not exist is not an error.

        Raises `VolumeReplaced` for another one than that of that identity; `VolumeInUse` rather
        than take a disk from under its user, or from its snapshots; `UnsupportedVolume` for a
        logical volume that is none of this pool; and `VolumeError`.
        """
        self._check_name(volume)
        found = self._volumes_of_group(about=volume)
        if (lv := found.get(volume)) is None:
            return
        shown = f"{self.name}:{volume}"
        require_same(shown, VolumeIdentity(lv.uuid), identity)
        if lv.active:
            self._usable(volume, found)
        if (who := self._in_use(lv)) is not None:
            raise VolumeInUse(f"volume {shown} is in use: {who}")
        # Once more: to look who has it open takes a while.
        if (now := logical_volumes(self._group).get(volume)) is None:
            return
        require_same(shown, VolumeIdentity(now.uuid), identity)
        run(["lvremove", "-q", "-y", f"{self._group}/{volume}"])

    def history(self, volume: str) -> None:
        """Return None: volumes of this kind have no history."""

    def open(self, volume: str, *, writable: bool) -> PoolVolume:
        """Open the volume; see `BlockDevice.open` for writable ones and errors.

        Raises `UnsupportedVolume` also for what LVM has as read-only.
        """
        self._check_name(volume)
        found = logical_volumes(self._group)
        if volume not in found:
            raise VolumeNotFound(f"volume {self.name}:{volume}: no such one in {self._where()}")
        lv = self._usable(volume, found)
        if writable and lv.read_only:
            raise UnsupportedVolume(
                f"volume {self.name}:{volume} is read-only: lvchange -prw {self._group}/{volume}"
            )
        return self._open(lv, found, writable)

    def _check_name(self, volume: str) -> None:
        check_name(self.name, volume)
        if volume.startswith(_RESERVED_START) or _RESERVED_PART.search(volume):
            raise InvalidVolumeName(f"pool {self.name}: LVM has reserved the name {volume!r}")
        length = len(join_name(self._group, volume))
        if length > _LONGEST_NAME:
            raise InvalidVolumeName(
                f"pool {self.name}: {volume!r} is too long: LVM makes {length} characters of it "
                f"and the group, dashes counting twice, and can take {_LONGEST_NAME}"
            )

    def _volumes_of_group(self, about: str | None = None) -> dict[str, LogicalVolume]:
        """Ask for all; once more, if one is open that udev may only look at for a moment."""
        found = logical_volumes(self._group)
        opened = (lv for name, lv in found.items() if lv.open and about in (None, name))
        if any(usage.in_use(self.path(lv.name)) is None for lv in opened):
            _await_udev()
            found = logical_volumes(self._group)
        return found

    def _usable(self, volume: str, found: dict[str, LogicalVolume]) -> LogicalVolume:
        if (why := self._obstacle(volume, found)) is not None:
            raise UnsupportedVolume(f"volume {self.name}:{volume}: {self._group}/{volume} {why}")
        return found[volume]

    def _info(self, lv: LogicalVolume) -> VolumeInfo:
        return VolumeInfo(
            pool=self.name,
            name=lv.name,
            path=self.path(lv.name),
            size=lv.size,
            allocated=self._allocated(lv),
            in_use=self._in_use(lv),
            identity=VolumeIdentity(lv.uuid),
            sector=(sector := sector_of(self.path(lv.name))),
            alignment=sector,
            written=last_write(self.path(lv.name)),
        )

    def _in_use(self, lv: LogicalVolume) -> str | None:
        if (who := usage.in_use(self.path(lv.name))) is not None:
            return who
        if lv.open:
            return "open, by a guest or a program"
        return "has snapshots or thin volumes that depend on it" if lv.needed_by_others else None

    def _undo(self, volume: str, tag: str) -> None:
        """Remove what was made, if anything was."""
        try:
            lv = logical_volumes(self._group).get(volume)
            if lv is not None and tag in lv.tags:
                _await_udev()
                run(["lvremove", "-q", "-y", f"{self._group}/{volume}"])
        except StorageError as error:
            log.error("%s/%s may be left half-made: %s", self._group, volume, error)

    def _check_space(self, volume: str, size: int, free: int) -> None:
        if size > free:
            raise PoolFull.lacks(self.name, self._where(), free, volume, size)

    def _obstacle(self, volume: str, found: dict[str, LogicalVolume]) -> str | None:
        """Why a logical volume is none of this pool, or cannot be used."""
        lv = found[volume]
        if "private" in lv.role:
            return "is there for other volumes only"
        if (why := self._foreign(lv, found)) is not None:
            return why
        return None if lv.active else f"is not active: lvchange -ay {self._group}/{volume}"

    # What the kinds have of their own

    def _where(self) -> str:
        raise NotImplementedError

    def _is_ours(self, beneath: list[LvmDevice]) -> bool:
        """Tell by the devices right beneath it whether a volume of the group is of this pool."""
        raise NotImplementedError

    def _foreign(self, lv: LogicalVolume, found: dict[str, LogicalVolume]) -> str | None:
        """Why a volume that guests may have is none of this pool."""
        raise NotImplementedError

    def _allocated(self, lv: LogicalVolume) -> int | None:
        raise NotImplementedError

    def _creation(self, volume: str, size: int, found: dict[str, LogicalVolume]) -> list[str]:
        """Arguments of lvcreate. Raises `PoolFull`."""
        raise NotImplementedError

    def _finish(self, volume: str, size: int) -> None:
        """Do what is left to be done with a volume that was made."""
        raise NotImplementedError

    def _open(
        self, lv: LogicalVolume, found: dict[str, LogicalVolume], writable: bool
    ) -> PoolVolume:
        raise NotImplementedError


class LvmPool(_GroupPool):
    """The plain volumes of a group: linear, striped, mirrored. What is new holds old bytes."""

    kind = "lvm"
    makes_zeros = False
    reserves = True

    def __init__(self, name: str, options: LvmOptions) -> None:
        """Raise `ValueError` for a name that no group has."""
        super().__init__(name, options.group)
        self._reserve = options.reserve

    def capacity(self) -> Capacity:
        """Space of the group, the reserve not being free. Raises `VolumeError`."""
        group = volume_group(self._group)
        return Capacity(group.size, max(0, group.free - self._reserve))

    def _where(self) -> str:
        return f"volume group {self._group}"

    def _is_ours(self, beneath: list[LvmDevice]) -> bool:
        return not any(device.layer in ("tpool", "cow") for device in beneath)

    def _foreign(self, lv: LogicalVolume, found: dict[str, LogicalVolume]) -> str | None:
        if lv.thin:
            return f"is in the thin pool {lv.pool}: only a pool of kind lvm-thin has it"
        return f"is a snapshot of {lv.origin}" if "snapshot" in lv.role else None

    def _allocated(self, lv: LogicalVolume) -> int:
        return lv.size

    def _creation(self, volume: str, size: int, found: dict[str, LogicalVolume]) -> list[str]:
        group = volume_group(self._group)
        extents = -(-size // group.extent_size)
        free = max(0, group.free - self._reserve)
        self._check_space(volume, extents * group.extent_size, free)
        # Old signatures are wiped, or the host might take the volume for what it was once.
        return ["-Wy", "-Zy", "-l", str(extents)]

    def _finish(self, volume: str, size: int) -> None:
        device = BlockDevice.open(self.path(volume), name=f"{self.name}:{volume}", writable=True)
        try:
            # Nobody writes there, and it may be a secret of whoever had the space before.
            begin = size // device.alignment * device.alignment
            device.zero(begin, device.size - begin)
            device.flush()
        finally:
            device.close()

    def _open(
        self, lv: LogicalVolume, found: dict[str, LogicalVolume], writable: bool
    ) -> PoolVolume:
        name = f"{self.name}:{lv.name}"
        return BlockDevice.open(self.path(lv.name), name=name, writable=writable)


class LvmThinPool(_GroupPool):
    """The volumes of one thin pool."""

    kind = "lvm-thin"
    makes_zeros = True
    reserves = False

    def __init__(self, name: str, options: LvmThinOptions) -> None:
        """Raise `ValueError` for names that no group or thin pool has."""
        super().__init__(name, options.group)
        _check_option(name, "thin_pool", options.thin_pool)
        self._options = options

    def capacity(self) -> Capacity:
        """Space of the thin pool, the reserve not being free. Raises `VolumeError`."""
        pool = self._thin_pool(logical_volumes(self._group))
        return Capacity(pool.size, self._free(pool), self._options.overcommit)

    def _where(self) -> str:
        return f"thin pool {self._group}/{self._options.thin_pool}"

    def _is_ours(self, beneath: list[LvmDevice]) -> bool:
        # One more device beneath is what an external origin is: see _foreign.
        return beneath == [LvmDevice(self._group, self._options.thin_pool, "tpool")]

    def _foreign(self, lv: LogicalVolume, found: dict[str, LogicalVolume]) -> str | None:
        if not lv.thin:
            return "is no thin volume: only a pool of kind lvm has it"
        if lv.pool != self._options.thin_pool:
            return f"is in another thin pool, {lv.pool}"
        if lv.origin in found and not found[lv.origin].thin:
            return f"shows {lv.origin} where it is not mapped, and not zeros"
        return None

    def _allocated(self, lv: LogicalVolume) -> int:
        return round(lv.size * lv.used)

    def _creation(self, volume: str, size: int, found: dict[str, LogicalVolume]) -> list[str]:
        pool = self._thin_pool(found)
        if not pool.zeroing:
            why = why_not_written(self._place(pool, 0))
            raise UnsupportedVolume(f"volume {self.name}:{volume} cannot be made: {why}")
        size = -(-size // pool.extent_size) * pool.extent_size
        if not self._options.overcommit:
            self._check_space(volume, size, self._free(pool))
        return ["--type", "thin", "--thinpool", pool.name, "-V", f"{size}b"]

    def _finish(self, volume: str, size: int) -> None:
        """Nothing is left: all of it reads as zeros."""

    def _open(
        self, lv: LogicalVolume, found: dict[str, LogicalVolume], writable: bool
    ) -> PoolVolume:
        place = self._place(self._thin_pool(found), lv.thin_id)
        name = f"{self.name}:{lv.name}"
        return ThinVolume.at(place, self.path(lv.name), name=name, writable=writable)

    def _thin_pool(self, found: dict[str, LogicalVolume]) -> LogicalVolume:
        pool = found.get(self._options.thin_pool)
        if pool is None or not pool.thin_pool or not pool.chunk:
            raise VolumeError(f"pool {self.name}: there is no {self._where()}")
        return pool

    def _place(self, pool: LogicalVolume, thin_id: int) -> ThinPlace:
        return ThinPlace(self._group, pool.name, thin_id, pool.chunk, pool.zeroing)

    def _free(self, pool: LogicalVolume) -> int:
        return max(0, int(pool.size * (1 - pool.used)) - self._options.reserve)


def _check_option(pool: str, option: str, value: str) -> None:
    if not _LVM_NAME.fullmatch(value) or value in (".", ".."):
        raise ValueError(f"pool {pool}: option {option!r} must be a name of LVM's, not {value!r}")


def _await_node(path: str) -> None:
    """Wait until udev has made the device node of a new volume. Raises `VolumeError`."""
    deadline = time.monotonic() + _UDEV_PATIENCE
    while not Path(path).is_block_device():
        if time.monotonic() > deadline:
            raise VolumeError(f"{path} has not appeared within {_UDEV_PATIENCE:g} s: is udev well?")
        time.sleep(0.02)


def _await_udev() -> None:
    """Wait until udev has looked at what just changed: it opens devices for a moment."""
    time.sleep(_UDEV_NOTICES)
    deadline = time.monotonic() + _UDEV_PATIENCE
    while _UDEV_QUEUE.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
