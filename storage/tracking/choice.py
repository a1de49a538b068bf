"""How the writes to a guest's disk are tracked, and what that costs: told beforehand."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum

from storage.contracts import Tracker
from storage.errors import StorageError
from storage.qemu.additions import GuestQemu
from storage.qemu.tracker import BitmapTracker, require_tracking
from storage.tracking.rehash import RehashTracker
from storage.tracking.target import CannotTrack, find_target
from storage.tracking.tracefs import TracingUnavailable, find_tracefs
from storage.tracking.tracefs_tracker import TracefsTracker


class TrackingKind(Enum):
    """Ways to know what was written. The value is for configuration files and messages."""

    TRACEFS = "tracefs"
    BITMAP = "bitmap"
    REHASH = "rehash"


@dataclass(frozen=True, slots=True)
class TrackingMethod:
    """How a volume is tracked. `reason` says in words why in this way."""

    kind: TrackingKind
    reason: str

    @property
    def cost(self) -> str:
        """What it costs, in words."""
        if self.kind is not TrackingKind.REHASH:
            return "later rounds read only what was written"
        return "every round reads all of it, the last one while the guest is suspended"


def tracking_method(path: str | os.PathLike[str], qemu: GuestQemu | None = None) -> TrackingMethod:
    """Say how the volume at `path` can be tracked as things are now. Never fails, but blocks.

    A file's loop device is there only while a guest runs that has it. `qemu` is who alone writes to
    it for the guest, if that is known.
    """
    try:
        find_tracefs()
        target = find_target(path)
        return TrackingMethod(TrackingKind.TRACEFS, f"the kernel reports writes to {target.node}")
    except (TracingUnavailable, CannotTrack) as error:
        why = str(error)
    if qemu is None:
        return TrackingMethod(TrackingKind.REHASH, why)
    try:
        require_tracking(qemu, path)
    except StorageError as error:
        return TrackingMethod(TrackingKind.REHASH, f"{why}; {error}")
    return TrackingMethod(TrackingKind.BITMAP, f"QEMU notes what it writes to {os.fspath(path)}")


def choose_tracker(path: str | os.PathLike[str], qemu: GuestQemu | None = None) -> Tracker:
    """Make the best tracker for the raw volume at `path`; see `tracking_method`."""
    kind = tracking_method(path, qemu).kind
    if kind is TrackingKind.BITMAP and qemu is not None:
        return BitmapTracker(qemu, path)
    return TracefsTracker(path) if kind is TrackingKind.TRACEFS else RehashTracker()
