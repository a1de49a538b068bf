"""Guests that move between real Xen hosts."""

from __future__ import annotations

import pytest

from tests.lab import guests, moving, storage
from tests.lab.guests import Guest
from tests.lab.pair import Pair


def test_daemons_serve_each_other(pair: Pair) -> None:
    for host, peer in ((pair.a, "host-b"), (pair.b, "host-a")):
        assert host.run("systemctl is-active xenmoved.service").stdout.strip() == "active"
        assert "answers" in host.run(f"xenmovectl peer ping {peer}").stdout


def there_and_back(pair: Pair, guest: Guest, mode: str) -> list[int]:
    """Move a guest twice, and check everything on the way. Its first disk has a file system.

    Returns the bytes that were sent of its disks, on each way.
    """
    seq = guest.await_writes(pair.a, 0)
    trips = [(pair.a, pair.b), (pair.b, pair.a)]
    reports = []
    for source, target in trips:
        reports.append(moving.migrate(source, target, guest, f"--mode {mode} --verify"))
        moving.assert_moved(source, target, guest)
        moving.assert_verified(reports[-1])
        # What stayed behind is what the guest had when it was suspended.
        moving.assert_clean_file_system(source, guest.disks[0].split(":")[-1].split(",")[0])
        there = guest.await_writes(target, seq)
        guest.await_writes(target, there, verified=True)
        assert guest.seq(source) <= there, "it went on in two places"
        seq = guest.seq(target)
    assert not any(volume["fresh"] for volume in reports[1]["volumes"])
    return [one["wire_bytes"] - one["memory_sent"] for one in reports]


@pytest.mark.parametrize("mode", ["save", "live"])
def test_small_guest_with_two_kinds_of_disks(pair: Pair, mode: str) -> None:
    guest = guests.small(pair.a)
    guest.create(pair.a, autostart=True)
    there_and_back(pair, guest, mode)
    assert "small.cfg" in pair.a.run("ls /etc/xen/auto").stdout
    assert "small.cfg" not in pair.b.run("ls /etc/xen/auto").stdout
    guest.destroy(pair.a)


def test_debian_on_a_logical_volume(pair: Pair) -> None:
    guest = guests.debian(pair.a)
    guest.create(pair.a)
    first, back = there_and_back(pair, guest, "save")
    assert back < first / 3, "the way back sends only what differs"
    guest.destroy(pair.a)


def test_a_buffered_read_would_have_missed_what_the_guest_wrote(pair: Pair) -> None:
    guest = guests.small(pair.a)
    guest.create(pair.a)
    device = f"/dev/{storage.GROUP}/small-root"
    moving.migrate(pair.a, pair.b, guest, "--mode save")
    seq = guest.await_writes(pair.b, 0)

    def digests(*flags: str) -> str:
        return pair.b.run(f"dd if={device} bs=1M {' '.join(flags)} status=none | md5sum").stdout

    cached = digests()
    guest.await_writes(pair.b, seq + 100)
    assert digests() == cached, "the page cache does not know what blkback wrote"
    assert digests("iflag=direct") != cached
    seq = guest.seq(pair.b)

    moving.migrate(pair.b, pair.a, guest, "--mode save --verify")
    there = guest.await_writes(pair.a, seq)
    guest.await_writes(pair.a, there, verified=True)
    guest.destroy(pair.a)


def test_disks_and_bridges_of_other_names(pair: Pair) -> None:
    guest = guests.small(pair.a)
    guest.create(pair.a)
    moving.use_other_names(pair.b)
    try:
        moving.migrate(pair.a, pair.b, guest)
        described = pair.b.run(f"xl list -l {guest.name}").stdout
        assert f"/dev/{storage.GROUP}/{moving.OTHER_VOLUME}" in described
        assert f'"bridge": "{moving.OTHER_BRIDGE}"' in described
        config = pair.b.read(guest.config)
        assert moving.OTHER_VOLUME in config and f"bridge={moving.OTHER_BRIDGE}" in config
        guest.await_writes(pair.b, guest.seq(pair.a), verified=True)
    finally:
        guest.destroy(pair.b)
        moving.use_usual_names(pair.b)
