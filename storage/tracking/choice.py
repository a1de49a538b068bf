"""How the writes to a guest's disk are tracked, and what that costs: told beforehand."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum

from storage.contracts import Tracker
from storage.tracking.rehash import RehashTracker
from storage.tracking.target import CannotTrack, find_target
from storage.tracking.tracefs import TracingUnavailable, find_tracefs
from storage.tracking.tracefs_tracker import TracefsTracker


class TrackingKind(Enum):
    """Ways to know what was written. The value is for configuration files and messages."""

    TRACEFS = "tracefs"
    REHASH = "rehash"


@dataclass(frozen=True, slots=True)
class TrackingMethod:
    """How a volume is tracked. `reason` says in words why in this way."""

    kind: TrackingKind
    reason: str

    @property
    def cost(self) -> str:
        """What it costs, in words."""
        if self.kind is TrackingKind.TRACEFS:
            return "later rounds read only what was written"
        return "every round reads all of it, the last one while the guest is suspended"


def tracking_method(path: str | os.PathLike[str]) -> TrackingMethod:
    """Say how the volume at `path` can be tracked as things are now. Never fails.

    A file's loop device is there only while a guest runs that has it.
    """
    try:
        find_tracefs()
        target = find_target(path)
    except (TracingUnavailable, CannotTrack) as error:
        return TrackingMethod(TrackingKind.REHASH, str(error))
    return TrackingMethod(TrackingKind.TRACEFS, f"the kernel reports writes to {target.node}")


def choose_tracker(path: str | os.PathLike[str]) -> Tracker:
    """Make the best tracker for the volume at `path`. Never fails."""
    if tracking_method(path).kind is TrackingKind.TRACEFS:
        return TracefsTracker(path)
    return RehashTracker()
