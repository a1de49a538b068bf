"""Disk specifications from pieces: what is adapted opens nothing in xl but what was agreed upon."""

import pytest

from tests.support import fuzzing
from tests.support.xl_reading import XlRefusesError
from tests.support.xl_reading import disk as xl_disk
from xenmoved.toolstack.configs import device_text
from xenmoved.toolstack.interface import Arrival, ToolstackError

pytestmark = [fuzzing.PATIENCE, pytest.mark.long]
HERE = "/dev/here/xvda"
ARRIVAL = Arrival("web", "", {"xvda": HERE}, read_only=frozenset(("xvda",)))
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
