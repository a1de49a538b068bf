"""The parts of qcow2 and VHD images that say which other files they need."""

from __future__ import annotations

import struct

STANDING_ALONE, DIFFERENCING = 3, 4
"""Types of a VHD."""


def qcow2_header(version: int = 3, backing: int = 0, features: int = 0) -> bytes:
    """Return the first 512 bytes of a qcow2 image. `backing`: offset of its backing file's name."""
    head = struct.pack(">4sIQ", b"QFI\xfb", version, backing).ljust(72, b"\0")
    return (head + struct.pack(">Q", features)).ljust(512, b"\0")


def vhd_footer(kind: int = STANDING_ALONE) -> bytes:
    """Return the 512 bytes at the end of a VHD, and of most at the beginning."""
    return (b"conectix".ljust(60, b"\0") + struct.pack(">I", kind)).ljust(512, b"\0")
