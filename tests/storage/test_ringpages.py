"""Pages of the trace ring buffer, made here entry by entry as the kernel makes them."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.tracking.ringpages import EVENTS, Batch, PageDecoder, UnknownLayout, event_device

HEADER_PAGE = """\
\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;
\tfield: local_t commit;\toffset:8;\tsize:{word};\tsigned:1;
\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;
\tfield: char data;\toffset:{data};\tsize:{room};\tsigned:0;
"""
FORMAT = """\
name: {name}
ID: {identifier}
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:dev_t dev;\toffset:{dev};\tsize:4;\tsigned:0;
\tfield:sector_t sector;\toffset:{sector};\tsize:8;\tsigned:0;
\tfield:unsigned int nr_sector;\toffset:{count};\tsize:4;\tsigned:0;
\tfield:char rwbs[8];\toffset:{rwbs};\tsize:8;\tsigned:0;

print fmt: "%d,%d", ((unsigned int) ((REC->dev) >> 20))
"""
FIRST_ID = 1000
OURS, OTHER = event_device(7, 3), event_device(7, 4)
ROOM = 4080


def formats(dev: int = 8, sector: int = 16, count: int = 24) -> dict[str, str]:
    return {
        name: FORMAT.format(
            name=name,
            identifier=FIRST_ID + number,
            dev=dev,
            sector=sector,
            count=count,
            rwbs=count + 4,
        )
        for number, name in enumerate(EVENTS)
    }


def decoder(word: int = 8) -> PageDecoder:
    header = HEADER_PAGE.format(word=word, data=8 + word, room=ROOM)
    return PageDecoder(header, formats(), OURS)


def event(kind: int, device: int, sector: int, count: int, tail: int = 12) -> bytes:
    head = struct.pack("=HBBi", kind, 0, 0, 77)
    return head + struct.pack("=I4xQI", device, sector, count) + b"R" * tail


@dataclass
class Page:
    """A page under construction."""

    content: bytearray = field(default_factory=bytearray)

    def add(self, body: bytes, *, long: bool = False) -> None:
        body += bytes(-len(body) % 4)
        if long or len(body) > 4 * 28:
            self.content += struct.pack("=II", 9 << 5, len(body) + 4) + body
        else:
            self.content += struct.pack("=I", 9 << 5 | len(body) // 4) + body

    def add_time(self, *, stamp: bool) -> None:
        self.content += struct.pack("=II", 5 << 5 | (31 if stamp else 30), 0xFFFFFFFF)

    def add_discarded(self, words: int) -> None:
        self.content += struct.pack("=II", 1 << 5 | 29, 4 * words + 4) + b"\xff" * (4 * words)

    def done(self, *, flags: int = 0, word: int = 8) -> bytes:
        commit = (len(self.content) | flags).to_bytes(word, "little")
        # What lies behind is left over from an earlier use of the page.
        return struct.pack("=Q", 1) + commit + bytes(self.content).ljust(ROOM, b"\x0e")


sectors = st.integers(0, 2**40)
counts = st.integers(0, 2**23)
blocks = st.tuples(
    st.sampled_from([FIRST_ID, FIRST_ID + 1, FIRST_ID + 2, FIRST_ID + 3]),
    st.sampled_from([OURS, OTHER]),
    sectors,
    counts,
    st.integers(0, 120),
    st.booleans(),
)
others = st.one_of(st.booleans(), st.integers(0, 20))


@given(st.lists(st.one_of(blocks, others), max_size=25), st.sampled_from([4, 8]))
def test_the_events_of_the_device_are_found_among_all_that_is_on_a_page(
    entries: list[tuple[int, int, int, int, int, bool] | int], word: int
) -> None:
    page, expected = Page(), Batch()
    lists = (expected.queued, expected.requests_ended, expected.bios_ended)
    for entry in entries:
        if isinstance(entry, bool):
            page.add_time(stamp=entry)
        elif isinstance(entry, int):
            page.add_discarded(entry)
        else:
            kind, device, sector, count, tail, long = entry
            page.add(event(kind, device, sector, count, tail), long=long)
            expected.entries += 1
            if device == OURS and kind < FIRST_ID + 3:
                lists[kind - FIRST_ID].append((sector, sector + count))
    batch = Batch()
    decoder(word).decode(page.done(word=word), batch)
    assert batch == expected


def test_batches_grow_page_by_page() -> None:
    first, second, batch = Page(), Page(), Batch()
    first.add(event(FIRST_ID, OURS, 8, 8))
    second.add(event(FIRST_ID, OURS, 64, 16))
    decoder().decode(first.done(), batch)
    decoder().decode(second.done(), batch)
    assert batch == Batch(queued=[(8, 16), (64, 80)], entries=2)


def test_entries_behind_the_end_or_the_padding_are_not_there() -> None:
    page, batch = Page(), Batch()
    page.add(event(FIRST_ID, OURS, 8, 8))
    page.content += struct.pack("=I", 29)
    page.add(event(FIRST_ID, OURS, 64, 8))
    decoder().decode(page.done(), batch)
    assert batch.queued == [(8, 16)]


@pytest.mark.parametrize("word", [4, 8])
def test_the_kernel_says_when_it_lost_events(word: int) -> None:
    page, batch = Page(), Batch()
    page.add(event(FIRST_ID, OURS, 8, 8))
    decoder(word).decode(page.done(flags=1 << 31 | 1 << 30, word=word), batch)
    assert batch == Batch(queued=[(8, 16)], entries=1, missed=True)


@given(st.integers(0, 2**64 - 1) | st.integers(0, 300), st.binary(max_size=300))
def test_garbage_is_refused_or_read_without_other_errors(commit: int, content: bytes) -> None:
    try:
        decoder().decode(struct.pack("=QQ", 1, commit) + content, Batch())
    except UnknownLayout as error:
        assert "page" in str(error)


def test_entries_that_reach_beyond_the_page_are_refused() -> None:
    page = struct.pack("=QQ", 1, ROOM + 4).ljust(16 + ROOM, b"\0")
    with pytest.raises(UnknownLayout, match="says that it ends at 4100"):
        decoder().decode(page, Batch())
    page = struct.pack("=QQI", 1, 8, 28).ljust(16 + ROOM, b"\0")
    with pytest.raises(UnknownLayout, match="reaches beyond"):
        decoder().decode(page, Batch())
    with pytest.raises(UnknownLayout, match="ends within an entry"):
        decoder().decode(b"", Batch())


def test_layouts_are_the_kernels() -> None:
    header = HEADER_PAGE.format(word=8, data=16, room=65520)
    moved = PageDecoder(header, formats(dev=12, sector=24, count=36), OURS)
    assert moved.page_size == 65536
    body = struct.pack("=HBBi4xI8xQ4xI", FIRST_ID + 1, 0, 0, 77, OURS, 4096, 8)
    page, batch = Page(), Batch()
    page.add(body)
    moved.decode(page.done(), batch)
    assert batch.requests_ended == [(4096, 4104)]


def test_layouts_that_are_not_understood_are_refused() -> None:
    header = HEADER_PAGE.format(word=8, data=16, room=ROOM)
    good = formats()
    with pytest.raises(UnknownLayout, match="no field 'data'"):
        PageDecoder(header.replace("char data", "char bytes"), good, OURS)
    with pytest.raises(UnknownLayout, match="commit has 3 bytes"):
        PageDecoder(HEADER_PAGE.format(word=3, data=16, room=ROOM), good, OURS)
    with pytest.raises(UnknownLayout, match="block_bio_queue has no sector"):
        PageDecoder(header, good | {EVENTS[0]: good[EVENTS[0]].replace("sector;", "s;")}, OURS)
    with pytest.raises(UnknownLayout, match="block_rq_complete has no ID"):
        PageDecoder(header, good | {EVENTS[1]: good[EVENTS[1]].replace("ID", "id")}, OURS)
    with pytest.raises(UnknownLayout, match="differ"):
        PageDecoder(header, good | {EVENTS[2]: formats(sector=12)[EVENTS[2]]}, OURS)
