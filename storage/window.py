"""A volume seen at another size than its own.

A smaller window ends before the volume does. In a larger one the volume goes on with zeros, which
can be read and not written: what is there is then compared, counted and verified like any other
part, so that nobody finds behind it what a larger copy held before.
"""

from __future__ import annotations

from collections.abc import Iterator

from storage.contracts import Backing, Extent, Volume
from storage.errors import VolumeError


def window(volume: Volume, size: int) -> Volume:
    """Return the volume as if it had `size` bytes, a multiple of its alignment."""
    return volume if size == volume.size else _Window(volume, size)


class _Window:
    """The `Volume` of `window`. What it does not do itself, the volume does."""

    def __init__(self, volume: Volume, size: int) -> None:
        self._volume = volume
        self.name = volume.name
        self.size = size
        self.alignment = volume.alignment
        self.flush = volume.flush
        self.close = volume.close

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`, with zeros from the end of the volume on."""
        self._require_inside(offset, len(buffer), self.size)
        real = max(0, min(self._volume.size - offset, len(buffer)))
        if real:
            self._volume.read_into(offset, buffer[:real])
        buffer[real:] = bytes(len(buffer) - real)

    def write(self, offset: int, buffer: memoryview) -> None:
        """Store `buffer` at `offset`, within the volume and the window."""
        self._require_inside(offset, len(buffer), min(self.size, self._volume.size))
        self._volume.write(offset, buffer)

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros, within the volume and the window."""
        self._require_inside(offset, length, min(self.size, self._volume.size))
        self._volume.zero(offset, length)

    def data_extents(self) -> Iterator[Extent]:
        """Ranges of the window that may hold data: there are none behind the volume's end."""
        for extent in self._volume.data_extents():
            if extent.offset < self.size:
                yield Extent(extent.offset, min(extent.length, self.size - extent.offset))

    def backing(self) -> Backing:
        """Tell what is open: the volume as it is."""
        return self._volume.backing()

    def _require_inside(self, offset: int, length: int, end: int) -> None:
        if not 0 <= offset <= offset + length <= end:
            raise VolumeError(f"{self.name}: {length} bytes at {offset} are beyond its end, {end}")
