"""Mutated frames by the ten thousand: decoders decode or raise ProtocolError, nothing else.

Every run takes other mutations; a failure shows its seed, and XENMOVED_FUZZ_SEED runs it again.
"""

import os
import random
import struct
import tracemalloc
from functools import cache

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from protocol.blocksync import (
    MAX_CREDIT,
    CreditArrived,
    DataArrived,
    HashesArrived,
    RoundEnded,
    ZeroArrived,
    ZerosArrived,
)
from protocol.errors import Code, ProtocolError
from protocol.frames import (
    CAPS,
    HASH_SIZE,
    MAX_PAYLOAD,
    Frame,
    FrameDecoder,
    Kind,
    encode_hashes,
    encode_zero,
)
from protocol.messages import BLOCK_SIZE, PEER, BeginRound, Credit, EndRound, Receipt
from tests.support.fed import VolumeReceiver, VolumeSender
from tests.support.frames import encode_data, encode_packed
from tests.support.protocol_document import DOCUMENT, examples
from tests.support.protocol_strategies import objects
from xenmoved.control.message_set import CONTROL

pytestmark = pytest.mark.long

PARTS = 8
QUICK_PARTS = 2
FRAMES_IN_PART = 40_000
GROWTH = 48 * 2**20
VOLUME = 9 * BLOCK_SIZE + 77

INTERESTING = (0, 1, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, *range(0xC0, 0xE1), 0xFE, 0xFF)


def seed_of(part: int) -> str:
    seed = os.environ.get("XENMOVED_FUZZ_SEED") or f"{random.SystemRandom().getrandbits(64):x}"
    print(f"XENMOVED_FUZZ_SEED={seed}")
    return f"{seed}-{part}"


