"""Guests with disks of every kind, from every kind to every other."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from tests.lab import guests, moving, storage
from tests.lab.guests import Guest
from tests.lab.host import Host
from tests.lab.pair import Pair, say
from tests.lab.test_moves import moves

_MIB: Final = 1 << 20
_SLACK: Final = 2 * _MIB
"""What a volume may take beyond what its data did where it was: metadata, and larger units."""


def snapshots(host: Host, volume: str) -> dict[str, str]:
    """Names of a volume's snapshots by their guids."""
    dataset = f"{storage.ZVOLS}/{volume}"
    said = host.run(f"zfs list -H -p -t snapshot -d 1 -o guid,name {dataset}").stdout
    return dict(line.split("\t") for line in said.splitlines())


def assert_streamed(report: dict[str, Any], pair: Pair, guest: Guest) -> None:
    """Check that both disks went by zfs send, and that one snapshot, the same, is left of it."""
    assert all(volume["streamed"] for volume in report["volumes"]), report
    for name in guest.volumes:
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


@pytest.mark.slow
def test_from_every_kind_to_every_kind(pair: Pair) -> None:
    """One guest with a disk of each kind; each goes to the next kind, the one after it, and so on.

    With every move the volumes at the source are removed, so that all of them are made anew.
    """
    guest = guests.on_all_kinds(pair.a)
    guest.create(pair.a)
    guest.await_writes(pair.a, 0)
    source, target, kinds = pair.a, pair.b, storage.KINDS
    rows: list[str] = []
    for mode in ("live", "save"):
        for turn in range(len(storage.KINDS)):
            pools = dict(
                zip(storage.KINDS, storage.KINDS[turn:] + storage.KINDS[:turn], strict=True)
            )
            seq, before = guest.seq(source), sizes(source, guest, kinds)
            options = " ".join(f"--pool {here}={there}" for here, there in pools.items())
            moving.migrate(source, target, guest, f"--mode {mode} --remove-source {options}")
            moving.assert_moved(source, target, guest)
            guest.await_writes(target, guest.await_writes(target, seq), verified=True)
            arrived = tuple(pools[kind] for kind in kinds)
            after = sizes(target, guest, arrived)
            for here, there, was, now in zip(kinds, arrived, before, after, strict=True):
                rows.append(f"{here:7} {there:7} {mode:5} {was / _MIB:7.1f} {now / _MIB:7.1f}")
                if there != "plain":
                    assert now <= (32 * _MIB if here == "plain" else was + _SLACK), rows
            assert storage_is_empty(source, guest), "the source removed its volumes"
            source, target, kinds = target, source, arrived
    print("\nfrom    to      mode  MiB: before   after\n" + "\n".join(rows))
    guest.destroy(source)


def sizes(host: Host, guest: Guest, kinds: tuple[str, ...]) -> list[int]:
    """Return the bytes that each disk of a guest takes on a host, where each is of its kind."""
    return [storage.allocated(host, *one) for one in zip(kinds, guest.volumes, strict=True)]


def storage_is_empty(host: Host, guest: Guest) -> bool:
    """Whether a host has no volume of a guest."""
    listed = f"ls {storage.IMAGES}; lvs --noheadings {storage.GROUP}; zfs list -r {storage.ZVOLS}"
    return f"{guest.name}-" not in host.run(listed).stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", storage.KINDS)
def test_again_after_a_hundredth_of_4_gib_changed(pair: Pair, kind: str) -> None:
    size, name = 4096, "kinds-large"
    path = storage.make(pair.a, kind, name, size)
    # A sixteenth is data; every sixth MiB of it is changed then, 40 of them.
    pair.a.run(f"dd if=/dev/urandom of={path} bs=1M count=256 conv=notrunc,fsync", timeout=600)
    sync(pair.a, pair.b, path, kind)
    there = storage.path_of(kind, name)
    change = "dd if=/dev/urandom of={} bs=1M count=1 seek=$((6 * i)) conv=notrunc oflag=direct"
    pair.a.run(f"for i in $(seq 0 39); do {change.format(path)} status=none; done", timeout=600)
    again = sync(pair.a, pair.b, path, kind)
    say(f"{kind}: {again['wire_bytes'] / _MIB:.1f} MiB sent for 40 MiB of 4 GiB")
    assert 40 * _MIB <= again["wire_bytes"] < size * _MIB / 50
    first, second = digest(pair.a, path), digest(pair.b, there)
    assert first == second


def sync(source: Host, target: Host, path: str, kind: str) -> dict[str, Any]:
    """Send a volume to the pool of its kind, and return the record of the job."""
    command = f"xenmovectl --json sync {path} {target.name} --pool {kind} --overwrite"
    said = source.run(command, timeout=2400).stdout
    report: dict[str, Any] = json.loads(said.splitlines()[-1])
    return report


def digest(host: Host, path: str) -> str:
    """Return a hash of what a volume holds, past the page cache."""
    return host.run(f"dd if={path} bs=4M iflag=direct status=none | md5sum", timeout=1200).stdout
