"""Guests that move between real Xen hosts."""

from __future__ import annotations

from tests.lab import guests
from tests.lab.pair import Pair, say


def test_daemons_serve_each_other(pair: Pair) -> None:
    for host, peer in ((pair.a, "host-b"), (pair.b, "host-a")):
        assert host.run("systemctl is-active xenmoved.service").stdout.strip() == "active"
        assert "answers" in host.run(f"xenmovectl peer ping {peer}").stdout


def test_small_guest_moves_there_and_back(pair: Pair) -> None:
    guest = guests.small(pair.a)
    guest.create(pair.a)
    seq = guest.await_writes(pair.a, 0)
    for source, target in ((pair.a, pair.b), (pair.b, pair.a)):
        say(f"{guest.name} moves to {target.name} at seq {seq}")
        command = f"xenmovectl migrate {guest.name} {target.name} --overwrite"
        said = source.run(command, timeout=1200).stdout
        say(said[said.rindex(f"{guest.name} moved to") :])
        assert guest.runs_on(target)
        assert not guest.runs_on(source)
        there = guest.await_writes(target, seq)
        guest.await_writes(target, there, verified=True)
        last = guest.seq(source)
        assert last <= there
        seq = guest.seq(target)
