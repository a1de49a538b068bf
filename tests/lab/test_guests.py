"""Guests of every kind, with disks of every kind, there and back."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from tests.lab import guests, matrix, moving
from tests.lab.guests import BACKENDS, Guest
from tests.lab.host import Host
from tests.lab.pair import Pair, say
from tests.lab.test_moves import moves

_ALWAYS: Final = {("hvm", "blkback")}
"""What is tried without being asked for: the others take hours."""


def _cells() -> list[Any]:
    return [
        pytest.param(
            kind,
            backend,
            id=f"{kind}-{backend}",
            marks=[] if (kind, backend) in _ALWAYS else [pytest.mark.slow],
        )
        for kind in guests.KINDS
        for backend in guests.BACKENDS
    ]


@pytest.mark.parametrize(("kind", "backend"), _cells())
def test_there_live_and_back_by_saving(pair: Pair, kind: str, backend: str) -> None:
    guest = guests.of_kind(pair.a, kind, backend)
    guest.create(pair.a)
    seq = guest.await_writes(pair.a, 0)
    say_plan(pair.a, guest)
    options = BACKENDS[backend].options
    with matrix.cell(kind, backend, "live") as notes:
        notes.append(moves(pair.a, pair.b, guest, f"live {options}", seq))
    with matrix.cell(kind, backend, "save") as notes:
        notes.append(moves(pair.b, pair.a, guest, f"save {options}", guest.seq(pair.b)))
    guest.destroy(pair.a)


@pytest.mark.slow
@pytest.mark.parametrize("backend", guests.BACKENDS)
@pytest.mark.parametrize("kind", guests.KINDS)
def test_one_that_is_off_there_and_back(pair: Pair, kind: str, backend: str) -> None:
    guest = guests.of_kind(pair.a, kind, backend)
    guest.create(pair.a)
    seq = guest.await_writes(pair.a, 0)
    guest.destroy(pair.a)
    with matrix.cell(kind, backend, "cold") as notes:
        for source, target in ((pair.a, pair.b), (pair.b, pair.a)):
            options = f"--mode cold --verify {BACKENDS[backend].options}"
            notes.append(moving.migrate(source, target, guest, options))
        pair.a.run(f"xl create -q {guest.config}")
        guest.await_writes(pair.a, seq, verified=True)
    guest.destroy(pair.a)


def say_plan(host: Host, guest: Guest) -> None:
    """Print who serves the disks, and how writes to them are followed."""
    plan = json.loads(host.run(f"xenmovectl --json plan {guest.name} host-b").stdout)
    for volume in plan["volumes"]:
        say(f"{guest.name}: {json.dumps(volume)}")
