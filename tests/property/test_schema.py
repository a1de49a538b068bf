"""Typed objects from plain data: every message type, its bounds, and what is refused."""

import dataclasses
import math
import typing
from typing import Annotated, get_args, get_origin

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.errors import SchemaError
from protocol.messages import PEER, Begin, GuestOffer, Hello, Offer, Pong, Receipt, VolumeOffer
from protocol.schema import Length, Pattern, Range, build, plain
from tests.support.protocol_document import parts
from tests.support.protocol_strategies import objects
from xenmoved.control.message_set import CONTROL

pytestmark = pytest.mark.long

QUICK = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
KINDS = [*PEER.kinds, *CONTROL.kinds]
NAMES = [kind.__name__ for kind in KINDS]


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_every_message_survives_the_way_to_plain_data_and_back(kind):
    @QUICK
    @given(objects(kind))
    def check(message):
        data = plain(message)
        assert build(kind, data) == message
        through = msgpack.unpackb(msgpack.packb(data))
        assert through == data
        assert build(kind, through) == message

    check()


def _fields(kinds):
    """Every (dataclass, field, annotation) that the messages of these kinds are made of."""
    seen = []
    for kind in kinds:
        for part in parts(kind):
            if dataclasses.is_dataclass(part) and part not in seen:
                seen.append(part)
    for kind in seen:
        hints = typing.get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            yield kind, field.name, hints[field.name]


FIELDS = list(_fields(KINDS))
FIELD_NAMES = [f"{kind.__name__}.{name}" for kind, name, _ in FIELDS]


def sample(kind):
    """Return plain data that builds an object of this kind."""
    found = []

    @settings(max_examples=1, database=None, suppress_health_check=list(HealthCheck))
    @given(objects(kind))
    def keep(message):
        found.append(plain(message))

    keep()
    return found[0]


SAMPLES = {kind: sample(kind) for kind in {kind for kind, _, _ in FIELDS}}


@pytest.mark.parametrize(("kind", "name", "hint"), FIELDS, ids=FIELD_NAMES)
def test_every_field_refuses_every_other_type(kind, name, hint):
    data = SAMPLES[kind]
    assert build(kind, data) is not None
    allowed = _plain_types(hint)
    for wrong in (None, True, 7, 1.5, "\0\0 no name \0", b"\xff", [], ["x", 1], {}, {"x": 1}):
        if type(wrong) in allowed:
            continue
        with pytest.raises(SchemaError) as caught:
            build(kind, {**data, name: wrong})
        assert caught.value.path[:1] == (name,)


@pytest.mark.parametrize(("kind", "name", "hint"), FIELDS, ids=FIELD_NAMES)
def test_every_bound_holds_at_both_ends(kind, name, hint):
    data = SAMPLES[kind]
    for part in parts(hint):
        if get_origin(part) is not Annotated or part is not hint:
            continue
        base, *bounds = get_args(part)
        for inside, outside in _edges(base, bounds):
            for value in inside:
                build(kind, {**data, name: value})
            for value in outside:
                with pytest.raises(SchemaError):
                    build(kind, {**data, name: value})


def _plain_types(hint):
    """Types of plain data that this field may have."""
    if get_origin(hint) is Annotated:
        return _plain_types(get_args(hint)[0])
    if type(None) in get_args(hint):
        return {type(None)} | set().union(*(_plain_types(a) for a in get_args(hint)))
    if get_origin(hint) is tuple:
        return {list}
    if get_origin(hint) is dict or dataclasses.is_dataclass(hint):
        return {dict}
    if hint is float:
        return {int, float}
    return {hint} if hint in (bool, int, str, bytes, type(None)) else {str}


