"""Frames: however the stream is cut, the same frames and the same error at the same place."""

import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import Code, ProtocolError
from protocol.frames import (
    CAPS,
    HASH_SIZE,
    MAX_HASHES,
    MAX_MESSAGE,
    MAX_PAYLOAD,
    FrameDecoder,
    Kind,
    encode_frame,
    encode_hashes,
    encode_zero,
    split_data,
    split_hashes,
    split_packed,
    split_range,
)
from tests.support.frames import encode_data, encode_memory, encode_packed

pytestmark = pytest.mark.long

QUICK = settings(max_examples=150, deadline=None)
U64 = st.integers(0, 2**64 - 1)
PAYLOAD = st.binary(min_size=1, max_size=200)


@st.composite
def valid_frames(draw):
    kind = draw(st.sampled_from(Kind))
    low, high = CAPS[kind]
    return encode_frame(kind, draw(st.binary(min_size=low, max_size=min(high, low + 90))))


@st.composite
def broken_headers(draw):
    kind = draw(st.integers(0, 255))
    low, high = CAPS[Kind(kind)] if kind in set(Kind) else (0, 2**32 - 1)
    lengths = [n for n in (0, low - 1, high + 1, 2**31, 2**32 - 1) if 0 <= n < 2**32]
    return struct.pack(">BI", kind, draw(st.sampled_from(lengths)))


STREAMS = st.lists(st.one_of(valid_frames(), valid_frames(), broken_headers()), max_size=8).flatmap(
    lambda parts: st.tuples(st.just(b"".join(parts)), st.binary(max_size=20)).map(b"".join)
)


def run(stream: bytes, cuts: list[int], allowed=tuple(Kind)):
    """Return the frames, the number of bytes fed when the error came, and the error."""
    decoder, found, position = FrameDecoder(allowed), [], 0
    for cut in [*sorted({cut % (len(stream) + 1) for cut in cuts}), len(stream)]:
        decoder.feed(stream[position:cut])
        position = cut
        try:
            while (frame := decoder.next_frame()) is not None:
                found.append((frame.kind, bytes(frame.untrusted_body)))
        except ProtocolError as error:
            with pytest.raises(ProtocolError) as again:
                decoder.next_frame()
            assert again.value is error
            return found, (error.code, error.reason), None
    return found, None, decoder.pending


@QUICK
@given(STREAMS, st.lists(st.integers(0, 2000), max_size=30))
def test_any_cut_gives_the_same_frames_and_the_same_error(stream, cuts):
    whole = run(stream, [])
    assert run(stream, cuts) == whole
    assert run(stream, list(range(len(stream)))) == whole


@QUICK
@given(st.lists(valid_frames(), max_size=6), st.lists(st.integers(0, 800), max_size=20))
def test_frames_come_out_as_they_went_in(frames, cuts):
    found, error, pending = run(b"".join(frames), cuts)
    assert [encode_frame(kind, body) for kind, body in found] == frames
    assert error is None
    assert pending is False


@QUICK
@given(valid_frames(), st.data())
def test_a_part_of_a_frame_is_pending_and_no_frame(frame, data):
    cut = data.draw(st.integers(1, len(frame) - 1))
    assert run(frame[:cut], []) == ([], None, True)


@QUICK
@given(st.lists(valid_frames(), max_size=4), broken_headers(), st.binary(max_size=30))
def test_the_error_comes_with_the_last_byte_of_the_header(frames, header, after):
    good = b"".join(frames)
    kind, length = struct.unpack(">BI", header)
    if kind in set(Kind) and CAPS[Kind(kind)][0] <= length <= CAPS[Kind(kind)][1]:
        return
    found, error, pending = run(good + header[:4], [])
    assert (len(found), error, pending) == (len(frames), None, True)
    found, error, _ = run(good + header + after, [])
    assert len(found) == len(frames)
    too_large = kind in set(Kind) and length > CAPS[Kind(kind)][1]
    assert error is not None
    assert error[0] is (Code.TOO_LARGE if too_large else Code.BAD_FRAME)


@pytest.mark.parametrize("kind", Kind)
def test_a_kind_that_is_not_allowed_is_refused(kind):
    body = bytes(CAPS[kind][0])
    decoder = FrameDecoder(set(Kind) - {kind})
    decoder.feed(encode_frame(kind, body))
    with pytest.raises(ProtocolError) as caught:
        decoder.next_frame()
    assert caught.value.code is Code.BAD_FRAME


@pytest.mark.parametrize("kind", Kind)
def test_both_ends_of_the_caps_pass_and_no_more(kind):
    low, high = CAPS[kind]
    for length in (low, high):
        decoder = FrameDecoder([kind])
        decoder.feed(encode_frame(kind, bytes(length)))
        frame = decoder.next_frame()
        assert frame is not None
        assert len(frame.untrusted_body) == length
    for length in (low - 1, high + 1):
        with pytest.raises(ValueError, match="outside"):
            encode_frame(kind, bytes(length))


