"""What may happen to a migration between real Xen hosts, at three points of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import guests, moving, storage
from tests.lab.disturbances import DISTURBANCES, disturb, mend
from tests.lab.guests import Guest
from tests.lab.pair import Pair, say

POINTS = {
    "pre-copy": "phase pre-copy",
    "suspended": "phase final-delta",
    "after the commit was sent": "-> commit-sent",
}

BY_DEFAULT = {("network cut", "suspended")}

TABLE: dict[tuple[str, str], str] = {}
_GUEST = pytest.StashKey[Guest]()


def _matrix() -> Iterator[Any]:
    """Yield every disturbance at every point; those that are not run by default are slow."""
    for what in DISTURBANCES:
        for point in POINTS:
            marks = [] if (what, point) in BY_DEFAULT else [pytest.mark.slow]
            yield pytest.param(what, point, id=f"{what}, {point}", marks=marks)


@pytest.fixture(scope="module", autouse=True)
def _table() -> Iterator[None]:
    """Show in the end what became of the guest."""
    yield
    say("what became of the guest:")
    for (what, point), how in TABLE.items():
        print(f"    {what:<14}  {point:<24}  {how}")


@pytest.fixture
def guest(untidied: Pair, request: pytest.FixtureRequest) -> Guest:
    """The small guest: that of the test before, wherever it ended, or a new one."""
    known: Guest | None = request.config.stash.get(_GUEST, None)
    if known is not None:
        return known
    untidied.tidy()
    guest = guests.small(untidied.a)
    guest.create(untidied.a)
    guest.await_writes(untidied.a, 0)
    request.config.stash[_GUEST] = guest
    return guest


@pytest.mark.parametrize(("what", "point"), list(_matrix()))
def test_one_owner_whatever_happens(
    untidied: Pair, guest: Guest, request: pytest.FixtureRequest, what: str, point: str
) -> None:
    pair = untidied
    del request.config.stash[_GUEST]  # until it is known to be well
    source = moving.owner(pair, guest)
    target = next(host for host in pair.hosts if host is not source)
    target.run(f"rm -f {storage.IMAGES}/small-data*")  # so that it takes space anew
    seq = guest.seq(source)
    reached = threading.Event()

    def watch() -> None:
        command = f"journalctl -u xenmoved -f -n 0 | grep -q -m 1 -e '{POINTS[point]}'"
        source.run(command, timeout=moving.PATIENCE)
        reached.set()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    begin = f"xenmovectl migrate {guest.name} {target.name} --mode save --overwrite --detach"
    source.run(f"sleep 2; {begin}")
    assert reached.wait(moving.PATIENCE), f"the migration did not come to {POINTS[point]}"
    disturb(pair, what, source, target)
    watcher.join(moving.PATIENCE)
    mend(pair, target)
    moving.await_settled(pair)
    if what == "target reset":
        moving.start_if_it_ended_with(target, pair, guest)
    owner = moving.owner(pair, guest)
    TABLE[(what, point)] = "moved" if owner is target else "stayed"
    guest.await_writes(owner, max(seq, guest.seq(owner)), verified=True)
    request.config.stash[_GUEST] = guest
