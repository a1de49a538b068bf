"""Images on their way into the receiver."""

import json
import struct

import pytest

from tests.support.toolstack_samples import LIBXL, PV, arrival, entry, header, libxc, record, stream
from xenmoved.toolstack.interface import ToolstackError
from xenmoved.toolstack.xl.savefile import CONFIG_LIMIT, END_RECORD, MAGIC, ImageFilter

CONFIG = PV["config"]


def run(data, sample=PV):
    image = ImageFilter(arrival(sample))
    return b"".join(image.feed(data)), image


def test_whole_image():
    out, image = run(header(CONFIG) + stream())
    assert image.configured and image.complete
    assert image.finish() == END_RECORD
    assert out.endswith(stream(end=False))
    head = out[: -len(stream(end=False))]
    magic, order, mandatory, optional, length = struct.unpack_from("=32sIIII", head)
    assert (magic, order, mandatory, optional) == (MAGIC, 0x01020304, 3, 0)
    assert length == len(head) - 48
    (size,) = struct.unpack_from("=I", head, 48)
    assert size == length - 4
    assert head.endswith(b"\0")
    config = json.loads(head[52:-1])
    assert config["disks"][0]["pdev_path"] == "/dev/here/xvda"
    assert config["b_info"]["max_memkb"] == 524288


def test_the_end_is_kept_back_wherever_it_comes():
    image = ImageFilter(arrival(PV))
    for byte in header(CONFIG) + stream():
        image.feed(bytes([byte]))
    assert image.complete
    with pytest.raises(ToolstackError, match="goes on"):
        image.feed(b"\0")
    with pytest.raises(ToolstackError, match="goes on"):  # and stays refused
        image.finish()


def test_an_end_in_front_does_not_slip_through():
    early = LIBXL + record(0) + record(1) + libxc() + record(0)
    with pytest.raises(ToolstackError, match="goes on"):
        run(header(CONFIG) + early)


def test_zeroes_inside_a_record_are_no_end():
    out, image = run(header(CONFIG) + stream(bytes(4096)))
    assert image.complete
    assert bytes(4096) in out


def test_incomplete():
    for data in (b"", header(CONFIG), header(CONFIG) + stream(end=False)):
        _, image = run(data)
        with pytest.raises(ToolstackError, match="incomplete"):
            image.finish()


BAD = [
    (b"not an image at all" + bytes(60), "magic"),
    (header(CONFIG, byteorder=0x04030201), "byte order"),
    (header(CONFIG, flags=7), "flags"),
    (header(CONFIG, flags=1), "flags"),
    (header(CONFIG, flags=2), "flags"),
    (MAGIC + struct.pack("=IIII", 0x01020304, 3, 1, 100), "flags"),
    (MAGIC + struct.pack("=IIII", 0x01020304, 3, 0, 0), "bytes"),
    (MAGIC + struct.pack("=IIII", 0x01020304, 3, 0, CONFIG_LIMIT + 5), "bytes"),
    (header(b'{"a": 1}'), "contradictory"),
    (MAGIC + struct.pack("=IIIII", 0x01020304, 3, 0, 9, 2) + b"{}\0\0\0", "contradictory"),
    (header(b"[]\0"), "object"),
    (header(b"{\0"), "JSON"),
    (header(b'{"c_info": NaN}\0'), "NaN"),
    (header(b"[" * 100_000 + b"\0"), "JSON"),
    (header(b'{"a": ' * 900 + b"1" + b"}" * 900 + b"\0"), "name and a uuid|JSON"),
    (header(b'\xff\xfe{"a": 1}\0'), "JSON"),
    (header({"c_info": {"name": "other"}}), "name and a uuid"),
    (header({**CONFIG, "on_crash": 1e999}), "JSON"),
    (header(CONFIG) + b"LibxlFmt" + struct.pack(">II", 1, 0), "libxl stream"),
    (header(CONFIG) + b"LibxlFmt" + struct.pack(">II", 2, 1), "libxl stream"),
    (header(CONFIG) + LIBXL + record(4), "unexpected"),
    (header(CONFIG) + LIBXL + record(0, b"x"), "END"),
    (header(CONFIG) + LIBXL + record(1, b"x"), "LIBXC"),
    (header(CONFIG) + LIBXL + record(1) + libxc() + record(1), "repeated"),
    (header(CONFIG) + LIBXL + record(1) + bytes(40), "libxc stream"),
    (header(CONFIG) + LIBXL + record(1) + libxc()[:-8] + record(0, b"x"), "END"),
]


@pytest.mark.parametrize(("data", "message"), BAD)
def test_refused(data, message):
    with pytest.raises(ToolstackError, match=message):
        run(data)


def test_a_refused_image_stays_refused():
    image = ImageFilter(arrival(PV))
    for _ in range(2):
        with pytest.raises(ToolstackError, match="byte order"):
            image.feed(header(CONFIG, byteorder=1))


def test_optional_records_pass():
    data = LIBXL + record(0x80000001, b"abc") + record(1) + libxc() + record(0)
    out, image = run(header(CONFIG) + data)
    assert image.complete
    assert out.endswith(data[:-8])


def test_duplicate_keys_cannot_be_read_in_two_ways():
    raw = json.dumps(CONFIG).encode()
    evil = raw[:-1] + b', "b_info": {"kernel": "/etc/shadow"}}\0'
    with pytest.raises(ToolstackError, match="kernel"):
        run(header(evil))
    kind = b'{"disks": [{"vdev": "xvda", "pdev_path": "/etc/shadow", "format": "raw"}], '
    out, _ = run(header(kind + raw[1:] + b"\0"))
    assert b"/etc/shadow" not in out


def test_large_bodies_are_not_copied():
    image = ImageFilter(arrival(PV))
    image.feed(header(CONFIG) + LIBXL + record(1) + libxc()[:-8] + struct.pack("<II", 1, 1 << 30))
    piece = bytes(512 << 10)
    (passed,) = image.feed(piece)
    assert passed.obj is piece


def test_names_outside_ascii():
    sample = entry(PV)
    sample["config"]["c_info"]["name"] = "gäst"
    out, _ = run(header(sample["config"]), sample)
    assert b"g\\u00e4st" in out
