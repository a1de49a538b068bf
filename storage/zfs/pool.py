"""Pools of kind ``zfs``: zvols under one dataset."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage import usage
from storage.commands import run
from storage.contracts import Capacity, Entry, PoolVolume, VolumeIdentity, VolumeInfo
from storage.errors import (
    InvalidVolumeName,
    PoolFull,
    UnsupportedVolume,
    VolumeError,
    VolumeExists,
    VolumeInUse,
    VolumeNotFound,
)
from storage.last_write import last_write
from storage.names import check_name
from storage.same_volume import require_same
from storage.zfs.history import ZfsHistory
from storage.zfs.volume import Zvol, dataset_of

DEVICES: Final = Path("/dev/zvol")
_PATIENCE: Final = 60.0
"""Seconds that udev may take to show a new zvol; hosts with many of them do need tens."""
_DESTROY_PATIENCE: Final = 5.0
_DATASET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*(/[A-Za-z0-9_][A-Za-z0-9_.:-]*)*")
_COLUMNS: Final = "name,type,volsize,referenced,guid"
_SECTOR: Final = 512
"""Bytes of the logical sectors of every zvol, whatever its blocks are."""
_ABSENT: Final = "dataset does not exist"


@dataclass(frozen=True, slots=True)
class ZfsOptions:
    """Options of a pool of kind ``zfs``.

    `dataset` is the file system whose children the volumes are, such as ``tank/guests``. New ones
    have blocks of `volblocksize` bytes, and leave `reserve` bytes of the dataset free. With
    `sparse` space is taken only as it is written, so that volumes may be larger than what is free
    (a zvol reserves its size otherwise).
    """

    dataset: str
    volblocksize: int = 16 << 10
    sparse: bool = False
    reserve: int = 0


class ZfsPool:
    """The zvols right under a dataset; a volume's name is the last part of its zvol's."""

    kind = "zfs"
    makes_zeros = True
    holds_files = False
    disk_format = "raw"

    def __init__(self, name: str, options: ZfsOptions) -> None:
        """Raise `ValueError` for options that cannot be."""
        if not _DATASET.fullmatch(options.dataset):
            raise ValueError(f"pool {name}: {options.dataset!r} is no name of a ZFS dataset")
        block = options.volblocksize
        if not 512 <= block <= 128 << 10 or block & (block - 1):
            raise ValueError(
                f"pool {name}: volblocksize is {block}, must be a power of 2 from 512 to 128 KiB"
            )
        self.name = name
        self.reserves = not options.sparse
        self._options = options

    def folder(self) -> None:
        """None: it is no folder."""

    def expect(self, folder: VolumeIdentity) -> None:
        """Do nothing."""

    def find(self, volume: str) -> VolumeInfo | None:
        """Describe the volume, or None when there is none of that name.

        Raises `InvalidVolumeName`, `UnsupportedVolume` for another kind of dataset, `VolumeError`.
        """
        dataset = self._dataset(volume)
        try:
            text = self._list("-t", "filesystem,volume", dataset)
        except VolumeError as error:
            if _ABSENT in str(error):
                return None
            raise
        return self._info(text.rstrip("\n"))

    def volumes(self) -> list[VolumeInfo]:
        """Describe every volume, sorted by name; leaves out what no volume can be."""
        text = self._list("-t", "volume", "-d", "1", self._options.dataset)
        found = []
        for line in text.splitlines():
            try:
                self._dataset(line.partition("\t")[0].rpartition("/")[2])
            except InvalidVolumeName:
                continue
            found.append(self._info(line))
        return sorted(found, key=lambda info: info.name)

    def everything(self) -> list[Entry]:
        """Tell of every zvol. Raises `VolumeError`."""
        text = self._list("-t", "volume", "-d", "1", self._options.dataset)
        rows = (line.split("\t") for line in text.splitlines())
        return [
            Entry(_identity(guid), dataset.rpartition("/")[2], str(DEVICES / dataset))
            for dataset, *_, guid in rows
        ]

    def locate(self, path: str) -> str | None:
        """Name of the volume whose device `path` is, whatever the path looks like."""
        dataset = dataset_of(path)
        if dataset is None:
            return None
        name = dataset.rpartition("/")[2]
        try:
            return name if dataset == self._dataset(name) else None
        except InvalidVolumeName:
            return None

    def path(self, volume: str) -> str:
        """Path of the volume's device, whether it is there or not."""
        return str(DEVICES / self._dataset(volume))

    def prospect(self, volume: str, size: int) -> VolumeInfo:
        """Describe a zvol of a whole number of blocks. Raises `InvalidVolumeName`."""
        return VolumeInfo(
            pool=self.name,
            name=volume,
            path=self.path(volume),
            size=self._whole(size),
            allocated=0,
            in_use=None,
            sector=_SECTOR,
            alignment=_SECTOR,
        )

    def create(self, volume: str, size: int) -> VolumeInfo:
        """Make a zvol and wait for its device.

        Raises `VolumeExists`, `PoolFull`, `InvalidVolumeName`, `VolumeError`; nothing is left
        behind then.
        """
        dataset, options = self._dataset(volume), self._options
        if size <= 0:
            raise VolumeError(f"volume {self.name}:{volume}: cannot have {size} bytes")
        self._check_space(volume, size)
        sparse = ("-s",) if options.sparse else ()
        made = ("-o", f"volblocksize={options.volblocksize}", "-V", str(self._whole(size)), dataset)
        try:
            run(["zfs", "create", *sparse, *made])
        except VolumeError as error:
            if "already exists" in str(error):
                raise VolumeExists(f"volume {self.name}:{volume} is already there") from error
            if "out of space" in str(error):
                text = f"pool {self.name}: {volume} does not fit, with what ZFS adds to it"
                raise PoolFull(f"{text}: {error}") from error
            raise
        try:
            self._await_device(volume)
            info = self.find(volume)
        except BaseException:
            run(["zfs", "destroy", dataset])
            raise
        if info is None:
            raise VolumeError(f"volume {self.name}:{volume}: {dataset} vanished when just created")
        return info

    def remove(self, volume: str, identity: VolumeIdentity) -> None:
        """Destroy the zvol, with snapshots of ours. One that does not exist is not an error.

        Raises `VolumeReplaced` for another one than that of that identity, `VolumeInUse`, also for
        snapshots of others and clones, and `VolumeError`.
        """
        info = self._find_same(volume, identity)
        if info is None:
            return
        shown = f"volume {self.name}:{volume}"
        if info.in_use is not None:
            raise VolumeInUse(f"{shown} is in use: {info.in_use}")
        history = self.history(volume)
        history.end_receiving()
        snapshots = history.snapshots()
        if foreign := [snapshot.name for snapshot in snapshots if not snapshot.ours]:
            raise VolumeInUse(
                f"{shown} has snapshots that others made ({', '.join(foreign[:5])}): "
                f"destroy them, or rename {history.dataset} to keep it"
            )
        # Once more: to look who has it open takes a while.
        if self._find_same(volume, identity) is None:
            return
        history.destroy(snapshots)
        self._destroy(volume, identity)

    def _find_same(self, volume: str, identity: VolumeIdentity) -> VolumeInfo | None:
        """Describe the volume if it is there. Raises `VolumeReplaced` if it is another one."""
        if (info := self.find(volume)) is not None:
            require_same(f"{self.name}:{volume}", info.identity, identity)
        return info

    def _destroy(self, volume: str, identity: VolumeIdentity) -> None:
        """Destroy a zvol of that identity that has no snapshots, once udev has let go of it."""
        dataset = self._dataset(volume)
        deadline = time.monotonic() + _DESTROY_PATIENCE
        while self._find_same(volume, identity) is not None:
            try:
                run(["zfs", "destroy", dataset])
            except VolumeError as error:
                if _ABSENT in str(error):
                    return
                if "busy" not in str(error):
                    raise
                if time.monotonic() > deadline:
                    shown = f"volume {self.name}:{volume}"
                    raise VolumeInUse(f"{shown} is in use: {error}") from error
                time.sleep(0.1)  # udev looks into every new device for a moment
            else:
                return

    def capacity(self) -> Capacity:
        """Space of the dataset, the reserve not being free. Raises `VolumeError`."""
        columns = ("-o", "used,available", self._options.dataset)
        used, available = run(["zfs", "list", "-H", "-p", *columns]).split()
        free = max(0, int(available) - self._options.reserve)
        return Capacity(int(used) + int(available), free, self._options.sparse)

    def open(self, volume: str, *, writable: bool) -> PoolVolume:
        """Open the volume's device; see `BlockDevice.open` for writable ones and errors."""
        path = self.path(volume)
        if self.locate(path) != volume and self.find(volume) is None:
            raise VolumeNotFound(
                f"volume {self.name}:{volume}: there is no {self._dataset(volume)}"
            )
        return Zvol.open(path, name=f"{self.name}:{volume}", writable=writable)

    def history(self, volume: str) -> ZfsHistory:
        """Snapshots of the volume, and streams between them. Raises `InvalidVolumeName`."""
        return ZfsHistory(self._dataset(volume), self.path(volume))

    def _dataset(self, volume: str) -> str:
        check_name(self.name, volume)
        if "+" in volume:
            raise InvalidVolumeName(
                f"pool {self.name}: {volume!r} cannot be a volume name: ZFS takes no +"
            )
        return f"{self._options.dataset}/{volume}"

    def _list(self, *arguments: str) -> str:
        return run(["zfs", "list", "-H", "-p", "-o", _COLUMNS, *arguments])

    def _info(self, line: str) -> VolumeInfo:
        dataset, kind, size, referenced, guid = line.split("\t")
        name = dataset.rpartition("/")[2]
        if kind != "volume":
            raise UnsupportedVolume(f"volume {self.name}:{name}: {dataset} is a {kind}, no zvol")
        path = self.path(name)
        return VolumeInfo(
            pool=self.name,
            name=name,
            path=path,
            size=int(size),
            allocated=int(referenced),
            in_use=usage.in_use(path),
            identity=_identity(guid),
            sector=_SECTOR,
            alignment=_SECTOR,
            written=last_write(path),
        )

    def _whole(self, size: int) -> int:
        block = self._options.volblocksize
        return -(-size // block) * block

    def _check_space(self, volume: str, size: int) -> None:
        free = self.capacity().free
        if size > free and not self._options.sparse:
            raise PoolFull.lacks(self.name, self._options.dataset, free, volume, size)

    def _await_device(self, volume: str) -> None:
        """Wait until udev shows the device under its name."""
        path = Path(self.path(volume))
        deadline = time.monotonic() + _PATIENCE
        while self.locate(str(path)) != volume:
            if time.monotonic() > deadline:
                raise VolumeError(
                    f"volume {self.name}:{volume} was made, but {path} did not appear within "
                    f"{_PATIENCE:g} s: does udev run, and is volmode of the dataset right?"
                )
            time.sleep(0.02)


def _identity(guid: str) -> VolumeIdentity:
    """Return the identity of a zvol, which stays when a stream replaces all of it."""
    return VolumeIdentity(f"guid {guid}")
