"""Lines of styled text for terminals and pipes.

Whatever goes into a `Span` is made harmless there: control characters and escape sequences of a
peer's or guest's text are shown as escapes. Nothing here interprets markup. How wide it becomes is
`layout`'s.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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
    """A piece of a line, in one style. A line with a piece to be copied `whole` is never broken."""

    text: str
    style: Style = Style.PLAIN
    whole: bool = False

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


@dataclass(frozen=True, slots=True)
class Table:
    """Rows in columns, beneath a header unless that is empty.

    `align` has an ``r`` for each column to the right, `gap` is the distance of columns.
    """

    header: Line
    rows: tuple[Line | Across, ...]
    align: str
    gap: int
    indent: int = 0


@dataclass(frozen=True, slots=True)
class Across:
    """Something among the rows of a table that keeps to no columns."""

    blocks: tuple[Block, ...]


Block = Line | Table


def line(*parts: Cell) -> Line:
    """Return a line of these pieces."""
    return tuple(_span(part) for part in parts)


def table(
    header: Sequence[str], rows: Iterable[Sequence[Cell] | Across], align: str = "", gap: int = 2
) -> Table:
    """Return a table. `align` has an ``r`` for each column to the right."""
    rows = list(rows)
    count = max([len(header), *(len(row) for row in rows if not isinstance(row, Across))])
    return Table(
        tuple(Span(title, Style.DIM) for title in header),
        tuple(row if isinstance(row, Across) else line(*row) for row in rows),
        align.ljust(count),
        gap,
    )


def facts(pairs: Iterable[tuple[str, Cell]]) -> Table:
    """Return lines of a name and a value each, the values below one another."""
    return table((), [(Span(name, Style.DIM), value) for name, value in pairs])


def indent(blocks: Iterable[Block], by: int = 2) -> list[Block]:
    """Return all of it, further to the right."""
    return [_indented(block, by) for block in blocks]


def numbered(said: Iterable[tuple[str, str]]) -> Table:
    """Return texts, numbered, with the hint on each below it."""
    rows: list[tuple[Cell, ...]] = []
    for number, (text, hint) in enumerate(said, 1):
        rows.append((f"{number}.", text))
        if hint:
            rows.append(("", Span(hint, Style.DIM)))
    return table((), rows, gap=1)


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


def _indented(block: Block, by: int) -> Block:
    if isinstance(block, Table):
        return replace(block, indent=block.indent + by)
    return (Span(" " * by), *block) if block else block


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
