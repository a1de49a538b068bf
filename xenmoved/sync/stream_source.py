"""The sending end of a volume that goes as streams which its storage makes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from protocol.errors import Code, ProtocolError
from protocol.frames import MAX_PAYLOAD
from protocol.messages import BeginStream, StreamReceipt, StreamTerms
from protocol.streams import StreamSender
from storage.contracts import History, ResumePoint, Snapshot, StreamOut, own_name
from storage.errors import StorageError
from xenmoved.link.errors import LinkLost
from xenmoved.link.framed import Framed
from xenmoved.sync.devices import DeviceThreads
from xenmoved.sync.limiter import RateLimiter
from xenmoved.sync.progress import RoundProgress, VolumeProgress
from xenmoved.sync.snapshots import MOST_PASSED, guid_text
from xenmoved.tasks import wait_through

T = TypeVar("T", StreamTerms, StreamReceipt)

log = logging.getLogger(__name__)

_OFFERED: Final = 1024  # snapshots, the newest ones


class StreamSource:
    """The sending end of one volume, from snapshot to snapshot.

    `framed` and `threads` are the caller's to close. The snapshots are named after `peer` and
    `migration`.
    """

    def __init__(
        self,
        history: History,
        framed: Framed,
        threads: DeviceThreads,
        limiter: RateLimiter,
        progress: VolumeProgress,
        *,
        peer: str,
        migration: str,
    ) -> None:
        self._history = history
        self._framed = framed
        self._channel = framed.channel
        self._threads = threads
        self._limiter = limiter
        self._peer = peer
        self._migration = migration
        self._sender = StreamSender(framed.messages)
        self._compressed = False
        self._resume: tuple[ResumePoint, Snapshot] | None = None
        self._base: Snapshot | None = None
        self._passed: list[Snapshot] = []
        self.progress = progress

    async def agree(self) -> bool:
        """Ask the target for streams; False when the volume has to go by blocks.

        Raises LinkLost or ProtocolError.
        """
        try:
            known = await self._threads.run(self._history.snapshots)
            needed = await self._threads.run(self._history.needed_features)
            encrypted = await self._threads.run(self._history.is_encrypted)
        except StorageError as error:
            log.warning("%s goes by blocks: %s", self.progress.name, error)
            return False
        offered = [guid_text(snapshot.guid) for snapshot in known[: -_OFFERED - 1 : -1]]
        await self._channel.send(self._sender.offer(offered, sorted(needed)))
        terms = await self._answer(StreamTerms)
        if not terms.accepted:
            log.info("%s goes by blocks: the target takes no streams of it", self.progress.name)
            return False
        self._base = next((one for one in known if guid_text(one.guid) == terms.base), None)
        self._compressed = terms.compressed and not encrypted
        self.progress.streamed = True
        if terms.resume is not None:
            self._resume = await self._threads.run(self._resumable, terms.resume, known)
        useful = (self._base, self._resume[1] if self._resume is not None else None)
        await self._threads.run(self._drop, [one for one in known if one not in useful])
        return True

    async def run_round(self, expected: int | None = None) -> RoundProgress:
        """Send all that was written since the last round; durable there when this returns.

        `expected` is about how many bytes that is, where known. Raises LinkLost, ProtocolError or
        StorageError, after which nothing more can be sent.
        """
        number, base = self.progress.next_number, self._base
        point = None
        if self._resume is not None:
            (point, snapshot), self._resume = self._resume, None
            expected = self.progress.size
        else:
            name = own_name(self._peer, self._migration, number)
            snapshot = await self._threads.run(self._history.take, name, self.progress.size)
        if expected is None:
            expected = await self._threads.run(self._history.stream_size, snapshot, base)
        progress = RoundProgress(number, expected)
        self.progress.add(progress)
        begun = BeginStream(
            number,
            guid_text(base.guid) if base is not None else None,
            guid_text(snapshot.guid),
            expected,
            resumed=point is not None,
        )
        await self._channel.send(self._sender.begin(begun))
        flow = await self._threads.run(self._start, snapshot, base, point)
        try:
            await self._pump(flow, progress)
        finally:
            await wait_through(asyncio.to_thread(flow.end))
        await self._answer(StreamReceipt)
        progress.stream_ended()
        self._passed += [base] if base is not None else []
        self._base = snapshot
        return progress

    async def written(self) -> int:
        """Return about how many bytes were written since the last round."""
        if self._base is None:
            return self.progress.size
        if len(self._passed) >= MOST_PASSED:
            passed, self._passed = self._passed, []
            await self._threads.run(self._drop, passed)
        return await self._threads.run(self._history.written_since, self._base)

    def settle(self, *, keep: bool) -> None:
        """Destroy the snapshots for this peer that are of no more use. Blocks.

        With `keep` the newest one that the target has stays, for the way back, and those after it,
        which it may have too.
        """
        try:
            known = self._history.snapshots()
        except StorageError as error:
            log.warning("%s: snapshots of ours stay: %s", self.progress.name, error)
            return
        if keep:
            known = known[: known.index(self._base)] if self._base in known else []
        self._drop(known)

    def _drop(self, snapshots: Iterable[Snapshot]) -> None:
        """Destroy those of some snapshots that are for this peer."""
        try:
            self._history.destroy(one for one in snapshots if one.is_for(self._peer))
        except StorageError as error:
            log.warning("%s: snapshots of ours stay: %s", self.progress.name, error)

    def _resumable(
        self, untrusted_token: str, known: Sequence[Snapshot]
    ) -> tuple[ResumePoint, Snapshot] | None:
        """Return what a token of the target means, None unless it is about this very volume.

        A token names any snapshot of this host, and `zfs send` would send what it names.
        """
        point = self._history.read_token(untrusted_token)
        if point is None:
            return None
        snapshot = next((one for one in known if one.guid == point.snapshot), None)
        base = self._base.guid if self._base is not None else None
        if snapshot is None or point.base != base or not snapshot.is_for(self._peer):
            return None
        return point, snapshot

    def _start(
        self, snapshot: Snapshot, base: Snapshot | None, point: ResumePoint | None
    ) -> StreamOut:
        if point is not None:
            return self._history.send_rest(point)
        return self._history.send(snapshot, base, compressed=self._compressed)

    async def _pump(self, flow: StreamOut, progress: RoundProgress) -> None:
        sent = self._channel.sent_bytes
        while piece := await self._threads.run(flow.read, MAX_PAYLOAD):
            await self._limiter.take(len(piece))
            await self._channel.send(*self._sender.piece(piece))
            progress.streamed(len(piece))
            progress.wire_bytes = self._channel.sent_bytes - sent
        await self._channel.send(self._sender.end())

    async def _answer(self, kind: type[T]) -> T:
        frame = await self._framed.frame(self._sender.kinds)
        if frame is None:
            raise LinkLost(f"{self._channel.peer} closed the channel of {self.progress.name}")
        answer = self._sender.take(frame)
        if not isinstance(answer, kind):
            raise ProtocolError(Code.UNEXPECTED, f"{type(answer).__name__} is no answer to this")
        return answer
