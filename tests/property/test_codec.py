"""Messages in frames: round trips, and bytes that are meant to hurt."""

import gc
import struct
import tracemalloc

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.codec import MAX_CONTAINERS, MAX_ITEMS
from protocol.errors import Code, ProtocolError
from protocol.frames import MAX_MESSAGE, FrameDecoder, Kind
from protocol.messages import CAPABILITIES, PEER, VERSION, Hello, Ping
from tests.support.protocol_strategies import objects
from xenmoved.control.message_set import CONTROL

pytestmark = pytest.mark.long

QUICK = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
SETS = [(PEER, kind) for kind in PEER.kinds] + [(CONTROL, kind) for kind in CONTROL.kinds]
BOMB_CEILING = 48 * 2**20
"""What decoding the worst message of 1 MiB may take for a moment."""


def body_of(frame):
    decoder = FrameDecoder([Kind.MESSAGE])
    decoder.feed(frame)
    found = decoder.next_frame()
    assert found is not None
    assert not decoder.pending
    return found.untrusted_body


def test_text_that_was_no_utf_8_is_told():
    sent = Hello(VERSION, "hostile\udcff", "\ud800", CAPABILITIES)
    told = PEER.decode(body_of(PEER.encode(sent)))
    assert (told.software, told.node) == ("hostile?", "?")


def refusal(body, messages=PEER):
    with pytest.raises(ProtocolError) as caught:
        messages.decode(body)
    assert len(str(caught.value)) < 3000
    return caught.value.code


@pytest.mark.parametrize(("messages", "kind"), SETS, ids=[kind.__name__ for _, kind in SETS])
def test_every_message_survives_the_wire(messages, kind):
    @QUICK
    @given(objects(kind))
    def check(message):
        frame = messages.encode(message)
        assert messages.decode(body_of(frame)) == message
        assert messages.decode(bytearray(body_of(frame))) == message

    check()


def named(name, fields):
    return msgpack.packb([name, fields])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x92",
        b"\x92\xa4Ping",
        named("Ping", {}) + b"\0",
        named("Ping", []),
        named(b"Ping", {}),
        named(1, {}),
        msgpack.packb(["Ping"]),
        msgpack.packb(["Ping", {}, None]),
        msgpack.packb({"Ping": {}}),
        msgpack.packb("Ping"),
        msgpack.packb(None),
        msgpack.packb(["Ping", {1: 2}]),
        msgpack.packb(["Ping", {None: 2}]),
        msgpack.packb(["Ping", {(1, 2): 2}]),
        b"\x92\xa4P\xffng\x80",
        b"\x92\xa4Ping\x81\xa1\xff\xc0",
        b"\x92\xa4Ping\x81\xc7\x01\x05x\xc0",
        b"\x92\xa4Ping\x81\xd4\x05x\xc0",
        b"\x92\xa4Ping\x81\xa1x\xd6\xff\0\0\0\0",
        b"\x92\xa4Ping\x81\xa1x\xc7\x00\xff",
        b"\x91" * 100_000,
        b"\x81\xa1x" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x05",
        b"\x92\xa4Ping\xdf\x7f\xff\xff\xff",
        b"\xdd" + struct.pack(">I", MAX_ITEMS + 1) + b"\xc0" * (MAX_ITEMS + 1),
    ],
    ids=lambda body: f"{bytes(body[:12]).hex()}-{len(body)}",
)
def test_what_is_not_name_and_fields_is_refused(body):
    for messages in (PEER, CONTROL):
        assert refusal(body, messages) is Code.BAD_MESSAGE


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"version": 2**64 - 1}, Code.OUT_OF_RANGE),
        ({"version": -(2**63)}, Code.OUT_OF_RANGE),
        ({"version": True}, Code.OUT_OF_RANGE),
        ({"version": 1.0}, Code.OUT_OF_RANGE),
        ({"node": "x" * 201}, Code.OUT_OF_RANGE),
        ({"node": b"a"}, Code.OUT_OF_RANGE),
        ({"capabilities": ["x"] * 257}, Code.OUT_OF_RANGE),
        ({"capabilities": [["x"]]}, Code.OUT_OF_RANGE),
        ({"capabilities": msgpack.ExtType(5, b"")}, Code.OUT_OF_RANGE),
        ({"capabilities": {}}, Code.OUT_OF_RANGE),
        ({"capabilities": ["x"] * (MAX_ITEMS + 1)}, Code.BAD_MESSAGE),
        ({b"more": 1}, Code.OUT_OF_RANGE),
        ({"more" * 50_000: 1}, Code.OUT_OF_RANGE),
    ],
)
def test_fields_out_of_bounds_are_refused(fields, code):
    good = {"version": 1, "software": "x", "node": "a", "capabilities": []}
    assert PEER.decode(named("Hello", good)) == Hello(1, "x", "a", ())
    assert refusal(named("Hello", {**good, **fields})) is code


