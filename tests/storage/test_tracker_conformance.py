"""What every tracker does for every kind of volume: it reports what was written."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from storage import EVERYTHING, RehashTracker, Tracker
from storage.tracking.choice import choose_tracker
from storage.tracking.tracefs_tracker import TracefsTracker
from tests.support.trackers import PAGE, covers, write
from tests.support.volumes import run

pytestmark = pytest.mark.root

SIZE = 8 << 20
BEGIN = (1 << 20) + 512  # of the partition, and of the window of a loop device in its file
Attach = Callable[..., Path]


@dataclass(frozen=True)
class Tracked:
    """A volume with its tracker. The guest writes to `device`; its byte 0 is the volume's `at`."""

    tracker: Tracker
    device: Path
    at: int
    exact: bool


_TRACED = ("loop512", "loop4096", "partition", "file", "window-in-file")


@pytest.fixture(
    params=["rehash", *(pytest.param(one, marks=pytest.mark.tracing) for one in _TRACED)]
)
def tracked(
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
    return Tracked(tracker, device, at, request.param != "rehash")


def test_what_was_written_is_reported(tracked: Tracked) -> None:
    write(tracked.device, 64 << 10)
    tracked.tracker.start()
    for offset in (0, 3 << 20, 6 << 20):
        write(tracked.device, offset)
        report = tracked.tracker.drain()
        assert covers(report, tracked.at + offset, len(PAGE))
        if tracked.exact:
            assert report is not EVERYTHING
            assert sum(extent.length for extent in report) <= 2 << 16
    nothing = tracked.tracker.drain()
    assert nothing == ([] if tracked.exact else EVERYTHING)


def test_reading_writes_nothing(tracked: Tracked) -> None:
    tracked.tracker.start()
    tracked.device.read_bytes()
    assert tracked.tracker.drain() == ([] if tracked.exact else EVERYTHING)


def test_everything_may_have_been_written_before_the_start_and_after_the_stop(
    tracked: Tracked,
) -> None:
    assert tracked.tracker.drain() is EVERYTHING
    tracked.tracker.start()
    tracked.tracker.stop()
    tracked.tracker.stop()
    assert tracked.tracker.drain() is EVERYTHING
