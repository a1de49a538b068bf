"""Compression of bulk frames, where it helps."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final

import zstandard

from protocol.errors import Code, ProtocolError
from protocol.frames import Bytes
from xenmoved.choices import Compression

_LEVEL: Final = 1
_WORTHWHILE: Final = 0.9
_SLOW_LINK: Final = 100 * 2**20
"""Bytes a second below which a core compresses faster than the link sends."""
_SAMPLE: Final = 16 * 2**20


class Compressor:
    """Packs the frames of one volume. In `AUTO`, only when the link has shown to be slow."""

    def __init__(self, choice: Compression, clock: Callable[[], float] = monotonic) -> None:
        self.choice = choice
        self._clock = clock
        self._zstd = zstandard.ZstdCompressor(level=_LEVEL)
        self._sampled_bytes = 0
        self._sampled_seconds = 0.0

    @property
    def active(self) -> bool:
        """Whether frames should be packed now."""
        if self.choice is not Compression.AUTO:
            return self.choice is Compression.ZSTD
        if self._sampled_bytes < _SAMPLE:
            return False
        return self._sampled_bytes < _SLOW_LINK * self._sampled_seconds

    def observe(self, count: int, seconds: float) -> None:
        """Note that sending `count` bytes kept us waiting for so long."""
        self._sampled_bytes += count
        self._sampled_seconds += seconds

    def pack(self, payload: Bytes) -> bytes | None:
        """Return the packed payload, None when it is not worth it. One call at a time."""
        packed = self._zstd.compress(payload)
        return packed if len(packed) < len(payload) * _WORTHWHILE else None


def unpack(untrusted_payload: Bytes, length: int) -> bytes:
    """Return exactly `length` unpacked bytes. Raises ProtocolError.

    The size in the packed frame's own header is checked first, so that it allocates no more.
    """
    try:
        if zstandard.frame_content_size(untrusted_payload) != length:
            raise ProtocolError(Code.BAD_FRAME, "packed frame does not unpack to its length")
        data = zstandard.ZstdDecompressor().decompress(untrusted_payload)
    except zstandard.ZstdError as error:
        raise ProtocolError(Code.BAD_FRAME, f"packed frame is damaged: {error}") from None
    if len(data) != length:
        raise ProtocolError(Code.BAD_FRAME, "packed frame does not unpack to its length")
    return data
