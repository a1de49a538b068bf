"""Counters of a copy, from which every view of it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

KEPT_ROUNDS: Final = 256
"""Rounds of a volume that are told apart: a guest that is held may go through any number."""


@dataclass(slots=True)
class RoundProgress:
    """One round of one volume. Counts are of blocks, sizes in bytes, times in seconds.

    `same` blocks were alike on both hosts, `diff` were sent, `zero` were zeros here and made zero
    there. `examined` is how far the source has come, out of `total`.
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

    def absorb(self, later: RoundProgress) -> None:
        """Add what a later round did."""
        for name in ("total", "examined", "same", "diff", "zero", "data_bytes", "zero_bytes"):
            setattr(self, name, getattr(self, name) + getattr(later, name))
        self.wire_bytes += later.wire_bytes
        self.seconds += later.seconds


@dataclass(slots=True)
class VolumeProgress:
    """One volume of a job, with its rounds in order."""

    name: str
    size: int
    target: str = ""
    fresh: bool = False
    rounds: list[RoundProgress] = field(default_factory=list)

    def add(self, one: RoundProgress) -> None:
        """Take in a round that begins. So many are kept; the second takes in what is dropped."""
        self.rounds.append(one)
        if len(self.rounds) > KEPT_ROUNDS:
            self.rounds[1].absorb(self.rounds.pop(2))
