"""The course of a job: when it came to each phase, and how much it had sent by when.

All moments are in seconds since the job began, by a clock that nobody sets, so that no part of a
course can end before it begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from xenmoved.jobs.report import Phase, PhaseReport, RoundReport, Sample, Stretch
from xenmoved.sync.progress import RoundProgress, VolumeProgress

FIRST_INTERVAL: Final = 0.1
"""Seconds between samples while a job is young."""
MOST_SAMPLES: Final = 401
"""With so many samples every second one is dropped, and further ones are as far apart as those."""

_SHORTEST_PART: Final = 0.001


class Samples:
    """What a job had sent at some moments: evenly over its life, however long that gets."""

    def __init__(self, kept: Iterable[Sample] = ()) -> None:
        self._kept = list(kept)
        self._interval = FIRST_INTERVAL

    @property
    def kept(self) -> tuple[Sample, ...]:
        """The samples in the order of time."""
        return tuple(self._kept)

    def due(self, at: float) -> bool:
        """Whether the last sample is long ago."""
        return not self._kept or at - self._kept[-1].at >= self._interval

    def add(self, sample: Sample) -> None:
        """Take a sample that is later than all others."""
        self._kept.append(sample)
        if len(self._kept) >= MOST_SAMPLES:
            self._kept = self._kept[::2]
            self._interval = (sample.at - self._kept[0].at) / (len(self._kept) - 1)


def sample(at: float, volumes: Sequence[VolumeProgress], memory: int, *, sends: bool) -> Sample:
    """Return how much was sent by now; what is left is known only to the host that `sends`."""
    disks = sum(one.wire_bytes for volume in volumes for one in volume.rounds)
    left = sum(_left(volume) for volume in volumes) if sends else None
    return Sample(at, disks, memory, left)


def round_reports(volume: VolumeProgress, began: float) -> tuple[RoundReport, ...]:
    """Return the rounds of a volume; `began` is the moment (monotonic) at which the job did."""
    reports: list[RoundReport] = []
    before: float | None = None
    for one in volume.rounds:
        dirty = _dirty(one, volume.size)
        reports.append(
            RoundReport(
                number=one.number,
                total=one.total,
                examined=one.examined,
                same=one.same,
                diff=one.diff,
                zero=one.zero,
                data_bytes=one.data_bytes,
                zero_bytes=one.zero_bytes,
                wire_bytes=one.wire_bytes,
                seconds=one.seconds,
                at=max(0.0, one.started - began),
                verify=one.verify,
                dirty=dirty,
                dirty_rate=None
                if before is None or one.verify or one.latest <= before
                else dirty / (one.latest - before),
            )
        )
        before = one.latest
    return tuple(reports)


def blackout_parts(
    suspended: float, blackout: float, phases: Sequence[PhaseReport], rounds: Sequence[RoundReport]
) -> tuple[Stretch, ...]:
    """Return what a blackout was spent on, one thing after the other; together they are all of it.

    What took next to no time counts as part of what came after it. `rounds` are those of all
    volumes.
    """
    entered = {each.phase: each.at for each in phases}
    end = suspended + blackout
    last = [one for one in rounds if one.at + one.seconds > suspended]
    copied = max((one.at + one.seconds for one in last if not one.verify), default=suspended)
    verified = max((one.at + one.seconds for one in last if one.verify), default=copied)
    ready = entered.get(Phase.READY, end)
    shut = entered.get(Phase.FINAL_DELTA, ready) if Phase.SHUTDOWN in entered else suspended
    rest = "last looks at the disks" if Phase.SHUTDOWN in entered else "rest of the memory"
    bounds = [
        ("shutdown of the guest", shut),
        ("last changes of the disks", min(copied, ready)),
        ("verification", min(verified, ready)),
        (rest, ready),
        ("flush and build", entered.get(Phase.COMMIT, ready)),
    ]
    parts, at = [], suspended
    for what, until in bounds:
        here = min(until, end)
        if here - at >= _SHORTEST_PART:
            parts.append(Stretch(what, at, here - at))
            at = here
    return (*parts, Stretch("commit and start", at, max(0.0, end - at)))


def _left(volume: VolumeProgress) -> int:
    if not volume.rounds:
        return volume.size
    return max(0, volume.rounds[-1].total - volume.rounds[-1].examined)


def _dirty(one: RoundProgress, size: int) -> int:
    """Bytes that a round found to be written since the one before.

    Where nothing tracks writes, every round examines all of the volume, and what it finds to differ
    is what was written.
    """
    return one.total if one.total < size else one.data_bytes + one.zero_bytes
