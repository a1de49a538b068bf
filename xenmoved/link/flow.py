"""Back-pressure of a whole connection, which asyncssh leaves to the windows of its channels.

Those are the other side's to open: whoever opens them wide and reads nothing would have us keep all
that we send.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

_KEY: Final = "xenmoved-flow"

Heed = Callable[[], None]


class Flow:
    """Tells the channels of a connection when its transport is full."""

    def __init__(self) -> None:
        self.full = False
        self._channels: set[Heed] = set()

    @classmethod
    def watch(cls, connection: Any) -> None:
        """Begin to heed what the transport of an asyncssh connection says."""
        flow = cls()
        connection.set_extra_info(**{_KEY: flow})
        connection.pause_writing = lambda: flow._change(True)
        connection.resume_writing = lambda: flow._change(False)

    @classmethod
    def of(cls, connection: Any) -> Flow:
        """Return that of a connection; one that is never full if it is not watched."""
        found = connection.get_extra_info(_KEY)
        return found if isinstance(found, cls) else cls()

    def join(self, heed: Heed) -> None:
        """Have `heed` called whenever `full` changes."""
        self._channels.add(heed)

    def leave(self, heed: Heed) -> None:
        """Have it called no more. Idempotent."""
        self._channels.discard(heed)

    def _change(self, full: bool) -> None:
        self.full = full
        for heed in list(self._channels):
            heed()