@QUICK
@given(U64, U64, PAYLOAD, st.integers(0, 2**32 - 1))
def test_bulk_frames_round_trip(offset, length, payload, unpacked):
    def body(frame):
        decoder = FrameDecoder(list(Kind))
        decoder.feed(frame)
        return decoder.next_frame().untrusted_body

    assert split_data(body(encode_data(offset, payload))) == (offset, payload)
    assert split_packed(body(encode_packed(offset, unpacked, payload))) == (
        offset,
        unpacked,
        payload,
    )
    assert split_range(body(encode_zero(offset, length))) == (offset, length)
    hashes = (payload * HASH_SIZE)[: HASH_SIZE * 3]
    hashes = hashes[: len(hashes) // HASH_SIZE * HASH_SIZE]
    assert split_hashes(body(encode_hashes(offset, hashes))) == (offset, hashes)
    assert body(encode_memory(payload)) == payload


def test_encoders_refuse_what_no_decoder_takes():
    for encode in (
        lambda n: encode_data(0, bytes(n)),
        lambda n: encode_packed(0, 1, bytes(n)),
        lambda n: encode_memory(bytes(n)),
    ):
        for size in (0, MAX_PAYLOAD + 1):
            with pytest.raises(ValueError, match="outside"):
                encode(size)
        assert len(encode(MAX_PAYLOAD)) > MAX_PAYLOAD
    for count in (0, MAX_HASHES + 1):
        with pytest.raises(ValueError, match="outside"):
            encode_hashes(0, bytes(HASH_SIZE * count))


def test_a_hashes_frame_ends_with_a_whole_hash():
    with pytest.raises(ProtocolError) as caught:
        split_hashes(bytes(8 + HASH_SIZE + 1))
    assert caught.value.code is Code.BAD_FRAME


@pytest.mark.parametrize("piece", [7, 1000, 5000, 300_000])
def test_what_is_held_is_at_most_a_frame_and_the_last_piece(piece):
    """However small the pieces are, the cost of keeping them stays in proportion."""
    body = bytes(MAX_MESSAGE)
    stream = encode_frame(Kind.MESSAGE, body)[:-1]
    tracemalloc.start()
    try:
        decoder = FrameDecoder([Kind.MESSAGE])
        for start in range(0, len(stream), piece):
            decoder.feed(bytes(stream[start : start + piece]))
            if start // piece % 50 == 0:
                assert decoder.next_frame() is None
        assert tracemalloc.get_traced_memory()[1] < 2 * (MAX_MESSAGE + piece) + 2**18
        decoder.feed(b"\0")
        frame = decoder.next_frame()
        assert frame is not None
        assert bytes(frame.untrusted_body) == body
        assert tracemalloc.get_traced_memory()[1] < 4 * (MAX_MESSAGE + piece)
    finally:
        tracemalloc.stop()


def test_nothing_is_kept_after_an_error():
    decoder = FrameDecoder([Kind.ZERO])
    decoder.feed(bytes(5))
    with pytest.raises(ProtocolError):
        decoder.next_frame()
    tracemalloc.start()
    try:
        for _ in range(50):
            decoder.feed(bytes(2**20))
            with pytest.raises(ProtocolError):
                decoder.next_frame()
        assert tracemalloc.get_traced_memory()[0] < 2**16
    finally:
        tracemalloc.stop()


@QUICK
@given(valid_frames(), valid_frames(), st.integers(0, 300))
def test_what_follows_a_frame_is_judged_by_what_is_allowed_then(frame, after, cut):
    stream = frame + after
    decoder = FrameDecoder([Kind(frame[0])])
    cut %= len(stream) + 1
    decoder.feed(stream[:cut])
    first = decoder.next_frame() if cut >= len(frame) else None
    decoder.feed(stream[cut:])
    first = first or decoder.next_frame()
    assert first is not None
    decoder.allowed = frozenset({Kind(after[0])})
    second = decoder.next_frame()
    assert second is not None
    assert bytes(second.untrusted_body) == after[5:]
    assert first.wire_size + second.wire_size == len(stream)
    assert not decoder.pending


def test_a_header_that_was_allowed_is_not_when_its_body_comes():
    frame = encode_zero(0, 4096)
    decoder = FrameDecoder([Kind.ZERO])
    decoder.feed(frame[:9])
    assert decoder.next_frame() is None
    decoder.allowed = frozenset({Kind.MESSAGE})
    decoder.feed(frame[9:])
    for _ in range(2):
        with pytest.raises(ProtocolError, match="kind 4 is not allowed here"):
            decoder.next_frame()
