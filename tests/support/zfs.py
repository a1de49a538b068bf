"""A ZFS pool for tests, on a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from storage import open_pool
from storage.zfs.pool import ZfsPool
from storage.zfs.volume import Zvol
from tests.support.volumes import BLOCK, Backend, run

SHARED = "shared"
_SIZE = 256 << 20


@dataclass(frozen=True)
class Tank:
    """A file system of ZFS in a pool of its own."""

    dataset: str

    def pool(self, **options: Any) -> ZfsPool:
        """The pool of the zvols in it."""
        pool = open_pool("p", "zfs", {"dataset": self.dataset, **options})
        assert isinstance(pool, ZfsPool)
        return pool

    def made(self, name: str, size: int) -> Path:
        """Path of a volume that is made once."""
        pool = self.pool()
        return Path((pool.find(name) or pool.create(name, size)).path)

    def get(self, name: str, volume: str) -> str:
        """What zfs says of a volume."""
        return run("zfs", "get", "-H", "-p", "-o", "value", name, f"{self.dataset}/{volume}")

    def backend(self) -> Backend:
        """The same volume for all tests, zeroed."""
        path = self.made(SHARED, 4 * BLOCK)
        volume = self.pool().open(SHARED, writable=True)
        volume.zero(0, volume.size)
        volume.flush()
        volume.close()
        empty = self.referenced()
        return Backend(
            path, 4 * BLOCK, 512, partial(Zvol.open, str(path)), lambda: self.referenced() - empty
        )

    def referenced(self) -> int:
        """Bytes that the shared volume takes."""
        run("zpool", "sync", self.dataset.partition("/")[0])
        return int(self.get("referenced", SHARED))


@contextmanager
def zfs_tank(folder: Path) -> Iterator[Tank]:
    """Make a pool with a file system, and destroy it with all that is in it."""
    name = f"xenmoved-{os.getpid()}"
    image = folder / "tank.img"
    image.touch()
    os.truncate(image, _SIZE)
    run("zpool", "create", "-O", "mountpoint=none", name, image)
    try:
        run("zfs", "create", f"{name}/guests")
        yield Tank(f"{name}/guests")
    finally:
        run("zpool", "destroy", "-f", name)
