"""A ZFS pool for tests, on a file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from storage_support import BLOCK, Backend, run

from storage import open_pool
from storage.zfs import ZfsPool
from storage.zvol import Zvol

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

    def get(self, name: str, volume: str) -> str:
        """What zfs says of a volume."""
        return run("zfs", "get", "-H", "-p", "-o", "value", name, f"{self.dataset}/{volume}")

    def backend(self) -> Backend:
        """The same volume for all tests, zeroed."""
        pool = self.pool()
        info = pool.find(SHARED) or pool.create(SHARED, 4 * BLOCK)
        path = Path(info.path)
        volume = pool.open(SHARED, writable=True)
        volume.zero(0, info.size)
        volume.flush()
        volume.close()
        empty = self.referenced()
        return Backend(
            path, info.size, 512, partial(Zvol.open, str(path)), lambda: self.referenced() - empty
        )

    def referenced(self) -> int:
        """Bytes that the shared volume takes."""
        run("zpool", "sync", self.dataset.partition("/")[0])
        return int(self.get("referenced", SHARED))


def zfs_obstacle() -> str | None:
    """Why zvols cannot be had on this machine."""
    if shutil.which("zfs", path="/usr/sbin:/sbin") is None:
        return "zfsutils-linux is not installed"
    if not Path("/dev/zfs").exists():
        return "the kernel has no ZFS"
    return None


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
