"""Migrations between real Xen hosts that are disturbed at random moments."""

from __future__ import annotations

import random
import time

import pytest

from tests.lab import guests, moving
from tests.lab.disturbances import disturb, mend
from tests.lab.pair import Pair, say

MIGRATIONS = 10
LONGEST = 60.0
"""Seconds: most of a migration, which is most often what is disturbed."""


@pytest.mark.slow
def test_one_owner_whenever_it_happens(pair: Pair) -> None:
    seed = random.randrange(2**32)
    say(f"the seed is {seed}")
    rng = random.Random(seed)
    guest = guests.small(pair.a)
    guest.create(pair.a)
    seq = guest.await_writes(pair.a, 0)
    for number in range(MIGRATIONS):
        source = moving.owner(pair, guest)
        target = next(host for host in pair.hosts if host is not source)
        what = rng.choice(("source killed", "target killed", "network cut"))
        mode = ("live", "save")[number % 2]
        begin = f"xenmovectl migrate {guest.name} {target.name} --mode {mode} --overwrite --detach"
        source.run(begin)
        moment = rng.uniform(0, LONGEST)
        time.sleep(moment)
        disturb(pair, what, source, target)
        time.sleep(rng.uniform(0, 10))
        mend(pair, target)
        moving.await_settled(pair)
        owner = moving.owner(pair, guest)
        how = "moved" if owner is target else "stayed"
        say(f"{number + 1}: {mode}, {what} after {moment:.0f} s: {guest.name} {how}")
        seq = guest.await_writes(owner, max(seq, guest.seq(owner)), verified=True)
