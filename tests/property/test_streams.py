"""Both ends of a volume channel on which streams go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.blocksync import VolumeReceiver
from protocol.errors import Code, ProtocolError
from protocol.messages import (
    PEER,
    BeginRound,
    BeginStream,
    EndStream,
    Receipt,
    StreamOffer,
    StreamReceipt,
    StreamTerms,
)
from protocol.streams import BlocksBegin, PieceArrived
from tests.support.fed import StreamReceiver, StreamSender
from tests.support.frames import encode_data, encode_stream

A, B, C = "a" * 16, "b" * 16, "c" * 16
LIMIT = 1000
TERMS = StreamTerms(accepted=True, base=A, compressed=True, resume=None)


def sender() -> StreamSender:
    end = StreamSender()
    end.offer([B, A], ["lz4_compress"])
    return end


def receiver(terms: StreamTerms = TERMS) -> StreamReceiver:
    end = StreamReceiver(LIMIT)
    list(end.receive(PEER.encode(StreamOffer((B, A), ()))))
    end.terms(terms)
    return end


def begin(
    number: int = 1, base: str | None = A, snapshot: str = B, *, resumed: bool = False
) -> BeginStream:
    return BeginStream(number, base, snapshot, 10, resumed)


def refused(end: StreamSender | StreamReceiver, *data: bytes) -> Code:
    with pytest.raises(ProtocolError) as raised:
        for piece in data:
            list(end.receive(piece))
    return raised.value.code


@given(
    rounds=st.lists(st.lists(st.binary(min_size=1, max_size=50), max_size=5), max_size=4),
    cut=st.integers(1, 70),
)
def test_what_is_sent_arrives_and_is_receipted_however_it_is_cut(
    rounds: list[list[bytes]], cut: int
) -> None:
    source, target = StreamSender(), StreamReceiver(LIMIT)
    guids = [f"{number:016x}" for number in range(len(rounds) + 1)]
    wire = source.offer([guids[0]], [])
    arrived: list[bytes] = []

    def carry(data: bytes) -> list[StreamTerms | StreamReceipt]:
        answers: list[StreamTerms | StreamReceipt] = []
        for start in range(0, len(data), cut):
            for event in target.receive(data[start : start + cut]):
                match event:
                    case StreamOffer():
                        reply = target.terms(StreamTerms(True, guids[0], False, None))
                        answers += source.receive(reply)
                    case PieceArrived(payload):
                        arrived.append(bytes(payload))
                    case EndStream():
                        answers += source.receive(target.receipt())
        return answers

    assert carry(wire) == [StreamTerms(True, guids[0], False, None)]
    for number, pieces in enumerate(rounds, 1):
        base, snapshot = guids[number - 1], guids[number]
        wire = source.begin(BeginStream(number, base, snapshot, 0, False))
        wire += b"".join(part for piece in pieces for part in source.piece(piece)) + source.end()
        size = sum(map(len, pieces))
        assert carry(wire) == [StreamReceipt(number, size, snapshot)]
    assert b"".join(arrived) == b"".join(piece for pieces in rounds for piece in pieces)
    assert target.idle
    assert not target.decoder.pending
    events = target.receive(PEER.encode(BeginRound(9, True)) + encode_data(0, b"block")[:7])
    assert next(events) == BlocksBegin(BeginRound(9, True))
    target.decoder.allowed = VolumeReceiver.kinds
    assert list(events) == []
    target.decoder.feed(encode_data(0, b"block")[7:])
    assert target.decoder.next_frame() is not None


def test_blocks_may_come_without_any_stream() -> None:
    begun = BeginRound(1, False)
    assert list(StreamReceiver(LIMIT).receive(PEER.encode(begun))) == [BlocksBegin(begun)]
    declined = receiver(StreamTerms(False, None, False, None))
    assert list(declined.receive(PEER.encode(begun))) == [BlocksBegin(begun)]


@pytest.mark.parametrize(
    "begun",
    [
        begin(base=None),
        begin(base=B),
        begin(base=C),
        begin(resumed=True),
        begin(number=0),
    ],
)
def test_a_stream_that_was_not_agreed_on_is_refused(begun: BeginStream) -> None:
    assert refused(receiver(), PEER.encode(begun)) in (Code.OUT_OF_RANGE, Code.UNEXPECTED)


def test_a_stream_goes_on_from_the_last_one() -> None:
    end = receiver()
    stream = (PEER.encode(begin()), encode_stream(b"x"), PEER.encode(EndStream(1, 1)))
    assert len(list(end.receive(b"".join(stream)))) == 3
    assert end.receipt() == PEER.encode(StreamReceipt(1, 1, B))
    assert refused(end, PEER.encode(begin(2, A, C))) is Code.OUT_OF_RANGE
    assert list(end.receive(PEER.encode(begin(2, B, C)))) == [begin(2, B, C)]


def test_a_stream_is_resumed_once_and_only_if_it_was_interrupted() -> None:
    end = receiver(StreamTerms(True, A, False, "1-token"))
    assert list(end.receive(PEER.encode(begin(resumed=True)))) == [begin(resumed=True)]
    list(end.receive(PEER.encode(EndStream(1, 0))))
    end.receipt()
    assert refused(end, PEER.encode(begin(2, B, C, resumed=True))) is Code.UNEXPECTED


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([encode_stream(b"x")], Code.UNEXPECTED),
        ([PEER.encode(EndStream(1, 0))], Code.UNEXPECTED),
        ([PEER.encode(StreamOffer((), ()))], Code.UNEXPECTED),
        ([PEER.encode(TERMS)], Code.UNEXPECTED),
        ([PEER.encode(begin()), PEER.encode(begin(2))], Code.UNEXPECTED),
        ([PEER.encode(begin()), PEER.encode(BeginRound(2, True))], Code.UNEXPECTED),
        ([PEER.encode(begin()), PEER.encode(EndStream(2, 0))], Code.DIGEST),
        ([PEER.encode(begin()), PEER.encode(EndStream(1, 1))], Code.DIGEST),
        ([PEER.encode(begin()), encode_stream(bytes(LIMIT + 1))], Code.TOO_LARGE),
        ([PEER.encode(begin()), *[encode_stream(bytes(LIMIT // 2))] * 3], Code.TOO_LARGE),
        (
            [PEER.encode(begin()), PEER.encode(EndStream(1, 0)), encode_stream(b"x")],
            Code.UNEXPECTED,
        ),
        ([encode_data(0, b"x")], Code.BAD_FRAME),
    ],
)
def test_a_target_refuses_what_is_out_of_turn(frames: list[bytes], code: Code) -> None:
    assert refused(receiver(), *frames) is code


def test_no_stream_comes_before_or_against_the_terms() -> None:
    assert refused(StreamReceiver(LIMIT), PEER.encode(begin())) is Code.UNEXPECTED
    declined = receiver(StreamTerms(False, None, False, None))
    assert refused(declined, PEER.encode(begin(base=None))) is Code.UNEXPECTED
    unanswered = StreamReceiver(LIMIT)
    list(unanswered.receive(PEER.encode(StreamOffer((), ()))))
    assert not unanswered.idle
    assert refused(unanswered, PEER.encode(BeginRound(1, False))) is Code.UNEXPECTED


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (StreamTerms(True, C, False, None), Code.OUT_OF_RANGE),
        (StreamReceipt(1, 0, B), Code.UNEXPECTED),
        (Receipt(1, 0, 0, 0, bytes(32)), Code.UNEXPECTED),
    ],
)
def test_a_source_refuses_terms_that_cannot_be(message: object, code: Code) -> None:
    assert refused(sender(), PEER.encode(message)) is code


@pytest.mark.parametrize(
    "receipt", [StreamReceipt(2, 3, B), StreamReceipt(1, 2, B), StreamReceipt(1, 3, C)]
)
def test_a_source_refuses_a_receipt_of_anything_else(receipt: StreamReceipt) -> None:
    end = sender()
    list(end.receive(PEER.encode(TERMS)))
    end.begin(begin())
    end.piece(b"abc")
    assert refused(end, PEER.encode(StreamReceipt(1, 3, B))) is Code.UNEXPECTED  # not ended yet
    end = sender()
    list(end.receive(PEER.encode(TERMS)))
    end.begin(begin())
    end.piece(b"abc")
    end.end()
    assert refused(end, PEER.encode(receipt)) is Code.DIGEST
