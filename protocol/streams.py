"""Rounds of a volume that storage itself makes a stream of, without input or output.

Where both hosts have the volume in storage that can do it (ZFS), the rounds go before those of
`protocol.blocksync`, on the same channel:

    source                                        target
    Attach(migration, volume)            ->
    StreamOffer(snapshots, features)     ->
                                         <-       StreamTerms(accepted, base, compressed, resume)
    any number of times, if accepted:
        BeginStream(number, base, snapshot) ->
        STREAM: bytes                    ->
        EndStream(number, size)          ->
                                         <-       StreamReceipt(number, size, snapshot)
    BeginRound(number, compare)          ->       from here on blocks

A snapshot is known by its guid, which is the same on both hosts. Each stream starts from the
snapshot that the target got last, the first one from the `base` of the terms (from nothing when
that is None) or from where an earlier stream was interrupted. The source may send blocks instead
at any time outside a stream, and goes on with them then.

`StreamSender` (source) and `StreamReceiver` (target) take decoded frames and return events, and
make the bytes to send. They check everything that a peer may get wrong and raise ProtocolError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from protocol.codec import MessageSet
from protocol.errors import Code, ProtocolError
from protocol.frames import Bytes, Frame, Kind, Pieces, stream_frame
from protocol.messages import (
    PEER,
    BeginRound,
    BeginStream,
    EndStream,
    Guid,
    StreamOffer,
    StreamReceipt,
    StreamTerms,
)


@dataclass(frozen=True, slots=True)
class PieceArrived:
    """The next bytes of a stream."""

    untrusted_payload: memoryview


@dataclass(frozen=True, slots=True)
class BlocksBegin:
    """From here on the channel is that of `protocol.blocksync`, whose first message this is."""

    begun: BeginRound


StreamEvent = StreamOffer | BeginStream | PieceArrived | EndStream | BlocksBegin


class StreamSender:
    """The source's end of a volume channel, as long as streams go on it. It takes `kinds` only."""

    kinds: Final = frozenset({Kind.MESSAGE})

    def __init__(self, messages: MessageSet = PEER) -> None:
        self._messages = messages
        self._offer: StreamOffer | None = None
        self._terms: StreamTerms | None = None
        self._begun: BeginStream | None = None
        self._claim: EndStream | None = None
        self._size = 0

    def offer(self, snapshots: Sequence[Guid], features: Sequence[str]) -> bytes:
        """Return the bytes that ask for streams."""
        self._offer = StreamOffer(tuple(snapshots), tuple(features))
        return self._messages.encode(self._offer)

    def begin(self, begun: BeginStream) -> bytes:
        """Return the bytes that start a stream."""
        self._begun, self._claim, self._size = begun, None, 0
        return self._messages.encode(begun)

    def piece(self, payload: Bytes) -> Pieces:
        """Return the frame for the next bytes of the stream."""
        self._size += len(payload)
        return stream_frame(payload)

    def end(self) -> bytes:
        """Return the bytes that end the stream."""
        if self._begun is None:
            raise ValueError("no stream has begun")
        self._claim = EndStream(self._begun.number, self._size)
        return self._messages.encode(self._claim)

    def take(self, frame: Frame) -> StreamTerms | StreamReceipt:
        """Return the target's answer in the next frame. Raises ProtocolError."""
        message = self._messages.decode(frame.untrusted_body)
        if isinstance(message, StreamTerms) and self._offer and self._terms is None:
            return self._check_terms(message, self._offer)
        if isinstance(message, StreamReceipt) and self._claim and self._begun:
            return self._check_receipt(message, self._claim, self._begun)
        raise ProtocolError(Code.UNEXPECTED, f"{type(message).__name__} is out of turn")

    def _check_terms(self, terms: StreamTerms, offer: StreamOffer) -> StreamTerms:
        if terms.base is not None and terms.base not in offer.snapshots:
            raise ProtocolError(
                Code.OUT_OF_RANGE, f"StreamTerms.base: {terms.base} is not among the offered"
            )
        self._terms = terms
        return terms

    def _check_receipt(
        self, receipt: StreamReceipt, claim: EndStream, begun: BeginStream
    ) -> StreamReceipt:
        ours = StreamReceipt(claim.number, claim.size, begun.snapshot)
        if receipt != ours:
            raise ProtocolError(Code.DIGEST, f"receipt of a stream: {receipt}, not {ours}")
        self._begun = self._claim = None
        return receipt


