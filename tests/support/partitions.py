"""Partitions of a loop device, as the kernel is told of them: nothing has to know their table."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.volumes import run

SECTOR = 512


def add_partition(disk: Path, number: int, start: int, size: int, node: Path) -> Path:
    """Have a part of a loop device, attached with `--partscan`, as a partition with its node."""
    run("addpart", disk, str(number), str(start // SECTOR), str(size // SECTOR))
    folder = Path(f"/sys/block/{disk.name}/{disk.name}p{number}")
    major, minor = map(int, (folder / "dev").read_text().split(":"))
    os.mknod(node, 0o600 | 0o060000, os.makedev(major, minor))
    return node
