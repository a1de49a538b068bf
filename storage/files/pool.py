"""Pools of kind ``dir``: image files in one folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from storage import usage
from storage.contracts import (
    Capacity,
    Entry,
    LastWrite,
    PoolFolder,
    PoolVolume,
    VolumeIdentity,
    VolumeInfo,
)
from storage.errors import (
    InvalidVolumeName,
    PoolFull,
    StorageError,
    UnsupportedVolume,
    VolumeError,
    VolumeExists,
    VolumeInUse,
    VolumeNotFound,
    reason,
)
from storage.files.volume import RawFile
from storage.identify import file_identity
from storage.names import check_name
from storage.places import place_at
from storage.qemu.image import FORMATS, create_image
from storage.same_volume import require_same

_RAW: Final = "raw"
_ALLOCATION_UNIT: Final = 512  # of st_blocks, whatever the file system's block size is


@dataclass(frozen=True, slots=True)
class DirectoryOptions:
    """Options of a pool of kind ``dir``.

    `path` is the folder. `reserve` is how many bytes of the file system new volumes leave free.
    With `overcommit`, volumes may be larger than what is free: files are sparse, but writes fail
    when the space does run out. `format` is that of the disks of guests in new volumes: ``raw`` or
    one of `storage.qemu.image.FORMATS`.
    """

    path: Path
    overcommit: bool = False
    reserve: int = 0
    format: str = _RAW


class DirectoryPool:
    """A folder of sparse raw files and images; a volume's name is its file's."""

    kind = "dir"
    makes_zeros = True
    holds_files = True
    reserves = False

    def __init__(self, name: str, options: DirectoryOptions) -> None:
        """Raise `ValueError` for options that cannot be."""
        if options.format not in (known := (_RAW, *FORMATS)):
            raise ValueError(
                f"pool {name}: format is {options.format!r}, must be one of: {', '.join(known)}"
            )
        self.name = name
        self.disk_format = options.format
        self._options = options
        self._expected: VolumeIdentity | None = None

    def folder(self) -> PoolFolder:
        """Which folder it is. Raises `VolumeError` when it cannot be read."""
        path = self._options.path
        try:
            bare = not path.is_dir() or not (path.is_mount() or _has_entries(path))
        except OSError as error:
            raise self._failure(None, "list", error) from error
        return PoolFolder(str(path), file_identity(path), bare)

    def expect(self, folder: VolumeIdentity) -> None:
        """Say which folder it was with something in it, as `_folder` sees by itself later on."""
        self._expected = folder

    def find(self, volume: str) -> VolumeInfo | None:
        """Describe the volume, or None when there is none of that name.

        Raises `InvalidVolumeName` (also for a symbolic link that leaves the folder),
        `UnsupportedVolume` for what is no regular file, `VolumeError`.
        """
        file = self._resolve(volume)
        try:
            status = file.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failure(volume, "look at", error) from error
        if not stat.S_ISREG(status.st_mode):
            raise UnsupportedVolume(f"volume {self.name}:{volume}: {file} is not a regular file")
        return VolumeInfo(
            pool=self.name,
            name=volume,
            path=str(self._options.path / volume),
            size=status.st_size,
            allocated=status.st_blocks * _ALLOCATION_UNIT,
            in_use=usage.in_use(file),
            identity=file_identity(file),
            written=LastWrite("", str(status.st_mtime_ns)),
        )

    def volumes(self) -> list[VolumeInfo]:
        """Describe every volume, sorted by name; leaves out what no volume can be.

        Raises `VolumeError` when the folder cannot be read.
        """
        try:
            names = sorted(entry.name for entry in self._folder().iterdir())
        except OSError as error:
            raise self._failure(None, "list", error) from error
        found: list[VolumeInfo] = []
        for name in names:
            try:
                info = self.find(name)
            except (InvalidVolumeName, UnsupportedVolume):
                continue
            if info is not None:
                found.append(info)
        return found

    def everything(self) -> list[Entry]:
        """Tell of every file. Raises `VolumeError`."""
        try:
            with os.scandir(self._folder()) as entries:
                files = sorted(entry.path for entry in entries if entry.is_file())
        except OSError as error:
            raise self._failure(None, "list", error) from error
        found = (Entry(file_identity(file), Path(file).name, file) for file in files)
        return [one for one in found if one.identity]

    def locate(self, path: str) -> str | None:
        """Name of the volume that `path` denotes, or None unless it is a file in the folder."""
        file = Path(os.path.realpath(path))
        try:
            if place_at(file.parent) != place_at(self._folder()) or self.find(file.name) is None:
                return None
        except StorageError:
            return None
        return file.name

    def path(self, volume: str) -> str:
        """Path of the volume's file, whether it is there or not."""
        return str(self._resolve(volume))

    def prospect(self, volume: str, size: int) -> VolumeInfo:
        """Describe a file of exactly `size` bytes. Raises `InvalidVolumeName`, `VolumeError`."""
        self._resolve(volume)
        path = str(self._options.path / volume)
        return VolumeInfo(self.name, volume, path, size, allocated=0, in_use=None)

    def create(self, volume: str, size: int) -> VolumeInfo:
        """Make a sparse file of exactly `size` bytes, durable when this returns.

        Raises `VolumeExists`, `PoolFull`, `InvalidVolumeName` and `VolumeError`; nothing is left
        behind then.
        """
        return self._create(volume, size, partial(self._make_file, volume, size))

    def create_image(
        self, volume: str, size: int, image_format: str, *, cluster: int | None = None
    ) -> VolumeInfo:
        """Make an image of one of `FORMATS`, whose content is `size` bytes of zeros.

        For `cluster` see `storage.qemu.image.create_image`. The size of what is returned is that of
        the file, as for every image. Raises what `create` does.
        """
        make = partial(create_image, image_format=image_format, size=size, cluster=cluster)
        return self._create(volume, size, make)

    def _make_file(self, volume: str, size: int, file: Path) -> None:
        try:
            fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError as error:
            raise VolumeExists(f"volume {self.name}:{volume} is already there") from error
        try:
            os.ftruncate(fd, size)
            os.fsync(fd)
        except BaseException:
            file.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)

    def _create(self, volume: str, size: int, make: Callable[[Path], None]) -> VolumeInfo:
        """Have a file made, which is removed again when anything fails; see `create`."""
        if size <= 0:
            raise VolumeError(f"volume {self.name}:{volume}: cannot have {size} bytes")
        if self.find(volume) is not None:
            raise VolumeExists(f"volume {self.name}:{volume} is already there")
        self._check_space(volume, size)
        file = self._folder() / volume  # not resolved: a dangling link is in the way, too
        try:
            make(file)
        except OSError as error:
            raise self._failure(volume, f"create {size} bytes as", error) from error
        try:
            self._sync_folder()
            info = self.find(volume)
        except OSError as error:
            file.unlink(missing_ok=True)
            raise self._failure(volume, f"create {size} bytes as", error) from error
        except BaseException:
            file.unlink(missing_ok=True)
            raise
        if info is None:
            raise VolumeError(f"volume {self.name}:{volume}: {file} vanished when just created")
        return info

    def remove(self, volume: str, identity: VolumeIdentity) -> None:
        """Remove the volume's file, durably. One that does not exist is not an error.

        Of a file that has several names, or of a link, it is this name that goes. Raises
        `VolumeReplaced` for another file than the one of that identity, `VolumeInUse` rather than
        take a disk from under its user, and `VolumeError`.
        """
        info = self.find(volume)
        if info is None:
            return
        shown = f"{self.name}:{volume}"
        require_same(shown, info.identity, identity)
        if info.in_use is not None:
            raise VolumeInUse(f"volume {shown} is in use: {info.in_use}")
        try:
            file = self._folder() / volume
            # Once more: to look who has it open takes a while.
            require_same(shown, file_identity(self._resolve(volume)), identity)
            file.unlink(missing_ok=True)
            self._sync_folder()
        except OSError as error:
            raise self._failure(volume, "remove", error) from error

    def capacity(self) -> Capacity:
        """Space of the folder's file system, the reserve not being free. Raises `VolumeError`."""
        try:
            status = os.statvfs(self._folder())
        except OSError as error:
            raise self._failure(None, "measure", error) from error
        free = status.f_bavail * status.f_frsize - self._options.reserve
        total = status.f_blocks * status.f_frsize
        return Capacity(total, max(0, free), self._options.overcommit)

    def history(self, volume: str) -> None:
        """Return None: volumes of this kind have no history."""

    def open(self, volume: str, *, writable: bool) -> PoolVolume:
        """Open the volume's file; see `RawFile.open` for writable ones and errors."""
        if self.find(volume) is None:
            raise VolumeNotFound(f"volume {self.name}:{volume}: no such file in {self._folder()}")
        path = str(self._resolve(volume))
        return RawFile.open(path, name=f"{self.name}:{volume}", writable=writable)

    def _folder(self) -> Path:
        try:
            folder = self._options.path.resolve(strict=True)
        except OSError as error:
            raise self._failure(None, "find", error) from error
        now = self.folder()
        if not now.bare:
            self._expected = now.identity or None
        elif self._expected is not None and now.identity != self._expected:
            raise VolumeError(
                f"pool {self.name}: {self._options.path} is another folder than it was, and empty; "
                "mount the file system that belongs there. If this is the folder that is meant, "
                "have something in it"
            )
        return folder

    def _resolve(self, volume: str) -> Path:
        check_name(self.name, volume)
        folder = self._folder()
        file = Path(os.path.realpath(folder / volume))
        if file.parent != folder:
            raise InvalidVolumeName(
                f"volume {self.name}:{volume}: a symbolic link leads out of {folder}, to {file}"
            )
        return file

    def _check_space(self, volume: str, size: int) -> None:
        free = self.capacity().free
        if size > free and not self._options.overcommit:
            raise PoolFull.lacks(self.name, self._options.path, free, volume, size)

    def _sync_folder(self) -> None:
        fd = os.open(self._folder(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _failure(self, volume: str | None, verb: str, error: OSError) -> VolumeError:
        what = f"the folder {self._options.path}" if volume is None else f"volume {volume}"
        return VolumeError(f"pool {self.name}: cannot {verb} {what}: {reason(error)}")


def _has_entries(folder: Path) -> bool:
    """Whether anything is in a folder, however much: it is asked with every volume."""
    with os.scandir(folder) as entries:
        return any(entries)
