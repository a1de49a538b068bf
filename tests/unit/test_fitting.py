"""Which guest fits on which peer, when several are to go."""

from collections import Counter

from protocol.messages import ImageFormat, Placement, Pong, Room, VolumeOffer
from xenmoved.migration.fitting import Need, Space, by_room

GIB = 2**30


def pong(**changes):
    fields = {
        **{"toolstack": "xl", "xen_version": "4.17", "actions": (), "guests": ("*",)},
        **{"pools": ("fast", "thin"), "quota": None, "quota_used": 0, "free_memory": 8 * GIB},
        "room": (Room("fast", 10 * GIB), Room("thin", None)),
    }
    return Pong(**fields | changes)


def need(memory=1, **pools):
    return Need(memory * GIB, Counter({pool: size * GIB for pool, size in pools.items()}))


def test_what_was_taken_is_not_there_for_the_next():
    space = Space.of("host-b", pong())
    assert space.lack(need(5, fast=6)) is None
    space.take(need(5, fast=6))
    assert space.lack(need(3, fast=4)) is None
    assert "3GiB of memory left" in space.lack(need(4))
    assert "4GiB of space in pool fast left" in space.lack(need(1, fast=5))


def test_what_is_not_limited_is_never_short():
    space = Space.of("host-b", pong())
    assert space.lack(need(1, thin=10**6)) is None
    space.take(need(1, thin=10**6))
    assert space.lack(need(1, thin=10**6)) is None
    assert space.lack(need(1, unheard_of=10**6)) is None, "the peer itself said that it fits"


def test_the_quota_counts_for_all_pools_together():
    space = Space.of("host-b", pong(quota=9 * GIB, quota_used=2 * GIB))
    assert space.lack(need(1, fast=3, thin=4)) is None
    space.take(need(1, fast=3, thin=1))
    assert "3GiB of quota left" in space.lack(need(1, fast=2, thin=2))
    used_up = Space.of("host-b", pong(quota=1, quota_used=2))
    assert "0B of quota left" in used_up.lack(need(1, fast=1))
    assert used_up.lack(need(1)) is None


def test_only_volumes_that_are_to_be_made_need_space():
    volumes = [
        VolumeOffer(name, 4 * GIB, None, None, None, None, ImageFormat.RAW)
        for name in ("a", "b", "c")
    ]
    places = [Placement("fast", "a", True, True), Placement("fast", "b", False, False)]
    places.append(Placement("fast", "c", True, False))
    assert Need.of(GIB, volumes, places) == need(1, fast=8)


def test_the_peer_with_most_memory_left_is_tried_first():
    spaces = [Space("first", 2 * GIB), Space("second", 3 * GIB), Space("third", 2 * GIB)]
    assert [space.peer for space in by_room(spaces)] == ["second", "first", "third"]
    spaces[1].take(need(2))
    assert [space.peer for space in by_room(spaces)] == ["first", "third", "second"]
