"""When pre-copy ends: what the guest would have to wait for if it were suspended now.

A volume whose writes are tracked leaves what was written since the last round, and each round takes
less time than the one before unless the guest writes as fast as the network carries. A volume that
nothing can track has to be read in full again under suspension, whatever was done before: another
round only spares the sending of what the guest wrote so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from storage.contracts import Everything, Extent
from storage.extents import total
from xenmoved.sync.progress import RoundProgress

DISK_GOAL: Final = 0.1
"""Seconds of a blackout that go to disks, when the operator asks for nothing else."""

FIXED_COST: Final = 1.0
"""Seconds of a blackout that go to the toolstacks, whatever is moved."""

_SHRINKS: Final = 0.8
_SMALL_SHARE: Final = 0.1
_WORTH_MEASURING: Final = 4 * 2**20
_RATE_UNKNOWN: Final = 100 * 2**20
_LEAST_RATE: Final = 4 * 2**20
_LEAST_UNKNOWN: Final = 2**20
_LEAST_SEEN: Final = 2**18
"""Bytes a second below which it is not the link that counts, but a target that takes its time."""
_SLOWER: Final = 10
"""How many times slower a transfer may become than rounds have been."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the disks would cost a guest that is suspended now.

    `left` is the bytes that are known to be written and not sent, `seconds` the time for the last
    round, of which `floor` stays whatever further rounds send before.
    """

    left: int
    seconds: float
    floor: float


def outlook(
    pending: Sequence[tuple[list[Extent] | Everything, Sequence[RoundProgress]]], rate: float
) -> Outlook:
    """Look ahead, given what each volume has pending, its rounds, and bytes a second of them all.

    What an untracked volume has to send is taken to be what its last round sent.
    """
    left = 0
    floor = 0.0
    for written, rounds in pending:
        if isinstance(written, Everything):
            whole = [one.seconds for one in rounds if one.total == rounds[0].total]
            floor = max(floor, min(whole))
            left += rounds[-1].data_bytes
        else:
            left += total(written)
    return Outlook(left, floor + left / rate, floor)


def least_rate(done: Sequence[tuple[int, float]], limit: int | None) -> float:
    """Bytes a second that are slow, but not so slow that they are as good as none."""
    known = any(size >= _WORTH_MEASURING for size, _ in done)
    most = _LEAST_RATE if known else _LEAST_UNKNOWN
    seen = max(send_rate(done, None) / _SLOWER, _LEAST_SEEN)
    return min(most, seen, limit / _SLOWER if limit else most)


def send_rate(done: Sequence[tuple[int, float]], limit: int | None) -> float:
    """Bytes a second that rounds have reached, given the bytes and seconds of each."""
    reached = [size / max(seconds, 1e-3) for size, seconds in done if size >= _WORTH_MEASURING]
    return min(max(reached, default=_RATE_UNKNOWN), limit or float("inf"))


def another_round(outlooks: Sequence[Outlook], goal: float, max_rounds: int) -> bool:
    """Whether to run one more pre-copy round, given the outlook after each that was run.

    Not when the last one meets `goal` (seconds), and not when rounds no longer make it better.
    """
    last = outlooks[-1]
    if last.seconds <= goal or len(outlooks) >= max_rounds:
        return False
    if last.seconds - last.floor <= _SMALL_SHARE * last.seconds:
        return False
    return len(outlooks) == 1 or last.seconds <= _SHRINKS * outlooks[-2].seconds
