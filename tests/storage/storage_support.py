"""Helpers of the storage tests that are no fixtures."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from storage.blockdev import BlockDevice
from storage.buffers import AlignedBuffer
from storage.contracts import Volume
from storage.rawfile import RawFile

BLOCK = 65536


def run(*command: str | Path) -> str:
    """Run a command that must succeed; return what it printed."""
    done = subprocess.run(
        [str(word) for word in command], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


@dataclass(frozen=True)
class Backend:
    """One way to have a volume. `backing` is the file whose bytes are the volume's."""

    path: Path
    backing: Path
    size: int
    alignment: int
    kind: type[RawFile] | type[BlockDevice]

    def open(self, *, writable: bool) -> Volume:
        return self.kind.open(str(self.path), name=f"test:{self.path.name}", writable=writable)


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
