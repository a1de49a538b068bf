"""The volumes of an outgoing job on their channels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from time import monotonic

from protocol.messages import MigrationId, Placement
from storage.contracts import EVERYTHING, Tracker
from storage.opening import open_source
from storage.rehash import RehashTracker
from xenmoved.link.channel import Channel, Purpose
from xenmoved.link.client import PeerLink
from xenmoved.migration.offers import Sending
from xenmoved.migration.rounds import another_round
from xenmoved.problems import JobError, problem
from xenmoved.sync.compression import Compression, Compressor
from xenmoved.sync.devices import DeviceThreads
from xenmoved.sync.progress import VolumeProgress
from xenmoved.sync.source import SyncTools, VolumeSource


@dataclass(slots=True)
class _Disk:
    source: VolumeSource
    tracker: Tracker
    channel: Channel
    fresh: bool


class Disks:
    """All volumes of a job, open at the source and attached at the target."""

    def __init__(self, disks: Sequence[_Disk]) -> None:
        self._disks = disks

    async def pre_copy(self, max_rounds: int) -> None:
        """Run pre-copy rounds on all volumes at the same time, each until no more of them pay."""
        async with asyncio.TaskGroup() as group:
            for disk in self._disks:
                group.create_task(self._pre_copy(disk, max_rounds))

    async def final_round(self) -> None:
        """Send what was written since the last round. Nobody may write any more."""
        async with asyncio.TaskGroup() as group:
            for disk in self._disks:
                written = disk.tracker.drain()
                group.create_task(disk.source.run_round(written, compare=False))

    async def verify(self) -> None:
        """Compare all volumes in full. Raises VerificationFailed."""
        async with asyncio.TaskGroup() as group:
            for disk in self._disks:
                group.create_task(disk.source.verify())

    def finish(self) -> None:
        """Tell the target that no more rounds come."""
        for disk in self._disks:
            disk.channel.finish()

    @staticmethod
    async def _pre_copy(disk: _Disk, max_rounds: int) -> None:
        rounds = disk.source.progress.rounds
        while another_round(rounds, max_rounds):
            if rounds:
                await disk.source.run_round(disk.tracker.drain(), compare=False)
            else:
                disk.tracker.start()
                await disk.source.run_round(EVERYTHING, compare=not disk.fresh)


@asynccontextmanager
async def attached_disks(
    link: PeerLink,
    migration: MigrationId,
    sending: Sending,
    placements: Sequence[Placement],
    *,
    tools: SyncTools,
    compression: Compression,
    readers: int,
    progress: list[VolumeProgress],
) -> AsyncIterator[Disks]:
    """Open every volume and a channel for it. `progress` gets an entry for each.

    Raises StorageError or LinkError. Leaving the context closes everything.
    """
    async with AsyncExitStack() as stack:
        disks = []
        for number, (path, placement) in enumerate(zip(sending.paths, placements, strict=True)):
            volume = await asyncio.to_thread(open_source, path)
            stack.callback(volume.close)
            threads = await stack.enter_async_context(DeviceThreads(f"disk{number}", readers))
            channel = await link.open(Purpose.VOLUME)
            stack.callback(channel.close)
            shown = VolumeProgress(
                name=path,
                size=volume.size,
                target=f"{placement.pool}:{placement.name}",
                fresh=placement.fresh,
            )
            progress.append(shown)
            source = VolumeSource(
                volume,
                channel,
                threads,
                compressor=Compressor(compression),
                tools=tools,
                progress=shown,
            )
            stack.callback(source.close)
            tracker = RehashTracker()
            stack.callback(tracker.stop)
            await source.attach(migration, number)
            disks.append(_Disk(source, tracker, channel, placement.fresh))
        yield Disks(disks)


async def watch_for_stall(activity: Callable[[], int], peer: str, limit: float) -> None:
    """Return never; raise JobError when `activity` stays the same for `limit` seconds."""
    last, since = activity(), monotonic()
    while True:
        await asyncio.sleep(min(limit / 4, 5.0))
        now = activity()
        if now != last:
            last, since = now, monotonic()
        elif monotonic() - since > limit:
            text = f"no progress for {limit:g} s, though the connection to {peer} is there"
            hint = f"look at the log and the disks of {peer}; timeouts.stall sets this limit"
            raise JobError([problem("stalled", text, hint)])
