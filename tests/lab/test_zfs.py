"""Guests whose disks are zvols on both hosts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab import guests, moving, storage
from tests.lab.guests import Guest
from tests.lab.host import Host
from tests.lab.pair import Pair, say
from tests.lab.test_moves import moves


def snapshots(host: Host, volume: str) -> dict[str, str]:
    """Names of a volume's snapshots by their guids."""
    dataset = f"{storage.ZVOLS}/{volume}"
    said = host.run(f"zfs list -H -p -t snapshot -d 1 -o guid,name {dataset}").stdout
    return dict(line.split("\t") for line in said.splitlines())


def assert_streamed(report: dict[str, Any], pair: Pair, guest: Guest) -> None:
    """Check that both disks went by zfs send, and that one snapshot, the same, is left of it."""
    assert all(volume["streamed"] for volume in report["volumes"]), report
    for disk in guest.disks:
        name = disk.partition(",")[0].rpartition("/")[2]
        a, b = pair.each(lambda host, name=name: snapshots(host, name))
        assert len(a) == 1
        assert a.keys() == b.keys()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["live", "save"])
def test_zvols_go_by_zfs_send_and_come_back_as_an_increment(pair: Pair, mode: str) -> None:
    guest = guests.on_zvols(pair.a)
    guest.create(pair.a)
    there = moves(pair.a, pair.b, guest, mode, guest.await_writes(pair.a, 0))
    assert_streamed(there, pair, guest)
    back = moves(pair.b, pair.a, guest, mode, guest.seq(pair.b))
    assert_streamed(back, pair, guest)
    say(f"{mode}: {moving.sent(there)} bytes there, {moving.sent(back)} back")
    guest.destroy(pair.a)
