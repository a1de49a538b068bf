"""What a running job looks like on a terminal: renderables of `rich`, made from a report alone."""

from __future__ import annotations

from typing import Final

from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from xenmoved.ctl.text import Line, duration, line, percent, plural, size
from xenmoved.ctl.views import jobs as job_views
from xenmoved.jobs.report import JobReport, JobState, Phase, VolumeReport

_WIDE: Final = 110
_LONGEST_NAME: Final = 20
_ROW: Final = 60
_ROW_WITH_BLOCKS: Final = 100
"""Columns that a row takes beside its bar."""
_JUSTIFIED: Final[tuple[JustifyMethod, ...]] = (
    *("left", "left", "right", "right", "right", "left"),
)
_RARE = (Phase.HOLD, Phase.MEMORY)
"""Phases that most jobs do not go through."""


def display(report: JobReport, now: float, width: int) -> RenderableType:
    """Return a header, a row for each volume and one for the memory, for that many columns.

    On a narrow terminal the counts of blocks are below the rows instead of beside them.
    """
    wide = width >= _WIDE
    bar = max(4, min(40, width - (_ROW_WITH_BLOCKS if wide else _ROW)))
    rows = Table.grid(padding=(0, 0, 0, 2))
    rows.add_column(no_wrap=True, max_width=_LONGEST_NAME)
    for justify in _JUSTIFIED:
        rows.add_column(no_wrap=True, justify=justify)
    for volume in report.volumes:
        rows.add_row(*_volume(volume, bar), _blocks(volume) if wide else "")
    if report.guest:
        rows.add_row(*_memory(report, bar))
    below = [] if wide else [_blocks_below(volume) for volume in report.volumes if volume.rounds]
    return Group(_header(report, now), rows, *below, _footer(report))


def screen(no_color: bool) -> Live:
    """Return what keeps a display up to date on stdout and removes it when it is closed."""
    console = Console(markup=False, emoji=False, highlight=False, no_color=no_color or None)
    return Live(console=console, auto_refresh=False, transient=True)


def to_rich(each: Line) -> Text:
    """Return a line as text of `rich`, in which nothing is taken for markup."""
    text = Text()
    for span in each:
        text.append(span.text, style=str(span.style))
    return text


def _header(report: JobReport, now: float) -> Text:
    header = Text()
    header.append(to_rich(line(job_views.title(report))).plain, style="bold")
    style = str(job_views.STATE_STYLES[report.state])
    if report.state is JobState.RUNNING:
        phases = [
            p for p in Phase if p is not Phase.ENDED and (p not in _RARE or p is report.phase)
        ]
        number = phases.index(report.phase) + 1 if report.phase in phases else len(phases)
        header.append(f"  {report.phase}", style=style)
        header.append(f" ({number} of {len(phases)})", style="dim")
    else:
        header.append(f"  {report.state}", style=style)
    took = duration(job_views.elapsed(report, now))
    header.append(f"  {took}  {size(report.wire_bytes)} sent")
    return header


def _volume(volume: VolumeReport, bar: int) -> tuple[RenderableType, ...]:
    name = to_rich(line("  ", volume.name))
    if not volume.rounds:
        return name, "", _bar(0, 1, bar), "", Text("waiting", style="dim"), size(volume.size)
    one = volume.rounds[-1]
    left = job_views.remaining(one)
    goes_on = left is not None and one.examined < one.total
    return (
        name,
        f"round {one.number}",
        _bar(one.examined, one.total, bar),
        job_views.round_percent(one),
        job_views.round_rate(one),
        Text(f"{duration(left)} left" if goes_on else "", style="dim"),
    )


def _memory(report: JobReport, bar: int) -> tuple[RenderableType, ...]:
    name = Text("  memory")
    if not report.memory_total:
        return name, "", _bar(0, 1, bar), "", Text("waiting", style="dim"), ""
    share = percent(report.memory_sent, report.memory_total)
    done = _bar(report.memory_sent, report.memory_total, bar)
    return name, "", done, share, size(report.memory_sent), f"of {size(report.memory_total)}"


def _blocks(volume: VolumeReport) -> str:
    return job_views.compared(volume, volume.rounds[-1]) if volume.rounds else ""


def _blocks_below(volume: VolumeReport) -> Text:
    text = to_rich(line(f"  {volume.name}: {_blocks(volume)}"))
    text.stylize("dim")
    return text


def _bar(completed: int, total: int, width: int) -> ProgressBar:
    done = completed if total else 1
    return ProgressBar(total=total or 1, completed=done, width=width, complete_style="cyan")


def _footer(report: JobReport) -> Text:
    if report.state is JobState.IN_DOUBT:
        note = f"  in doubt: {report.peer} has not told whether it has the guest; still asking"
        return Text(to_rich(line(note)).plain, style="yellow")
    count = plural(len(report.volumes), "volume")
    return Text(f"  {count}, job {report.job}; Ctrl-C leaves it running", style="dim")
