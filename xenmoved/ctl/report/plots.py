"""The plots of a job. Each returns empty markup when there is nothing to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from xenmoved.ctl.report import units
from xenmoved.ctl.report.charts import (
    WIDTH,
    PlotArea,
    Point,
    area,
    box,
    columns,
    label,
    line,
    path,
    plot,
    rows,
    text_width,
)
from xenmoved.ctl.report.markup import Markup, join
from xenmoved.ctl.report.scale import Scale, Tick, log_size_ticks, size_ticks, time_ticks
from xenmoved.ctl.views import course
from xenmoved.ctl.views.jobs import interruption
from xenmoved.jobs.report import JobReport, Phase

_TIMES: Final = PlotArea(84, 44, WIDTH - 12, 224)
_ROUNDS: Final = PlotArea(84, 24, WIDTH - 12, 204)
_BELOW: Final = 28.0
_ROW: Final = 26.0
_BAR: Final = 14.0
_THINNEST: Final = 2.0
_CLOCKS: Final = 0.001
"""Seconds that mean nothing: two moments of which one should be the other."""
_MOST_TICKS: Final = 9
_MOST_ROWS: Final = 5
_LOG_FROM: Final = 20
"""Where the largest of some sizes is so many times the smallest, the axis is logarithmic."""

Span = tuple[float, float]
"""When something began, and how long it was."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of a chart of stretches of time."""

    name: str
    at: float
    seconds: float


def throughput(report: JobReport, span: float) -> Markup:
    """Plot bytes a second over time, those of the memory upon those of the disks."""
    bins = course.throughput(report)
    if not bins:
        return Markup()
    peak = course.peak(report) or 0.0
    ticks = size_ticks(max(1.0, peak), _MOST_ROWS, per_second=True)
    across, up = _axes(span, ticks)
    disks = _steps([(one.at, one.seconds, one.disks) for one in bins], across, up)
    both = _steps([(one.at, one.seconds, one.disks + one.memory) for one in bins], across, up)
    content = [area(both, disks, "memory"), path(both, "memory-line")] if report.memory_sent else []
    content += [area(disks, _floor(disks), "disks"), path(disks, "disks-line")]
    average = report.wire_bytes / span if span > 0 else 0.0
    content.append(line((_TIMES.left, up(average)), (_TIMES.right, up(average)), "average"))
    described = f"At most {units.rate(peak)}, {units.rate(average)} on average."
    title = ("throughput", "Throughput over time", described)
    return _over_time(report, span, title, ticks, content)


def left(report: JobReport, span: float) -> Markup:
    """Plot over time what the rounds had still to examine."""
    points = course.left(report)
    most = max((value for _, value in points), default=0.0)
    if not most:
        return Markup()
    ticks = size_ticks(most, _MOST_ROWS)
    across, up = _axes(span, ticks)
    drawn = [(across(at), up(value)) for at, value in points]
    content = [area(drawn, _floor(drawn), "left"), path(drawn, "left-line")]
    together = course.rounds(report)
    free = 0.0
    for one in together:
        x, text = across(one.at), "last round" if one.final else f"round {one.number}"
        if x >= free and x + text_width(text) < WIDTH:
            content.append(label((x, _TIMES.top - 7), text, "note strong"))
            free = x + text_width(text) + 8
    title = ("left", "Left to examine over time", f"{units.size(most)} at most.")
    return _over_time(report, span, title, ticks, content)


def phases(report: JobReport, span: float, now: float) -> Markup:
    """Plot when the job was in which phase."""
    bars = [Bar(_name(one.phase), one.at, one.seconds) for one in course.phases(report, now)]
    return _stretches(("phases", "Phases over time"), bars, (0.0, span), _dark(report))


def blackout(report: JobReport) -> Markup:
    """Plot what the time was spent on in which the guest ran nowhere."""
    bars = [Bar(part.what, part.at, part.seconds) for part in report.blackout_parts]
    dark = _dark(report)
    told = f"What the {interruption(report.mode)} was spent on"
    return _stretches(("blackout", told), bars, dark, dark)


