"""The page cache of a block device keeps bytes that are no longer on it.

A loop device stands for a guest's: bytes written to its backing file change the device beneath its
page cache, as blkback's writes do. Each test first shows that the trap is set, that is, that a
buffered read of the device gives old bytes.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from storage import open_source
from storage.contracts import Volume
from storage.devices.volume import BlockDevice
from storage.files.volume import RawFile
from tests.support.volumes import BLOCK, aligned, read

SIZE = 16 * BLOCK
OLD = b"old." * (SIZE // 4)
NEW = b"NEW!" * (BLOCK // 4)
CHANGED = 5 * BLOCK
OURS = 9 * BLOCK

Attach = Callable[..., Path]
Opened = Callable[[Volume], Volume]


class Guest:
    """A device, what writes beneath its cache, and a buffered reader that has read it all."""

    def __init__(self, device: Path, backing: Path) -> None:
        self.device = device
        self._beneath = os.open(backing, os.O_RDWR)
        self._buffered = os.open(device, os.O_RDONLY)

    def write_beneath(self, offset: int, content: bytes) -> None:
        assert os.pwrite(self._beneath, content, offset) == len(content)

    def read_buffered(self, offset: int, length: int) -> bytes:
        return os.pread(self._buffered, length, offset)

    def close(self) -> None:
        os.close(self._beneath)
        os.close(self._buffered)


@pytest.fixture(params=["512", "4096"])
def guest(
    request: pytest.FixtureRequest, tmp_path: Path, attach: Attach, cleanup: ExitStack
) -> Iterator[Guest]:
    backing = tmp_path / "guest.img"
    backing.write_bytes(OLD)
    guest = Guest(attach(backing, "--sector-size", request.param), backing)
    cleanup.callback(guest.close)
    assert guest.read_buffered(0, SIZE) == OLD
    return guest


@pytest.mark.root
def test_second_read_of_a_source_sees_what_the_guest_wrote(guest: Guest, opened: Opened) -> None:
    volume = opened(open_source(guest.device))
    assert read(volume, 0, SIZE) == OLD

    guest.write_beneath(CHANGED, NEW)

    trap = guest.read_buffered(CHANGED, BLOCK)
    assert trap == OLD[CHANGED : CHANGED + BLOCK], "no stale page: this proves nothing"
    assert read(volume, CHANGED, BLOCK) == NEW
    assert read(volume, 0, SIZE) == OLD[:CHANGED] + NEW + OLD[CHANGED + BLOCK :]


@pytest.mark.root
def test_flush_of_a_target_leaves_no_stale_page(guest: Guest, opened: Opened) -> None:
    # The guest lived here, wrote, and now comes back. Blocks that have not changed since are equal
    # on both sides and not written again: their stale pages must go all the same.
    guest.write_beneath(CHANGED, NEW)
    volume = opened(BlockDevice.open(str(guest.device), name="target", writable=True))
    volume.write(OURS, aligned(NEW))

    trap = guest.read_buffered(CHANGED, BLOCK)
    assert trap == OLD[CHANGED : CHANGED + BLOCK], "no stale page: this proves nothing"
    volume.flush()

    assert guest.read_buffered(CHANGED, BLOCK) == NEW
    assert guest.read_buffered(OURS, BLOCK) == NEW


@pytest.mark.root
def test_written_and_zeroed_ranges_are_seen_above_and_beneath(
    guest: Guest, opened: Opened, tmp_path: Path
) -> None:
    volume = opened(BlockDevice.open(str(guest.device), name="target", writable=True))
    volume.write(OURS, aligned(NEW))
    volume.zero(CHANGED, BLOCK)
    volume.flush()
    expected = bytearray(OLD)
    expected[OURS : OURS + BLOCK] = NEW
    expected[CHANGED : CHANGED + BLOCK] = bytes(BLOCK)
    assert guest.read_buffered(0, SIZE) == expected
    assert (tmp_path / "guest.img").read_bytes() == expected


@pytest.mark.root
@pytest.mark.parametrize("direct", ["on", "off"])
def test_image_file_shows_what_a_guest_wrote_through_a_loop_device(
    tmp_path: Path, attach: Attach, cleanup: ExitStack, opened: Opened, direct: str
) -> None:
    image = tmp_path / "image.img"
    image.write_bytes(OLD)
    device = attach(image, f"--direct-io={direct}")
    volume = opened(open_source(image))
    assert read(volume, 0, SIZE) == OLD

    writer = os.open(device, os.O_RDWR | os.O_DIRECT)
    cleanup.callback(os.close, writer)
    assert os.pwrite(writer, aligned(NEW), CHANGED) == BLOCK

    assert read(volume, CHANGED, BLOCK) == NEW


def resident_pages(path: Path) -> int:
    """Pages of a file that the page cache holds, by mincore."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        count = -(-len(memory) // mmap.PAGESIZE)
        states = (ctypes.c_ubyte * count)()
        first = ctypes.c_char.from_buffer(memory)
        address = ctypes.c_void_p(ctypes.addressof(first))
        assert libc.mincore(address, ctypes.c_size_t(len(memory)), states) == 0
        del first
        return sum(state & 1 for state in states)


def test_flush_of_a_file_leaves_nothing_in_the_page_cache(tmp_path: Path, opened: Opened) -> None:
    image = tmp_path / "image.img"
    image.write_bytes(OLD)
    volume = opened(RawFile.open(str(image), name="target", writable=True))
    volume.write(CHANGED, aligned(NEW))
    assert resident_pages(image) == SIZE // mmap.PAGESIZE
    volume.flush()
    assert resident_pages(image) == 0
    assert read(volume, CHANGED, BLOCK) == NEW
