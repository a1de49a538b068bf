"""Helpers of the storage tests that are no fixtures."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from storage.buffers import AlignedBuffer
from storage.contracts import UNKNOWN, Pool, Volume

BLOCK = 65536


def run(*command: str | Path) -> str:
    """Run a command that must succeed; return what it printed."""
    done = subprocess.run(
        [str(word) for word in command], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


def attach_loop(cleanup: ExitStack, backing: Path, *options: str) -> Path:
    """Attach a loop device to a file, with options of losetup, until the stack ends."""
    device = Path(run("losetup", "--find", "--show", *options, backing))
    cleanup.callback(run, "losetup", "--detach", device)
    return device


def remove_volume(pool: Pool, name: str) -> None:
    """Remove whatever has a name in a pool, as an operator would."""
    there = {one.name: one.identity for one in pool.everything()}
    pool.remove(name, there.get(name, UNKNOWN))


@dataclass(frozen=True)
class Backend:
    """One way to have a volume. `backing` is the file or device whose bytes are the volume's.

    `space` tells how many bytes it takes, if that can be told. An image has a `reader` of its
    content, which may be asked when the volume was flushed, and a tool does its input and output.
    """

    backing: Path
    size: int
    alignment: int
    opener: Callable[..., Volume]
    space: Callable[[], int] | None = None
    reader: Callable[[], bytes] | None = None

    @property
    def is_image(self) -> bool:
        return self.reader is not None

    def content(self) -> bytes:
        return self.reader() if self.reader is not None else self.backing.read_bytes()

    def open(self, *, writable: bool) -> Volume:
        return self.opener(name=f"test:{self.backing.name}", writable=writable)


BACKENDS = {
    "file": ("file", 4 * BLOCK),
    "file-odd": ("file", 3 * BLOCK + 1234),
    "loop512": ("512", 4 * BLOCK),
    "loop512-odd": ("512", 2 * BLOCK + 3 * 512),
    "loop4096": ("4096", 4 * BLOCK),
    "loop4096-odd": ("4096", 4 * BLOCK + 12288),
    "loop4096-small": ("4096", 4096),
}


def aligned(content: bytes) -> memoryview:
    view = AlignedBuffer(len(content)).view
    view[:] = content
    return view


def read(volume: Volume, offset: int, length: int) -> bytes:
    view = AlignedBuffer(length).view
    view[:] = b"\xee" * length
    volume.read_into(offset, view)
    return bytes(view)


def lvm_obstacle() -> str | None:
    """Why logical volumes cannot be had on this machine."""
    if shutil.which("lvcreate", path="/usr/sbin:/sbin") is None:
        return "lvm2 is not installed"
    if "device-mapper" not in Path("/proc/misc").read_text():
        return "the kernel has no device mapper"
    return None


def zfs_obstacle() -> str | None:
    """Why zvols cannot be had on this machine."""
    if shutil.which("zfs", path="/usr/sbin:/sbin") is None:
        return "zfsutils-linux is not installed"
    if not Path("/dev/zfs").exists():
        return "the kernel has no ZFS"
    return None


OBSTACLES = {"lvm": lvm_obstacle(), "zfs": zfs_obstacle()}


def only_where_possible(kind: str) -> list[pytest.MarkDecorator]:
    """Marks of tests that need more than loop devices; `make lab` runs them on a host of its."""
    why = OBSTACLES[kind]
    return [pytest.mark.root, pytest.mark.skipif(why is not None, reason=f"{why} (see make lab)")]
