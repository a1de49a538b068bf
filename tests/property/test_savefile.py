"""Properties of the filter through which every arriving image goes."""

import contextlib
import itertools
import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenmoved.toolstack.interface import Arrival, ToolstackError
from xenmoved.toolstack.readable import Readable
from xenmoved.toolstack.xl.savefile import CONFIG_LIMIT, MAGIC, ImageFilter
from xenmoved.toolstack.xm.savefile import XmImageFilter
from xenmoved.toolstack.xm.sexpr import parse_all, to_string

pytestmark = pytest.mark.long

UUID = "8f2c3c5e-7a0e-4a5c-9c0b-1f4c2f0d9e11"
ARRIVAL = Arrival("web", UUID, {"xvda": "/dev/here/root"}, {"xenbr0": "br0"})
CONFIG = {
    "c_info": {"type": "pv", "name": "web", "uuid": UUID},
    "b_info": {"max_memkb": 4096, "type.pv": {}},
    "disks": [{"vdev": "xvda", "pdev_path": "/dev/there/root", "format": "raw"}],
    "nics": [{"bridge": "xenbr0"}],
}


def header(config):
    raw = json.dumps(config).encode() + b"\0"
    optional = struct.pack("=I", len(raw)) + raw
    return MAGIC + struct.pack("=IIII", 0x01020304, 3, 0, len(optional)) + optional


def record(kind, body=b""):
    return struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8)


def image(bodies):
    libxc = b"\xff" * 8 + b"XENF" + struct.pack(">IHHI", 3, 0, 0, 0)
    libxc += struct.pack("<IHHII", 1, 12, 0, 4, 17)
    libxc += b"".join(record(1, body) for body in bodies) + record(0)
    start = header(CONFIG) + b"LibxlFmt" + struct.pack(">II", 2, 0)
    return start + record(1) + libxc + record(3, b"emulator") + record(0)


def pieces(data, cuts):
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


bodies = st.lists(st.binary(max_size=64) | st.just(bytes(16)), max_size=6)
cuts = st.lists(st.integers(0, 1 << 16), max_size=30)


@given(bodies, cuts)
def test_any_split_gives_the_same_output(bodies, cuts):
    data = image(bodies)
    whole, split = ImageFilter(ARRIVAL), ImageFilter(ARRIVAL)
    expected = b"".join(whole.feed(data))
    assert b"".join(b"".join(split.feed(piece)) for piece in pieces(data, cuts)) == expected
    assert whole.finish() == split.finish() == bytes(8)
    assert b"/dev/there" not in expected


@given(bodies, cuts, st.integers(0, 1 << 16), st.integers(1, 255))
@settings(max_examples=200)
def test_a_damaged_image_never_does_anything_but_toolstack_error(bodies, cuts, at, flip):
    data = bytearray(image(bodies))
    data[at % len(data)] ^= flip
    image_filter = ImageFilter(ARRIVAL)
    with contextlib.suppress(ToolstackError):
        for piece in pieces(bytes(data), cuts):
            image_filter.feed(piece)
        image_filter.finish()


@given(st.binary(max_size=4096))
def test_random_bytes(data):
    for start in (b"", MAGIC, image([])[:-8], header(CONFIG)):
        with contextlib.suppress(ToolstackError):
            image_filter = ImageFilter(ARRIVAL)
            image_filter.feed(start + data)
            image_filter.finish()
    with contextlib.suppress(ToolstackError):
        xm_filter = XmImageFilter(ARRIVAL, Readable(()), lambda path: False)
        xm_filter.feed(b"LinuxGuestRecord" + struct.pack(">i", max(1, len(data) - 7)) + data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
keys = st.sampled_from(
    [
        "c_info",
        "b_info",
        "disks",
        "nics",
        "vfbs",
        "channels",
        "name",
        "uuid",
        "type",
        "kernel",
        "bootloader",
        "type.hvm",
        "vnc",
        "serial",
        "vdev",
        "pdev_path",
        "format",
        "script",
        "bridge",
        "backend_domid",
        "rdm",
        "smbios",
        "connection",
    ]
)
configs = st.recursive(
    st.dictionaries(keys, json_values, max_size=6),
    lambda inner: st.dictionaries(keys, inner | st.lists(inner, max_size=2), max_size=6),
    max_leaves=6,
)


@given(configs)
@settings(max_examples=60)
def test_any_configuration_is_rewritten_or_refused(config):
    merged = {**CONFIG, **config}
    with contextlib.suppress(ToolstackError):
        ImageFilter(ARRIVAL).feed(header(merged))


@given(st.lists(st.binary(min_size=1, max_size=5000), max_size=40))
def test_memory_is_bounded(chunks):
    image_filter = ImageFilter(ARRIVAL)
    image_filter.feed(image([])[:-8])
    with contextlib.suppress(ToolstackError):
        for chunk in chunks:
            image_filter.feed(chunk)
            assert len(image_filter._pending) <= 8
    waiting = ImageFilter(ARRIVAL)
    waiting.feed(MAGIC + struct.pack("=IIII", 0x01020304, 3, 0, CONFIG_LIMIT + 4))
    with contextlib.suppress(ToolstackError):
        for chunk in chunks:
            waiting.feed(chunk * 100)
            assert len(waiting._pending) <= CONFIG_LIMIT + 4


latin = st.text(st.characters(max_codepoint=255), max_size=12)
expressions = st.recursive(latin, lambda inner: st.lists(inner, max_size=4), max_leaves=12)


@given(st.lists(expressions, max_size=3))
def test_expressions_survive_being_written(found):
    assert parse_all(" ".join(to_string(one) for one in found)) == found


@given(st.text(max_size=200) | st.text("()'\"\\ax7 \n#", max_size=60))
def test_any_text_is_an_expression_or_an_error(text):
    with contextlib.suppress(ToolstackError):
        parse_all(text)
