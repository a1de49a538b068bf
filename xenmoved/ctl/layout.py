"""Lays lines and tables out for the width of a terminal.

What is too wide is wrapped at blanks. A table gets narrower in the columns that hold words; when
that is not enough, each of its rows becomes a paragraph that names its columns. Without a width, as
in a pipe, everything is on lines of its own, however long.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Final

from xenmoved.ctl.text import UNKNOWN, Across, Block, Line, Span, Style, Table

_NARROWEST: Final = 16
"""Columns to which a long name may be broken, so that a table remains one."""
_HIGHEST: Final = 3
"""Lines of a row of a table."""
_HANG: Final = 2

_SEQUENCES = {Style.BOLD: "1", Style.DIM: "2", Style.GOOD: "32", Style.WARN: "33", Style.BAD: "31"}


def render(blocks: Iterable[Block], *, color: bool, width: int | None = None) -> str:
    """Return text that ends with a newline, with colors if wanted, for so many columns."""
    return "".join(
        "".join(_painted(span) if color else span.text for span in _stripped(each)) + "\n"
        for each in lay_out(blocks, width)
    )


def lay_out(blocks: Iterable[Block], width: int | None) -> list[Line]:
    """Return the lines as which it is shown on so many columns."""
    return [each for block in blocks for each in _block(block, width)]


def _block(block: Block, width: int | None) -> list[Line]:
    if isinstance(block, Table):
        return _table(block, width)
    if width is None or _width(block) <= width or any(span.whole for span in block):
        return [block]
    text = "".join(span.text for span in block)
    lead = len(text) - len(text.lstrip(" "))
    return _wrapped(block, width, lead + _HANG)


def _table(table: Table, width: int | None) -> list[Line]:
    rows = [row for row in (table.header, *table.rows) if row and not isinstance(row, Across)]
    natural = [max(cell.width for cell in column) for column in zip(*rows, strict=True)]
    room = None if width is None else width - table.indent - table.gap * (len(natural) - 1)
    widths: list[int] | None = natural
    if room is not None and sum(natural) > room:
        widths = _squeezed(table, rows, natural, room)
        if widths and table.header and any(_height(row, widths) > _HIGHEST for row in rows):
            widths = None
    lines: list[Line] = []
    inner = None if width is None else width - table.indent
    if widths is not None and table.header:
        lines += _row(table.header, widths, table)
    for row in table.rows:
        if isinstance(row, Across):
            lines += lay_out(row.blocks, inner)
        elif widths is not None:
            lines += _row(row, widths, table)
        else:
            lines += _paragraph(row, table, inner or 0)
    lead = Span(" " * table.indent)
    return [(lead, *each) if each and table.indent else each for each in lines]


def _squeezed(
    table: Table, rows: Sequence[Line], natural: Sequence[int], room: int
) -> list[int] | None:
    """Return the widths of columns with which they fit; None when they would be too narrow."""
    words = [
        max(max(map(len, cell.text.split()), default=0) for cell in column)
        for column in zip(*rows, strict=True)
    ]
    flexible = [side != "r" for side in table.align]
    least = [
        word if flexes else width
        for word, width, flexes in zip(words, natural, flexible, strict=True)
    ]
    if sum(least) > room:
        least = [
            min(one, _NARROWEST) if flexes else one
            for one, flexes in zip(least, flexible, strict=True)
        ]
    if sum(least) > room:
        return None
    widths = list(natural)
    for _ in range(sum(natural) - room):
        spare = [i for i, one in enumerate(widths) if one > least[i]]
        widths[max(spare, key=lambda i: widths[i])] -= 1
    return widths


def _height(row: Line, widths: Sequence[int]) -> int:
    return max(len(_wrapped((cell,), width, 0)) for cell, width in zip(row, widths, strict=True))


def _row(row: Line, widths: Sequence[int], table: Table) -> list[Line]:
    columns = [
        [_stripped(part) for part in _wrapped((cell,), width, 0)]
        for cell, width in zip(row, widths, strict=True)
    ]
    lines: list[Line] = []
    for parts in zip_longest(*columns, fillvalue=()):
        spans: list[Span] = []
        for index, (part, width, side) in enumerate(zip(parts, widths, table.align, strict=True)):
            spans += [Span(" " * table.gap)] if index else []
            fill = Span(" " * (width - _width(part)))
            spans += [fill, *part] if side == "r" else [*part, fill]
        lines.append(tuple(spans))
    return lines


def _paragraph(row: Line, table: Table, width: int) -> list[Line]:
    """Return the cells of a row one after the other, each behind the name of its column."""
    pairs: list[Line] = []
    names = table.header or (Span(""),) * len(row)
    for index, (name, cell) in enumerate(zip(names, row, strict=True)):
        if cell.text not in ("", UNKNOWN):
            unnamed = not name.text or (index == 0 and table.align[0] != "r")
            pairs.append((cell,) if unnamed else (name, Span(" "), cell))
    lines: list[Line] = []
    current: Line = ()
    for pair in pairs:
        if current and _width(current) + 2 + _width(pair) <= width:
            current = (*current, Span("  "), *pair)
            continue
        lines += [current] if current else []
        lead = (Span(" " * _HANG),) if lines or row[0].text == "" else ()
        *full, current = _wrapped((*lead, *pair), width, 2 * _HANG)
        if full:
            lines, current = [*lines, *full, current], ()
    return [*lines, current] if current else lines


def _wrapped(each: Line, width: int, hang: int) -> list[Line]:
    """Return a line as several, all but the first `hang` to the right."""
    hang = min(hang, width // 2)
    lines: list[Line] = []
    current: Line = ()
    for word in _words(each, width - hang):
        begun = any(span.text.strip(" ") for span in current)
        if begun and _width(current) + _width(_stripped(word)) > width:
            lines.append(current)
            current = (Span(" " * hang),) if hang else ()
        current += word
    return [*lines, current]


def _words(each: Line, width: int) -> Iterator[Line]:
    """Yield the words of a line, with the blanks behind them; parts of those that are too long."""
    words: list[Line] = []
    for span in each:
        for text in re.findall(r"[^ ]+ *| +", span.text):
            piece = replace(span, text=text)
            if words and not words[-1][-1].text.endswith(" "):
                words[-1] += (piece,)
            else:
                words.append((piece,))
    for word in words:
        if _width(_stripped(word)) <= width:
            yield word
        else:
            yield from ((part,) for piece in word for part in _parts(piece, width))


def _parts(piece: Span, width: int) -> Iterator[Span]:
    text = piece.text
    while text:
        head = _head(text, width)
        yield replace(piece, text=head)
        text = text[len(head) :]


def _head(word: str, width: int) -> str:
    """Return as much of a word as fits, broken behind a mark if there is one near the end."""
    if Span(word.rstrip(" ")).width <= width:
        return word
    count = used = 0
    while count < len(word) and (used := used + Span(word[count]).width) <= width:
        count += 1
    marks = [i + 1 for i in range(count // 2, count) if word[i] in "/:,=-"]
    return word[: marks[-1] if marks else max(1, count)]


def _width(each: Line) -> int:
    return sum(span.width for span in each)


def _stripped(each: Line) -> Line:
    """Return a line without blanks at its end."""
    spans = list(each)
    while spans and not (text := spans[-1].text.rstrip(" ")):
        spans.pop()
    if spans:
        spans[-1] = replace(spans[-1], text=text)
    return tuple(spans)


def _painted(span: Span) -> str:
    sequence = _SEQUENCES.get(span.style)
    return f"\x1b[{sequence}m{span.text}\x1b[0m" if sequence and span.text else span.text
