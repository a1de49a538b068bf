"""The receiving end of a volume that comes as streams which the source's storage made."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from protocol.errors import Code, ProtocolError
from protocol.messages import BeginRound, BeginStream, StreamOffer, StreamTerms
from protocol.streams import BlocksBegin, PieceArrived, StreamEvent, StreamReceiver
from storage.contracts import History, ResumePoint, Snapshot, StreamIn, Volume, own_name
from storage.errors import StorageError
from storage.zfs.stream import HEAD_SIZE, read_head
from xenmoved.link.errors import LinkLost
from xenmoved.link.framed import Framed
from xenmoved.sync.devices import DeviceThreads
from xenmoved.sync.progress import RoundProgress, VolumeProgress
from xenmoved.sync.snapshots import MOST_PASSED, guid_text
from xenmoved.tasks import wait_through

log = logging.getLogger(__name__)

_OVERHEAD: Final = 64 << 20
_NO: Final = StreamTerms(accepted=False, base=None, compressed=False, resume=None)


class StreamTarget:
    """The receiving end of one volume, from snapshot to snapshot.

    `volume` stays open meanwhile, so that nobody else takes it; it, `framed` and `threads` are the
    caller's to close. `history` is None where the volume's storage knows no streams. The snapshots
    are named after `peer` and `migration`. `rounds` counts streams whose receipt was sent.
    """

    def __init__(
        self,
        history: History | None,
        volume: Volume,
        framed: Framed,
        threads: DeviceThreads,
        progress: VolumeProgress,
        *,
        peer: str,
        migration: str,
    ) -> None:
        self._history = history
        self._volume = volume
        self._framed = framed
        self._channel = framed.channel
        self._threads = threads
        self._progress = progress
        self._peer = peer
        self._migration = migration
        # What of a block is not its bytes takes less than they do; see `storage.zfs.stream`.
        self._receiver = StreamReceiver(2 * progress.size + _OVERHEAD, framed.messages)
        self._base: Snapshot | None = None
        self._partial: ResumePoint | None = None
        self._arriving: _Arriving | None = None
        self.rounds = 0

    @property
    def idle(self) -> bool:
        """Whether everything that was sent is taken in, durable and receipted."""
        return self._receiver.idle and not self._framed.pending

    async def serve(self) -> BeginRound | None:
        """Take in streams until the source begins a round of blocks, or ends the channel (None).

        Raises ProtocolError, StorageError, or LinkLost when the channel ends within a stream.
        """
        try:
            while (frame := await self._framed.frame(self._receiver.kinds)) is not None:
                event = self._receiver.take(frame)
                if isinstance(event, BlocksBegin):
                    return event.begun
                await self._handle(event)
                if self._progress.rounds:
                    self._progress.rounds[-1].wire_bytes += frame.wire_size
        finally:
            if self._arriving is not None and self._arriving.flow is not None:
                await wait_through(asyncio.to_thread(self._arriving.flow.end))
        if not self.idle:
            raise LinkLost(f"{self._channel.peer} ended {self._volume.name} within a stream")
        return None

    def settle(self) -> None:
        """Destroy the snapshots for this peer but for the newest, which the source has. Blocks."""
        if self._history is None or self.rounds == 0:
            return
        try:
            ours = [one for one in self._history.snapshots() if one.is_for(self._peer)]
            self._history.destroy(ours[:-1])
        except StorageError as error:
            log.warning("%s: snapshots of ours stay: %s", self._volume.name, error)

    async def _handle(self, event: StreamEvent) -> None:
        match event:
            case StreamOffer():
                terms = await self._threads.run(self._terms, event)
                await self._channel.send(self._receiver.terms(terms))
            case BeginStream():
                if not event.resumed and self._arriving is None:
                    await self._threads.run(self._prepare)
                elif self.rounds and self.rounds % MOST_PASSED == 0:
                    await self._threads.run(self.settle)
                self._progress.streamed = True
                self._progress.add(RoundProgress(event.number, event.size))
                self._arriving = _Arriving(event)
            case PieceArrived(untrusted_payload):
                await self._threads.run(self._take, untrusted_payload)
            case _:
                await self._threads.run(self._finish)
                await self._channel.send(self._receiver.receipt())
                self.rounds += 1

    def _terms(self, offer: StreamOffer) -> StreamTerms:
        """Look whether streams can come, and from where. Changes nothing of the volume."""
        history, progress = self._history, self._progress
        if history is None:
            return _NO
        try:
            history.end_receiving()
            known, point = history.snapshots(), history.resume_point()
            base = common_base(known, offer.snapshots)
            empty = progress.fresh or (point is not None and point.base is None)
            if base is None and (known or not empty or history.is_encrypted()):
                return _NO
            if base is not None and self._volume.size != progress.size:  # it was resized since
                return _NO
            compressed = history.features() >= set(offer.features)
        except StorageError as error:
            log.warning("%s comes by blocks: %s", self._volume.name, error)
            return _NO
        self._base, self._partial = base, point
        resumable = point is not None and point.base == (base.guid if base is not None else None)
        return StreamTerms(
            accepted=True,
            base=guid_text(base.guid) if base is not None else None,
            compressed=compressed,
            resume=point.token if point is not None and resumable else None,
        )

    def _prepare(self) -> None:
        """Make the volume again what it was at the base, which only snapshots of ours follow."""
        assert self._history is not None
        if self._partial is not None:
            self._history.forget_partial()
            self._partial = None
        if self._base is not None:
            known = self._history.snapshots()
            self._history.destroy(known[known.index(self._base) + 1 :])
            self._history.roll_back(self._base)

    def _take(self, untrusted_payload: memoryview) -> None:
        assert self._arriving is not None
        arriving = self._arriving
        if arriving.flow is None:
            arriving.untrusted_head += untrusted_payload
            if len(arriving.untrusted_head) < HEAD_SIZE:
                return
            untrusted_payload = memoryview(bytes(arriving.untrusted_head))
            arriving.flow = self._start(arriving)
        arriving.flow.write(untrusted_payload)
        self._progress.rounds[-1].streamed(len(untrusted_payload))

    def _start(self, arriving: _Arriving) -> StreamIn:
        """Begin to receive what is, by its head, the stream that was announced."""
        assert self._history is not None
        begun = arriving.begun
        try:
            head = read_head(bytes(arriving.untrusted_head[:HEAD_SIZE]))
        except ValueError as error:
            raise ProtocolError(Code.BAD_FRAME, f"stream {begun.number}: {error}") from None
        base = guid_text(head.base) if head.base is not None else None
        if (guid_text(head.snapshot), base) != (begun.snapshot, begun.base):
            raise ProtocolError(
                Code.OUT_OF_RANGE,
                f"stream {begun.number} leads from {base} to {guid_text(head.snapshot)}, not from "
                f"{begun.base} to {begun.snapshot}",
            )
        return self._history.receive(self._name(begun), full=begun.base is None)

    def _finish(self) -> None:
        """See that all has arrived, and that it is what was announced."""
        assert self._arriving is not None and self._history is not None
        begun, flow = self._arriving.begun, self._arriving.flow
        if flow is None:
            raise ProtocolError(Code.BAD_FRAME, f"stream {begun.number} ends before it begins")
        flow.finish()
        flow.end()
        guid, size = self._history.guid_and_size(self._name(begun))
        if guid_text(guid) != begun.snapshot or size != self._progress.size:
            raise ProtocolError(
                Code.DIGEST,
                f"stream {begun.number} led to the snapshot {guid_text(guid)} of {size} bytes, not "
                f"to {begun.snapshot} of {self._progress.size}",
            )
        self._volume.flush()
        self._progress.rounds[-1].stream_ended()

    def _name(self, begun: BeginStream) -> str:
        return own_name(self._peer, self._migration, begun.number)


@dataclass(slots=True)
class _Arriving:
    """The stream that arrives; its head until there is enough of it to be looked at."""

    begun: BeginStream
    untrusted_head: bytearray = field(default_factory=bytearray)
    flow: StreamIn | None = None


def common_base(known: Sequence[Snapshot], offered: Collection[str]) -> Snapshot | None:
    """Return the newest snapshot that the source has, too.

    None when there is none, or when one that somebody else made came after it: going back to it
    would destroy that.
    """
    for snapshot in reversed(known):
        if guid_text(snapshot.guid) in offered:
            return snapshot
        if not snapshot.ours:
            return None
    return None
