"""The exchange on a volume channel, both ends, without input or output.

A channel carries one volume through any number of rounds:

    source                                        target
    Attach(migration, volume)            ->
    BeginRound(number, compare)          ->
        only if compare, while the source sends what differs:
        Credit(frames)                   ->
                                         <-       HASHES, ZERO: what it has, in order, under credit
    DATA, PACKED, ZERO: what it lacks    ->
    EndRound(number, counts, digest)     ->
                                         <-       Receipt(number, counts, digest)

The comparison covers the volume from 0 to its end without a gap. Ranges start at a block and end at
a block or at the end of the volume. The target sends its receipt when all of the round is written
and durable; the source checks that it names the same counts and the same digest.

`VolumeSender` (source) and `VolumeReceiver` (target) take decoded frames and return events, and
make the bytes to send. They check everything that a peer may get wrong and raise ProtocolError.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from protocol.codec import MessageSet
from protocol.errors import Code, ProtocolError
from protocol.frames import (
    HASH_SIZE,
    MAX_PAYLOAD,
    Bytes,
    Frame,
    Kind,
    Pieces,
    data_frame,
    encode_hashes,
    encode_zero,
    packed_frame,
    split_data,
    split_hashes,
    split_packed,
    split_range,
)
from protocol.messages import (
    BLOCK_SIZE,
    PEER,
    BeginRound,
    Credit,
    EndRound,
    Receipt,
)

MAX_CREDIT: Final = 256
"""Most comparison frames that a target may be allowed ahead: 16 MiB of hashes."""

_RECORD: Final = struct.Struct(">BQQ")


class RoundDigest:
    """Running digest of what a round sends, in the order of its frames.

    It is the BLAKE3 hash of one record per frame: ``kind: u8, offset: u64, length: u64``
    big-endian, kind DATA for both DATA and PACKED, followed for these by the fingerprints of the
    unpacked blocks.
    """

    def __init__(self) -> None:
        self._hash = blake3()
        self.frames = 0
        self.data_bytes = 0
        self.zero_bytes = 0

    def add_data(self, offset: int, length: int, hashes: bytes) -> None:
        """Add a DATA or PACKED frame by the fingerprints of its unpacked blocks."""
        self._hash.update(_RECORD.pack(Kind.DATA, offset, length) + hashes)
        self.frames += 1
        self.data_bytes += length

    def add_zero(self, offset: int, length: int) -> None:
        """Add a ZERO frame."""
        self._hash.update(_RECORD.pack(Kind.ZERO, offset, length))
        self.frames += 1
        self.zero_bytes += length

    def value(self) -> bytes:
        """Return the digest so far."""
        return self._hash.digest()


@dataclass(frozen=True, slots=True)
class HashesArrived:
    """The target has blocks with these fingerprints, from `first_block` on."""

    first_block: int
    hashes: bytes


@dataclass(frozen=True, slots=True)
class ZerosArrived:
    """The range reads as zeros on the target."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class ReceiptArrived:
    """The round is written and durable on the target, and its receipt is right."""

    number: int


SenderEvent = HashesArrived | ZerosArrived | ReceiptArrived


@dataclass(frozen=True, slots=True)
class RoundBegun:
    """A round starts; `compare`: stream what the volume holds."""

    number: int
    compare: bool


@dataclass(frozen=True, slots=True)
class CreditArrived:
    """More comparison frames may be sent."""

    frames: int


@dataclass(frozen=True, slots=True)
class DataArrived:
    """Bytes to write. `packed`: zstd-compressed, to unpack to exactly `length` bytes."""

    offset: int
    length: int
    untrusted_payload: memoryview
    packed: bool


