"""The volumes of an outgoing job on their channels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Any, TypeVar

from protocol.codec import MessageSet
from protocol.errors import Code, ProtocolError
from protocol.frames import MAX_PAYLOAD
from protocol.messages import MigrationId, Placement
from storage.backing import compare_backings
from storage.contracts import (
    EVERYTHING,
    Backing,
    Everything,
    History,
    PoolVolume,
    Tracker,
    Volume,
    Watching,
)
from storage.errors import StorageError, VolumeNotFound, VolumeReplaced, VolumeWritten
from storage.last_write import last_write, tells
from storage.qemu.additions import GuestQemu
from storage.qemu.guest_disk import GuestDisk
from storage.qemu.image import ImageVolume
from storage.qemu.tracker import BitmapTracker
from storage.tracking.choice import choose_tracker
from storage.window import window
from xenmoved.choices import Compression
from xenmoved.link.channel import Channel, Purpose
from xenmoved.link.client import PeerLink
from xenmoved.link.framed import Framed
from xenmoved.migration.geometry import most_there
from xenmoved.migration.source.channels import open_attached
from xenmoved.migration.source.content import Reader, look
from xenmoved.migration.source.offer import Sending
from xenmoved.migration.source.rounds import Outlook, least_rate, outlook, send_rate
from xenmoved.migration.source.stalls import Stalls
from xenmoved.migration.source.ways import ByBlocks, ByStreams, Way
from xenmoved.migration.volume_notes import when_let_go
from xenmoved.sync.compression import Compressor
from xenmoved.sync.devices import DeviceThreads
from xenmoved.sync.limiter import RateLimiter
from xenmoved.sync.progress import RoundProgress, VolumeProgress
from xenmoved.sync.source import SyncTools, VolumeSource
from xenmoved.sync.stream_source import StreamSource
from xenmoved.tasks import wait_through


@dataclass(slots=True)
class _Disk:
    """A volume on its channel.

    `path` led to `opened` when the volume was opened, and must not lead to anything else as long as
    it is copied. One that was removed or renamed meanwhile is what the guest has nevertheless. With
    a `watch` nobody may write to it: it is no running guest's. `reader` is what reads it for us, if
    anything does.
    """

    path: str
    reader: Reader | None
    volume: PoolVolume | GuestDisk | ImageVolume
    opened: Backing
    watch: Watching | None
    source: VolumeSource
    way: Way
    threads: DeviceThreads
    channel: Channel

    async def check(self) -> None:
        """See that it is what was opened, and nobody else's if that is wanted.

        Raises VolumeReplaced, VolumeResized, VolumeInUse or VolumeWritten.
        """
        await self.threads.run(self._check)

    def _check(self) -> None:
        if self.watch is not None:
            self.watch.require_alone()
        try:
            compare_backings(self.path, self.opened, look(self.path, self.opened, self.reader))
        except VolumeNotFound:
            compare_backings(self.path, self.opened, self.volume.backing())

    async def drain(self) -> None:
        """Take note of what was written since the last time. Raises what `check` does."""
        await self.check()
        await self.way.drain()

    async def take(self) -> None:
        """Have it alone, and note what was written until then: its guest has ended.

        What nothing tells, or may have been written after the last note, is all to be sent.
        """
        assert not isinstance(self.volume, GuestDisk | ImageVolume)  # nobody starts from those
        before = await self.threads.run(last_write, self.path)
        await self.check()
        await self.way.finish()
        claim = partial(self.threads.run, self.volume.claim)
        await when_let_go(claim)
        self.watch = await self.threads.run(self.volume.watch)
        after = await self.threads.run(last_write, self.path)
        if before is None or not tells(before) or before.is_before(after) is not False:
            self.way.pending = EVERYTHING

    def unwatch(self) -> None:
        """Watch it no more. Idempotent."""
        if self.watch is not None:
            self.watch.close()

    async def require_unwritten(self) -> None:
        """See that nothing was written since the last round began. Raises what `check` does.

        Where nothing tracks writes, the watch alone tells: of all but backends within the kernel.
        """
        await self.drain()
        if self.way.pending and not isinstance(self.way.pending, Everything):
            raise VolumeWritten(f"{self.path} was written to while it was copied")


V = TypeVar("V", bound=Volume)
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
        self.outlook = Outlook(0, 0.0, 0.0)
        """What the last `look` found."""

    @property
    def rate(self) -> float:
        """Bytes a second that can be sent, as far as is known."""
        return send_rate(self._rates, self._limiter.rate)

    @property
    def least_rate(self) -> float:
        """Bytes a second that are slow, and no stall."""
        return least_rate(self._rates, self._limiter.rate)

    @property
    def size(self) -> int:
        """Bytes of all volumes here, whatever the target says of those there."""
        return sum(disk.opened.size for disk in self._disks)

    async def first_round(self) -> None:
        """Begin to track writes, then bring every volume up to date in full."""
        await self._all(lambda disk: disk.way.first_round())

    async def look(self) -> Outlook:
        """Learn what was written and not sent."""
        await self._on_all(lambda disk: disk.drain(), "what was written to")
        pending = [(disk.way.pending, disk.source.progress.rounds) for disk in self._disks]
        self.outlook = outlook(pending, self.rate)
        return self.outlook

    async def round(self) -> None:
        """Send what the last `look` found."""
        await self._all(lambda disk: disk.way.round())

    async def tracked_round(self) -> None:
        """Send what the last `look` found on volumes that need not be read in full for it."""
        await self._all(lambda disk: disk.way.tracked_round())

    async def final_round(self) -> None:
        """Send what was written since the last round. Nobody may write any more."""
        await self.look()
        await self.round()

    async def check(self) -> None:
        """See that every volume is what was opened. Raises VolumeReplaced or VolumeResized."""
        await self._on_all(lambda disk: disk.check(), "what is known of")

    async def take(self) -> None:
        """Have all volumes alone, and note what their guest wrote to its end. Raises StorageError.

        To be followed by `round`, for all that the guest has written and was not sent.
        """
        await self._on_all(lambda disk: disk.take(), "the release of")

    async def require_unwritten(self) -> None:
        """See that nobody wrote to any volume since the last round began. Raises StorageError."""
        await self._on_all(lambda disk: disk.require_unwritten(), "what is known of")

    async def settle_images(self) -> None:
        """Have QEMU write what it has in memory of the images whose content it reads for us.

        It would do so when it ends: such an image is as it stays from now on. Raises StorageError.
        """

        async def settle(disk: _Disk) -> None:
            if isinstance(disk.reader, GuestQemu):
                await disk.threads.run(disk.volume.flush)

        await self._on_all(settle, "what QEMU has in memory of")

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
        return paused + max((disk.way.pauses for disk in self._disks), default=0.0)

    def _moved(self) -> int:
        """Return a number that changes with every byte that is read, sent or acknowledged."""
        rounds = self._rounds()
        return sum(one.examined + one.wire_bytes for one in rounds) + len(rounds)

    def _sent(self) -> int:
        return sum(one.data_bytes for one in self._rounds())

    def _rounds(self) -> list[RoundProgress]:
        return [one for disk in self._disks for one in disk.source.progress.rounds]


@dataclass(frozen=True, slots=True)
class Attaching:
    """What all volumes of a job have in common when they are opened and attached.

    `messages` are those that both sides speak. Each volume is opened with `opener`. With `alone`
    nobody may write to the volumes meanwhile. `keep_made`: what arrived is kept after a failure
    also of volumes that were made for this job.
    """

    link: PeerLink
    messages: MessageSet
    migration: MigrationId
    opener: Callable[[str], PoolVolume]
    tools: SyncTools
    compression: Compression
    readers: int
    keep_made: bool
    alone: bool

    async def disk(
        self,
        number: int,
        sending: Sending,
        placement: Placement,
        history: History | None,
        *,
        progress: list[VolumeProgress],
        stack: AsyncExitStack,
        channels: AsyncExitStack,
    ) -> _Disk:
        """Open a volume and its channel, to be closed by the two stacks."""
        path, opened = sending.paths[number], sending.backings[number]
        whole, tracker, watch = await self._open(number, sending, stack)
        reader = sending.reader(number)
        compare_backings(path, opened, await asyncio.to_thread(look, path, opened, reader))
        if whole.backing() != opened:
            raise VolumeReplaced(f"{path} led to {whole.backing().what} as it was opened")
        threads = await stack.enter_async_context(DeviceThreads(f"disk{number}", self.readers))
        channel = await open_attached(self.link, Purpose.VOLUME, self.migration, number)
        channels.callback(channel.close)
        framed = Framed(channel, self.messages)
        place = f"{placement.pool}:{placement.name}"
        shown = VolumeProgress(path, whole.size, place, placement.fresh)
        progress.append(shown)
        stack.push_async_callback(threads.run, tracker.stop)
        streams = await self._streams(history, framed, threads, shown)
        volume: Volume = whole
        if streams is not None:
            stack.push_async_exit(_settling(streams, placement.fresh and not self.keep_made))
        else:  # a stream gives the volume there the size that it has here
            volume = _as_large_as_there(whole, placement)
            shown.size = volume.size
        compressor = Compressor(self.compression)
        source = VolumeSource(
            volume, framed, threads, compressor=compressor, tools=self.tools, progress=shown
        )
        stack.callback(source.close)
        way: Way = ByBlocks(source, tracker, threads, placement.zeroed)
        way = ByStreams(streams) if streams is not None else way
        disk = _Disk(path, reader, whole, opened, watch, source, way, threads, channel)
        stack.callback(disk.unwatch)
        return disk

    async def _open(
        self, number: int, sending: Sending, stack: AsyncExitStack
    ) -> tuple[PoolVolume | GuestDisk | ImageVolume, Tracker, Watching | None]:
        """Open a volume, to be closed by the stack; say how its writes are tracked."""
        path = sending.paths[number]
        if isinstance(reader := sending.reader(number), GuestQemu):
            disk = await _opened(partial(GuestDisk.open, reader, path), stack)
            return disk, BitmapTracker(reader, path, disk.reads), None
        opener = self.opener if reader is None else reader.open
        opening: Callable[[], PoolVolume | ImageVolume] = partial(opener, path)
        attempt = partial(_opened, opening, stack)
        volume = await when_let_go(attempt)
        watch = volume.watch() if self.alone else None
        if watch is not None:
            stack.callback(watch.close)
        qemu = sending.served[number] if sending.served else None
        return volume, await asyncio.to_thread(choose_tracker, path, qemu), watch

    async def _streams(
        self,
        history: History | None,
        framed: Framed,
        threads: DeviceThreads,
        shown: VolumeProgress,
    ) -> StreamSource | None:
        """Return what sends a volume as streams, None where it has to go by blocks."""
        if history is None:
            return None
        streams = StreamSource(
            history,
            framed,
            threads,
            self.tools.limiter,
            shown,
            peer=self.link.peer,
            migration=self.migration,
        )
        return streams if await streams.agree() else None


@asynccontextmanager
async def attached_disks(
    attaching: Attaching,
    sending: Sending,
    placements: Sequence[Placement],
    histories: Sequence[History | None],
    *,
    progress: list[VolumeProgress],
    stalls: Stalls,
) -> AsyncIterator[Disks]:
    """Open every volume, and a channel for it. `progress` gets an entry for each.

    A volume with a history goes as streams if the target takes them. Raises StorageError or
    LinkError. Leaving the context closes everything; snapshots are left that a later job can start
    from.
    """
    # The target ends everything when a channel goes. So these go last, when it is known what went
    # wrong here: what is awaited after that may be cancelled, and then nobody would hear of it.
    async with AsyncExitStack() as channels, AsyncExitStack() as stack:
        disks = []
        for number, (placement, history) in enumerate(zip(placements, histories, strict=True)):
            disk = await attaching.disk(
                number,
                sending,
                placement,
                history,
                progress=progress,
                stack=stack,
                channels=channels,
            )
            disks.append(disk)
        yield Disks(disks, attaching.tools.limiter, stalls)


async def _opened(opener: Callable[[], V], stack: AsyncExitStack) -> V:
    """Open a volume in a thread, to be closed by the stack, also when nobody waits for it."""
    opening = asyncio.ensure_future(asyncio.to_thread(opener))

    async def close() -> None:
        with suppress(StorageError):
            await asyncio.to_thread((await opening).close)

    stack.push_async_callback(lambda: wait_through(close()))
    return await asyncio.shield(opening)


def _as_large_as_there(volume: Volume, placement: Placement) -> Volume:
    """Return a volume as if it went on with zeros to the end of the one that it is copied to.

    Raises ProtocolError where that is smaller, or larger than it may be.
    """
    if not volume.size <= placement.size <= most_there(volume.size):
        text = f"the target has {placement.size} bytes for {volume.name}, which has {volume.size}"
        raise ProtocolError(Code.OUT_OF_RANGE, text)
    return window(volume, placement.size)


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
