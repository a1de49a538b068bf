"""The exchange on a volume channel: both ends against each other, and against one that cheats."""

import struct
from dataclasses import replace

import pytest
import zstandard
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.blocksync import (
    MAX_CREDIT,
    CreditArrived,
    DataArrived,
    HashesArrived,
    ReceiptArrived,
    RoundBegun,
    RoundDigest,
    RoundEnded,
    ZeroArrived,
    ZerosArrived,
)
from protocol.errors import Code, ProtocolError
from protocol.fingerprints import ZERO_FINGERPRINT, fingerprints
from protocol.frames import (
    HASH_SIZE,
    MAX_PAYLOAD,
    FrameDecoder,
    Kind,
    encode_frame,
    encode_hashes,
    encode_zero,
)
from protocol.messages import (
    BLOCK_SIZE,
    PEER,
    Attach,
    BeginRound,
    Commit,
    Credit,
    EndRound,
    Ping,
    Receipt,
)
from tests.support.fed import VolumeReceiver, VolumeSender
from tests.support.frames import encode_data, encode_packed
from xenmoved.sync.compression import unpack

MIGRATION = "0123456789abcdef" * 2
B = BLOCK_SIZE
ZSTD = zstandard.ZstdCompressor(level=1)


# The model: two volumes as byte strings, and both ends with nothing but bytes between them.


class Source:
    """A source that does what the specification says, in the plainest way."""

    def __init__(self, data: bytearray, compress: bool) -> None:
        self.data = data
        self.sender = VolumeSender(len(data))
        self.known = bytearray(HASH_SIZE * blocks(len(data)))
        self.compress = compress
        self.receipts: list[int] = []
        self.sent = RoundDigest()
        self.frames_sent = 0

    def take(self, piece: bytes) -> bytes:
        """Take bytes from the target; return what is sent for them."""
        out = b""
        for event in self.sender.receive(piece):
            match event:
                case HashesArrived(first, hashes):
                    self.known[first * HASH_SIZE : first * HASH_SIZE + len(hashes)] = hashes
                    out += self.sender.grant(1)
                case ZerosArrived(offset, length):
                    at, count = offset // B, blocks(length)
                    self.known[at * HASH_SIZE : (at + count) * HASH_SIZE] = bytes(HASH_SIZE * count)
                    out += self.sender.grant(1)
                case ReceiptArrived(number):
                    self.receipts.append(number)
        return out

    def differences(self, only: set[int], run: int) -> bytes:
        """Return frames for all blocks of `only` that differ, up to `run` blocks in each."""
        out, mine = b"", fingerprints(memoryview(self.data))
        number, end = 0, blocks(len(self.data))
        while number < end:
            theirs = self.known[number * HASH_SIZE : (number + 1) * HASH_SIZE]
            ours = mine[number * HASH_SIZE : (number + 1) * HASH_SIZE]
            if number not in only or ours == theirs:
                number += 1
                continue
            count = 1
            while (
                count < run
                and number + count in only
                and number + count < end
                and (mine[(number + count) * HASH_SIZE :][:HASH_SIZE] == ZERO_FINGERPRINT)
                is (ours == ZERO_FINGERPRINT)
            ):
                count += 1
            offset, stop = number * B, min((number + count) * B, len(self.data))
            if ours == ZERO_FINGERPRINT:
                out += self.sender.zero(offset, stop - offset)
            else:
                payload = bytes(self.data[offset:stop])
                packed = ZSTD.compress(payload) if self.compress and number % 2 else None
                hashes = mine[number * HASH_SIZE : (number + count) * HASH_SIZE]
                out += b"".join(self.sender.data(offset, payload, hashes, packed))
            self.frames_sent += 1
            number += count
        self.known[:] = mine
        return out