@dataclass(frozen=True, slots=True)
class ZeroArrived:
    """A range to make zero."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class RoundEnded:
    """All of a round has arrived: write it out, make it durable, send the receipt."""

    claim: EndRound


ReceiverEvent = RoundBegun | CreditArrived | DataArrived | ZeroArrived | RoundEnded


class _Geometry:
    """Size of a volume and the ranges that are allowed in it."""

    def __init__(self, size: int) -> None:
        self.size = size

    def check(self, offset: int, length: int) -> None:
        end = offset + length
        if not (length > 0 and offset % BLOCK_SIZE == 0 and end <= self.size):
            raise self._outside(offset, length)
        if length % BLOCK_SIZE and end != self.size:
            raise self._outside(offset, length)

    def hashed_range(self, first_block: int, hashes: bytes) -> tuple[int, int]:
        """Offset and end of the blocks that these hashes stand for."""
        offset = first_block * BLOCK_SIZE
        blocks = len(hashes) // HASH_SIZE
        end = min(offset + blocks * BLOCK_SIZE, self.size)
        if not offset + (blocks - 1) * BLOCK_SIZE < self.size:
            raise self._outside(offset, blocks * BLOCK_SIZE)
        return offset, end

    def _outside(self, offset: int, length: int) -> ProtocolError:
        return ProtocolError(
            Code.OUT_OF_RANGE,
            f"range at {offset} of {length} bytes does not fit a volume of {self.size} bytes "
            f"in blocks of {BLOCK_SIZE}",
        )


class VolumeSender:
    """The source's end of a volume channel. It takes frames of some `kinds` only."""

    kinds: Final = frozenset({Kind.MESSAGE, Kind.HASHES, Kind.ZERO})

    def __init__(self, size: int, messages: MessageSet = PEER) -> None:
        self._messages = messages
        self._geometry = _Geometry(size)
        self._round: int | None = None
        self._digest = RoundDigest()
        self._claim: EndRound | None = None
        self._granted = 0
        self.covered = size
        """How far the target's comparison has come, in bytes from the start."""

    def begin_round(self, number: int, *, compare: bool) -> bytes:
        """Return the bytes that start a round."""
        self._round, self._claim, self._digest = number, None, RoundDigest()
        self._granted = 0
        if compare:
            self.covered = 0
        return self._messages.encode(BeginRound(number, compare))

    def grant(self, frames: int) -> bytes:
        """Return the bytes that let the target send more of its comparison."""
        self._granted += frames
        return self._messages.encode(Credit(frames))

    def data(self, offset: int, payload: Bytes, hashes: bytes, packed: bytes | None) -> Pieces:
        """Return the frame for differing bytes, with their fingerprints; `packed` if not None."""
        self._digest.add_data(offset, len(payload), hashes)
        if packed is not None:
            return packed_frame(offset, len(payload), packed)
        return data_frame(offset, payload)

    def zero(self, offset: int, length: int) -> bytes:
        """Return the frame for a range that is zero here and not there."""
        self._digest.add_zero(offset, length)
        return encode_zero(offset, length)

    def end_round(self) -> bytes:
        """Return the bytes that end the round."""
        if self._round is None:
            raise ValueError("no round has begun")
        digest = self._digest
        self._claim = EndRound(
            self._round, digest.data_bytes, digest.zero_bytes, digest.frames, digest.value()
        )
        return self._messages.encode(self._claim)

    def take(self, frame: Frame) -> SenderEvent:
        """Return what the next frame tells. Raises ProtocolError."""
        if frame.kind is Kind.HASHES:
            first, hashes = split_hashes(frame.untrusted_body)
            offset, end = self._geometry.hashed_range(first, hashes)
            self._cover(offset, end)
            return HashesArrived(first, hashes)
        if frame.kind is Kind.ZERO:
            offset, length = split_range(frame.untrusted_body)
            self._geometry.check(offset, length)
            self._cover(offset, offset + length)
            return ZerosArrived(offset, length)
        message = self._messages.decode(frame.untrusted_body)
        if not isinstance(message, Receipt) or self._claim is None:
            raise ProtocolError(Code.UNEXPECTED, f"{type(message).__name__} is out of turn")
        return self._check_receipt(message, self._claim)

    def _cover(self, offset: int, end: int) -> None:
        if self._granted == 0:
            raise ProtocolError(Code.CREDIT, "the target sent more of its comparison than allowed")
        if offset != self.covered:
            raise ProtocolError(
                Code.UNEXPECTED,
                f"the target's comparison goes on at {offset} instead of {self.covered}",
            )
        self._granted -= 1
        self.covered = end

    def _check_receipt(self, receipt: Receipt, claim: EndRound) -> ReceiptArrived:
        for field in ("number", "frames", "data_bytes", "zero_bytes"):
            ours, theirs = getattr(claim, field), getattr(receipt, field)
            if ours != theirs:
                raise ProtocolError(
                    Code.DIGEST, f"receipt of round {claim.number}: {field} is {theirs}, not {ours}"
                )
        if receipt.digest != claim.digest:
            raise ProtocolError(
                Code.DIGEST, f"receipt of round {claim.number}: other bytes arrived than were sent"
            )
        if self.covered != self._geometry.size:
            raise ProtocolError(Code.UNEXPECTED, "receipt before the end of the comparison")
        self._claim = self._round = None
        return ReceiptArrived(receipt.number)


