"""Volumes whose content a QEMU process reads and writes for us."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

from storage.contracts import Extent
from storage.errors import VolumeError, VolumeFull, reason
from storage.qemu.nbd import MOST_AT_ONCE, Connection
from storage.ranges import Ranged

Connect = Callable[[Sequence[str]], Connection]

_ALLOCATION: Final = "base:allocation"
_ZERO: Final = 2
_MOST_ZEROED: Final = 1 << 30


class ExportedVolume(Ranged):
    """Base of volumes that are an export of an NBD server.

    A thread has a connection of its own for each call. There are as many as there ever were calls
    at the same time; one that failed is not used again.
    """

    def __init__(self, name: str, connect: Connect, *, writable: bool) -> None:
        """Connect, to something that has the contexts that are asked for. Raises `VolumeError`."""
        self.name = name
        self.writable = writable
        self._connect = partial(connect, [_ALLOCATION])
        self._idle: list[Connection] = []
        self._uses = 0
        self._closed = False
        self._lost: str | None = None
        self._state = threading.Condition()
        try:
            connection = self._connect()
        except OSError as error:
            raise VolumeError(f"volume {name}: cannot open it: {reason(error)}") from error
        self.size, self.alignment = connection.size, connection.alignment
        self._idle.append(connection)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset` with the content as it is now. Raises `VolumeError`."""
        with self._using("read", offset, len(buffer)) as connection:
            for start in range(0, len(buffer), MOST_AT_ONCE):
                connection.read_into(offset + start, buffer[start : start + MOST_AT_ONCE])

    def write(self, offset: int, buffer: memoryview) -> None:
        """Store `buffer` at `offset`. Raises `VolumeFull` or `VolumeError`."""
        with self._using("write", offset, len(buffer), changing=True) as connection:
            for start in range(0, len(buffer), MOST_AT_ONCE):
                connection.write(offset + start, buffer[start : start + MOST_AT_ONCE])

    def zero(self, offset: int, length: int) -> None:
        """Make the range read as zeros; the format gives space back in whole clusters.

        Raises `VolumeFull` or `VolumeError`.
        """
        with self._using("zero", offset, length, changing=True) as connection:
            for start in range(0, length, _MOST_ZEROED):
                connection.zero(offset + start, min(_MOST_ZEROED, length - start))

    def flush(self) -> None:
        """Make what was written durable. Raises `VolumeError`, and for ever after it once did."""
        with self._using("flush", 0, self.size) as connection:
            if self._lost is not None:
                raise VolumeError(
                    f"volume {self.name}: an earlier flush failed ({self._lost}); "
                    "what was written before it may be lost"
                )
            try:
                connection.flush()
            except OSError as error:
                self._lost = reason(error)
                raise

    def data_extents(self) -> Iterator[Extent]:
        """Ranges that the image, or one behind it, has data for. Raises `VolumeError`."""
        offset = 0
        while offset < self.size:
            with self._using("find data in", offset, self.size - offset) as connection:
                found = connection.status(_ALLOCATION, offset, self.size - offset)
            yield from (extent for extent, flags in found if not flags & _ZERO)
            offset = found[-1].extent.end

    def close(self) -> None:
        """Disconnect once calls under way have ended. Idempotent. Does not flush."""
        with self._state:
            self._closed = True
            self._state.wait_for(lambda: self._uses == 0)
            while self._idle:
                self._idle.pop().close()

    @contextmanager
    def _using(
        self, verb: str, offset: int, length: int, *, changing: bool = False
    ) -> Iterator[Connection]:
        """Lend a connection for one call on a range, and put its errors in words."""
        self.require_range(verb, offset, length)
        if changing:
            self.changing(verb, offset, length)
        with self._state:
            if self._closed:
                raise self.error(verb, offset, length, "it is closed")
            self._uses += 1
            connection = self._idle.pop() if self._idle else None
        try:
            connection = connection or self._connect()
            yield connection
        except BaseException as error:
            if connection is not None:
                connection.close()
                connection = None
            if not isinstance(error, OSError):
                raise
            kind = VolumeFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else VolumeError
            raise self.error(verb, offset, length, reason(error), kind) from error
        finally:
            with self._state:
                self._uses -= 1
                if connection is not None:
                    self._idle.append(connection)
                self._state.notify_all()