def some(kind: type) -> list[object]:
    """Return a few messages of a kind, always the same."""
    found: list[object] = []

    @settings(
        max_examples=3,
        database=None,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(objects(kind))
    def keep(message):
        found.append(message)

    keep()
    return found


@cache
def corpus() -> tuple[bytes, ...]:
    """Whole valid frames, of every message and every kind of frame."""
    found = [data for name, data in examples(DOCUMENT.read_text()).items() if "round-" not in name]
    for messages in (PEER, CONTROL):
        for kind in messages.kinds:
            frames = (messages.encode(message) for message in some(kind))
            found += [frame for frame in frames if len(frame) < 2000]
    assert len(found) > 100
    return tuple(found)


@cache
def volume_corpus() -> tuple[bytes, ...]:
    """Frames that one end or the other of a volume channel takes, in the right moment."""
    last = VOLUME // BLOCK_SIZE
    return (
        encode_zero(0, BLOCK_SIZE),
        encode_zero(BLOCK_SIZE, 3 * BLOCK_SIZE),
        encode_zero(0, VOLUME),
        encode_data(last * BLOCK_SIZE, bytes(VOLUME % BLOCK_SIZE)),
        encode_packed(0, BLOCK_SIZE, b"some bytes"),
        encode_packed(last * BLOCK_SIZE, VOLUME % BLOCK_SIZE, b"some bytes"),
        encode_hashes(0, bytes(HASH_SIZE * 2)),
        encode_hashes(1, b"h" * HASH_SIZE),
        PEER.encode(Credit(1)),
        PEER.encode(Credit(30)),
        PEER.encode(BeginRound(1, False)),
        PEER.encode(BeginRound(2, True)),
        PEER.encode(EndRound(1, 0, 0, 0, bytes(32))),
        PEER.encode(Receipt(1, 0, 0, 0, bytes(32))),
    )


class Mutator:
    """Makes frames that are nearly right."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self.corpus = corpus()

    def volume_frame(self) -> bytes:
        """Return bytes that may or may not be a frame of a volume channel, at times a right one."""
        if self.random.random() < 0.3:
            return self.random.choice(volume_corpus())
        return self.frame(volume_corpus())

    def frame(self, frames: tuple[bytes, ...] = ()) -> bytes:
        """Return bytes that may or may not be a frame."""
        rng = self.random
        data = bytearray(rng.choice(frames or self.corpus))
        for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
            self.change(data)
        if rng.random() < 0.8:  # with a header that fits, so that it comes to the body
            kind = data[0] if data and data[0] in range(1, 8) else rng.randrange(1, 8)
            if rng.random() < 0.1:
                kind = rng.randrange(1, 8)
            data[:5] = struct.pack(">BI", kind, max(0, len(data) - 5))
        return bytes(data)

    def change(self, data: bytearray) -> None:
        rng = self.random
        at = rng.randrange(len(data) + 1)
        match rng.randrange(9):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(data):
                data[at] = rng.choice(INTERESTING)
            case 2:
                del data[at : at + rng.randrange(1, 9)]
            case 3:
                data[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 4:
                end = at + rng.randrange(1, 40)
                data[at:at] = data[at:end] * rng.randrange(1, 4)
            case 5:
                other = rng.choice(self.corpus)
                data[at:] = other[rng.randrange(len(other)) :]
            case 6:
                del data[at:]
            case 7:
                number = rng.choice((0, 1, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1))
                size = rng.choice((1, 2, 4, 8))
                data[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, "big")
            case _:
                data[at:at] = bytes([rng.choice(INTERESTING)]) * rng.randrange(1, 600)


def resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - as plain as can be
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def decode_all(data: bytes) -> tuple[int, int]:
    """Decode bytes as everything that they could be; returns how often they were taken, refused."""
    taken = refused = 0
    decoder = FrameDecoder(list(Kind))
    decoder.feed(data)
    try:
        while (frame := decoder.next_frame()) is not None:
            taken += 1
            low, high = CAPS[frame.kind]
            assert low <= len(frame.untrusted_body) <= high
            for messages in (PEER, CONTROL):
                try:
                    messages.decode(frame.untrusted_body)
                    taken += 1
                except ProtocolError as error:
                    assert len(error.reason) < 5000
                    refused += 1
    except ProtocolError as error:
        assert error.code in (Code.BAD_FRAME, Code.TOO_LARGE)
        refused += 1
    return taken, refused


def inside(offset: int, length: int) -> bool:
    return (
        length > 0
        and offset % BLOCK_SIZE == 0
        and offset + length <= VOLUME
        and (length % BLOCK_SIZE == 0 or offset + length == VOLUME)
    )


class VolumeEnds:
    """Both ends of a volume channel, fed with frames until they refuse one."""

    def __init__(self, rng: random.Random) -> None:
        self.random = rng
        self.refused = 0
        self.taken = 0
        self.renew()

    def renew(self) -> None:
        self.receiver = VolumeReceiver(VOLUME)
        self.sender = VolumeSender(VOLUME)
        if self.random.random() < 0.9:
            compare = self.random.random() < 0.5
            list(self.receiver.receive(PEER.encode(BeginRound(1, compare))))
            self.sender.begin_round(1, compare=compare)
            if compare:
                self.sender.grant(self.random.randrange(200))
                list(self.receiver.receive(PEER.encode(Credit(3))))
            if self.random.random() < 0.3:
                self.sender.end_round()

    def take(self, data: bytes) -> None:
        for end in (self.receiver, self.sender):
            try:
                for event in end.receive(data):
                    self.check(event)
                    self.taken += 1
            except ProtocolError:
                self.refused += 1
                self.renew()
        assert 0 <= self.receiver.credit <= MAX_CREDIT
        assert 0 <= self.sender.covered <= VOLUME

    def check(self, event: object) -> None:
        match event:
            case DataArrived(offset, length, payload, packed):
                assert inside(offset, length)
                assert 0 < length <= MAX_PAYLOAD
                assert packed or length == len(payload)
            case ZeroArrived(offset, length) | ZerosArrived(offset, length):
                assert inside(offset, length)
            case HashesArrived(first, hashes):
                assert (first + len(hashes) // HASH_SIZE - 1) * BLOCK_SIZE < VOLUME
                assert len(hashes) % HASH_SIZE == 0
            case CreditArrived(frames):
                assert frames <= MAX_CREDIT
            case RoundEnded(claim):
                assert isinstance(claim, EndRound)


@pytest.mark.sampled
@pytest.mark.parametrize(
    "part",
    [pytest.param(n, marks=[pytest.mark.slow] if n >= QUICK_PARTS else []) for n in range(PARTS)],
)
def test_mutated_frames_are_decoded_or_refused(part):
    mutator = Mutator(seed_of(part))
    ends = VolumeEnds(mutator.random)
    before, taken, refused = resident(), 0, 0
    for number in range(FRAMES_IN_PART):
        if number % 2:
            ends.take(mutator.volume_frame())
        else:
            one, other = decode_all(mutator.frame())
            taken, refused = taken + one, refused + other
    assert resident() - before < GROWTH
    # Neither all right nor all wrong: the mutations come far enough to be worth something.
    assert taken > FRAMES_IN_PART // 10
    assert refused > FRAMES_IN_PART // 10
    assert ends.taken > FRAMES_IN_PART // 200
    assert ends.refused > FRAMES_IN_PART // 10


def test_a_decoder_holds_no_more_than_a_frame_and_a_piece():
    mutator = Mutator(seed_of(PARTS))
    rng = mutator.random
    for _ in range(30):
        tracemalloc.start()
        try:
            decoder = FrameDecoder(list(Kind))
            largest = 0
            for _ in range(60):
                piece = mutator.frame() * rng.choice((1, 1, 1, 50))
                largest = max(largest, len(piece))
                decoder.feed(piece)
                try:
                    while decoder.next_frame() is not None:
                        pass
                except ProtocolError:
                    break
            held = tracemalloc.get_traced_memory()[0]
            assert held < 2**20 + 3 * largest + 2**18
        finally:
            tracemalloc.stop()


def test_a_stream_of_valid_frames_with_one_broken_stops_there():
    mutator = Mutator(seed_of(PARTS + 1))
    for _ in range(300):
        good = b"".join(mutator.random.choices(mutator.corpus, k=5))
        bad = struct.pack(">BI", mutator.random.choice((0, 8, 255)), 5)
        decoder = FrameDecoder(list(Kind))
        decoder.feed(good + bad + good)
        found: list[Frame] = []
        with pytest.raises(ProtocolError):
            while (frame := decoder.next_frame()) is not None:
                found.append(frame)
        assert len(found) == 5


def test_valid_frames_of_the_wrong_moment_are_refused():
    rng = random.Random(seed_of(PARTS + 2))
    frames = [
        PEER.encode(Receipt(1, 0, 0, 0, bytes(32))),
        PEER.encode(EndRound(1, 0, 0, 0, bytes(32))),
        PEER.encode(BeginRound(1, True)),
        PEER.encode(Credit(200)),
        encode_zero(0, BLOCK_SIZE),
        encode_zero(BLOCK_SIZE, BLOCK_SIZE),
    ]
    ends = VolumeEnds(rng)
    for _ in range(20_000):
        ends.take(rng.choice(frames))
    assert ends.taken > 2000
    assert ends.refused > 2000
