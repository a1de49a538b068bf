"""Messages that grow: what a version has, who is told what, and what never changes."""

from dataclasses import dataclass, replace
from typing import Annotated

import pytest

from protocol.codec import MessageSet
from protocol.errors import Code, ProtocolError, SchemaError
from protocol.frames import FrameDecoder, Kind
from protocol.schema import U8, Length, Name, Since, build, plain

GROWING = MessageSet()


@dataclass(frozen=True, slots=True)
class Part:
    size: U8
    weight: Annotated[U8, Since(9)] = 3


@GROWING.add
@dataclass(frozen=True, slots=True)
class Old:
    name: Name
    parts: Annotated[tuple[Part, ...], Length(0, 9)]
    by_name: Annotated[dict[Name, Part], Length(0, 9)]
    note: Annotated[Name | None, Since(8)] = None


@GROWING.since(8)
@dataclass(frozen=True, slots=True)
class New:
    number: U8


@GROWING.frozen
@dataclass(frozen=True, slots=True)
class Rock:
    number: U8


FULL = Old("x", (Part(1, 2),), {"y": Part(4, 5)}, "said")


def body(frame):
    decoder = FrameDecoder([Kind.MESSAGE])
    decoder.feed(frame)
    return decoder.next_frame().untrusted_body


@pytest.mark.parametrize(
    ("version", "fields", "read"),
    [
        (
            7,
            {"name": "x", "parts": [{"size": 1}], "by_name": {"y": {"size": 4}}},
            Old("x", (Part(1),), {"y": Part(4)}),
        ),
        (
            8,
            {"name": "x", "parts": [{"size": 1}], "by_name": {"y": {"size": 4}}, "note": "said"},
            Old("x", (Part(1),), {"y": Part(4)}, "said"),
        ),
        (
            9,
            {
                "name": "x",
                "parts": [{"size": 1, "weight": 2}],
                "by_name": {"y": {"size": 4, "weight": 5}},
                "note": "said",
            },
            FULL,
        ),
    ],
)
def test_a_field_is_said_from_its_version_on_and_has_its_default_before(version, fields, read):
    assert plain(FULL, version) == fields
    assert build(Old, fields, version=version) == read
    messages = GROWING.at(version)
    assert messages.decode(body(messages.encode(FULL))) == read


def test_every_field_is_said_where_no_version_was_agreed():
    assert GROWING.decode(body(GROWING.encode(FULL))) == FULL
    assert plain(FULL) == plain(FULL, 9)


def test_what_came_later_is_unknown_to_an_earlier_version():
    frame = GROWING.encode(replace(FULL, parts=(), by_name={}))
    with pytest.raises(ProtocolError, match=r"note: unknown key \(known: name, parts, by_name\)"):
        GROWING.at(7).decode(body(frame))
    with pytest.raises(ProtocolError, match="unknown message 'New'") as caught:
        GROWING.at(7).decode(body(GROWING.encode(New(1))))
    assert caught.value.code is Code.UNKNOWN_MESSAGE
    assert GROWING.at(8).decode(body(GROWING.at(8).encode(New(1)))) == New(1)


def test_a_message_is_not_sent_to_who_does_not_have_it():
    with pytest.raises(ProtocolError, match="version 7 has no message New"):
        GROWING.at(7).encode(New(1))


def test_from_its_version_on_a_field_may_still_be_left_out():
    assert build(Part, {"size": 1}, version=9) == Part(1, 3)
    with pytest.raises(SchemaError, match="size: missing"):
        build(Part, {}, version=9)


def test_a_field_that_came_later_needs_a_default():
    @dataclass
    class Wrong:
        late: Annotated[U8, Since(8)]

    Wrong.__annotations__["late"] = Annotated[U8, Since(8)]
    with pytest.raises(TypeError, match=r"Wrong\.late came with version 8: no default"):
        build(Wrong, {}, version=7)


def test_what_is_frozen_is_there_at_all_times():
    for version in (0, 7, 65535):
        assert Rock in GROWING.at(version).kinds
        assert GROWING.at(version).encode(Rock(1)) == GROWING.encode(Rock(1))
        assert GROWING.at(version).frozen_kinds == {Rock}
