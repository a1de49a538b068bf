"""Lines of styled text for terminals and pipes.

Whatever goes into a `Span` is made harmless there: control characters and escape sequences of a
peer's or guest's text are shown as escapes. Nothing here interprets markup.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from xenmoved.logs import printable
from xenmoved.units import format_duration, format_size

UNKNOWN: Final = "-"


class Style(StrEnum):
    """How a piece of text stands out. The values are the names that `rich` has for it."""

    PLAIN = ""
    BOLD = "bold"
    DIM = "dim"
    GOOD = "green"
    WARN = "yellow"
    BAD = "red"


_SEQUENCES = {Style.BOLD: "1", Style.DIM: "2", Style.GOOD: "32", Style.WARN: "33", Style.BAD: "31"}


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a line, in one style."""

    text: str
    style: Style = Style.PLAIN

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", printable(self.text))

    @property
    def width(self) -> int:
        """Columns that the text takes on a terminal."""
        if self.text.isascii():
            return len(self.text)
        return sum(_width(character) for character in self.text)


Line = tuple[Span, ...]
Cell = Span | str


def line(*parts: Cell) -> Line:
    """Return a line of these pieces."""
    return tuple(_span(part) for part in parts)


def table(header: Sequence[str], rows: Iterable[Sequence[Cell]], align: str = "") -> list[Line]:
    """Return a header and rows in columns. `align` has an ``r`` for each column to the right."""
    cells = [[Span(title, Style.DIM) for title in header]]
    cells += [[_span(cell) for cell in row] for row in rows]
    widths = [max(cell.width for cell in column) for column in zip(*cells, strict=True)]
    return [_row(row, widths, align.ljust(len(widths))) for row in cells]


def facts(pairs: Iterable[tuple[str, Cell]]) -> list[Line]:
    """Return lines of a name and a value each, the values below one another."""
    named = list(pairs)
    width = max(len(name) for name, _ in named)
    return [line(Span(name.ljust(width), Style.DIM), "  ", value) for name, value in named]


def indent(lines: Iterable[Line], by: int = 2) -> list[Line]:
    """Return the lines, each further to the right."""
    return [(Span(" " * by), *each) if each else each for each in lines]


def render(lines: Iterable[Line], *, color: bool) -> str:
    """Return the lines as text that ends with a newline, with colors if wanted."""
    return "".join(
        "".join(_painted(span) if color else span.text for span in each).rstrip(" ") + "\n"
        for each in lines
    )


def numbered(said: Iterable[tuple[str, str]]) -> list[Line]:
    """Return texts, numbered, with the hint on each below it."""
    lines = []
    for number, (text, hint) in enumerate(said, 1):
        lead = f"{number}. "
        lines.append(line(lead, text))
        if hint:
            lines.append(line(" " * len(lead), Span(hint, Style.DIM)))
    return lines


def size(count: int) -> str:
    """Return a number of bytes for people."""
    return format_size(count)


def rate(count: int, seconds: float) -> str:
    """Return bytes in a time as a rate for people."""
    return f"{format_size(round(count / seconds))}/s" if seconds > 0 else UNKNOWN


def duration(seconds: float | None) -> str:
    """Return a duration for people; `UNKNOWN` for None."""
    return UNKNOWN if seconds is None else format_duration(max(0.0, seconds))


def percent(part: int, whole: int) -> str:
    """Return a share in percent; less than all of it is never shown as 100 %."""
    return f"{part * 100 // whole if whole else 100}%"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _span(cell: Cell) -> Span:
    return cell if isinstance(cell, Span) else Span(cell)


def _row(row: Sequence[Span], widths: Sequence[int], align: str) -> Line:
    spans: list[Span] = []
    for index, (span, width, side) in enumerate(zip(row, widths, align, strict=True)):
        gap = Span(" " * (width - span.width))
        between = [Span("  ")] if index else []
        spans += [*between, gap, span] if side == "r" else [*between, span, gap]
    return tuple(spans)


def _painted(span: Span) -> str:
    sequence = _SEQUENCES.get(span.style)
    return f"\x1b[{sequence}m{span.text}\x1b[0m" if sequence and span.text else span.text


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
