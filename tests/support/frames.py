"""Frames with a payload as bytes, as most tests want them."""

from __future__ import annotations

from protocol.frames import Bytes, data_frame, memory_frame, packed_frame, stream_frame


def encode_data(offset: int, payload: Bytes) -> bytes:
    """Return a DATA frame."""
    return b"".join(data_frame(offset, payload))


def encode_packed(offset: int, unpacked_length: int, packed: Bytes) -> bytes:
    """Return a PACKED frame."""
    return b"".join(packed_frame(offset, unpacked_length, packed))


def encode_memory(payload: Bytes) -> bytes:
    """Return a MEMORY frame."""
    return b"".join(memory_frame(payload))


def encode_stream(payload: Bytes) -> bytes:
    """Return a STREAM frame."""
    return b"".join(stream_frame(payload))
