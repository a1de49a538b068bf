"""Frames: how messages and bulk bytes share one byte stream.

A frame is ``kind: u8, length: u32 big-endian, body: length bytes``. Every kind has a hard cap on
its length, checked as soon as the five bytes of the header are there and before anything is kept of
the body. The decoder holds no more than one frame and the last piece that was fed to it.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocol.errors import Code, ProtocolError

Bytes = bytes | bytearray | memoryview
Pieces = tuple[bytes, Bytes]
"""A frame whose payload is not copied to be encoded: what comes before it, and the payload."""

MAX_PAYLOAD: Final = 256 * 1024
"""Most bytes of a volume or of memory in one frame."""
MAX_MESSAGE: Final = 1024 * 1024
HASH_SIZE: Final = 32
MAX_HASHES: Final = 2048
"""Most block hashes in one frame."""

_SMALL: Final = 4096
"""Pieces below this size are gathered into larger ones: each costs far more than its bytes."""
_GATHERED: Final = 64 * 1024

_HEADER: Final = struct.Struct(">BI")
_OFFSET: Final = struct.Struct(">Q")
_PACKED: Final = struct.Struct(">QI")
_RANGE: Final = struct.Struct(">QQ")


class Kind(IntEnum):
    """Kinds of frames; the numbers are part of the wire specification."""

    MESSAGE = 1  # msgpack: [name, fields]
    DATA = 2  # offset: u64, bytes of a volume
    PACKED = 3  # offset: u64, unpacked length: u32, zstd frame
    ZERO = 4  # offset: u64, length: u64: a range that reads as zeros
    HASHES = 5  # first block: u64, BLAKE3 hashes of consecutive blocks
    MEMORY = 6  # bytes of a saved image
    STREAM = 7  # bytes of a stream that storage made of a volume


CAPS: Final[dict[Kind, tuple[int, int]]] = {
    Kind.MESSAGE: (1, MAX_MESSAGE),
    Kind.DATA: (_OFFSET.size + 1, _OFFSET.size + MAX_PAYLOAD),
    Kind.PACKED: (_PACKED.size + 1, _PACKED.size + MAX_PAYLOAD),
    Kind.ZERO: (_RANGE.size, _RANGE.size),
    Kind.HASHES: (_OFFSET.size + HASH_SIZE, _OFFSET.size + HASH_SIZE * MAX_HASHES),
    Kind.MEMORY: (1, MAX_PAYLOAD),
    Kind.STREAM: (1, MAX_PAYLOAD),
}
"""Smallest and largest length of the body of each kind, in bytes."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame. The body is a view of what was fed where possible: copy to keep it."""

    kind: Kind
    untrusted_body: Bytes

    @property
    def wire_size(self) -> int:
        """How many bytes of the stream it took."""
        return _HEADER.size + len(self.untrusted_body)


class FrameDecoder:
    """Turns pieces of a byte stream into frames.

    `feed` takes the next piece; `next_frame` returns frames until None asks for more, and looks at
    nothing behind the frame that it returns. How the stream is cut makes no difference to the
    frames nor to where an error is raised. After a ProtocolError the stream is lost: `next_frame`
    raises the same error for ever.
    """

    def __init__(self, allowed: Collection[Kind]) -> None:
        self.allowed = frozenset(allowed)
        """Kinds that may come; may be set anew before any call of `next_frame`."""
        self._pieces: deque[memoryview | bytearray] = deque()
        self._gathering: bytearray | None = None  # the last piece, while it may still grow
        self._buffered = 0
        self._header: tuple[Kind, int] | None = None
        self._error: ProtocolError | None = None

    def feed(self, untrusted_data: Bytes) -> None:
        """Take the next piece of the stream. It must not be changed by the caller afterwards."""
        if not len(untrusted_data) or self._error is not None:
            return
        self._buffered += len(untrusted_data)
        if len(untrusted_data) >= _SMALL:
            self._pieces.append(memoryview(untrusted_data))
            self._gathering = None
            return
        if self._gathering is None or len(self._gathering) >= _GATHERED:
            self._gathering = bytearray()
            self._pieces.append(self._gathering)
        self._gathering += untrusted_data

    @property
    def pending(self) -> bool:
        """Whether the stream stops within a frame, so that its end here would be a loss."""
        return self._buffered > 0 or self._header is not None

    def next_frame(self) -> Frame | None:
        """Return the next whole frame, None when more bytes are needed. Raises ProtocolError."""
        if self._error is not None:
            raise self._error
        if self._header is None:
            if self._buffered < _HEADER.size:
                return None
            self._header = self._parse_header(self._take(_HEADER.size))
        kind, length = self._header
        if kind not in self.allowed:  # the header came while it was
            raise self._refuse(Code.BAD_FRAME, f"frame kind {kind:d} is not allowed here")
        if self._buffered < length:
            return None
        self._header = None
        return Frame(kind, self._take(length))

    def _parse_header(self, untrusted_header: Bytes) -> tuple[Kind, int]:
        untrusted_kind, untrusted_length = _HEADER.unpack(untrusted_header)
        if untrusted_kind not in self.allowed:
            raise self._refuse(Code.BAD_FRAME, f"frame kind {untrusted_kind} is not allowed here")
        kind = Kind(untrusted_kind)
        low, high = CAPS[kind]
        if untrusted_length > high:
            raise self._refuse(
                Code.TOO_LARGE,
                f"{kind.name} frame of {untrusted_length} bytes is above the cap of {high}",
            )
        if untrusted_length < low:
            raise self._refuse(
                Code.BAD_FRAME, f"{kind.name} frame of {untrusted_length} bytes is below {low}"
            )
        return kind, untrusted_length

    def _refuse(self, code: Code, text: str) -> ProtocolError:
        """Return the error that the stream ends with, and keep nothing but it."""
        self._error = ProtocolError(code, text)
        self._pieces.clear()
        self._gathering = None
        return self._error

    def _take(self, count: int) -> Bytes:
        """Remove `count` buffered bytes; without a copy when they lie in one piece."""
        self._buffered -= count
        self._gathering = None  # what views look at must not grow any more
        piece = memoryview(self._pieces[0])
        if len(piece) > count:
            self._pieces[0] = piece[count:]
            return piece[:count]
        if len(piece) == count:
            self._pieces.popleft()
            return piece
        taken = bytearray()
        while len(taken) < count:
            piece = memoryview(self._pieces.popleft())
            rest = count - len(taken)
            if len(piece) > rest:
                self._pieces.appendleft(piece[rest:])
                piece = piece[:rest]
            taken += piece
        return taken