def _edges(base, bounds):
    for bound in bounds:
        if isinstance(bound, Range) and base is int:
            low, high = int(bound.low), int(bound.high)
            yield (low, high), (low - 1, high + 1, 2**64 - 1)
        elif isinstance(bound, Range):
            yield (bound.low, bound.high), (-1e-9 + bound.low, math.nan, math.inf, -math.inf)
        elif isinstance(bound, Length) and base in (str, bytes):
            unit = "x" if base is str else b"x"
            outside = [unit * (bound.high + 1)] + [unit * (bound.low - 1)] * (bound.low > 0)
            yield (unit * bound.low, unit * bound.high), outside
        elif isinstance(bound, Length):
            yield (), ([None] * (bound.high + 1),)
        elif isinstance(bound, Pattern):
            yield (), ("", "../x", "a/b", "x\n", "\0", "x" * 5000, "ä", " x", "-x\u202e")


VOLUME = {
    "name": "v",
    "size": 1,
    "vdev": None,
    "pool": None,
    "home": None,
    "wish": None,
    "format": "raw",
    "disk_size": 1,
    "sector": 512,
    "path": None,
    "writable": True,
    "moved_by": None,
}


def test_names_of_volumes_and_guests_hold_no_path():
    good = {**VOLUME, "name": "web", "format": "qcow2"}
    for name in ("..", ".", "a/b", "/etc/passwd", "../x", "a\0b", "-rf", ".hidden", "a b", "a\n"):
        for field in ("name", "pool", "home", "wish"):
            with pytest.raises(SchemaError):
                build(VolumeOffer, {**good, field: name})
    assert build(VolumeOffer, good).name == "web"


def test_missing_and_unknown_fields_are_named():
    good = {"version": 1, "software": "x", "node": "a", "capabilities": []}
    for name in good:
        with pytest.raises(SchemaError, match="missing") as caught:
            build(Hello, {k: v for k, v in good.items() if k != name})
        assert caught.value.where == name
    with pytest.raises(SchemaError, match="unknown key") as caught:
        build(Hello, {**good, "extra": 1})
    assert caught.value.where == "extra"


def test_the_place_of_an_error_is_named():
    offer = {
        "action": "sync",
        "mode": "save",
        "overwrite": False,
        "guest": None,
        "volumes": [VOLUME, {**VOLUME, "size": -1}],
    }
    with pytest.raises(SchemaError) as caught:
        build(Begin, {"migration": "0" * 32, "offer": offer, "keep_partial": False})
    assert caught.value.where == "offer.volumes[1].size"


def test_the_place_in_a_map_is_named_by_its_key():
    with pytest.raises(SchemaError) as caught:
        build(GuestOffer, {**SAMPLES[GuestOffer], "bridges": {"xenbr0": "br-lan", "xenbr1": 7}})
    assert caught.value.path == ("bridges", "xenbr1")


@pytest.mark.parametrize("key", ["volumes[0].size", "x` - at `$.volumes[0].size", "a.b", "x" * 81])
def test_a_key_is_one_part_of_the_place_whatever_it_looks_like(key):
    with pytest.raises(SchemaError, match="unknown key") as caught:
        build(Offer, {**SAMPLES[Offer], key: 1})
    assert caught.value.path == (key[:80],)


JSON_LIKE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5)
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(KINDS), JSON_LIKE)
def test_any_data_builds_an_object_or_raises_schema_error(kind, data):
    try:
        message = build(kind, data)
    except SchemaError as error:
        assert len(str(error)) < 2000
    else:
        assert build(kind, plain(message)) == message


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([Hello, Pong, Offer, GuestOffer, Receipt]), st.data())
def test_one_changed_field_builds_or_raises_schema_error(kind, data):
    fields = dict(SAMPLES[kind]) if kind in SAMPLES else {}
    name = data.draw(st.sampled_from([*fields, "other"]))
    fields[name] = data.draw(JSON_LIKE)
    try:
        message = build(kind, fields)
    except SchemaError:
        return
    assert plain(message)[name] == fields[name]


@pytest.mark.parametrize(
    "kind", [int, float, str, bytes, tuple[bool, ...], dict[str, bool], int | None]
)
def test_a_type_without_bounds_cannot_be_used_on_the_wire(kind):
    with pytest.raises(TypeError, match="no bounds"):
        build(dataclasses.make_dataclass("Loose", [("field", kind)]), {"field": None})
