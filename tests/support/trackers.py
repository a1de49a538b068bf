"""Helpers of the tests of trackers: writers, and the questions that are asked of reports."""

from __future__ import annotations

import os
from pathlib import Path

from storage import EVERYTHING, Everything, Extent
from storage.extents import align, subtract
from storage.tracking.tracefs import find_tracefs
from storage.tracking.tracefs_tracker import TracefsTracker
from tests.support.volumes import BLOCK, aligned

PAGE = b"\xa5" * 4096
Report = list[Extent] | Everything


def write(device: Path, offset: int, content: bytes = PAGE) -> None:
    """Write as a guest does: to the device, beneath the page cache."""
    descriptor = os.open(device, os.O_WRONLY | os.O_DIRECT)
    try:
        assert os.pwrite(descriptor, aligned(content), offset) == len(content)
    finally:
        os.close(descriptor)


def blocks(*extents: tuple[int, int]) -> list[Extent]:
    """Return the whole blocks that (offset, length) touch, as a report has them."""
    return align([Extent(*extent) for extent in extents], BLOCK, 1 << 62)


def covers(report: Report, offset: int, length: int) -> bool:
    return report is EVERYTHING or subtract([Extent(offset, length)], report) == []


def instances(process: int | None = None) -> list[Path]:
    """Return the instances that a process has in tracefs, this one unless told otherwise."""
    folder = find_tracefs() / "instances"
    return sorted(folder.glob(f"xenmoved-{process or os.getpid()}-*"))


def instance(tracker: TracefsTracker) -> Path:
    """Return the folder that a started tracker has in tracefs."""
    assert tracker._instance is not None
    return tracker._instance.folder
