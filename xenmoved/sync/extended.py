"""A volume that is copied to a larger one: as if it went on with zeros to the end of that.

What is beyond its own end is then compared, zeroed where it has to be, counted, and verified like
any other part. So nobody finds there what the larger volume held before.
"""

from __future__ import annotations

from collections.abc import Iterator

from protocol.errors import Code, ProtocolError
from storage.backing import Backing
from storage.contracts import Extent, Volume


def extended(volume: Volume, size: int) -> Volume:
    """Return the volume, read as if it had `size` bytes.

    Raises ProtocolError when it has more: the target has said that it is as large.
    """
    if size < volume.size:
        text = f"the target has {size} bytes for {volume.name}, which has {volume.size}"
        raise ProtocolError(Code.OUT_OF_RANGE, text)
    return volume if size == volume.size else _Extended(volume, size)


class _Extended:
    """A volume with zeros behind its end. It can only be read."""

    def __init__(self, volume: Volume, size: int) -> None:
        self._volume = volume
        self.name = volume.name
        self.size = size
        self.alignment = volume.alignment
        self.flush = volume.flush
        self.close = volume.close

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`, with zeros from the end of the volume on."""
        real = max(0, min(self._volume.size - offset, len(buffer)))
        if real:
            self._volume.read_into(offset, buffer[:real])
        buffer[real:] = bytes(len(buffer) - real)

    def write(self, offset: int, buffer: memoryview) -> None:
        """Raise NotImplementedError: a source is only read."""
        raise NotImplementedError

    def zero(self, offset: int, length: int) -> None:
        """Raise NotImplementedError: a source is only read."""
        raise NotImplementedError

    def data_extents(self) -> Iterator[Extent]:
        """Ranges of the volume that may hold data: there is none behind its end."""
        return self._volume.data_extents()

    def backing(self) -> Backing:
        """Tell what is open: the volume as it is."""
        return self._volume.backing()
