"""Block fingerprints: how two hosts compare volumes without sending them.

The fingerprint of a block is its BLAKE3 hash (32 bytes), or 32 zero bytes when every byte of the
block is zero. BLAKE3 because guests choose what their blocks hold, so the hash must resist chosen
collisions. A fresh volume therefore has all-zero fingerprints, and a table of fingerprints of a
sparse volume is itself sparse.
"""

from __future__ import annotations

from typing import Final

from blake3 import blake3

from protocol.frames import HASH_SIZE
from protocol.messages import BLOCK_SIZE

ZERO_FINGERPRINT: Final = bytes(HASH_SIZE)

# A bytearray compares with any buffer by memcmp; a memoryview would compare item by item.
_ZEROS: Final = bytearray(BLOCK_SIZE)


def fingerprints(data: memoryview) -> bytes:
    """Return the concatenated fingerprints of the blocks of `data` (the last may be short)."""
    found = []
    for start in range(0, len(data), BLOCK_SIZE):
        block = data[start : start + BLOCK_SIZE]
        zeros = _ZEROS if len(block) == BLOCK_SIZE else _ZEROS[: len(block)]
        found.append(ZERO_FINGERPRINT if zeros == block else blake3(block).digest())
    return b"".join(found)
