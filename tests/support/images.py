"""What of an image tells what it is, and which other files it needs."""

from __future__ import annotations

import os
import struct
from pathlib import Path

STANDING_ALONE, DIFFERENCING = 3, 4
"""Types of a VHD."""


def qcow2_header(version: int = 3, backing: int = 0, features: int = 0, *, size: int = 0) -> bytes:
    """Return the first 512 bytes of a qcow2 image. `backing`: offset of its backing file's name."""
    head = struct.pack(">4sIQIIQ", b"QFI\xfb", version, backing, 0, 16, size).ljust(72, b"\0")
    return (head + struct.pack(">Q", features)).ljust(512, b"\0")


def vhd_footer(
    kind: int = STANDING_ALONE, *, size: int = 0, geometry: tuple[int, int, int] = (0, 0, 0)
) -> bytes:
    """Return the 512 bytes at the end of a VHD, and of most at the beginning.

    `geometry`: cylinders, heads, sectors of a track.
    """
    said = struct.pack(">QHBBI", size, *geometry, kind)
    return (b"conectix".ljust(48, b"\0") + said).ljust(512, b"\0")


def make_cdrom(path: Path, mebibytes: int) -> Path:
    """Make a sparse file that is taken for a CD-ROM."""
    with path.open("wb") as file:
        os.truncate(file.fileno(), mebibytes << 20)
        file.seek(16 * 2048)
        file.write(b"\x01CD001")
    return path
