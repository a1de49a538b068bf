"""Releases that work together: everything that two hosts do, in both directions."""

import json

import pytest

from protocol.messages import EQUAL, OLDEST, RESTARTS_SINCE, VERSION
from tests.support.crash import DISKS, GUEST
from tests.support.releases import NEXT, PRESENT, earlier_releases
from xenmoved.sandbox.harness import make_image

SPOKEN = {one.name: one.version for one in earlier_releases() if one.version >= OLDEST}
OTHERS = (*SPOKEN, NEXT)


def ping(host, peer):
    """Return what a host is told by a peer."""
    told = host.done("peer", "ping", peer.name, "--json")
    return json.loads(told.splitlines()[-1])


def pings(world, newest):
    """Ping both ways; each says the newest version that it speaks."""
    for host, peer in (world.pair, reversed(world.pair)):
        told = ping(host, peer)
        assert told["node"] == peer.name
        # Releases that speak no later version than that know no other word for the newest one.
        most = EQUAL if newest[host.name] <= EQUAL else newest[peer.name]
        assert told["protocol_version"] == min(newest[peer.name], most)
        spoken = told.get("spoken_version")  # which not every release told
        assert spoken in (None, min(newest.values()))


def test_two_releases_move_a_guest(world_of):
    """The sample of what is below, with the release that says most: the next one."""
    world = world_of(NEXT, PRESENT)
    assert ping(*world.pair)["spoken_version"] == VERSION
    world.move("save")


@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.parametrize("other", OTHERS)
def test_everything_that_two_hosts_do(world_of, other):
    world = world_of(other, PRESENT)
    one, present = world.pair
    pings(world, {"host-a": SPOKEN.get(other, VERSION + 1), "host-b": VERSION})
    for mode in ("live", "save"):
        for host, peer in (world.pair, tuple(reversed(world.pair))):
            assert "no problems" in host.done("plan", GUEST, peer.name, "--mode", mode)
            world.move(mode)
    world.move_cold()
    world.move_cold()
    for host, peer in (world.pair, tuple(reversed(world.pair))):
        assert "1 guest" in host.done("evacuate", peer.name, "--dry-run")
        host.done("evacuate", peer.name)
        world.wait_quiet()
        assert world.owner() is peer
    assert world.owner() is one
    for host, peer in (world.pair, tuple(reversed(world.pair))):
        name = f"of-{host.name}"
        image = make_image(host.images / name, 2)
        image.write_bytes(host.name.encode() * 100_000)
        host.done("sync", f"images:{name}", peer.name)
        assert (peer.images / name).read_bytes().startswith(image.read_bytes())
    assert "unexpected" not in present.log() + one.log()


@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.parametrize("other", OTHERS)
def test_hosts_are_upgraded_one_after_the_other(world_of, other):
    """While the guest goes on moving, in whatever pairing the two are."""
    old, new = (PRESENT, NEXT) if other == NEXT else (other, PRESENT)
    world = world_of(old, old)
    world.move("save")
    world.pair[1].restart(new)
    world.move("live")
    world.move("live")
    world.pair[0].restart(new)
    world.move("save")
    assert [host.release for host in world.pair] == [new, new]


def test_a_release_that_would_overlook_that_a_guest_is_to_be_started_is_not_asked(world_of):
    """It would take the guest for one that is off, and leave it so."""
    old = next(name for name, version in SPOKEN.items() if version < RESTARTS_SINCE)
    world = world_of(old, PRESENT)
    world.move("save")
    one, present = world.pair
    refused = present.ctl("migrate", GUEST, one.name, "--mode", "restart", "--json")
    (failure,) = (json.loads(line) for line in refused.stdout.splitlines()[-1:])
    (found,) = failure["problems"]
    assert found["code"] == "peer-too-old"
    assert "--mode cold" in found["hint"]
    assert world.owner() is present


@pytest.mark.thorough
@pytest.mark.parametrize("other", SPOKEN)
def test_a_release_that_knows_of_no_formats_is_asked_for_none(world_of, other):
    """Nor is it asked without a word for something else; and what it sends may lie in any."""
    world = world_of(PRESENT, other)
    present, old = world.pair
    wish = ("--volume", f"{DISKS[0]}=x.qcow2", "--mode", "save")
    refused = present.ctl("plan", GUEST, old.name, *wish)
    assert "whose release knows nothing of that" in refused.stdout
    assert "no problems" in present.done("plan", GUEST, old.name, "--mode", "save")