class Target:
    """A target that does what the specification says, in the plainest way."""

    def __init__(self, data: bytearray) -> None:
        self.data = data
        self.receiver = VolumeReceiver(len(data))
        self.digest = RoundDigest()
        self.position = len(data)
        self.claims: list[EndRound] = []

    def take(self, piece: bytes, hashes_in_frame: int) -> bytes:
        """Take bytes from the source; return what is sent for them."""
        out = b""
        for event in self.receiver.receive(piece):
            match event:
                case RoundBegun(_, compare):
                    self.digest = RoundDigest()
                    self.position = 0 if compare else len(self.data)
                case CreditArrived():
                    pass
                case DataArrived(offset, length, payload, packed):
                    data = unpack(payload, length) if packed else bytes(payload)
                    assert len(data) == length
                    self.data[offset : offset + length] = data
                    self.digest.add_data(offset, length, fingerprints(memoryview(data)))
                case ZeroArrived(offset, length):
                    self.data[offset : offset + length] = bytes(length)
                    self.digest.add_zero(offset, length)
                case RoundEnded(claim):
                    self.claims.append(claim)
                    out += self.receiver.receipt(claim, self.digest)
        return out + self.compare(hashes_in_frame)

    def compare(self, hashes_in_frame: int) -> bytes:
        """Return as much of the comparison as there is credit for."""
        out = b""
        while self.receiver.credit and self.position < len(self.data):
            stop = min(self.position + hashes_in_frame * B, len(self.data))
            part = memoryview(bytes(self.data[self.position : stop]))
            hashes = fingerprints(part)
            if not any(hashes):
                out += self.receiver.zeros(self.position, stop - self.position)
            else:
                out += self.receiver.hashes(self.position // B, hashes)
            self.position = stop
        return out


def blocks(size: int) -> int:
    return -(-size // B)


def content(seed: int, kinds: list[int], size: int) -> bytearray:
    """Return a volume with a block for each kind: 0 is zeros."""
    out = bytearray()
    for number, kind in enumerate(kinds):
        out += bytes(B) if kind == 0 else blake3(bytes([kind, seed if kind > 2 else 0])).digest(B)
        if kind == 2:
            out[number * B :] = bytes(B - 1) + b"x"
    return out[:size].ljust(size, b"\0")


def cut(data: bytes, pieces: list[int]):
    """Yield `data` in pieces."""
    position = 0
    for length in pieces:
        if position >= len(data):
            return
        yield data[position : position + length]
        position += length
    if position < len(data):
        yield data[position:]


@st.composite
def volumes(draw):
    count = draw(st.integers(1, 12))
    size = count * B - draw(st.sampled_from([0, 0, 1, 511, B - 1, B - 4096]))
    kinds = st.lists(st.integers(0, 4), min_size=count, max_size=count)
    return content(1, draw(kinds), size), content(2, draw(kinds), size)


PIECES = st.lists(st.sampled_from([1, 2, 5, 7, 100, 65_000, 200_000, 300_000]), max_size=12)


def run_round(source, target, number, *, compare, only, pieces, hashes, run):
    """Run a whole round, with the bytes cut as asked for, in both directions."""
    to_target = source.sender.begin_round(number, compare=compare)
    if compare:
        to_target += source.sender.grant(2)
    ended = False
    for _ in range(1000):
        to_source = b"".join(target.take(piece, hashes) for piece in cut(to_target, pieces))
        to_target = b"".join(source.take(piece) for piece in cut(to_source, pieces))
        if source.sender.covered == len(source.data) and not ended:
            to_target = source.differences(only, run) + source.sender.end_round()
            ended = True
        if number in source.receipts:
            return
    raise AssertionError("the round does not end")


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    volumes(),
    PIECES,
    st.booleans(),
    st.integers(1, 5),
    st.integers(1, MAX_PAYLOAD // B),
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 4), st.booleans()), max_size=4),
)
def test_after_every_round_the_target_is_equal(  # noqa: PLR0917 - hypothesis gives them
    pair, pieces, compress, hashes, run, writes
):
    ours, theirs = pair
    source, target = Source(ours, compress), Target(theirs)
    everything = set(range(blocks(len(ours))))
    differing = sum(
        ours[n * B : (n + 1) * B] != theirs[n * B : (n + 1) * B] for n in sorted(everything)
    )
    how = {"pieces": pieces, "hashes": hashes}
    run_round(source, target, 1, compare=True, only=everything, run=1, **how)
    assert theirs == ours
    assert target.claims[-1].frames == source.frames_sent == differing
    number = 1
    for place, kind, compare in writes:
        index = place % blocks(len(ours))
        part = content(number + 5, [kind], min(B, len(ours) - index * B))
        changed = ours[index * B : (index + 1) * B] != part
        ours[index * B : (index + 1) * B] = part
        number += 1 + index
        before = source.frames_sent
        run_round(source, target, number, compare=compare, only={index}, run=run, **how)
        assert theirs == ours
        assert source.frames_sent - before == changed
        claim = target.claims[-1]
        assert (claim.number, claim.frames) == (number, int(changed))
        assert claim.data_bytes + claim.zero_bytes == (len(part) if changed else 0)
    assert source.receipts == [claim.number for claim in target.claims]
    assert target.receiver.idle