def test_an_unknown_message_is_refused_by_its_name():
    for name in ("Ping\0", "ping", "", "x" * 100_000, "Problem", "__class__"):
        assert refusal(named(name, {})) is Code.UNKNOWN_MESSAGE
    assert refusal(named("GetStatus", {})) is Code.UNKNOWN_MESSAGE
    assert refusal(named("Ping", {}), CONTROL) is Code.UNKNOWN_MESSAGE


def test_the_last_of_equal_keys_counts():
    body = b"\x92\xa6Credit\x82\xa6frames\x01\xa6frames\x02"
    assert PEER.decode(body).frames == 2
    assert refusal(b"\x92\xa6Credit\x82\xa6frames\x01\xa6frames\xff") is Code.OUT_OF_RANGE


def test_the_lists_and_maps_of_a_message_are_counted():
    """Up to the cap it is the field that is wrong, above it nothing is made of the message."""
    for empty in ([], {}):
        inner = [[empty] * 4000] * 4
        used = 3 + 1 + 4 + 16_000  # the message, its fields, x, the list of lists, the lists in it
        room = MAX_CONTAINERS - used
        fields = {"x": inner, "y": [empty] * (room + 1)}
        assert refusal(named("Ping", fields | {"y": [empty] * room})) is Code.OUT_OF_RANGE
        assert refusal(named("Ping", fields)) is Code.BAD_MESSAGE
        assert refusal(named("Ping", {"x": [[empty] * 8000] * 3})) is Code.BAD_MESSAGE


def bombs():
    """Bodies of up to 1 MiB, made to cost as much as they can."""
    room = MAX_MESSAGE - 64
    start = b"\x92\xa4Ping\x81\xa1x"

    def lists(item):
        count = (room // (MAX_ITEMS * len(item) + 3)) or 1
        one = b"\xdc" + struct.pack(">H", MAX_ITEMS) + item * MAX_ITEMS
        return start + b"\xdc" + struct.pack(">H", count) + one * count

    yield "empty-lists", lists(b"\x90")
    yield "empty-maps", lists(b"\x80")
    yield "floats", lists(b"\xcb" + bytes(8))
    yield "short-strings", lists(b"\xa2ab")
    yield "big-integers", lists(b"\xcf" + b"\xff" * 8)
    yield "claimed-lists", b"\xdc" + struct.pack(">H", MAX_ITEMS)
    yield "nested-claims", (b"\xdc" + struct.pack(">H", MAX_ITEMS)) * 511
    yield "nested-to-the-limit", start + b"\x91" * 500 + b"\xc0"
    yield "one-string", start + b"\xdb" + struct.pack(">I", room) + b"x" * room
    yield "long-name", b"\x92\xdb" + struct.pack(">I", room) + b"x" * room + b"\x80"
    yield "nested-maps", start + b"\x81\xa1x" * 400 + b"\xc0"
    yield "escapes", start + b"\xdb" + struct.pack(">I", room) + b"\0" * room
    yield "as-kind", named("Offer", {"action": "x" * room})
    yield "as-key", named("Offer", {"x" * room: 1})
    yield "list-as-kind", named("Offer", {"action": [["\0" * 1000] * 100] * 8})


@pytest.mark.parametrize(("name", "body"), list(bombs()), ids=[name for name, _ in bombs()])
def test_no_message_takes_more_than_its_share(name, body):
    assert len(body) <= MAX_MESSAGE + 64
    gc.collect()
    tracemalloc.start()
    try:
        refusal(body)
        peak = tracemalloc.get_traced_memory()[1]
        gc.collect()  # the error and the frames that it went through hold each other
        left = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert peak < BOMB_CEILING, f"{name} took {peak >> 20} MiB"
    assert left < 2**20, f"{name} left {left} bytes"


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_decode_or_are_refused(body):
    for messages in (PEER, CONTROL):
        try:
            messages.decode(body)
        except ProtocolError as error:
            assert error.code in set(Code)


def test_a_message_above_the_cap_is_not_sent():
    with pytest.raises(ProtocolError) as caught:
        PEER.encode(Hello(1, "x", "a", ("x" * 200,) * 6000))
    assert caught.value.code is Code.TOO_LARGE


def test_a_message_is_named_as_its_class():
    assert PEER.encode(Ping()) == b"\x01\0\0\0\x07\x92\xa4Ping\x80"