class StreamReceiver:
    """The target's end of a volume channel, after its `Attach`. It takes `kinds` only.

    `limit`: most bytes of a stream.
    """

    kinds: Final = frozenset({Kind.MESSAGE, Kind.STREAM})

    def __init__(self, limit: int, messages: MessageSet = PEER) -> None:
        self._messages = messages
        self._limit = limit
        self._offered = False
        self._terms: StreamTerms | None = None
        self._begun: BeginStream | None = None
        self._ended: EndStream | None = None
        self._last_number = 0
        self._last_snapshot: Guid | None = None
        self._size = 0

    @property
    def idle(self) -> bool:
        """Whether no stream is under way and no answer is due."""
        answered = self._offered == (self._terms is not None)
        return self._begun is None and answered

    def terms(self, terms: StreamTerms) -> bytes:
        """Return the answer to an offer."""
        self._terms = terms
        self._last_snapshot = terms.base
        return self._messages.encode(terms)

    def receipt(self) -> bytes:
        """Return the receipt of a stream, all of which is durable."""
        if self._begun is None or self._ended is None:
            raise ValueError("no stream has ended")
        receipt = StreamReceipt(self._ended.number, self._ended.size, self._begun.snapshot)
        self._last_snapshot = self._begun.snapshot
        self._begun = self._ended = None
        return self._messages.encode(receipt)

    def take(self, frame: Frame) -> StreamEvent:
        """Return what the next frame asks for. Raises ProtocolError."""
        if frame.kind is Kind.STREAM:
            return self._piece(frame.untrusted_body)
        message = self._messages.decode(frame.untrusted_body)
        match message:
            case StreamOffer() if not self._offered:
                self._offered = True
                return message
            case BeginStream() if self._begun is None and self._terms and self._terms.accepted:
                return self._begin(message, self._terms)
            case EndStream(number) if self._begun and not self._ended:
                if number != self._begun.number or message.size != self._size:
                    raise ProtocolError(
                        Code.DIGEST,
                        f"stream {self._begun.number} arrived with {self._size} bytes, and ends as "
                        f"{number} with {message.size}",
                    )
                self._ended = message
                return message
            case BeginRound() if self._begun is None and self._offered == bool(self._terms):
                return BlocksBegin(message)
        raise ProtocolError(Code.UNEXPECTED, f"{type(message).__name__} is out of turn")

    def _begin(self, begun: BeginStream, terms: StreamTerms) -> BeginStream:
        if begun.number <= self._last_number:
            raise ProtocolError(Code.UNEXPECTED, f"stream {begun.number} comes a second time")
        if begun.resumed and (self._last_number or terms.resume is None):
            raise ProtocolError(Code.UNEXPECTED, "there is no stream to be resumed")
        if not begun.resumed and begun.base != self._last_snapshot:
            raise ProtocolError(
                Code.OUT_OF_RANGE,
                f"BeginStream.base: is {begun.base}, the target has {self._last_snapshot}",
            )
        self._begun, self._last_number, self._size = begun, begun.number, 0
        return begun

    def _piece(self, untrusted_body: Bytes) -> PieceArrived:
        if self._begun is None or self._ended is not None:
            raise ProtocolError(Code.UNEXPECTED, "STREAM outside a stream")
        self._size += len(untrusted_body)
        if self._size > self._limit:
            raise ProtocolError(
                Code.TOO_LARGE, f"a stream above {self._limit} bytes, which the volume cannot need"
            )
        return PieceArrived(memoryview(untrusted_body))
