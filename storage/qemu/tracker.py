"""The tracker that learns of writes from the QEMU that does them."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Final

from storage.contracts import EVERYTHING, Everything, Extent
from storage.errors import StorageError, VolumeError, reason
from storage.extents import merge
from storage.qemu.additions import GuestQemu
from storage.qemu.nbd import PATIENCE, Connection, require_libnbd
from storage.qemu.nodes import DiskNode
from storage.qemu.reads import Reads

log = logging.getLogger(__name__)

_CONTEXT: Final = "qemu:dirty-bitmap:"
_DIRTY: Final = 1


def require_tracking(qemu: GuestQemu, path: str | os.PathLike[str]) -> None:
    """See that the writes to a disk can be tracked, as things are now. Raises `StorageError`."""
    require_libnbd()
    qemu.find(path)


class BitmapTracker:
    """Tracks the writes of a guest to a disk that its QEMU serves, in any format.

    Reports what is written to the content, by any device that it is, in blocks of `GRANULARITY`. A
    write is in the first report after it has ended; docs/architecture.md says why that suffices.
    When anything fails, a drain answers `EVERYTHING`, `trouble` says why, and tracking begins anew.
    """

    def __init__(
        self,
        qemu: GuestQemu,
        path: str | os.PathLike[str],
        reads: Reads | None = None,
        *,
        patience: float = PATIENCE,
    ) -> None:
        """Take the QEMU and the path of the disk, and the reads of it that QEMU does for us.

        `patience` is for what is asked of a bitmap, in seconds.
        """
        self.trouble: str | None = "not started"
        self._qemu = qemu
        self._path = os.fspath(path)
        self._reads = reads or Reads()
        self._patience = patience
        self._turn = threading.Lock()
        self._started = False
        self._nodes: tuple[DiskNode, ...] = ()
        self._bitmap = ""

    def start(self) -> None:
        """Begin; see `Tracker.start`. Where that cannot be, each drain tries it again."""
        with self._turn:
            self._started = True
            self._begin()

    def drain(self) -> list[Extent] | Everything:
        """Ranges written since `start` or the last drain; see `Tracker.drain`.

        With what has to be read again. Nobody reads meanwhile.
        Takes milliseconds, or some seconds where QEMU does not answer.
        """
        with self._turn:
            if not self._started:
                return EVERYTHING
            if self._nodes:
                try:
                    return self._report(self._nodes)
                except StorageError as error:
                    self._give_up(str(error))
                self._qemu.forget(self._bitmap)
            self._begin()
            return EVERYTHING

    def stop(self) -> None:
        """End tracking and remove what it had in QEMU. Idempotent."""
        with self._turn:
            self._started = False
            self.trouble = self.trouble or "stopped"
            if self._nodes:
                self._nodes = ()
                self._remove(self._bitmap)

    def _begin(self) -> None:
        try:
            require_libnbd()  # else all is known too late
            self._nodes, self._bitmap = self._qemu.add_bitmap(self._path)
            self.trouble = None
        except StorageError as error:
            self._nodes = ()
            self._give_up(str(error))

    def _report(self, nodes: tuple[DiskNode, ...]) -> list[Extent]:
        last = self._bitmap
        self._bitmap, running = self._qemu.swap_bitmap(self._path, nodes, last)
        again = self._reads.settle(running=running)
        names = [last]
        try:
            found = again
            for node in nodes:
                names.append(export := self._qemu.export(node, [last]))
                found += self._read(node, export, last)
            return merge(found)
        finally:
            self._remove(*names)

    def _read(self, node: DiskNode, export: str, bitmap: str) -> list[Extent]:
        """Return what a bitmap marks."""
        context = _CONTEXT + bitmap
        try:
            connected = self._qemu.connect(export, [context], patience=self._patience)
            with closing(connected) as connection:
                return list(_marked(connection, context, node.size))
        except OSError as error:
            what = f"{self._path}: what was written cannot be read"
            raise VolumeError(f"{what}: {reason(error)}") from error

    def _remove(self, *names: str) -> None:
        try:
            self._qemu.remove(*names)
        except StorageError as error:
            log.warning("%s: something is left in its QEMU for now: %s", self._path, error)

    def _give_up(self, why: str) -> None:
        self.trouble = why
        log.warning("%s: writes are not tracked, it is read in full: %s", self._path, why)


def _marked(connection: Connection, context: str, size: int) -> Iterator[Extent]:
    offset = 0
    while offset < size:
        found = connection.status(context, offset, size - offset)
        yield from (extent for extent, flags in found if flags & _DIRTY)
        offset = found[-1].extent.end
