"""A volume group for tests, on a loop device. Extents and chunks are as small as can be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from storage import open_pool
from storage.devices.volume import BlockDevice
from storage.lvm import thinmetadata
from storage.lvm.pool import LvmPool, LvmThinPool
from storage.lvm.thin import ThinPlace, ThinVolume
from tests.support.volumes import BLOCK, Backend, run

EXTENT = BLOCK
CHUNK = BLOCK
THIN_POOL = "thin-pool"
SHARED = "shared"
_SIZE = 256 << 20


@dataclass(frozen=True)
class Group:
    """A volume group for a pool of one kind. For thin ones it has a thin pool."""

    name: str
    kind: str

    def pool(self, kind: str | None = None, **options: Any) -> LvmPool | LvmThinPool:
        """The pool of that kind, or of its own."""
        kind = kind or self.kind
        if kind == "lvm-thin":
            options = {"thin_pool": THIN_POOL, **options}
        pool = open_pool("p", kind, {"group": self.name, **options})
        assert isinstance(pool, LvmPool | LvmThinPool)
        return pool

    @cache  # noqa: B019
    def made(self, volume: str, size: int) -> Path:
        """Path of a volume that is made for all tests, as emulated hosts take long to make one."""
        return Path(self.pool().create(volume, size).path)

    def backend(self) -> Backend:
        """The same volume for all tests, zeroed."""
        path, size = self.made(SHARED, 4 * BLOCK), 4 * BLOCK
        if self.kind == "lvm":
            backend = Backend(path, size, 512, partial(BlockDevice.open, str(path)))
        else:
            opener = partial(ThinVolume.at, self.place(SHARED), str(path))
            backend = Backend(path, size, 512, opener, partial(self.allocated, SHARED))
        volume = backend.open(writable=True)
        volume.zero(0, size)
        volume.flush()
        volume.close()
        return backend

    @cache  # noqa: B019
    def place(self, volume: str) -> ThinPlace:
        """Where a volume that is made for all tests is."""
        return ThinPlace(self.name, THIN_POOL, int(self.report("thin_id", volume)), CHUNK, True)

    def allocated(self, volume: str) -> int:
        """Bytes that a thin volume takes."""
        found = self.pool().find(volume)
        assert found is not None
        assert found.allocated is not None
        return found.allocated

    def report(self, field: str, volume: str) -> str:
        """What lvs says of a volume."""
        return run("lvs", "--noheadings", "-o", field, f"{self.name}/{volume}")

    def names(self) -> list[str]:
        """Names of all logical volumes, with those that LVM hides."""
        return run("lvs", "-a", "--noheadings", "-o", "lv_name", self.name).split()


@contextmanager
def volume_group(folder: Path, kind: str) -> Iterator[Group]:
    """Make the group, and remove it with all that is in it."""
    name = f"xenmoved-{kind}-{os.getpid()}"
    image = folder / "group.img"
    image.touch()
    os.truncate(image, _SIZE)
    with ExitStack() as stack:
        device = run("losetup", "--find", "--show", image)
        stack.callback(run, "losetup", "--detach", device)
        run("vgcreate", "-q", "-s", f"{EXTENT}b", name, device)
        stack.callback(run, "vgremove", "-q", "-y", "-f", name)
        if kind == "lvm-thin":
            pool = ("-c", f"{CHUNK}b", "-L", f"{_SIZE // 4}b", "--thinpool", THIN_POOL)
            run("lvcreate", "-q", "-y", "-Zy", "--poolmetadataspare", "n", *pool, name)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(thinmetadata, "MARKS", folder / "marks")
        yield Group(name, kind)
