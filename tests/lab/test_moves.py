"""Guests that move between real Xen hosts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab import guests, moving, storage
from tests.lab.guests import Guest
from tests.lab.host import Host
from tests.lab.pair import Pair


def test_daemons_serve_each_other(pair: Pair) -> None:
    for host, peer in ((pair.a, "host-b"), (pair.b, "host-a")):
        assert host.run("systemctl is-active xenmoved.service").stdout.strip() == "active"
        assert "answers" in host.run(f"xenmovectl peer ping {peer}").stdout


def moves(source: Host, target: Host, guest: Guest, mode: str, seq: int) -> dict[str, Any]:
    """Move a guest that is at `seq`, and check everything. Its first disk has a file system."""
    report = moving.migrate(source, target, guest, f"--mode {mode} --verify")
    moving.assert_moved(source, target, guest)
    moving.assert_verified(report)
    # What stayed behind is what the guest had when it was suspended.
    moving.assert_clean_file_system(source, device_of(guest))
    there = guest.await_writes(target, seq)
    guest.await_writes(target, there, verified=True)
    assert guest.seq(source) <= there, "it went on in two places"
    return report


def device_of(guest: Guest) -> str:
    """Return the path of a guest's first disk, which is a device."""
    return guest.paths[0]


def assert_cache_is_stale(host: Host, guest: Guest) -> None:
    """Show that dom0's page cache does not learn what the guest writes to its device."""

    def digest(*flags: str) -> str:
        command = f"dd if={device_of(guest)} bs=1M {' '.join(flags)} status=none | md5sum"
        return host.run(command).stdout

    cached = digest()
    guest.await_writes(host, guest.seq(host) + 100)
    assert digest() == cached, "a buffered read sees what blkback wrote: this shows nothing"
    assert digest("iflag=direct") != cached


def test_small_guest_moves_live_and_back(pair: Pair) -> None:
    guest = guests.small(pair.a)
    guest.create(pair.a, autostart=True)
    moves(pair.a, pair.b, guest, "live", guest.await_writes(pair.a, 0))
    assert "small.cfg" not in pair.a.run("ls /etc/xen/auto").stdout
    assert "small.cfg" in pair.b.run("ls /etc/xen/auto").stdout
    back = moves(pair.b, pair.a, guest, "live", guest.seq(pair.b))
    assert not any(volume["fresh"] for volume in back["volumes"])
    assert "small.cfg" in pair.a.run("ls /etc/xen/auto").stdout
    guest.destroy(pair.a)


@pytest.mark.slow
def test_small_guest_moves_by_saving_where_page_caches_are_stale(pair: Pair) -> None:
    guest = guests.small(pair.a)
    guest.create(pair.a)
    moves(pair.a, pair.b, guest, "save", guest.await_writes(pair.a, 0))
    assert_cache_is_stale(pair.b, guest)
    moves(pair.b, pair.a, guest, "save", guest.seq(pair.b))
    guest.destroy(pair.a)


@pytest.mark.slow
def test_debian_on_a_logical_volume(pair: Pair) -> None:
    guest = guests.debian(pair.a)
    pair.b.run(f"blkdiscard -z {device_of(guest)}")
    guest.create(pair.a)
    there = moves(pair.a, pair.b, guest, "save", guest.await_writes(pair.a, 0))
    back = moves(pair.b, pair.a, guest, "save", guest.seq(pair.b))
    assert moving.sent(back) < moving.sent(there) / 3, "the way back sends only what differs"
    guest.destroy(pair.a)


@pytest.mark.slow
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
