"""Buffers that are lent as views, and used again when nothing looks at them any more.

A new block of memory for every packet would be cleared, and cold. A buffer is free when none of the
views of it is left, wherever they went: Python lets nobody resize a bytearray as long as there is
one (BufferError), so trying that tells. Nobody gives anything back, so nobody does it too early.
"""

from __future__ import annotations

from collections import deque


class Loans:
    """Buffers of one size, at most so many of them kept; more are lent, and forgotten.

    Of one thread: the views may go to any.
    """

    def __init__(self, size: int, most: int) -> None:
        self._size = size
        self._most = most
        self._free: list[bytearray] = []
        self._lent: deque[bytearray] = deque()

    def take(self) -> memoryview:
        """Return a view of a buffer that nothing else looks at. What it holds is old."""
        while self._lent and _is_free(self._lent[0]):
            self._free.append(self._lent.popleft())
        # The last that came back: it may still be in the processor's cache.
        buffer = self._free.pop() if self._free else self._new()
        if len(self._lent) + len(self._free) >= self._most:
            self._lent.popleft() if self._lent else self._free.pop(0)
        self._lent.append(buffer)
        return memoryview(buffer)

    def _new(self) -> bytearray:
        buffer = bytearray(self._size + 1)
        buffer.pop()  # so that it has room for what `_is_free` tries
        return buffer


def _is_free(buffer: bytearray) -> bool:
    try:
        buffer.append(0)
    except BufferError:
        return False
    buffer.pop()
    return True