class VolumeReceiver:
    """The target's end of a volume channel, after its `Attach`. It takes some `kinds` only."""

    kinds: Final = frozenset({Kind.MESSAGE, Kind.DATA, Kind.PACKED, Kind.ZERO})

    def __init__(self, size: int, messages: MessageSet = PEER) -> None:
        self._messages = messages
        self._geometry = _Geometry(size)
        self._round: int | None = None
        self._last_round = 0
        self._ended = False
        self._position = size
        self.credit = 0
        """Comparison frames that may be sent now."""

    @property
    def idle(self) -> bool:
        """Whether no round is under way."""
        return self._round is None

    def hashes(self, first_block: int, hashes: bytes) -> bytes:
        """Return the next frame of the comparison: at most `MAX_HASHES` hashes."""
        offset, end = self._geometry.hashed_range(first_block, hashes)
        self._advance(offset, end)
        return encode_hashes(first_block, hashes)

    def zeros(self, offset: int, length: int) -> bytes:
        """Return the next frame of the comparison, for a range that reads as zeros."""
        self._geometry.check(offset, length)
        self._advance(offset, offset + length)
        return encode_zero(offset, length)

    def receipt(self, claim: EndRound, digest: RoundDigest) -> bytes:
        """Return the receipt of a round by what was written. Raises ProtocolError if it differs."""
        receipt = Receipt(
            claim.number, digest.data_bytes, digest.zero_bytes, digest.frames, digest.value()
        )
        if receipt.digest != claim.digest:
            raise ProtocolError(
                Code.DIGEST,
                f"round {claim.number} arrived damaged: its digest is not the source's",
            )
        self._round, self._ended = None, False
        return self._messages.encode(receipt)

    def _advance(self, offset: int, end: int) -> None:
        if self.credit < 1 or offset != self._position:
            raise ValueError("comparison frame without credit or out of order")
        self.credit -= 1
        self._position = end

    def take(self, frame: Frame) -> ReceiverEvent:
        """Return what the next frame asks for. Raises ProtocolError."""
        if frame.kind is Kind.MESSAGE:
            return self.take_message(self._messages.decode(frame.untrusted_body))
        if self._round is None or self._ended:
            raise ProtocolError(Code.UNEXPECTED, f"{frame.kind.name} outside a round")
        if frame.kind is Kind.ZERO:
            offset, length = split_range(frame.untrusted_body)
            self._geometry.check(offset, length)
            return ZeroArrived(offset, length)
        if frame.kind is Kind.DATA:
            offset, payload = split_data(frame.untrusted_body)
            length = len(payload)
        else:
            offset, length, payload = split_packed(frame.untrusted_body)
            if length > MAX_PAYLOAD:
                raise ProtocolError(
                    Code.TOO_LARGE, f"PACKED frame of {length} bytes unpacked is above the cap"
                )
        self._geometry.check(offset, length)
        return DataArrived(offset, length, payload, frame.kind is Kind.PACKED)

    def take_message(self, message: object) -> ReceiverEvent:
        """Return what the next frame asks for, when it was a message. Raises ProtocolError."""
        match message:
            case BeginRound(number, compare) if self._round is None:
                if number <= self._last_round:
                    raise ProtocolError(Code.UNEXPECTED, f"round {number} comes a second time")
                self._round = self._last_round = number
                self.credit = 0
                self._position = 0 if compare else self._geometry.size
                return RoundBegun(number, compare)
            case Credit(frames) if self._round is not None and not self._ended:
                if self.credit + frames > MAX_CREDIT:
                    raise ProtocolError(Code.CREDIT, f"credit above {MAX_CREDIT} frames")
                self.credit += frames
                return CreditArrived(frames)
            case EndRound(number=number) if number == self._round and not self._ended:
                if self._position != self._geometry.size:
                    raise ProtocolError(
                        Code.UNEXPECTED, "end of the round before the end of the comparison"
                    )
                self._ended = True
                return RoundEnded(message)
        raise ProtocolError(Code.UNEXPECTED, f"{type(message).__name__} is out of turn")
