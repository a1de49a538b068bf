"""Counters of a copy, from which every view of it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from protocol.messages import BLOCK_SIZE

KEPT_ROUNDS: Final = 64
"""Rounds of a volume that are told apart: a guest that is held may go through any number.

All rounds of 64 volumes have to fit into one message of the control socket.
"""
_SUMS: Final = (
    *("total", "examined", "same", "diff", "zero"),
    *("data_bytes", "zero_bytes", "wire_bytes", "seconds"),
)


@dataclass(slots=True)
class RoundProgress:
    """One round of one volume. Counts are of blocks, sizes in bytes, times in seconds.

    `same` blocks were alike on both hosts, `diff` were sent, `zero` were zeros here and made zero
    there. `examined` is how far the source has come, out of `total`; the target knows it from what
    has arrived, and what was alike only when the round has ended. `started` is by the monotonic
    clock, as is `latest`: when the last of those began that it stands for. A round to `verify` only
    compares.
    """

    number: int
    total: int
    examined: int = 0
    same: int = 0
    diff: int = 0
    zero: int = 0
    data_bytes: int = 0
    zero_bytes: int = 0
    wire_bytes: int = 0
    seconds: float = 0.0
    verify: bool = False
    started: float = field(default_factory=monotonic)
    latest: float = 0.0

    def __post_init__(self) -> None:
        self.latest = max(self.latest, self.started)

    def streamed(self, length: int) -> None:
        """Count a piece of a stream, whose end nobody knows before it is there."""
        self.data_bytes += length
        self.examined = self.data_bytes
        self.total = max(self.total, self.examined)
        self.seconds = monotonic() - self.started

    def stream_ended(self) -> None:
        """Count a stream as complete."""
        self.total = self.examined
        self.seconds = monotonic() - self.started

    def arrived(self, data_bytes: int, zero_bytes: int, reached: int) -> None:
        """Count what has come to the target; the source is known to have `reached` that offset."""
        self.data_bytes, self.zero_bytes = data_bytes, zero_bytes
        self.diff, self.zero = _blocks(data_bytes), _blocks(zero_bytes)
        self.examined = min(max(self.examined, reached), self.total)
        self.seconds = monotonic() - self.started

    def arrived_whole(self) -> None:
        """Count what did not come in a round that has ended as alike on both hosts."""
        self.examined = self.total
        self.same = max(0, _blocks(self.total) - self.diff - self.zero)
        self.seconds = monotonic() - self.started

    def absorb(self, later: RoundProgress) -> None:
        """Add what a later round did."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(later, name))
        self.latest = later.latest


@dataclass(slots=True)
class VolumeProgress:
    """One volume of a job, with its rounds in order.

    A `streamed` one goes as streams that its storage makes, in all rounds but those that verify:
    what such a round examines is the bytes of the stream. `fallbacks` is how often its tracker
    could not tell what was written, so that all of it has to be read.
    """

    name: str
    size: int
    target: str = ""
    fresh: bool = False
    rounds: list[RoundProgress] = field(default_factory=list)
    streamed: bool = False
    fallbacks: int = 0

    @property
    def next_number(self) -> int:
        """Number of the round that begins next."""
        return self.rounds[-1].number + 1 if self.rounds else 1

    def add(self, one: RoundProgress) -> None:
        """Take in a round that begins. So many are kept; the second takes in what is dropped."""
        self.rounds.append(one)
        if len(self.rounds) > KEPT_ROUNDS:
            self.rounds[1].absorb(self.rounds.pop(2))


def _blocks(length: int) -> int:
    return -(-length // BLOCK_SIZE)
