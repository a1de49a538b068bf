"""When a volume that is there is known as the one that was noted."""

from dataclasses import replace

import pytest

from storage.contracts import UNKNOWN, LastWrite, VolumeIdentity, VolumeInfo
from xenmoved.journal.records import NOBODY, Holding, MadeVolume
from xenmoved.migration.volume_notes import (
    is_blank,
    is_held,
    is_made,
    is_of,
    synced_from,
    why_not_as_left,
    why_not_held,
)

ONE, OTHER = VolumeIdentity("inode 1 of 2"), VolumeIdentity("inode 1 of 3")
HOLDING = Holding(
    *("images", "web", "uuid", "web", ONE, "m2"), since=1.0, place="host-b", moved_by="m1"
)
SYNCED = Holding("images", "web", synced_from("host-b"), identity=ONE)
MADE = MadeVolume("m", "images", "web", 4096, "host-a", ONE)


def volume(identity, written=None):
    last = at(written) if isinstance(written, int) else written
    return VolumeInfo("images", "web", "/images/web", 4096, None, None, identity, written=last)


def at(moment):
    return LastWrite("", str(moment))


@pytest.mark.parametrize(
    ("noted", "found", "same"),
    [
        (ONE, VolumeIdentity("inode 1 of 2"), True),
        (ONE, OTHER, False),
        (ONE, UNKNOWN, False),
        (UNKNOWN, ONE, False),
        (UNKNOWN, UNKNOWN, False),
        (VolumeIdentity(""), VolumeIdentity(""), False),
    ],
)
def test_what_is_not_known_is_not_the_same(noted, found, same):
    assert is_held(replace(HOLDING, identity=noted), volume(found)) is same
    assert is_made(replace(MADE, identity=noted), volume(found)) is same
    assert (noted == found) is same


def test_a_copy_that_was_written_to_since_is_not_known():
    kept = replace(HOLDING, written=at(7))
    assert is_held(kept, volume(ONE, 7))
    assert "was written to since" in (why_not_held(kept, volume(ONE, 8)) or "")
    assert is_held(HOLDING, volume(ONE, 8))  # nobody noted when
    assert is_held(replace(kept, since=None), volume(ONE, 8))  # a guest writes to it
    assert is_held(replace(SYNCED, written=at(7)), volume(ONE, 7))
    assert not is_held(replace(SYNCED, written=at(7)), volume(ONE, 8))


FIRST, SECOND = (LastWrite(f"boot {boot} device 253:7", "10+0") for boot in "ab")


@pytest.mark.parametrize(
    ("noted", "found", "known"),
    [
        (at(7), at(7), True),
        (at(7), at(8), False),
        (at(7), None, False),
        (None, at(7), False),  # a crash
        (None, None, False),
        (FIRST, FIRST, True),
        (FIRST, FIRST._replace(moment="11+0"), False),
        (FIRST, SECOND, False),  # the same count, by chance
        (FIRST, None, False),
    ],
)
@pytest.mark.parametrize("holding", [HOLDING, SYNCED, replace(SYNCED, owner=NOBODY)])
def test_what_is_not_certain_to_be_as_it_was_left_is_not(holding, noted, found, known):
    left = replace(holding, written=noted)
    assert (why_not_as_left(left, volume(ONE, found)) is None) is known
    assert why_not_as_left(left, volume(OTHER, found)) is not None
    # Whether it was written to for certain is another question, which dropping asks.
    written = noted is not None and found is not None and noted.course == found.course
    assert is_held(left, volume(ONE, found)) is (known or not written)


def test_what_is_being_emptied_for_one_peer_is_nobodys_for_that_one():
    blank = Holding("images", "web", NOBODY, identity=ONE, place="host-b")
    assert is_blank(blank, "host-b")
    assert not is_blank(blank, "host-c")
    assert not is_blank(HOLDING, "host-b")
    assert not any(is_of(blank, owner, "host-b", None) for owner in ("uuid", synced_from("host-b")))


@pytest.mark.parametrize(
    ("holding", "owner", "peer", "offered", "expected"),
    [
        (HOLDING, "uuid", "host-b", None, True),
        (HOLDING, "uuid", "host-c", None, False),  # it did not go there
        (replace(HOLDING, since=None), "uuid", "host-b", None, False),  # it is at home
        (replace(SYNCED, since=None), synced_from("host-b"), "host-b", None, True),
        (SYNCED, synced_from("host-c"), "host-c", None, False),
        (SYNCED, "uuid", "host-b", None, False),
        (HOLDING, "new", "host-b", "m1", True),
        (HOLDING, "new", "host-c", "m1", False),  # it did not go there
        (HOLDING, "new", "host-b", "m2", False),  # one that it did not go with
        (HOLDING, "new", "host-b", None, False),
        (replace(HOLDING, moved_by=""), "new", "host-b", "", False),
        (replace(HOLDING, since=None), "new", "host-b", "m1", False),  # it is in use here
    ],
)
def test_whose_copy_it_is(holding, owner, peer, offered, expected):
    assert is_of(holding, owner, peer, offered) is expected