def test_the_digest_is_over_records_in_order():
    one, other = RoundDigest(), RoundDigest()
    one.add_zero(0, B)
    one.add_data(B, B, b"h" * HASH_SIZE)
    other.add_data(B, B, b"h" * HASH_SIZE)
    other.add_zero(0, B)
    expected = blake3(struct.pack(">BQQ", 4, 0, B) + struct.pack(">BQQ", 2, B, B) + b"h" * 32)
    assert one.value() == expected.digest() != other.value()
    assert (one.frames, one.data_bytes, one.zero_bytes) == (2, B, B)


def test_a_fingerprint_is_the_hash_or_zero():
    data = bytes(B) + b"a" * B + bytes(B - 1) + b"\1" + bytes(100)
    found = fingerprints(memoryview(data))
    assert found[:32] == found[96:] == bytes(32)
    assert found[32:64] == blake3(b"a" * B).digest()
    assert found[64:96] == blake3(bytes(B - 1) + b"\1").digest()
    assert fingerprints(memoryview(b"xen")) == blake3(b"xen").digest()
    assert fingerprints(memoryview(b"")) == b""


# The target's end against a source that cheats.

SIZE = 5 * B + 100


def message(kind, *fields):
    return PEER.encode(kind(*fields))


def receiver_in_round(compare=False):
    receiver = VolumeReceiver(SIZE)
    assert list(receiver.receive(message(BeginRound, 1, compare))) == [RoundBegun(1, compare)]
    return receiver


def refused(end, data, code, text=""):
    with pytest.raises(ProtocolError, match=text or None) as caught:
        list(end.receive(data))
    assert caught.value.code is code


RANGES_OUTSIDE = [
    (1, B),
    (B - 1, B),
    (0, B - 1),
    (0, B + 1),
    (0, 0),
    (5 * B, 99),
    (5 * B, 101),
    (5 * B, B),
    (4 * B, 2 * B),
    (6 * B, B),
    (SIZE, 1),
    (SIZE, 0),
    (2**63, B),
    (2**64 - B, B),
    (2**64 - B, 2 * B),
    (0, 2**64 - 1),
    (0, 2**64 - B),
]


@pytest.mark.parametrize(("offset", "length"), RANGES_OUTSIDE)
def test_a_range_outside_the_volume_is_refused(offset, length):
    refused(receiver_in_round(), encode_zero(offset, length), Code.OUT_OF_RANGE, "does not fit")
    if 0 < length <= MAX_PAYLOAD:
        data = encode_data(offset, bytes(length))
        refused(receiver_in_round(), data, Code.OUT_OF_RANGE, "does not fit")
    if length < 2**32 and length <= MAX_PAYLOAD:
        packed = encode_packed(offset, length, b"x")
        refused(receiver_in_round(), packed, Code.OUT_OF_RANGE, "does not fit")
    sender = comparing_sender()
    refused(sender, encode_zero(offset, length), Code.OUT_OF_RANGE, "does not fit")


@pytest.mark.parametrize(
    ("offset", "length"), [(0, B), (4 * B, B), (5 * B, 100), (4 * B, B + 100), (0, SIZE)]
)
def test_a_range_inside_the_volume_is_taken(offset, length):
    found = list(receiver_in_round().receive(encode_zero(offset, length)))
    assert found == [ZeroArrived(offset, length)]


def test_an_unpacked_length_above_the_cap_is_refused():
    for length in (MAX_PAYLOAD + B, 2**32 - 1):
        frame = encode_packed(0, length, b"x")
        refused(receiver_in_round(), frame, Code.TOO_LARGE, "above the cap")


@pytest.mark.parametrize(
    "frame",
    [encode_data(0, bytes(B)), encode_packed(0, B, b"x"), encode_zero(0, B)],
    ids=["DATA", "PACKED", "ZERO"],
)
def test_data_outside_a_round_is_refused(frame):
    refused(VolumeReceiver(SIZE), frame, Code.UNEXPECTED, "outside a round")
    ended = receiver_in_round()
    empty = RoundDigest()
    claim = EndRound(1, 0, 0, 0, empty.value())
    assert list(ended.receive(PEER.encode(claim))) == [RoundEnded(claim)]
    refused(ended, frame, Code.UNEXPECTED, "outside a round")
    done = receiver_in_round()
    list(done.receive(PEER.encode(claim)))
    done.receipt(claim, empty)
    refused(done, frame, Code.UNEXPECTED, "outside a round")


@pytest.mark.parametrize("kind", [Kind.HASHES, Kind.MEMORY])
def test_kinds_of_the_other_direction_are_refused(kind):
    refused(receiver_in_round(), encode_frame(kind, bytes(40)), Code.BAD_FRAME)


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.PACKED, Kind.MEMORY])
def test_the_source_takes_no_data(kind):
    refused(comparing_sender(), encode_frame(kind, bytes(40)), Code.BAD_FRAME)


