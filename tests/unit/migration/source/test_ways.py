"""It is counted how often a tracker could not tell what was written, and not where none is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from storage.contracts import EVERYTHING, Everything, Extent, Tracker
from storage.tracking.rehash import RehashTracker
from storage.tracking.tracefs_tracker import TracefsTracker
from xenmoved.migration.source.ways import ByBlocks
from xenmoved.sync.progress import VolumeProgress


class Threads:
    """Runs at once what is to be run in a thread."""

    async def run(self, work: Callable[[], Any]) -> Any:
        return work()


class Answers:
    """A tracker that gives these answers, one after the other."""

    def __init__(self, *answers: list[Extent] | Everything) -> None:
        self._answers = list(answers)

    def start(self) -> None:
        """Begin."""

    def drain(self) -> list[Extent] | Everything:
        return self._answers.pop(0)

    def stop(self) -> None:
        """End."""


def way(tracker: Tracker) -> ByBlocks:
    source: Any = SimpleNamespace(progress=VolumeProgress("xvda", 2**20))
    threads: Any = Threads()
    return ByBlocks(source, tracker, threads, zeroed=False, pending=[])


async def test_only_what_could_not_be_told_counts() -> None:
    tracked = way(Answers([], EVERYTHING, [Extent(0, 65536)], EVERYTHING, []))
    counts = []
    for _ in range(5):
        await tracked.drain()
        counts.append(tracked.source.progress.fallbacks)
    assert counts == [0, 1, 1, 2, 2]


async def test_a_tracker_that_cannot_begin_could_not_tell(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = TracefsTracker(tmp_path / "none")
    tracker.start()
    tracked = way(tracker)
    await tracked.drain()
    assert tracked.source.progress.fallbacks == 1
    assert "writes are not tracked" in caplog.text


async def test_what_nothing_tracks_is_no_failure_of_a_tracker() -> None:
    untracked = way(RehashTracker())
    await untracked.drain()
    assert untracked.pending is EVERYTHING
    assert untracked.source.progress.fallbacks == 0
