"""A volume of this host while a peer fills it: open, and nobody else's until it is closed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from protocol.messages import ImageFormat, Placement, VolumeOffer
from storage.backing import backing_of, compare_backings
from storage.contracts import Backing, Pool, PoolVolume, Watching
from storage.errors import StorageError, UnfitImage, VolumeNotFound, VolumeReplaced
from storage.files.images import require_standalone
from storage.qemu.guest_disk import content_backing
from storage.qemu.image import ImageVolume
from xenmoved.migration.geometry import misfits
from xenmoved.migration.target.reuse import is_image_of
from xenmoved.problems import Obstructed

_PIECE: Final = 64 << 20
"""Bytes that are emptied at once: a slow disk takes some seconds for them."""


@dataclass(slots=True)
class FilledVolume:
    """An open volume, or the content of an image that is one. All calls block.

    `size` is how much of it is filled. A stream of ZFS gives the volume the size of the source's.
    """

    volume: PoolVolume | ImageVolume
    offer: VolumeOffer
    pool: Pool
    name: str
    size: int
    _opened: Backing
    _watch: Watching

    @classmethod
    def open(
        cls, pool: Pool, placement: Placement, offer: VolumeOffer, *, guest: bool, sockets: Path
    ) -> FilledVolume:
        """Open a volume for writing, which nobody else has open.

        `sockets` is a folder in which only root gets at sockets. Raises StorageError, and
        Obstructed when it is not such as was looked at beforehand.
        """
        volume: PoolVolume | ImageVolume
        if is_image_of(offer, placement.format):
            volume = ImageVolume.open(
                pool.path(placement.name),
                placement.format,
                name=f"{pool.name}:{placement.name}",
                writable=True,
                folder=sockets,
            )
        else:
            volume = pool.open(placement.name, writable=True)
        try:
            watch = volume.watch()
        except BaseException:
            volume.close()
            raise
        try:
            watch.require_alone()
            opened = volume.backing()
            shown = f"{pool.name}:{placement.name}"
            geometry = (volume.size, opened.sector, volume.alignment)
            if found := tuple(misfits(offer, shown, *geometry, guest=guest)):
                raise Obstructed(found)
        except BaseException:
            watch.close()
            volume.close()
            raise
        return cls(volume, offer, pool, placement.name, volume.size, opened, watch)

    def emptying(self) -> Iterator[int]:
        """Make all of it read as zeros, piece by piece; yield how far that has come, in bytes.

        Durable at the end of it. Raises StorageError, also where the storage keeps what was there
        before and it is not this program's to destroy.
        """
        if (history := self.pool.history(self.name)) is not None:
            history.clear()
        for extent in self.volume.data_extents():
            for offset in range(extent.offset, extent.end, _PIECE):
                end = min(offset + _PIECE, extent.end)
                self.volume.zero(offset, end - offset)
                yield end
        self.volume.flush()

    def require_whole(self) -> None:
        """See that an image that came needs no other files, and is of the announced disk.

        Raises StorageError.
        """
        if self.offer.format is ImageFormat.RAW:
            return
        size = require_standalone(self.volume, self.offer.format)
        if size > self.offer.disk_size:
            text = f"{self.volume.name} may grow to {size} bytes: {self.offer.disk_size} announced"
            raise UnfitImage(text)

    def require_untouched(self) -> None:
        """See that nobody else has it or may have written to it, and what `require_there` does."""
        self._watch.require_alone()
        self.require_there()

    def require_settled(self) -> None:
        """See the same of one that is not complete, when all that was written to it is counted.

        Raises StorageError.
        """
        if Path(self.pool.path(self.name)).is_block_device():
            self.volume.flush()
        self.finish()
        self.require_untouched()

    def finish(self) -> None:
        """Have an image closed by the tool that writes it: it is as it stays then.

        Nothing can be written any more. Raises StorageError.
        """
        if isinstance(self.volume, ImageVolume):
            self.volume.finish()

    def require_there(self) -> None:
        """See that it is what is found under its name, at its size. Raises StorageError."""
        path = self.pool.path(self.name)
        try:
            found = backing_of(path)
            if isinstance(self.volume, ImageVolume):
                found = content_backing(found, self.size)
            compare_backings(path, replace(self._opened, size=self.size), found)
        except VolumeNotFound as error:
            # A guest would be started from what is found under the name.
            text = f"{error}: it was removed or renamed while it was filled"
            raise VolumeReplaced(text) from error

    def unlock(self) -> None:
        """Let a toolstack open it, and its backends lock it, where they lock what they open."""
        self.volume.unlock()

    def close(self) -> None:
        """Close it. Idempotent; raises nothing."""
        self._watch.close()
        with suppress(StorageError):
            self.volume.close()