def test_messages_of_the_target_take_their_turn():
    begin = message(BeginRound, 1, False)
    end = message(EndRound, 1, 0, 0, 0, RoundDigest().value())
    for before, wrong in [
        ([], message(Credit, 1)),
        ([], end),
        ([], message(Attach, MIGRATION, 0)),
        ([], message(Ping)),
        ([], message(Commit, MIGRATION)),
        ([], message(Receipt, 1, 0, 0, 0, bytes(32))),
        ([begin], message(BeginRound, 2, False)),
        ([begin], message(EndRound, 2, 0, 0, 0, bytes(32))),
        ([begin, end], end),
        ([begin, end], message(Credit, 1)),
        ([begin, end], message(BeginRound, 2, False)),
    ]:
        receiver = VolumeReceiver(SIZE)
        for data in before:
            assert len(list(receiver.receive(data))) == 1
        refused(receiver, wrong, Code.UNEXPECTED, "out of turn")


def test_a_round_comes_once_and_in_order():
    receiver, empty = VolumeReceiver(SIZE), RoundDigest()
    for number in (3, 7):
        list(receiver.receive(message(BeginRound, number, False)))
        claim = EndRound(number, 0, 0, 0, empty.value())
        list(receiver.receive(PEER.encode(claim)))
        receiver.receipt(claim, empty)
    for number in (0, 3, 6, 7):
        again = VolumeReceiver(SIZE)
        again.__dict__.update(receiver.__dict__)
        refused(again, message(BeginRound, number, False), Code.UNEXPECTED, "a second time")
    refused(VolumeReceiver(SIZE), message(BeginRound, 0, False), Code.UNEXPECTED, "a second time")


def test_credit_is_capped():
    receiver = receiver_in_round(compare=True)
    list(receiver.receive(message(Credit, MAX_CREDIT)))
    assert receiver.credit == MAX_CREDIT
    refused(receiver, message(Credit, 1), Code.CREDIT)
    assert receiver.credit == MAX_CREDIT
    refused(receiver_in_round(compare=True), message(Credit, MAX_CREDIT + 1), Code.CREDIT)


def test_credit_of_one_round_is_not_kept_for_the_next():
    receiver, empty = receiver_in_round(), RoundDigest()
    list(receiver.receive(message(Credit, 5)))
    claim = EndRound(1, 0, 0, 0, empty.value())
    list(receiver.receive(PEER.encode(claim)))
    receiver.receipt(claim, empty)
    list(receiver.receive(message(BeginRound, 2, True)))
    with pytest.raises(ValueError, match="without credit"):
        receiver.zeros(0, SIZE)


def test_the_round_does_not_end_before_the_comparison():
    receiver = receiver_in_round(compare=True)
    end = message(EndRound, 1, 0, 0, 0, RoundDigest().value())
    refused(receiver, end, Code.UNEXPECTED, "before the end of the comparison")
    receiver = receiver_in_round(compare=True)
    list(receiver.receive(message(Credit, 2)))
    receiver.zeros(0, 5 * B)
    refused(receiver, end, Code.UNEXPECTED, "before the end of the comparison")


def test_the_target_cannot_leave_out_a_part_itself():
    receiver = receiver_in_round(compare=True)
    list(receiver.receive(message(Credit, 5)))
    with pytest.raises(ValueError, match="out of order"):
        receiver.zeros(B, B)
    receiver.hashes(0, bytes(32))
    with pytest.raises(ValueError, match="out of order"):
        receiver.hashes(0, bytes(32))


def test_a_round_with_another_digest_is_refused():
    digest = RoundDigest()
    digest.add_zero(0, B)
    claim = EndRound(1, 0, B, 1, bytes(32))
    receiver = receiver_in_round()
    with pytest.raises(ProtocolError, match="arrived damaged") as caught:
        receiver.receipt(claim, digest)
    assert caught.value.code is Code.DIGEST
    assert not receiver.idle


def test_the_end_within_a_frame_or_a_round_is_seen():
    receiver = VolumeReceiver(SIZE)
    assert receiver.idle
    begin = message(BeginRound, 1, False)
    list(receiver.receive(begin[:3]))
    assert receiver.decoder.pending
    list(receiver.receive(begin[3:]))
    assert not receiver.decoder.pending
    assert not receiver.idle


# The source's end against a target that cheats.


def comparing_sender(credit=10):
    sender = VolumeSender(SIZE)
    sender.begin_round(1, compare=True)
    sender.grant(credit)
    return sender


