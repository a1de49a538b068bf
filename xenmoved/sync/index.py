"""What the target is known to hold, kept at the source as a table of fingerprints.

With it a later round needs no word from the target to know what differs. The table is a nameless
file, 32 bytes for each block of 64 KiB: half a gigabyte for a terabyte that is full of data, and
next to nothing for one that is not, because a block of zeros has a fingerprint of zeros.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from protocol.frames import HASH_SIZE

INDEX_PREFIX: Final = "index-"
"""How names begin that a table has for a moment, where its file system knows no nameless files."""
_BATCH: Final = 64 * 1024


class TargetIndex:
    """Fingerprints of the blocks of one volume as they are on the target; all zero at first."""

    def __init__(self, blocks: int, folder: Path) -> None:
        self._blocks = blocks
        self._file = tempfile.TemporaryFile(dir=folder, prefix=INDEX_PREFIX)  # noqa: SIM115
        os.ftruncate(self._file.fileno(), blocks * HASH_SIZE)

    def get(self, first_block: int, blocks: int) -> bytes:
        """Return the fingerprints of consecutive blocks, concatenated."""
        wanted = blocks * HASH_SIZE
        found = os.pread(self._file.fileno(), wanted, first_block * HASH_SIZE)
        if len(found) != wanted:
            raise OSError(errno.EIO, "the index of fingerprints is shorter than it was made")
        return found

    def put(self, first_block: int, fingerprints: bytes) -> None:
        """Store fingerprints of consecutive blocks."""
        view, offset = memoryview(fingerprints), first_block * HASH_SIZE
        while view:
            written = os.pwrite(self._file.fileno(), view, offset)
            view, offset = view[written:], offset + written

    def nonzero_runs(self, first_block: int, blocks: int) -> Iterator[tuple[int, int]]:
        """Yield (first block, blocks) of runs of blocks that are not zero on the target.

        Runs may be given in several pieces. Costs nothing for parts that were never stored.
        """
        position, end = first_block * HASH_SIZE, (first_block + blocks) * HASH_SIZE
        while position < end:
            try:
                position = os.lseek(self._file.fileno(), position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            stop = min(os.lseek(self._file.fileno(), position, os.SEEK_HOLE), end)
            position -= position % HASH_SIZE
            while position < stop:
                batch = os.pread(self._file.fileno(), min(_BATCH, end - position), position)
                yield from nonzero_blocks(position // HASH_SIZE, batch)
                position += len(batch)

    def close(self) -> None:
        """Drop the table. Idempotent."""
        self._file.close()


def nonzero_blocks(first_block: int, fingerprints: bytes) -> Iterator[tuple[int, int]]:
    """Yield (first block, blocks) of runs of fingerprints that do not stand for zeros."""
    zero = bytes(HASH_SIZE)
    count = len(fingerprints) // HASH_SIZE
    start: int | None = None
    for number in range(count):
        is_zero = fingerprints[number * HASH_SIZE : (number + 1) * HASH_SIZE] == zero
        if is_zero and start is not None:
            yield first_block + start, number - start
            start = None
        elif not is_zero and start is None:
            start = number
    if start is not None:
        yield first_block + start, count - start
