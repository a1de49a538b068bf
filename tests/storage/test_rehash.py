"""The tracker that assumes the worst."""

from __future__ import annotations

from storage import EVERYTHING, RehashTracker, Tracker


def test_everything_may_have_been_written_at_any_time() -> None:
    tracker: Tracker = RehashTracker()
    tracker.start()
    assert tracker.drain() is EVERYTHING
    assert tracker.drain() is EVERYTHING
    tracker.stop()
    tracker.stop()
