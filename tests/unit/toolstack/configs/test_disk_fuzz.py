"""Disk specifications from pieces: what is adapted opens nothing in xl but what was agreed upon."""

import pytest

from tests.support import fuzzing
from tests.support.xl_reading import XlRefusesError
from tests.support.xl_reading import disk as xl_disk
from xenmoved.toolstack.configs import device_text
from xenmoved.toolstack.interface import Arrival, SourceDisk, ToolstackError

pytestmark = [fuzzing.PATIENCE, pytest.mark.long]
HERE = "/dev/here/xvda"
FILE = "/srv/here/xvda"
ARRIVAL = Arrival("web", "", {"xvda": HERE}, read_only=frozenset(("xvda",)))
SAID = {kind: SourceDisk("/x", True, False, kind) for kind in ("raw", "qcow2")}
CONVERTED = [
    Arrival("web", "", {"xvda": FILE}, formats=formats, sources={"xvda": said})
    for said in SAID.values()
    for formats in ({}, {"xvda": "qcow2"}, {"xvda": "vhd"})
]
PIECES = (
    *("phy:", "file:", "tap:", "aio:", "qcow2:", "vhd:", "raw:", "drbd:", "ioemu:", " ", "\t"),
    *("target=", "format=", "vdev=", "access=", "script=", "backend=", "backendtype=", "devtype="),
    *("raw", "qcow2", "xvda", "hdc:cdrom", "xvda:disk", "cdrom", "disk", "r", "ro", "w", "rw"),
    *("/etc/shadow", "/dev/vg/web", "", "empty", "phy", "qdisk", "\\x2c", "block-x"),
)

PARTS = (
    *("format=qcow2", "format=raw", "vdev=xvda", "access=r", "access=w", "devtype=cdrom", "/x"),
    *("target=/x", "specification=xen", "xvda", "raw", "r", "w", "hdc:cdrom", "cdrom", ""),
)


def _part(chance):
    if chance.random() < 0.7:
        return chance.choice(PARTS)
    return "".join(chance.choices(PIECES, k=chance.randint(1, 3)))


def widened(chance):
    """Return a specification that our reader takes and that xl reads as more, None for none."""
    count = chance.randint(2, 5)
    spec = ",".join(_part(chance) for _ in range(count))
    try:
        ours = device_text.adapt_disk(spec, ARRIVAL, lambda _: True)
        theirs = xl_disk.read(ours)
    except (ToolstackError, XlRefusesError):
        return None
    opens = theirs.get("path", "").strip()
    wrong = (
        opens not in ("", HERE)
        or (opens and theirs.get("vdev") != "xvda")
        or (opens and theirs["writable"] and not theirs["cdrom"])
        or (opens and theirs.get("format", "raw") not in ("raw", "empty"))
        or "script" in theirs
        or "backend" in theirs
    )
    return f"{spec!r} -> {ours!r}: {theirs}" if wrong else None


def test_nothing_is_widened():
    assert fuzzing.search(widened) is None


def misread(chance):
    """Return a specification whose format here xl reads as another one, None for none."""
    spec = ",".join(_part(chance) for _ in range(chance.randint(2, 5)))
    arrival = chance.choice(CONVERTED)
    try:
        ours = device_text.adapt_disk(spec, arrival, lambda _: False)
        before = xl_disk.read(spec)
    except (ToolstackError, XlRefusesError):
        return None
    if before["cdrom"] or before["format"] == "empty" or not before["path"].startswith("/"):
        return None
    try:
        theirs = xl_disk.read(ours)
    except XlRefusesError as error:
        return f"{spec!r} -> {ours!r}: {error}"
    wanted = {**before, "path": FILE, "format": arrival.formats.get("xvda", "raw")}
    same = ("path", "format", "vdev", "writable", "cdrom")
    if all(theirs.get(key) == wanted[key] for key in same):
        return None
    return f"{spec!r} -> {ours!r}: {theirs}"


def test_the_format_is_the_one_here():
    assert fuzzing.search(misread) is None


def _said_twice(monkeypatch):
    def say(disk, parts, said, **_):
        parts.insert(1, f"format={said}")

    monkeypatch.setattr(device_text, "_say_format", say)


def test_another_format_is_found(monkeypatch):
    _said_twice(monkeypatch)
    assert fuzzing.finds(misread)


def _last_wins(monkeypatch):
    take = device_text._take_part

    def forgetting(disk, *rest):
        disk.said.clear()
        take(disk, *rest)

    monkeypatch.setattr(device_text, "_take_part", forgetting)


def _any_script(monkeypatch):
    monkeypatch.setattr(device_text, "_DISK_KEYS", device_text._DISK_KEYS | {"backend "})
    take = device_text._take_part
    monkeypatch.setattr(
        device_text,
        "_take_part",
        lambda disk, spec, key, value: key == "format" or take(disk, spec, key, value),
    )


def _writable(monkeypatch):
    parse = device_text.parse_disk

    def seeing_read_only(spec):
        disk = parse(spec)
        disk.readonly = True
        return disk

    monkeypatch.setattr(device_text, "parse_disk", seeing_read_only)


@pytest.mark.parametrize("hole", [_last_wins, _any_script, _writable])
def test_a_hole_is_found(hole, monkeypatch):
    hole(monkeypatch)
    assert fuzzing.finds(widened)
