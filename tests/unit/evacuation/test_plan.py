"""Which guest fits on which peer, when several are to go."""

from collections import Counter

from protocol.messages import Placement, Pong, Room
from xenmoved.evacuation.plan import Need, Space, by_room

GIB = 2**30


def pong(**changes):
    fields = {
        **{"toolstack": "xl", "xen_version": "4.17", "actions": (), "guests": ("*",)},
        **{"pools": ("fast", "thin"), "quota": None, "quota_used": 0, "free_memory": 8 * GIB},
        **{"memory": None, "vcpus": None},
        "room": (Room("fast", 10 * GIB), Room("thin", None)),
    }
    return Pong(**fields | changes)


def need(memory=1, **pools):
    sizes = Counter({pool: size * GIB for pool, size in pools.items()})
    return Need(memory * GIB, sizes, quota=sizes.total())


def test_what_was_taken_is_not_there_for_the_next():
    space = Space.of("host-b", pong())
    assert space.lack(need(5, fast=6)) is None
    space.take(need(5, fast=6), "web")
    assert space.lack(need(3, fast=4)) is None
    assert "3GiB of memory left" in space.lack(need(4)).text
    assert "4GiB of space in pool fast left" in space.lack(need(1, fast=5)).text


def test_what_is_not_limited_is_never_short():
    space = Space.of("host-b", pong())
    assert space.lack(need(1, thin=10**6)) is None
    space.take(need(1, thin=10**6), "web")
    assert space.lack(need(1, thin=10**6)) is None
    assert space.lack(need(1, unheard_of=10**6)) is None, "the peer itself said that it fits"


def test_the_quota_counts_for_all_pools_together():
    space = Space.of("host-b", pong(quota=9 * GIB, quota_used=2 * GIB))
    assert space.lack(need(1, fast=3, thin=4)) is None
    space.take(need(1, fast=3, thin=1), "web")
    assert "3GiB of quota left" in space.lack(need(1, fast=2, thin=2)).text
    used_up = Space.of("host-b", pong(quota=1, quota_used=2))
    assert "0B of quota left" in used_up.lack(need(1, fast=1)).text
    assert used_up.lack(need(1)) is None


def test_only_volumes_that_are_to_be_made_need_space():
    made = {"a": True, "b": False, "c": True}
    places = [Placement("fast", name, fresh, True, 4 * GIB) for name, fresh in made.items()]
    found = Need.of(GIB, places)
    assert (found.memory, found.pools) == (GIB, Counter(fast=8 * GIB))
    assert found.quota == 8 * GIB


def test_the_smallest_volumes_count_for_the_quota():
    found = Need.of(GIB, [Placement("fast", name, True, True, 1) for name in "abc"])
    assert found.quota == 3 << 20
    assert Space.of("host-b", pong(quota=(3 << 20) - 1)).lack(found) is not None
    assert Space.of("host-b", pong(quota=3 << 20)).lack(found) is None


def test_two_guests_do_not_have_one_volume():
    space = Space.of("host-b", pong())
    first = Need.of(0, [Placement("fast", "root", True, True, 1)])
    space.take(first, "web")
    for taken in (
        Placement("fast", "root", True, True, 1),
        Placement("fast", "root", False, False, 1),
    ):
        lack = space.lack(Need.of(0, [Placement("thin", "root", True, True, 1), taken]))
        assert lack is not None and lack.code == "volume-name"
        assert "two volumes fast:root: web has one" in lack.text
    assert space.lack(Need.of(0, [Placement("thin", "root", True, True, 1)])) is None
    assert Space.of("host-c", pong()).lack(first) is None


def test_the_peer_with_most_memory_left_is_tried_first():
    spaces = [Space("first", 2 * GIB), Space("second", 3 * GIB), Space("third", 2 * GIB)]
    assert [space.peer for space in by_room(spaces)] == ["second", "first", "third"]
    spaces[1].take(need(2), "web")
    assert [space.peer for space in by_room(spaces)] == ["first", "third", "second"]