def rounds(report: JobReport) -> Markup:
    """Plot what each round found to be written, beside all that it had to examine."""
    together = course.rounds(report)
    sizes = [size for one in together for size in (one.total, one.dirty) if size]
    if len(together) < 2 or not sizes:
        return Markup()
    frame = _ROUNDS
    if max(sizes) > _LOG_FROM * min(sizes):
        ticks = log_size_ticks(min(sizes) / 2, max(sizes), _MOST_ROWS)
        up = Scale(ticks[0][0], ticks[-1][0], frame.bottom, frame.top, logarithmic=True)
    else:
        ticks = size_ticks(max(sizes), _MOST_ROWS)
        up = Scale(0, ticks[-1][0], frame.bottom, frame.top)
    slot = frame.width / len(together)
    how = "logarithmic scale" if up.logarithmic else ""
    content = [
        label((frame.right, 10), how, "note", "end"),
        rows(frame, up, ticks),
        line((frame.left, frame.bottom), (frame.right, frame.bottom), "axis"),
        label((frame.left - 8, frame.bottom + 20), "round", "tick", "end"),
        label((frame.left - 8, frame.bottom + 36), "dirty rate", "tick", "end"),
    ]
    widest = max(text_width(text) for one in together for text in _round_texts(one))
    every = int(-(-(widest + 6) // slot))
    for index, one in enumerate(together):
        x = frame.left + (index + 0.5) * slot
        content += _round_bars(one, x, min(72.0, slot * 0.62), up)
        if index % every == 0:
            content += _round_labels(one, x, up)
    shown = "; ".join(f"round {one.number}: {units.size(one.dirty)}" for one in together)
    return plot("rounds", "Dirty set of each round", shown, frame.bottom + 44, *content)


def _round_bars(one: course.JointRound, x: float, width: float, up: Scale) -> list[Markup]:
    hint = (
        f"round {one.number}: {units.size(one.dirty)} written, {units.size(one.total)} examined, "
        f"{units.size(one.wire_bytes)} sent in {units.duration(one.seconds)}"
    )
    drawn = []
    for size, class_ in ((one.total, "examined"), (one.dirty, "final" if one.final else "dirty")):
        if size:
            top = min(up(size), up.start - _THINNEST)
            at = (x - width / 2, top)
            drawn.append(box(at, width, up.start - top, class_, hint=hint, radius=2))
    return drawn


def _round_labels(one: course.JointRound, x: float, up: Scale) -> list[Markup]:
    value, name, pace = _round_texts(one)
    top = up(one.dirty) if one.dirty else up.start
    return [
        label((x, min(top, up.start - _THINNEST) - 6), value, "value", "middle"),
        label((x, up.start + 20), name, "tick strong", "middle"),
        label((x, up.start + 36), pace, "tick", "middle"),
    ]


def _round_texts(one: course.JointRound) -> tuple[str, str, str]:
    pace = units.rate(one.dirty_rate) if one.dirty_rate is not None else ""
    return units.size(one.dirty), "last" if one.final else str(one.number), pace


def _axes(span: float, ticks: Sequence[Tick]) -> tuple[Scale, Scale]:
    across = Scale(0.0, max(span, 1e-3), _TIMES.left, _TIMES.right)
    return across, Scale(0.0, ticks[-1][0], _TIMES.bottom, _TIMES.top)


def _steps(steps: Sequence[tuple[float, float, float]], across: Scale, up: Scale) -> list[Point]:
    """Return a line that is as high as each step for as long as that is."""
    edges = [((across(at), across(at + seconds)), up(value)) for at, seconds, value in steps]
    return [(x, y) for ends, y in edges for x in ends]


def _floor(points: Sequence[Point]) -> list[Point]:
    return [(points[0][0], _TIMES.bottom), (points[-1][0], _TIMES.bottom)]


def _name(phase: Phase) -> str:
    return str(phase) if phase is Phase.PRE_COPY else str(phase).replace("-", " ")


def _dark(report: JobReport) -> Span:
    """Return the blackout; of no length when there was none, or when it is not known."""
    return report.suspended or 0.0, report.blackout or 0.0


def _over_time(
    report: JobReport,
    span: float,
    title: tuple[str, str, str],
    ticks: Sequence[Tick],
    content: Sequence[str],
) -> Markup:
    """Return a plot whose horizontal axis is the life of the job, before bands of its phases.

    `title` is its name on the page, its title, and what it shows.
    """
    across, up = _axes(span, ticks)
    return plot(
        *title,
        _TIMES.bottom + _BELOW,
        _bands(report, across),
        rows(_TIMES, up, ticks),
        *content,
        line((_TIMES.left, _TIMES.bottom), (_TIMES.right, _TIMES.bottom), "axis"),
        columns(_TIMES, across, time_ticks(span, _MOST_TICKS)),
    )


def _bands(report: JobReport, across: Scale) -> Markup:
    """Return every second phase shaded, the names of those that are wide, and the blackout."""
    drawn: list[Markup] = []
    moments = [*((one.at, _name(one.phase)) for one in report.phases), (across.high, "")]
    for index, ((at, name), (until, _)) in enumerate(pairwise(moments)):
        x, width = across(at), across(until) - across(at)
        if index % 2:
            drawn.append(box((x, _TIMES.top), width, _TIMES.height, "band", hint=name))
        if text_width(name) + 8 < width:
            drawn.append(label((x + width / 2, 14), name, "note", "middle"))
    at, seconds = _dark(report)
    if seconds:
        x = across(at)
        width = max(_THINNEST, across(at + seconds) - x)
        hint = f"{interruption(report.mode)}: {units.duration(seconds)}"
        drawn.append(box((x, _TIMES.top), width, _TIMES.height, "shadow", hint=hint))
    return join(*drawn)


def _stretches(title: tuple[str, str], bars: Sequence[Bar], shown: Span, dark: Span) -> Markup:
    """Return a row for each bar, with its name before it and its duration behind it.

    The axis is what is `shown`, counted from its beginning; what is within `dark` stands out.
    """
    if not bars:
        return Markup()
    names = max(text_width(bar.name) for bar in bars) + 16
    frame = PlotArea(names, 6, WIDTH - 92, 6 + _ROW * len(bars))
    began, span = shown
    across = Scale(0.0, max(span, 1e-6), frame.left, frame.right)
    content = [columns(frame, across, time_ticks(across.high, _MOST_TICKS), lines=True)]
    for index, bar in enumerate(bars):
        y = frame.top + index * _ROW
        x, width = _extent(bar.at - began, bar.seconds, across)
        long = units.duration(bar.seconds)
        hint = f"{bar.name}: {long}"
        at = y + (_ROW - _BAR) / 2
        content.append(label((frame.left - 12, at + _BAR - 3), bar.name, anchor="end"))
        content.append(box((x, at), width, _BAR, "busy", hint=hint, radius=2))
        first, last = max(bar.at, dark[0]), min(bar.at + bar.seconds, sum(dark))
        if last - first > _CLOCKS:
            left, wide = _extent(first - began, last - first, across)
            content.append(box((left, at), wide, _BAR, "dark", hint=hint, radius=2))
        content.append(label((x + width + 8, at + _BAR - 3), long, "value"))
    named = ", ".join(f"{bar.name} {units.duration(bar.seconds)}" for bar in bars)
    return plot(*title, named, frame.bottom + _BELOW, *content)


def _extent(at: float, seconds: float, across: Scale) -> tuple[float, float]:
    """Return where a bar begins and how wide it is: never too thin to be seen."""
    return across(at), max(_THINNEST, across(at + seconds) - across(at))
