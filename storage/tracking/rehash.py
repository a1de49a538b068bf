"""The tracker for volumes whose writes nothing can see."""

from __future__ import annotations

from storage.contracts import EVERYTHING, Everything, Extent


class RehashTracker:
    """Says of any volume that everything may have been written.

    A guest's disk on a qdisk file has no block device whose writes the kernel could report, some
    kernels have no tracefs, and some backends no snapshots. Comparing the hashes of the whole
    volume again is slow there but right; guessing what was not written (by file times, say, which
    writes through a loop device or a mapping need not change in time) would lose data.
    """

    def start(self) -> None:
        """Begin: nothing needs to be done."""

    def drain(self) -> list[Extent] | Everything:
        """Answer `EVERYTHING`, also when nothing at all was written."""
        return EVERYTHING

    def stop(self) -> None:
        """End: nothing needs to be undone."""
