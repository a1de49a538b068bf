"""What every tracker does for every kind of volume: it reports what was written.

A volume that a QEMU serves has a real QEMU, whose monitor is the guest.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from storage import EVERYTHING, RehashTracker, Tracker
from storage.qemu.tracker import BitmapTracker
from storage.tracking.choice import choose_tracker
from storage.tracking.tracefs_tracker import TracefsTracker
from tests.support.qemu import make_image, only_with_qemu, start_emulator
from tests.support.trackers import PAGE, covers, write
from tests.support.volumes import run

pytestmark = pytest.mark.root

SIZE = 8 << 20
BEGIN = (1 << 20) + 512  # of the partition, and of the window of a loop device in its file
Attach = Callable[..., Path]


@dataclass(frozen=True)
class Tracked:
    """A volume with its tracker, and what a guest does. Its byte 0 is the volume's `at`."""

    tracker: Tracker
    write: Callable[[int], None]
    read: Callable[[], object]
    at: int
    exact: bool


_SERVED = ("qemu-raw", "qemu-qcow2", "qemu-vpc")
_TRACED = ("loop512", "loop4096", "partition", "file", "window-in-file")


@pytest.fixture(
    params=[
        "rehash",
        *(pytest.param(one, marks=pytest.mark.tracing) for one in _TRACED),
        *(pytest.param(one, marks=only_with_qemu) for one in _SERVED),
    ]
)
def tracked(request: pytest.FixtureRequest, tmp_path: Path, cleanup: ExitStack) -> Tracked:
    if request.param in _SERVED:
        return _served(request.param.removeprefix("qemu-"), tmp_path, cleanup)
    return _on_device(request, tmp_path, request.getfixturevalue("attach"), cleanup)


def _served(kind: str, folder: Path, cleanup: ExitStack) -> Tracked:
    image = make_image(folder / "disk", kind, SIZE)
    emulator = start_emulator(folder, {"hd0": (kind, image)})
    cleanup.callback(emulator.end)
    tracker = BitmapTracker(emulator.guest(), image)
    cleanup.callback(tracker.stop)
    write = partial(emulator.write, "hd0", length=len(PAGE))
    return Tracked(tracker, write, partial(emulator.io, "hd0", f"read 0 {SIZE}"), 0, True)


def _on_device(
    request: pytest.FixtureRequest, tmp_path: Path, attach: Attach, cleanup: ExitStack
) -> Tracked:
    image = tmp_path / "disk.img"
    image.touch()
    os.truncate(image, SIZE)
    at = 0
    if request.param == "window-in-file":
        device, at = attach(image, "--offset", str(BEGIN)), BEGIN
    else:
        device = attach(image, "--sector-size", "4096" if request.param == "loop4096" else "512")
    volume = image if request.param in ("file", "window-in-file") else device
    if request.param == "partition":
        run("addpart", device, "1", str(BEGIN // 512), str((SIZE - BEGIN) // 512))
        cleanup.callback(run, "delpart", device, "1")
        volume = device = Path(f"{device}p1")
    tracker = RehashTracker() if request.param == "rehash" else choose_tracker(volume)
    assert isinstance(tracker, TracefsTracker) == (request.param != "rehash")
    cleanup.callback(tracker.stop)
    exact = request.param != "rehash"
    return Tracked(tracker, partial(write, device), device.read_bytes, at, exact)


def test_what_was_written_is_reported(tracked: Tracked) -> None:
    tracked.write(64 << 10)
    tracked.tracker.start()
    for offset in (0, 3 << 20, 6 << 20):
        tracked.write(offset)
        report = tracked.tracker.drain()
        assert covers(report, tracked.at + offset, len(PAGE))
        if tracked.exact:
            assert report is not EVERYTHING
            assert sum(extent.length for extent in report) <= 2 << 16
    nothing = tracked.tracker.drain()
    assert nothing == ([] if tracked.exact else EVERYTHING)


def test_reading_writes_nothing(tracked: Tracked) -> None:
    tracked.tracker.start()
    tracked.read()
    assert tracked.tracker.drain() == ([] if tracked.exact else EVERYTHING)


def test_everything_may_have_been_written_before_the_start_and_after_the_stop(
    tracked: Tracked,
) -> None:
    assert tracked.tracker.drain() is EVERYTHING
    tracked.tracker.start()
    tracked.tracker.stop()
    tracked.tracker.stop()
    assert tracked.tracker.drain() is EVERYTHING
