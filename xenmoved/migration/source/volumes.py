"""The volumes of an outgoing job on their channels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Any, Final

from protocol.errors import Code, ProtocolError
from protocol.frames import MAX_PAYLOAD
from protocol.messages import MigrationId, Placement
from storage.backing import check_backing, compare_backings
from storage.commands import TIMEOUT
from storage.contracts import (
    EVERYTHING,
    Backing,
    Everything,
    Extent,
    History,
    PoolVolume,
    Tracker,
    Volume,
    Watching,
)
from storage.errors import VolumeNotFound, VolumeReplaced, VolumeWritten
from storage.extents import merge
from storage.tracking.choice import choose_tracker
from storage.window import window
from xenmoved.config.model import Compression
from xenmoved.link.channel import Channel, Purpose
from xenmoved.link.client import PeerLink
from xenmoved.link.framed import Framed
from xenmoved.migration.source.channels import open_attached
from xenmoved.migration.source.offer import Sending
from xenmoved.migration.source.rounds import Outlook, outlook, send_rate
from xenmoved.migration.source.stalls import Stalls
from xenmoved.migration.volume_notes import when_let_go
from xenmoved.sync.compression import Compressor
from xenmoved.sync.devices import DeviceThreads
from xenmoved.sync.limiter import RateLimiter
from xenmoved.sync.progress import RoundProgress, VolumeProgress
from xenmoved.sync.source import SyncTools, VolumeSource
from xenmoved.sync.stream_source import StreamSource
from xenmoved.tasks import wait_through

_WORTH_A_STREAM: Final = 4 << 20
"""Bytes that a guest has to write for a stream of them, which costs a snapshot and two commands."""


@dataclass(slots=True)
class _Disk:
    """A volume on its channel; `pending` is what was written to it and not sent yet.

    `path` led to `opened` when the volume was opened, and must not lead to anything else as long as
    it is copied. One that was removed or renamed meanwhile is what the guest has nevertheless. With
    a `watch` nobody may write to it: it is no running guest's.
    """

    path: str
    volume: Volume
    opened: Backing
    watch: Watching | None
    source: VolumeSource
    tracker: Tracker
    threads: DeviceThreads
    channel: Channel
    zeroed: bool
    pending: list[Extent] | Everything = EVERYTHING

    async def first_round(self) -> None:
        """Begin to track, and send all that the target does not have."""
        await self.threads.run(self.tracker.start)
        self.pending = []
        await self.source.run_round(EVERYTHING, compare=not self.zeroed)

    async def check(self) -> None:
        """See that it is what was opened, and nobody else's if that is wanted.

        Raises VolumeReplaced, VolumeResized, VolumeInUse or VolumeWritten.
        """
        await self.threads.run(self._check)

    def _check(self) -> None:
        if self.watch is not None:
            self.watch.require_alone()
        try:
            check_backing(self.path, self.opened)
        except VolumeNotFound:
            compare_backings(self.path, self.opened, self.volume.backing())

    async def require_unwritten(self) -> None:
        """See that nothing was written since the first round began. Raises what `check` does.

        Where nothing tracks writes, the watch alone tells: of all but backends within the kernel.
        """
        await self.drain()
        if self.pending and not isinstance(self.pending, Everything):
            raise VolumeWritten(f"{self.path} was written to while it was copied")

    async def drain(self) -> None:
        """Take what was written since the last time. Raises what `check` does."""
        await self.check()
        written = await self.threads.run(self.tracker.drain)
        if isinstance(written, Everything) or isinstance(self.pending, Everything):
            self.pending = EVERYTHING
        else:
            self.pending = merge([*self.pending, *written])

    async def round(self) -> None:
        """Send what is pending; nothing is done when nothing is."""
        written, self.pending = self.pending, []
        if isinstance(written, Everything) or written:
            await self.source.run_round(written, compare=False)

    async def tracked_round(self) -> None:
        """Send what is pending, unless it takes reading all of the volume."""
        if not isinstance(self.pending, Everything):
            await self.round()


@dataclass(slots=True)
class _StreamedDisk(_Disk):
    """A volume of which ZFS sends what was written between snapshots; nothing is tracked."""

    streams: StreamSource = field(kw_only=True)
    written: int = 0

    async def first_round(self) -> None:
        """Send all that the target does not have."""
        self.pending = []
        await self.streams.run_round()

    async def drain(self) -> None:
        """Learn how much was written since the last time; ZFS knows where."""
        await self.check()
        self.written = await self.streams.written()
        self.pending = [Extent(0, self.written)] if self.written else []

    async def round(self) -> None:
        """Send what was written, whatever is known to be pending: that may be seconds old."""
        self.pending = []
        await self.streams.run_round(self.written)
        self.written = 0

    async def tracked_round(self) -> None:
        """Send what is pending, if it is worth a stream."""
        if self.written >= _WORTH_A_STREAM:
            await self.round()


_Work = Callable[[_Disk], Coroutine[Any, Any, object]]


class Disks:
    """All volumes of a job, open at the source and attached at the target.

    Rounds run on all volumes at the same time. After one that failed nothing more can be sent, and
    so after a stall: every method raises JobError when nothing moves for too long.
    """

    def __init__(self, disks: Sequence[_Disk], limiter: RateLimiter, stalls: Stalls) -> None:
        self._disks = disks
        self._limiter = limiter
        self._stalls = stalls
        self._rates: list[tuple[int, float]] = []

    @property
    def rate(self) -> float:
        """Bytes a second that can be sent, as far as is known."""
        return send_rate(self._rates, self._limiter.rate)

    async def first_round(self) -> None:
        """Begin to track writes, then bring every volume up to date in full."""
        await self._all(lambda disk: disk.first_round())

    async def look(self) -> Outlook:
        """Learn what was written and not sent."""
        await self._on_all(lambda disk: disk.drain(), "what was written to")
        pending = [(disk.pending, disk.source.progress.rounds) for disk in self._disks]
        return outlook(pending, self.rate)

    async def round(self) -> None:
        """Send what the last `look` found."""
        await self._all(lambda disk: disk.round())

    async def tracked_round(self) -> None:
        """Send what the last `look` found on volumes that need not be read in full for it."""
        await self._all(lambda disk: disk.tracked_round())

    async def final_round(self) -> None:
        """Send what was written since the last round. Nobody may write any more."""
        await self.look()
        await self.round()

    async def check(self) -> None:
        """See that every volume is what was opened. Raises VolumeReplaced or VolumeResized."""
        await self._on_all(lambda disk: disk.check(), "what is known of")

    async def require_unwritten(self) -> None:
        """See that nobody wrote to any volume since the first round began. Raises StorageError."""
        await self._on_all(lambda disk: disk.require_unwritten(), "what is known of")

    async def verify(self) -> None:
        """Compare all volumes in full. Raises VerificationFailed."""
        await self._on_all(lambda disk: disk.source.verify(), "the comparison of")

    def finish(self) -> None:
        """Tell the target that no more rounds come."""
        for disk in self._disks:
            disk.channel.finish()

    async def _all(self, work: _Work) -> None:
        """Do a round on each volume, and note how fast they all went."""
        began, sent = monotonic(), self._sent()
        await self._on_all(work, "the copy of")
        self._rates.append((self._sent() - sent, monotonic() - began))

    async def _on_all(self, work: _Work, what: str) -> None:
        """Do something on each volume, and see that it moves."""
        names = [disk.source.progress.name for disk in self._disks]

        async def each(disk: _Disk) -> None:
            await work(disk)
            names.remove(disk.source.progress.name)

        async def together() -> None:
            async with asyncio.TaskGroup() as group:
                for disk in self._disks:
                    group.create_task(each(disk))

        def stands() -> str:
            return f"{what} {', '.join(names)}"

        await self._stalls.watch(together(), self._moved, stands, extra=self._own_pauses())

    def _own_pauses(self) -> float:
        """Seconds for which nothing moves because of a rate limit, or of commands of storage."""
        rate = self._limiter.rate
        paused = 2 * len(self._disks) * MAX_PAYLOAD / rate if rate else 0.0
        streamed = any(isinstance(disk, _StreamedDisk) for disk in self._disks)
        return paused + (TIMEOUT if streamed else 0.0)

    def _moved(self) -> int:
        """Return a number that changes with every byte that is read, sent or acknowledged."""
        rounds = self._rounds()
        return sum(one.examined + one.wire_bytes for one in rounds) + len(rounds)

    def _sent(self) -> int:
        return sum(one.data_bytes for one in self._rounds())

    def _rounds(self) -> list[RoundProgress]:
        return [one for disk in self._disks for one in disk.source.progress.rounds]


@asynccontextmanager
async def attached_disks(
    link: PeerLink,
    migration: MigrationId,
    sending: Sending,
    placements: Sequence[Placement],
    *,
    opener: Callable[[str], PoolVolume],
    histories: Sequence[History | None],
    tools: SyncTools,
    compression: Compression,
    readers: int,
    progress: list[VolumeProgress],
    keep_made: bool,
    alone: bool,
    stalls: Stalls,
) -> AsyncIterator[Disks]:
    """Open every volume with `opener`, and a channel for it. `progress` gets an entry for each.

    A volume with a history goes as streams if the target takes them. Raises StorageError or
    LinkError. Leaving the context closes everything; snapshots are left that a later job can start
    from, which after a failure includes those of volumes made for this one only with `keep_made`.
    With `alone` nobody may write to the volumes meanwhile.
    """
    # The target ends everything when a channel goes. So these go last, when it is known what went
    # wrong here: what is awaited after that may be cancelled, and then nobody would hear of it.
    async with AsyncExitStack() as channels, AsyncExitStack() as stack:
        disks = []
        for number, (path, placement) in enumerate(zip(sending.paths, placements, strict=True)):
            whole = await when_let_go(partial(asyncio.to_thread, opener, path))
            stack.callback(whole.close)
            watch = whole.watch() if alone else None
            if watch is not None:
                stack.callback(watch.close)
            volume: Volume = whole
            opened = sending.backings[number]
            await asyncio.to_thread(check_backing, path, opened)
            if volume.backing() != opened:
                raise VolumeReplaced(f"{path} led to {volume.backing().what} as it was opened")
            threads = await stack.enter_async_context(DeviceThreads(f"disk{number}", readers))
            channel = await open_attached(link, Purpose.VOLUME, migration, number)
            channels.callback(channel.close)
            framed = Framed(channel)
            shown = VolumeProgress(
                name=path,
                size=volume.size,
                target=f"{placement.pool}:{placement.name}",
                fresh=placement.fresh,
            )
            progress.append(shown)
            tracker = choose_tracker(path)
            stack.push_async_callback(threads.run, tracker.stop)
            parts = (framed, threads, tools.limiter, shown)
            streams = await _agreed(
                StreamSource(history, *parts, peer=link.peer, migration=migration)
                if (history := histories[number]) is not None
                else None
            )
            if streams is not None:
                stack.push_async_exit(_settling(streams, placement.fresh and not keep_made))
            else:  # a stream gives the volume there the size that it has here
                volume = _as_large_as_there(volume, placement)
                shown.size = volume.size
            source = VolumeSource(
                volume,
                framed,
                threads,
                compressor=Compressor(compression),
                tools=tools,
                progress=shown,
            )
            stack.callback(source.close)
            disk = (
                path,
                volume,
                opened,
                watch,
                source,
                tracker,
                threads,
                channel,
                placement.zeroed,
            )
            disks.append(_StreamedDisk(*disk, streams=streams) if streams else _Disk(*disk))
        yield Disks(disks, tools.limiter, stalls)


def _as_large_as_there(volume: Volume, placement: Placement) -> Volume:
    """Return a volume as if it went on with zeros to the end of the one that it is copied to.

    Raises ProtocolError where that is smaller: the target has said that it is as large.
    """
    if placement.size < volume.size:
        text = f"the target has {placement.size} bytes for {volume.name}, which has {volume.size}"
        raise ProtocolError(Code.OUT_OF_RANGE, text)
    return window(volume, placement.size)


async def _agreed(streams: StreamSource | None) -> StreamSource | None:
    """Return what sends a volume as streams, None where it has to go by blocks."""
    return streams if streams is not None and await streams.agree() else None


def _settling(streams: StreamSource, passing: bool) -> Callable[..., Awaitable[None]]:
    """Keep the snapshots that are of use; a `passing` volume is removed there after a failure."""

    async def settle(
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        keep = error is None or not passing
        await wait_through(asyncio.to_thread(streams.settle, keep=keep))

    return settle
