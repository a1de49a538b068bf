"""Page-aligned memory that is used again and again.

O_DIRECT wants aligned buffers, and fresh memory costs a page fault for every 4 KiB: buffers are
made once and lent out. How many there are bounds how much data is in flight.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_CHUNK: Final = 65536  # of the sizes tried the one that stays in the L1/L2 cache
_ZEROS: Final = tuple(bytearray(1 << power) for power in range(_CHUNK.bit_length()))


class AlignedBuffer:
    """`size` bytes of zeroed memory that begin at a page boundary.

    The memory lives as long as this object or any view of it does.
    """

    __slots__ = ("size", "view")

    def __init__(self, size: int) -> None:
        if size <= 0:
            raise ValueError(f"a buffer of {size} bytes cannot be made")
        self.size = size
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.view = memoryview(memory)


class BufferPool:
    """A fixed number of buffers of one size, for use from any thread.

    Buffers come back with the bytes of whoever had them last. Memory is taken when a buffer is
    first written, not when the pool is made.
    """

    def __init__(self, count: int, size: int) -> None:
        if count <= 0:
            raise ValueError(f"a pool of {count} buffers cannot be made")
        self.count = count
        self.size = size
        self._lock = threading.Condition()
        self._free = [AlignedBuffer(size) for _ in range(count)]
        self._lent: set[int] = set()

    def acquire(self) -> AlignedBuffer:
        """Take a buffer, waiting until one is free."""
        with self._lock:
            self._lock.wait_for(lambda: self._free)
            buffer = self._free.pop()  # the one used last is the warmest
            self._lent.add(id(buffer))
            return buffer

    def release(self, buffer: AlignedBuffer) -> None:
        """Give a buffer back. Raises `ValueError` when this pool has not lent it.

        The giver must not touch it, nor any view of it, from then on.
        """
        with self._lock:
            if id(buffer) not in self._lent:
                raise ValueError("buffer given back that this pool has not lent")
            self._lent.remove(id(buffer))
            self._free.append(buffer)
            self._lock.notify()

    @contextmanager
    def borrow(self) -> Iterator[AlignedBuffer]:
        """Have a buffer for the time of a ``with`` block."""
        buffer = self.acquire()
        try:
            yield buffer
        finally:
            self.release(buffer)


def is_zero(view: memoryview) -> bool:
    """Tell whether all bytes are zero. An empty view is.

    `view` is contiguous and of format ``B``. Any length; nothing is allocated per byte.
    """
    # bytearray == memoryview is memcmp; two memoryviews, or bytes and a memoryview, are compared
    # element by element, a hundred times slower. So each comparison has a bytearray of exactly its
    # length on the left: powers of two, the last one overlapping what was compared before it.
    length = len(view)
    if length == 0:
        return True
    step = min(_CHUNK, 1 << (length.bit_length() - 1))
    zeros = _ZEROS[step.bit_length() - 1]
    for start in range(0, length - step + 1, step):
        if zeros != view[start : start + step]:
            return False
    return length % step == 0 or zeros == view[length - step :]
