"""Compression of frames: when it is used, and what a hostile frame may cost."""

import os
import tracemalloc

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import Code, ProtocolError
from protocol.frames import MAX_PAYLOAD
from xenmoved.choices import Compression
from xenmoved.sync.compression import Compressor, unpack

pytestmark = pytest.mark.long

MIB = 2**20


def refused(packed, length):
    with pytest.raises(ProtocolError) as caught:
        unpack(packed, length)
    assert caught.value.code is Code.BAD_FRAME


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.integers(1, 500))
def test_what_is_packed_unpacks_to_the_same(piece, times):
    payload = piece * times + b"x"
    packed = Compressor(Compression.ZSTD).pack(memoryview(payload))
    if packed is not None:
        assert len(packed) < 0.9 * len(payload)
        assert unpack(memoryview(packed), len(payload)) == payload
        refused(packed, len(payload) + 1)
        refused(packed, len(payload) - 1)
        refused(packed[:-1], len(payload))


def test_random_bytes_are_not_packed():
    assert Compressor(Compression.ZSTD).pack(os.urandom(MAX_PAYLOAD)) is None


@pytest.mark.parametrize("claim", [MAX_PAYLOAD, 200 * MIB])
def test_a_bomb_is_refused_before_it_goes_off(claim):
    """200 MiB of zeros in some KiB, stated truly, or with the length of a frame."""
    packed = zstandard.ZstdCompressor(level=19).compress(bytes(200 * MIB))
    assert len(packed) < 32 * 1024
    single = zstandard.get_frame_parameters(packed)
    assert single.content_size == 200 * MIB
    lying = bytearray(packed)
    # Magic, descriptor with a content size of 4 bytes, window, content size.
    at = packed.index((200 * MIB).to_bytes(4, "little"))
    lying[at : at + 4] = MAX_PAYLOAD.to_bytes(4, "little")
    tracemalloc.start()
    try:
        refused(packed, MAX_PAYLOAD)
        refused(bytes(lying), MAX_PAYLOAD)
        refused(bytes(lying), claim + 1)
        assert tracemalloc.get_traced_memory()[1] < 2 * MIB
    finally:
        tracemalloc.stop()


def test_a_frame_that_does_not_state_its_size_is_refused():
    stream = zstandard.ZstdCompressor().compressobj()
    packed = stream.compress(bytes(65536)) + stream.flush()
    refused(packed, 65536)
    refused(b"", 65536)
    refused(b"nonsense", 8)
    refused(zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100)), 100)


def test_a_huge_window_costs_nothing():
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=1)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=65536)
    packed = stream.compress(bytes(65536)) + stream.flush()
    tracemalloc.start()
    try:
        assert unpack(packed, 65536) == bytes(65536)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_frames_unpack_or_are_refused(data):
    payload = bytes(range(256)) * 40
    packed = bytearray(zstandard.ZstdCompressor().compress(payload))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert len(unpack(bytes(packed), len(payload))) == len(payload)
    except ProtocolError as error:
        assert error.code is Code.BAD_FRAME


def test_the_choice_decides_and_auto_learns_from_the_link():
    assert Compressor(Compression.ZSTD).active
    assert not Compressor(Compression.OFF).active
    slow, fast, unknown = (Compressor(Compression.AUTO) for _ in range(3))
    slow.observe(32 * MIB, 3.2)  # 10 MiB/s
    fast.observe(32 * MIB, 0.032)  # 1 GiB/s
    unknown.observe(MIB, 10)
    assert slow.active
    assert not fast.active
    assert not unknown.active
    for forced in (Compressor(Compression.ZSTD), Compressor(Compression.OFF)):
        before = forced.active
        forced.observe(32 * MIB, 3.2)
        forced.observe(1000 * MIB, 0.001)
        assert forced.active is before
