"""The two ways in which a volume is sent: block by block, and as streams of ZFS."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from storage.commands import TIMEOUT
from storage.contracts import EVERYTHING, Everything, Extent, Tracker
from storage.extents import merge
from storage.tracking.rehash import RehashTracker
from xenmoved.sync.devices import DeviceThreads
from xenmoved.sync.source import VolumeSource
from xenmoved.sync.stream_source import StreamSource

_WORTH_A_STREAM: Final = 4 << 20
"""Bytes that a guest has to write for a stream of them, which costs a snapshot and two commands."""


class Way(Protocol):
    """How a volume is sent. `pending` is what was written to it and not sent yet.

    Nothing moves for `pauses` seconds at most because of commands of the storage.
    """

    pending: list[Extent] | Everything
    pauses: float

    async def first_round(self) -> None:
        """Begin to note what is written, and send all that the target does not have."""

    async def drain(self) -> None:
        """Take note of what was written since the last time."""

    async def round(self) -> None:
        """Send what is pending."""

    async def tracked_round(self) -> None:
        """Send what is pending, if that takes neither reading all of the volume nor is too little.

        What is left stays pending.
        """


@dataclass(slots=True)
class ByBlocks:
    """What a tracker says was written is read, and sent where it differs."""

    source: VolumeSource
    tracker: Tracker
    threads: DeviceThreads
    zeroed: bool
    pending: list[Extent] | Everything = EVERYTHING
    pauses: float = 0.0

    async def first_round(self) -> None:
        """See `Way`. Of a volume that is zeros at the target nothing is compared."""
        await self.threads.run(self.tracker.start)
        self.pending = []
        await self.source.run_round(EVERYTHING, compare=not self.zeroed)

    async def drain(self) -> None:
        """See `Way`."""
        written = await self.threads.run(self.tracker.drain)
        if isinstance(written, Everything) and not isinstance(self.tracker, RehashTracker):
            self.source.progress.fallbacks += 1
        if isinstance(written, Everything) or isinstance(self.pending, Everything):
            self.pending = EVERYTHING
        else:
            self.pending = merge([*self.pending, *written])

    async def round(self) -> None:
        """See `Way`."""
        written, self.pending = self.pending, []
        if isinstance(written, Everything) or written:
            await self.source.run_round(written, compare=False)

    async def tracked_round(self) -> None:
        """See `Way`."""
        if not isinstance(self.pending, Everything):
            await self.round()


@dataclass(slots=True)
class ByStreams:
    """ZFS sends what was written between snapshots; nothing is tracked."""

    streams: StreamSource
    pending: list[Extent] | Everything = field(default_factory=lambda: EVERYTHING)
    pauses: float = TIMEOUT
    _written: int = 0

    async def first_round(self) -> None:
        """See `Way`."""
        self.pending = []
        await self.streams.run_round()

    async def drain(self) -> None:
        """Learn how much was written since the last time; ZFS knows where."""
        self._written = await self.streams.written()
        self.pending = [Extent(0, self._written)] if self._written else []

    async def round(self) -> None:
        """Send what was written, whatever is known to be pending: that may be seconds old."""
        self.pending = []
        await self.streams.run_round(self._written)
        self._written = 0

    async def tracked_round(self) -> None:
        """See `Way`."""
        if self._written >= _WORTH_A_STREAM:
            await self.round()