def encode_frame(kind: Kind, body: bytes) -> bytes:
    """Return a frame. The body must be within the caps of its kind."""
    low, high = CAPS[kind]
    if not low <= len(body) <= high:
        raise ValueError(f"{kind.name} frame of {len(body)} bytes is outside {low}..{high}")
    return _HEADER.pack(kind, len(body)) + body


def data_frame(offset: int, payload: Bytes) -> Pieces:
    """Return a DATA frame."""
    _check_payload(payload)
    head = _HEADER.pack(Kind.DATA, _OFFSET.size + len(payload))
    return head + _OFFSET.pack(offset), payload


def packed_frame(offset: int, unpacked_length: int, packed: Bytes) -> Pieces:
    """Return a PACKED frame."""
    _check_payload(packed)
    head = _HEADER.pack(Kind.PACKED, _PACKED.size + len(packed))
    return head + _PACKED.pack(offset, unpacked_length), packed


def memory_frame(payload: Bytes) -> Pieces:
    """Return a MEMORY frame."""
    return _payload_frame(Kind.MEMORY, payload)


def stream_frame(payload: Bytes) -> Pieces:
    """Return a STREAM frame."""
    return _payload_frame(Kind.STREAM, payload)


def encode_zero(offset: int, length: int) -> bytes:
    """Return a ZERO frame."""
    return encode_frame(Kind.ZERO, _RANGE.pack(offset, length))


def encode_hashes(first_block: int, hashes: Bytes) -> bytes:
    """Return a HASHES frame; `hashes` is the concatenation of `HASH_SIZE`-byte hashes."""
    return encode_frame(Kind.HASHES, _OFFSET.pack(first_block) + hashes)


def split_data(untrusted_body: Bytes) -> tuple[int, memoryview]:
    """Return offset and payload of the body of a DATA frame."""
    view = memoryview(untrusted_body)
    return _OFFSET.unpack(view[: _OFFSET.size])[0], view[_OFFSET.size :]


def split_packed(untrusted_body: Bytes) -> tuple[int, int, memoryview]:
    """Return offset, unpacked length and packed payload of the body of a PACKED frame."""
    view = memoryview(untrusted_body)
    offset, length = _PACKED.unpack(view[: _PACKED.size])
    return offset, length, view[_PACKED.size :]


def split_range(untrusted_body: Bytes) -> tuple[int, int]:
    """Return offset and length of the body of a ZERO frame."""
    offset, length = _RANGE.unpack(untrusted_body)
    return offset, length


def split_hashes(untrusted_body: Bytes) -> tuple[int, bytes]:
    """Return first block and concatenated hashes of the body of a HASHES frame."""
    view = memoryview(untrusted_body)
    hashes = bytes(view[_OFFSET.size :])
    if len(hashes) % HASH_SIZE:
        raise ProtocolError(Code.BAD_FRAME, "HASHES frame ends within a hash")
    return _OFFSET.unpack(view[: _OFFSET.size])[0], hashes


def _payload_frame(kind: Kind, payload: Bytes) -> Pieces:
    _check_payload(payload)
    return _HEADER.pack(kind, len(payload)), payload


def _check_payload(payload: Bytes) -> None:
    if not 1 <= len(payload) <= MAX_PAYLOAD:
        raise ValueError(f"payload of {len(payload)} bytes is outside 1..{MAX_PAYLOAD}")
