"""The course of a job, worked out from its report: what its views show as numbers and as plots.

Moments are in seconds since the job began.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from xenmoved.jobs.report import JobReport, Phase, RoundReport

_MOST_BINS: Final = 96
_SHORTEST_BIN: Final = 0.1
"""Seconds: samples are not closer to one another."""


@dataclass(frozen=True, slots=True)
class PhaseSpan:
    """For how long a job was in a phase."""

    phase: Phase
    at: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Bin:
    """Bytes a second on the wire, on average over a short while."""

    at: float
    seconds: float
    disks: float
    memory: float


@dataclass(frozen=True, slots=True)
class JointRound:
    """Rounds of several volumes that ran together. `final`: while the guest stood still."""

    number: int
    at: float
    seconds: float
    total: int
    examined: int
    dirty: int
    dirty_rate: float | None
    wire_bytes: int
    final: bool

    @property
    def end(self) -> float:
        """When the last volume was through."""
        return self.at + self.seconds


def length(report: JobReport, now: float) -> float:
    """Return for how many seconds the job has been running, or was."""
    return max(0.0, (now if report.ended is None else report.ended) - report.started)


def phases(report: JobReport, now: float) -> list[PhaseSpan]:
    """Return the phases that the job went through; none when it was kept by an early release."""
    ends = [*(one.at for one in report.phases[1:]), length(report, now)]
    return [
        PhaseSpan(one.phase, one.at, max(0.0, end - one.at))
        for one, end in zip(report.phases, ends, strict=False)
    ]


def throughput(report: JobReport) -> list[Bin]:
    """Return what was sent over time, in even steps; nothing without samples."""
    samples = report.samples
    end = samples[-1].at if samples else 0.0
    if end <= 0:
        return []
    count = max(1, min(_MOST_BINS, int(end / _SHORTEST_BIN)))
    width = end / count
    moments = [0.0, *(one.at for one in samples)]
    disks = [0, *(one.disks for one in samples)]
    memory = [0, *(one.memory for one in samples)]
    bins = []
    for number in range(count):
        at, until = number * width, (number + 1) * width
        rates = [
            (_at(moments, values, until) - _at(moments, values, at)) / width
            for values in (disks, memory)
        ]
        bins.append(Bin(at, width, *rates))
    return bins


def peak(report: JobReport) -> float | None:
    """Return the highest throughput in bytes a second, None without samples."""
    return max((one.disks + one.memory for one in throughput(report)), default=None)


def rounds(report: JobReport) -> list[JointRound]:
    """Return the rounds that copy, those of all volumes together, in the order of time.

    A volume has no round while nothing is written to it, so their own numbers tell nothing.
    """
    return _together(report, verify=False)


def _together(report: JobReport, *, verify: bool) -> list[JointRound]:
    every = [
        (one, index)
        for index, volume in enumerate(report.volumes)
        for one in volume.rounds
        if one.verify is verify
    ]
    groups: list[dict[int, RoundReport]] = []
    for one, index in sorted(every, key=lambda each: each[0].at):
        current = groups[-1] if groups else {}
        same_side = all(
            _is_final(one, report.suspended) == _is_final(other, report.suspended)
            for other in current.values()
        )
        overlaps = any(one.at < other.at + other.seconds for other in current.values())
        if index in current or not same_side or not overlaps:
            groups.append({})
        groups[-1][index] = one
    return [
        _joint(number, list(group.values()), report.suspended)
        for number, group in enumerate(groups, 1)
    ]


def left(report: JobReport) -> list[tuple[float, float]]:
    """Return how many bytes the rounds that were going on had still to examine, as a polyline.

    A round begins at once with everything that it is to examine. That is shown as exactly as its
    time is known, and its end too, unless a round of another volume goes on then.
    """
    together = [*rounds(report), *_together(report, verify=True)]
    points = [
        (one.at, float(one.left))
        for one in report.samples
        if one.left is not None and together and one.at >= together[0].at
    ]
    if not points:
        return []
    for index, one in enumerate(together):
        if index == 0 or together[index - 1].end <= one.at:
            points = _with(points, one.at, 0.0, float(one.total))
        if index == len(together) - 1 or together[index + 1].at >= one.end:
            points = _with(points, one.end, float(one.total - one.examined))
    return points


def _with(
    points: list[tuple[float, float]], at: float, *values: float
) -> list[tuple[float, float]]:
    """Return a polyline that has these values at a moment, in place of what it had there."""
    before = [point for point in points if point[0] < at]
    after = [point for point in points if point[0] > at]
    return [*before, *((at, value) for value in values), *after]


def _at(moments: Sequence[float], values: Sequence[int], at: float) -> float:
    """Return the value at a moment between two of those that are known."""
    after = bisect_right(moments, at)
    if after >= len(moments):
        return float(values[-1])
    before = after - 1
    share = (at - moments[before]) / (moments[after] - moments[before])
    return values[before] + share * (values[after] - values[before])


def _joint(number: int, same: Sequence[RoundReport], suspended: float | None) -> JointRound:
    at = min(one.at for one in same)
    end = max(one.at + one.seconds for one in same)
    rates = [one.dirty_rate for one in same if one.dirty_rate is not None]
    return JointRound(
        number=number,
        at=at,
        seconds=end - at,
        total=sum(one.total for one in same),
        examined=sum(one.examined for one in same),
        dirty=sum(one.dirty for one in same),
        dirty_rate=sum(rates) if rates else None,
        wire_bytes=sum(one.wire_bytes for one in same),
        final=_is_final(same[0], suspended),
    )


def _is_final(one: RoundReport, suspended: float | None) -> bool:
    return suspended is not None and one.at >= suspended
