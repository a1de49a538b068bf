"""A disk of a running guest, as the guest sees it."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from functools import partial
from typing import Final, Self

from storage.backing import backing_of, backing_of_descriptor
from storage.claiming import closing_on_error, open_path
from storage.contracts import FILE_SECTOR, Backing, Extent
from storage.errors import QemuError, UnsupportedVolume, VolumeError, VolumeReplaced, reason
from storage.qemu.additions import GuestQemu
from storage.qemu.nbd import PATIENCE, require_libnbd
from storage.qemu.nodes import DiskNode
from storage.qemu.reads import Reads
from storage.qemu.volume import ExportedVolume

log = logging.getLogger(__name__)

_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK


class GuestDisk(ExportedVolume):
    """The content of a disk that the QEMU of a running domain serves, for reading only.

    QEMU reads it, whatever its format is and whatever is behind it. What it is made of is open here
    too, so that one that is renamed or removed is known all the same.
    """

    def __init__(
        self, qemu: GuestQemu, path: str, node: DiskNode, fd: int, *, patience: float
    ) -> None:
        """Use `open`. Owns the descriptor from the end of this on."""
        self._qemu = qemu
        self._export = qemu.export(node)
        self._image = fd
        self.reads = Reads()
        try:
            connect = partial(qemu.connect, self._export, patience=patience)
            super().__init__(path, connect, writable=False)
        except BaseException:
            self._remove_export()
            raise

    @classmethod
    def open(
        cls, qemu: GuestQemu, path: str | os.PathLike[str], *, patience: float = PATIENCE
    ) -> Self:
        """Have QEMU export the disk at `path`. `patience` is for each request, in seconds.

        Raises `UnsupportedVolume` for what is not to be copied so, `QemuError`, `VolumeError`,
        `VolumeNotFound`.
        """
        name = os.fspath(path)
        fd = open_path(name, _FLAGS, name)
        with closing_on_error(fd, name, name):
            node = _node(qemu, name)
            if (led := backing_of(name)).what != backing_of_descriptor(fd).what:
                raise VolumeReplaced(f"{name} has come to lead to {led.what} as it was opened")
            return cls(qemu, name, node, fd, patience=patience)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`, with what has to be settled. Raises `VolumeError`.

        It is tried twice: QEMU gives up connections while it stops.
        """
        self.reads.note(Extent(offset, len(buffer)))
        try:
            super().read_into(offset, buffer)
        except VolumeError as error:
            if not isinstance(error.__cause__, OSError) or isinstance(
                error.__cause__, TimeoutError
            ):
                raise
            super().read_into(offset, buffer)

    def backing(self) -> Backing:
        """Tell what the image is in, as it is now, with the size of its content.

        An image grows while it is written, which is no change of the disk. Raises `VolumeError`.
        """
        try:
            return content_backing(backing_of_descriptor(self._image), self.size)
        except OSError as error:
            raise VolumeError(f"volume {self.name}: cannot look at it: {reason(error)}") from error

    def close(self) -> None:
        """Release the disk, and have QEMU forget the export. Idempotent."""
        super().close()
        if self._image >= 0:
            os.close(self._image)
            self._image = -1
            self._remove_export()

    def _remove_export(self) -> None:
        try:
            self._qemu.remove(self._export)
        except QemuError as error:
            log.warning("%s: something is left in its QEMU for now: %s", self.name, error)


def look(qemu: GuestQemu, path: str | os.PathLike[str]) -> Backing:
    """Tell what the disk at a path is now, as `GuestDisk.backing` does; nothing is added to QEMU.

    Raises what `GuestDisk.open` does for a disk that cannot be read so.
    """
    require_libnbd()
    name = os.fspath(path)
    return content_backing(backing_of(name), _node(qemu, name).size)


def cluster_of(qemu: GuestQemu, path: str | os.PathLike[str]) -> int:
    """Tell the size of the clusters of an image in bytes, 0 where it has none. Raises as `look`."""
    return _node(qemu, os.fspath(path)).cluster


def _node(qemu: GuestQemu, name: str) -> DiskNode:
    node, *others = qemu.find(name)
    if others:
        raise UnsupportedVolume(f"{name}: QEMU has it open for several devices of the guest")
    return node


def content_backing(image: Backing, size: int) -> Backing:
    """Return what an image is in as what its content is, which has that size."""
    return replace(image, size=size, sector=FILE_SECTOR)
