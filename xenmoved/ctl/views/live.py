"""What a running job looks like on a terminal: renderables of `rich`, made from a report alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from protocol.messages import Mode
from xenmoved.ctl.layout import lay_out
from xenmoved.ctl.text import Block, Line, Span, Style, duration, line, percent, plural, size
from xenmoved.ctl.views import jobs as job_views
from xenmoved.jobs.report import JobReport, JobState, Phase, VolumeReport

_WIDE: Final = 110
_NARROW: Final = 72
_ROW: Final = 47
"""Columns that a row takes beside its name and its bar."""
_NARROW_ROW: Final = 28
_BLOCKS: Final = 40
_LONGEST_BAR: Final = 40
_SHORTEST_BAR: Final = 10
_JUSTIFIED: Final[tuple[JustifyMethod, ...]] = ("left", "left", "right", "right", "right", "left")
_RARE = (Phase.HOLD, Phase.MEMORY)
"""Phases that most jobs do not go through."""


def display(report: JobReport, now: float, width: int) -> RenderableType:
    """Return a header, a row for each volume and one for the memory, for that many columns.

    On a narrow terminal the counts of blocks are below the rows instead of beside them, and on a
    very narrow one the names are above them.
    """
    if width < _NARROW:
        return Group(
            *_header(report, now, width), *_stacked(report, width), *_footer(report, width)
        )
    wide = width >= _WIDE
    room = width - _ROW - (_BLOCKS if wide else 0)
    names = short_names([volume.name for volume in report.volumes], room - _SHORTEST_BAR)
    bar = min(_LONGEST_BAR, room - max(map(len, [*names, "memory"])))
    rows = Table.grid(padding=(0, 0, 0, 2))
    for justify in ("left", *_JUSTIFIED):
        rows.add_column(no_wrap=True, justify=justify)
    for name, volume in zip(names, report.volumes, strict=True):
        shown_name = to_rich(line("  ", name))
        rows.add_row(shown_name, *_volume(volume, bar), _blocks(volume) if wide else "")
    if job_views.has_memory(report):
        rows.add_row("  memory", *_memory(report, bar))
    below = [
        _dim(f"  {name}: {_blocks(volume)}")
        for name, volume in zip(names, report.volumes, strict=True)
        if volume.rounds and not wide
    ]
    return Group(*_header(report, now, width), rows, *below, *_footer(report, width))


def short_names(names: Sequence[str], most: int) -> list[str]:
    """Return names of so many letters, different ones for different ones.

    They are shortened at their beginning; where their ends are the same, they are numbered.
    """
    short = [_end(name, most) for name in names]
    if len(set(short)) == len(set(names)):
        return short
    return [
        f"{number} {_end(name, most - len(f'{number} '))}" for number, name in enumerate(names, 1)
    ]


def _end(name: str, most: int) -> str:
    return name if len(name) <= most else f"\N{HORIZONTAL ELLIPSIS}{name[len(name) - most + 1 :]}"


def _stacked(report: JobReport, width: int) -> Iterator[RenderableType]:
    """Yield names, and below each how it goes."""
    bar = max(4, width - _NARROW_ROW)
    named = [(volume.name, _volume(volume, bar), volume) for volume in report.volumes]
    for name, cells, volume in named:
        yield shown([line(name)], width)
        yield _grid(["", *cells[:4]])
        if volume.rounds:
            yield _dim(f"  {_blocks(volume)}")
    if job_views.has_memory(report):
        yield Text("memory")
        yield _grid(_memory(report, bar))


def _grid(cells: Sequence[RenderableType]) -> Table:
    row = Table.grid(padding=(0, 0, 0, 1))
    for _ in cells:
        row.add_column(no_wrap=True)
    row.add_row(*cells)
    return row


def screen(no_color: bool) -> Live:
    """Return what keeps a display up to date on stdout and removes it when it is closed."""
    console = Console(markup=False, emoji=False, highlight=False, no_color=no_color or None)
    return Live(console=console, auto_refresh=False, transient=True)


def shown(blocks: Iterable[Block], width: int) -> RenderableType:
    """Return lines and tables as they are shown on so many columns."""
    return Group(*map(to_rich, lay_out(blocks, width)))


def to_rich(each: Line) -> Text:
    """Return a line as text of `rich`, in which nothing is taken for markup."""
    text = Text()
    for span in each:
        text.append(span.text, style=str(span.style))
    return text


def _header(report: JobReport, now: float, width: int) -> list[Text]:
    parts: list[Span | str] = [Span(job_views.title(report), Style.BOLD)]
    style = job_views.STATE_STYLES[report.state]
    if report.state is JobState.RUNNING:
        through = {one.phase for one in report.phases} | {report.phase}
        other = Phase.SUSPEND if report.mode is Mode.RESTART else Phase.SHUTDOWN
        known = [p for p in Phase if p not in (Phase.ENDED, other)]
        phases = [p for p in known if p not in _RARE or p in through]
        number = phases.index(report.phase) + 1 if report.phase in phases else len(phases)
        parts += ["  ", Span(report.phase, style)]
        parts += [Span(f" ({number} of {len(phases)})", Style.DIM)]
    else:
        parts += ["  ", Span(report.state, style)]
    took = duration(job_views.elapsed(report, now))
    parts.append(f"  {took}  {size(report.wire_bytes)} sent")
    return _fitted(line(*parts), width)


def _volume(volume: VolumeReport, bar: int) -> tuple[RenderableType, ...]:
    if not volume.rounds:
        return "", _bar(0, 1, bar), "", Text("waiting", style="dim"), size(volume.size)
    one = volume.rounds[-1]
    left = job_views.remaining(one)
    goes_on = left is not None and one.examined < one.total
    return (
        f"round {one.number}",
        _bar(one.examined, one.total, bar),
        job_views.round_percent(one),
        job_views.round_rate(one),
        Text(f"{duration(left)} left" if goes_on else "", style="dim"),
    )


def _memory(report: JobReport, bar: int) -> tuple[RenderableType, ...]:
    if not report.memory_total:
        return "", _bar(0, 1, bar), "", Text("waiting", style="dim"), ""
    sent, total = report.memory_sent, report.memory_total
    share = percent(sent, total) if sent <= total else ""  # nobody knows how much is to come
    part = job_views.memory_part(report)
    return "", _bar(min(sent, total), total, bar), share, size(sent), part


def _blocks(volume: VolumeReport) -> str:
    return job_views.compared(volume, volume.rounds[-1]) if volume.rounds else ""


def _dim(text: str) -> Text:
    dim = to_rich(line(text))
    dim.stylize("dim")
    return dim


def _bar(completed: int, total: int, width: int) -> ProgressBar:
    done = completed if total else 1
    return ProgressBar(total=total or 1, completed=done, width=width, complete_style="cyan")


def _footer(report: JobReport, width: int) -> list[Text]:
    if report.state is JobState.IN_DOUBT:
        note = f"  in doubt: {report.peer} has not told whether it has the guest; still asking"
        return _fitted(line(Span(note, Style.WARN)), width)
    notes: list[Text] = []
    if report.phase is Phase.HOLD:
        held = f"  held, {size(report.left)} behind; goes at 'xenmovectl cutover {report.job}'"
        notes = _fitted(line(Span(held, Style.WARN)), width)
    note = f"  {plural(len(report.volumes), 'volume')}, job {report.job}; Ctrl-C leaves it running"
    return notes + _fitted(line(Span(note, Style.DIM)), width)


def _fitted(each: Line, width: int) -> list[Text]:
    return [to_rich(part) for part in lay_out([each], width)]
