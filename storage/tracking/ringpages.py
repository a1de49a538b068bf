"""Pages of the kernel's trace ring buffer: their layout, and the block events in them.

Nothing here does I/O. Layouts are read from what the kernel says about itself (`events/header_page`
and the `format` of each event in tracefs); only the encoding of entries is fixed, as the kernel
fixes it for the tools that read these pages (`events/header_event`, and rb_type_len in its source):
a 32-bit word whose low 5 bits tell the kind or length of the entry and whose upper 27 bits tell the
time since the entry before.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

QUEUED: Final = "block_bio_queue"
REQUEST_ENDED: Final = "block_rq_complete"
BIO_ENDED: Final = "block_bio_complete"
EVENTS: Final = (QUEUED, REQUEST_ENDED, BIO_ENDED)
"""In the order of the lists of a `Batch`, and of a write's life."""

_FIELD: Final = re.compile(
    r"field:(?P<declaration>[^;]+);\s*offset:(?P<offset>\d+);\s*size:(?P<size>\d+);"
)
_CODES: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
_MISSED: Final = 1 << 31  # in the page's commit word: entries before this page were lost
_LENGTH: Final = (1 << 20) - 1  # the rest of that word that is the length
_PADDING, _TIME_EXTEND, _TIME_STAMP = 29, 30, 31


class UnknownLayout(Exception):
    """The kernel describes its trace in a way that this program does not understand."""


Sectors = tuple[int, int]
"""A range of sectors of 512 bytes (whatever the device's own are): first, and first after it."""


@dataclass(slots=True)
class Batch:
    """What was read from ring buffers: the ranges of each kind of event, in order for each CPU.

    A bio that a driver used up as it served it ends with no sectors left, just after its last one.

    `entries` counts the events of any kind that were there, to compare with the kernel's count.
    `missed`: the kernel says that it lost some before one of the pages. Not `complete`: events that
    were there when the reading began may still be there.
    """

    queued: list[Sectors] = field(default_factory=list)
    requests_ended: list[Sectors] = field(default_factory=list)
    bios_ended: list[Sectors] = field(default_factory=list)
    entries: int = 0
    missed: bool = False
    complete: bool = True


@dataclass(frozen=True, slots=True)
class _Field:
    offset: int
    size: int


class PageDecoder:
    """Finds the events of one block device in pages.

    `header_page` and `formats` (by the names in `EVENTS`) are the texts that tracefs has;
    `device` is the number that events carry (see `event_device`). Raises `UnknownLayout`.
    """

    def __init__(self, header_page: str, formats: Mapping[str, str], device: int) -> None:
        page = _fields(header_page)
        try:
            self._data, commit = page["data"], page["commit"]
        except KeyError as error:
            raise UnknownLayout(f"a page of the trace has no field {error}") from None
        self.page_size = self._data.offset + self._data.size
        self._commit = struct.Struct(f"={commit.offset}x{_code(commit, 'commit')}")
        layouts = {_layout(formats[name], name) for name in EVENTS}
        if len(layouts) != 1:
            raise UnknownLayout("the block events of this kernel differ in their first fields")
        self._event = struct.Struct(layouts.pop())
        self._kinds = [_identifier(formats[name], name) for name in EVENTS]
        self._device = device

    def decode(self, page: bytes, batch: Batch) -> None:
        """Add the events in a page to `batch`. Raises `UnknownLayout` for a page that is none."""
        try:
            self._decode(page, batch)
        except struct.error as error:
            raise UnknownLayout(f"a page of the trace ends within an entry: {error}") from None

    def _decode(self, page: bytes, batch: Batch) -> None:
        (commit,) = self._commit.unpack_from(page)
        if commit & _MISSED:
            batch.missed = True
        position = self._data.offset
        end = position + (commit & _LENGTH)
        if end > len(page):
            raise UnknownLayout(f"a page of {len(page)} bytes says that it ends at {end}")
        read_word, read_event = _WORD.unpack_from, self._event.unpack_from
        lists = (batch.queued, batch.requests_ended, batch.bios_ended)
        keepers = {kind: kept.append for kind, kept in zip(self._kinds, lists, strict=True)}
        ours = self._device
        entries = 0
        while position < end:
            (word,) = read_word(page, position)
            kind = word & 31
            if kind < _PADDING:
                if kind:
                    body, length = position + 4, 4 + 4 * kind
                else:  # too long for 5 bits: a length of its own, which counts itself
                    body, length = position + 8, 4 + read_word(page, position + 4)[0]
                entries += 1
                event, device, start, count = read_event(page, body)
                if device == ours and (keep := keepers.get(event)) is not None:
                    keep((start, start + count))
                position += length
            elif kind in (_TIME_EXTEND, _TIME_STAMP):
                position += 8
            elif word >> 5:  # an entry that was given up
                position += 4 + read_word(page, position + 4)[0]
            else:  # nothing more on this page
                break
        if position > end:
            raise UnknownLayout("an entry of the trace reaches beyond its page")
        batch.entries += entries


def event_device(major: int, minor: int) -> int:
    """Give the number that the kernel's events and their filters have for a device."""
    return major << 20 | minor


_WORD: Final = struct.Struct("=I")


def _fields(text: str) -> dict[str, _Field]:
    fields = {}
    for match in _FIELD.finditer(text):
        name = match["declaration"].split()[-1].partition("[")[0]
        fields[name] = _Field(int(match["offset"]), int(match["size"]))
    return fields


def _code(described: _Field, name: str) -> str:
    try:
        return _CODES[described.size]
    except KeyError:
        raise UnknownLayout(f"{name} has {described.size} bytes in this kernel's trace") from None


def _layout(text: str, event: str) -> str:
    """Give what `struct` needs to read kind, device, first sector and sectors of an event."""
    fields = _fields(text)
    layout, position = "=", 0
    for name in ("common_type", "dev", "sector", "nr_sector"):
        found = fields.get(name)
        if found is None or found.offset < position:
            raise UnknownLayout(f"{event} has no {name} where it is expected")
        layout += f"{found.offset - position}x{_code(found, name)}"
        position = found.offset + found.size
    return layout


def _identifier(text: str, event: str) -> int:
    match = re.search(r"^ID:\s*(\d+)$", text, re.MULTILINE)
    if match is None:
        raise UnknownLayout(f"{event} has no ID")
    return int(match[1])
