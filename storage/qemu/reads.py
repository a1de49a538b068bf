"""What was read of a guest's disk, and may not be what the guest sees.

When libxl has QEMU give up its images, at the end of a live migration, QEMU 7.2 opens their files
anew beneath requests that are under way. One of these may fail, or be given the content of another
file that was opened then (seen). So what was read is settled only when QEMU is found running after
it, and is read once more otherwise: when the stream has ended, nothing of that happens any more.
"""

from __future__ import annotations

import threading
from typing import Final

from storage.contracts import Extent
from storage.extents import merge

_MOST: Final = 4096


class Reads:
    """The reads of one disk. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._unsettled: list[Extent] = []

    def note(self, extent: Extent) -> None:
        """Note that a range was read, or is about to be."""
        with self._lock:
            self._unsettled.append(extent)
            if len(self._unsettled) > _MOST and len(self._unsettled) & (_MOST - 1) == 0:
                self._unsettled = merge(self._unsettled)

    def settle(self, *, running: bool) -> list[Extent]:
        """Forget all that was noted; return what must be read again, `running` being how QEMU is.

        Nothing is read meanwhile.
        """
        with self._lock:
            unsettled, self._unsettled = self._unsettled, []
        return [] if running else merge(unsettled)
