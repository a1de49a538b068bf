"""A volume is copied by what a tracker reports, while others write to it as fast as they can."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from storage import EVERYTHING, AlignedBuffer, Extent, Volume, open_source
from storage.extents import pieces, total
from storage.tracking.tracefs_tracker import TracefsTracker
from tests.support.volumes import run

pytestmark = [pytest.mark.tracing, pytest.mark.timeout(300)]

SIZE = 256 << 20
WRITERS = 3
PARTITION = 64 << 20

# Writes of 4 KiB anywhere in a window that wanders over the device, so that most parts of it are
# quiet at any one time; no two pages are alike. Now and then something is discarded or zeroed.
WRITER = """
import errno, mmap, os, random, sys, time
from storage import syscalls
path, seconds, number = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
fd = os.open(path, os.O_RDWR | os.O_DIRECT)
size = syscalls.device_size(fd)
page = memoryview(mmap.mmap(-1, 4096))
page[:] = os.urandom(4096)
began, window, writes = time.monotonic(), 8 << 20, 0
while time.monotonic() - began < seconds:
    base = random.randrange(0, size - window, 4096)
    for _ in range(2000):
        writes += 1
        page[:16] = number.to_bytes(4, "little") + writes.to_bytes(12, "little")
        os.pwrite(fd, page, base + random.randrange(0, window, 4096))
    length = random.randrange(4096, 256 << 10, 4096)
    for zero in (syscalls.punch_hole, syscalls.zero_device):
        zero(fd, base + random.randrange(0, window - length, 4096), length)
print(writes)
"""


def copy(volume: Volume, extents: list[Extent], onto: memoryview, buffer: AlignedBuffer) -> None:
    for piece in pieces(extents, buffer.size, 65536):
        view = buffer.view[: piece.length]
        volume.read_into(piece.offset, view)
        onto[piece.offset : piece.end] = view


def differing(left: memoryview, right: memoryview) -> list[int]:
    return [
        at
        for at in range(0, SIZE, 4096)
        if bytes(left[at : at + 4096]) != bytes(right[at : at + 4096])
    ]


def migrate(device: Path, tracker: TracefsTracker, seconds: float, parts: list[Path]) -> list[int]:
    """Copy the device by the tracker's word; return the bytes that each drain reported."""
    volume = open_source(device)
    buffer = AlignedBuffer(2 << 20)
    whole = [Extent(0, SIZE)]
    target, now = (AlignedBuffer(SIZE).view for _ in range(2))
    writers = []
    reported = []
    try:
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, part, str(seconds), str(number)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for number, part in enumerate(parts)
        ]
        time.sleep(0.3)
        tracker.start()
        copy(volume, whole, target, buffer)
        while any(writer.poll() is None for writer in writers):
            report = tracker.drain()
            extents = whole if report is EVERYTHING else report
            reported.append(total(extents))
            copy(volume, extents, target, buffer)
        written = [int(writer.communicate()[0]) for writer in writers]
        assert all(count > 1000 for count in written)
        report = tracker.drain()
        copy(volume, whole if report is EVERYTHING else report, target, buffer)
        copy(volume, whole, now, buffer)
        assert differing(target, now) == []
        assert tracker.drain() == []
        print(f"{sum(written) / seconds:.0f} writes/s, {len(reported)} drains")
    finally:
        for writer in writers:
            with writer:
                writer.kill()
        tracker.stop()
        volume.close()
    return reported


@pytest.fixture
def device(tmp_path: Path, attach: Callable[..., Path]) -> Path:
    image = tmp_path / "disk.img"
    image.touch()
    os.truncate(image, SIZE)
    return attach(image)


@pytest.mark.thorough
@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_no_write_is_missed(device: Path, seconds: float, cleanup: ExitStack) -> None:
    first, length = PARTITION // 512, PARTITION // 512
    run("addpart", device, "1", str(first), str(length))
    cleanup.callback(run, "delpart", device, "1")
    parts = [device] * (WRITERS - 1) + [Path(f"{device}p1")]
    tracker = TracefsTracker(device)
    reported = migrate(device, tracker, seconds, parts)
    assert sum(size < SIZE for size in reported) > len(reported) / 2


@pytest.mark.thorough
@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_no_write_is_missed_when_events_are_lost(device: Path, seconds: float) -> None:
    tracker = TracefsTracker(device, buffer_size=16 << 10, read_every=0.2)
    reported = migrate(device, tracker, seconds, [device] * WRITERS)
    assert SIZE in reported
    assert tracker.drain() is EVERYTHING  # it was stopped, not in trouble before
    assert tracker.trouble == "stopped"
