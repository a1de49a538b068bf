"""One reader of frames: whoever goes on with a channel finds all that has come on it."""

import pytest

from protocol.errors import Code, ProtocolError
from protocol.frames import Kind, encode_zero
from protocol.messages import PEER, Attach, BeginRound
from tests.support.frames import encode_memory, encode_stream
from xenmoved.link.framed import Framed

ATTACH = Attach("0" * 32, 3)
STREAMS = frozenset({Kind.MESSAGE, Kind.STREAM})
BLOCKS = frozenset({Kind.MESSAGE, Kind.ZERO})


class Pieces:
    """A channel on which some pieces come, and then its end."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    async def receive(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""


def cut(data: bytes, size: int) -> Framed:
    return Framed(Pieces(*(data[at : at + size] for at in range(0, len(data), size))))


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_every_reader_goes_on_where_the_last_one_stopped(size):
    stream = PEER.encode(ATTACH) + encode_stream(b"abc") + PEER.encode(BeginRound(1, False))
    framed = cut(stream + encode_zero(0, 4096), size)
    assert await framed.message() == ATTACH
    piece = await framed.frame(STREAMS)
    assert (piece.kind, bytes(piece.untrusted_body)) == (Kind.STREAM, b"abc")
    begun = await framed.frame(STREAMS)
    assert PEER.decode(begun.untrusted_body) == BeginRound(1, False)
    assert (await framed.frame(BLOCKS)).kind is Kind.ZERO
    assert await framed.frame(BLOCKS) is None
    assert not framed.pending


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_a_reader_is_given_no_kind_that_it_does_not_take(size):
    framed = cut(PEER.encode(ATTACH) + encode_memory(b"abc"), size)
    assert await framed.message() == ATTACH
    for _ in range(2):
        with pytest.raises(ProtocolError, match="kind 6 is not allowed here") as caught:
            await framed.frame(BLOCKS)
        assert caught.value.code is Code.BAD_FRAME


async def test_an_end_within_a_frame_is_seen():
    framed = cut(PEER.encode(ATTACH)[:-1], 10_000)
    assert await framed.message() is None
    assert framed.pending


async def test_what_is_at_hand_is_had_without_waiting():
    framed = Framed(Pieces(encode_zero(0, 4096) * 2 + encode_zero(0, 4096)[:3]))
    assert framed.frame_at_hand(BLOCKS) is None
    assert await framed.frame(BLOCKS) is not None
    assert framed.frame_at_hand(BLOCKS) is not None
    assert framed.frame_at_hand(BLOCKS) is None
    assert framed.pending