def test_more_comparison_than_credit_is_refused():
    sender = comparing_sender(credit=2)
    assert len(list(sender.receive(encode_zero(0, B) + encode_hashes(1, bytes(32))))) == 2
    refused(sender, encode_zero(2 * B, B), Code.CREDIT)
    sender = VolumeSender(SIZE)
    refused(sender, encode_zero(0, B), Code.CREDIT)
    sender.begin_round(1, compare=False)
    refused(sender, encode_hashes(0, bytes(32)), Code.CREDIT)


def test_credit_of_the_source_ends_with_its_round():
    sender = comparing_sender(credit=5)
    sender.begin_round(2, compare=True)
    refused(sender, encode_zero(0, B), Code.CREDIT)


@pytest.mark.parametrize(
    "second",
    [
        encode_zero(0, B),
        encode_zero(2 * B, B),
        encode_hashes(0, bytes(32)),
        encode_hashes(3, b"h" * 32),
    ],
)
def test_a_gap_or_overlap_in_the_comparison_is_refused(second):
    sender = comparing_sender()
    list(sender.receive(encode_zero(0, B)))
    refused(sender, second, Code.UNEXPECTED, "goes on at")


def test_hashes_beyond_the_volume_are_refused():
    assert len(list(comparing_sender().receive(encode_hashes(0, bytes(32 * 6))))) == 1
    refused(comparing_sender(), encode_hashes(0, bytes(32 * 7)), Code.OUT_OF_RANGE)
    refused(comparing_sender(), encode_hashes(6, bytes(32)), Code.OUT_OF_RANGE)
    refused(comparing_sender(), encode_hashes(2**64 - 1, bytes(32)), Code.OUT_OF_RANGE)
    sender = comparing_sender()
    list(sender.receive(encode_zero(0, SIZE)))
    refused(sender, encode_hashes(6, bytes(32)), Code.OUT_OF_RANGE)


@pytest.mark.parametrize(
    "wrong",
    [
        Attach(MIGRATION, 0),
        BeginRound(1, False),
        Credit(1),
        EndRound(1, 0, 0, 0, bytes(32)),
        Ping(),
        Commit(MIGRATION),
    ],
    ids=lambda wrong: type(wrong).__name__,
)
def test_the_source_takes_no_other_message_than_a_receipt(wrong):
    sender = VolumeSender(SIZE)
    sender.begin_round(1, compare=False)
    sender.end_round()
    refused(sender, PEER.encode(wrong), Code.UNEXPECTED, "out of turn")


def ended_sender():
    sender = VolumeSender(SIZE)
    sender.begin_round(1, compare=False)
    sender.zero(0, B)
    sender.data(B, bytes(B), bytes(32), None)
    decoder = FrameDecoder([Kind.MESSAGE])
    decoder.feed(sender.end_round())
    frame = decoder.next_frame()
    assert frame is not None
    claim = PEER.decode(frame.untrusted_body)
    return sender, Receipt(
        claim.number, claim.data_bytes, claim.zero_bytes, claim.frames, claim.digest
    )


def test_the_right_receipt_is_taken_once():
    sender, receipt = ended_sender()
    assert (receipt.data_bytes, receipt.zero_bytes, receipt.frames) == (B, B, 2)
    assert list(sender.receive(PEER.encode(receipt))) == [ReceiptArrived(1)]
    refused(sender, PEER.encode(receipt), Code.UNEXPECTED)
    with pytest.raises(ValueError, match="no round"):
        sender.end_round()


@pytest.mark.parametrize(
    "change",
    [{"number": 2}, {"data_bytes": 0}, {"zero_bytes": B + 1}, {"frames": 1}, {"digest": bytes(32)}],
    ids=lambda change: next(iter(change)),
)
def test_a_wrong_receipt_is_refused(change):
    sender, receipt = ended_sender()
    refused(sender, PEER.encode(replace(receipt, **change)), Code.DIGEST, "receipt of round 1")


def test_a_receipt_before_the_claim_or_the_comparison_is_refused():
    _, receipt = ended_sender()
    sender = VolumeSender(SIZE)
    refused(sender, PEER.encode(receipt), Code.UNEXPECTED)
    sender.begin_round(1, compare=False)
    refused(sender, PEER.encode(receipt), Code.UNEXPECTED)
    sender = comparing_sender()
    sender.zero(0, B)
    sender.data(B, bytes(B), bytes(32), None)
    sender.end_round()
    refused(sender, PEER.encode(receipt), Code.UNEXPECTED, "before the end of the comparison")
