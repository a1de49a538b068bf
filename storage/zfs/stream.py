"""What a ZFS stream says of itself in its first record.

The kernel of the receiving host does what a stream says, and `zfs receive` takes streams of many
kinds: of file systems, with properties such as a mount point, of whole trees that say what is to be
destroyed. So the head is looked at before anything is received.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

HEAD_SIZE: Final = 312
"""Bytes of the first record."""

_HEAD: Final = struct.Struct("IIQQQIIQQ")
_BEGIN: Final = 0
_MAGIC: Final = 0x2F5BACBAC
_SUBSTREAM: Final = 1  # one snapshot, with no packing list before it
_ZVOL: Final = 3


@dataclass(frozen=True, slots=True)
class StreamHead:
    """The snapshot that a stream leads to, and the one that it starts from (None when full)."""

    snapshot: int
    base: int | None


def read_head(untrusted_head: bytes) -> StreamHead:
    """Read the first `HEAD_SIZE` bytes of a stream of one snapshot of a zvol.

    Raises `ValueError` that says what it is instead.
    """
    if len(untrusted_head) < HEAD_SIZE:
        raise ValueError("it ends within its first record")
    for order in "<>":  # a stream is in the order of the host that made it
        record, _, magic, version, _, kind, _, snapshot, base = struct.unpack_from(
            order + _HEAD.format, untrusted_head
        )
        if magic == _MAGIC:
            break
    else:
        raise ValueError("it is no ZFS stream")
    if record != _BEGIN or version & 3 != _SUBSTREAM:
        raise ValueError("it is more than one snapshot")
    if kind != _ZVOL:
        raise ValueError("it is not of a zvol")
    return StreamHead(snapshot, base or None)
