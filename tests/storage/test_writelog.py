"""What is reported, and for how long, as events come in from several CPUs."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.contracts import Extent
from storage.extents import subtract
from storage.tracking import writelog
from storage.tracking.ringpages import Batch, Sectors
from storage.tracking.writelog import BLOCK, LARGEST_BIO, WriteLog

SECTORS = BLOCK // 512
SIZE = 64 * BLOCK
CPUS = 3


def blocks(*numbers: int) -> list[Extent]:
    return [Extent(number * BLOCK, BLOCK) for number in numbers]


def in_bytes(sectors: Sectors) -> Extent:
    return Extent(sectors[0] * 512, (sectors[1] - sectors[0]) * 512)


def test_a_write_is_reported_until_the_report_after_its_end() -> None:
    log = WriteLog(SIZE, 0)
    log.take(Batch(queued=[(8, 16)]))
    assert log.report() == blocks(0)
    assert log.report() == blocks(0)
    assert list(log.pending) == [16]
    log.take(Batch(requests_ended=[(8, 16)]))
    assert not log.pending
    assert log.report() == blocks(0)
    assert log.report() == []


def test_blocks_that_touch_are_one_extent_and_the_last_ends_with_the_volume() -> None:
    log = WriteLog(3 * BLOCK + 512, 0)
    log.take(Batch(requests_ended=[(SECTORS - 1, SECTORS + 1), (3 * SECTORS, 3 * SECTORS + 1)]))
    assert log.report() == [Extent(0, 2 * BLOCK), Extent(3 * BLOCK, 512)]


@pytest.mark.parametrize("first", [10 * BLOCK, 10 * BLOCK + 512])
def test_only_what_lies_in_a_partition_is_reported(first: int) -> None:
    log = WriteLog(2 * BLOCK, first)
    start, end = first // 512, first // 512 + 2 * SECTORS
    log.take(Batch(requests_ended=[(0, 8), (start - 8, start), (end, end + 8)]))
    assert log.report() == []
    log.take(Batch(requests_ended=[(start - 1, start + 1)]))
    assert log.report() == blocks(0)
    log.take(Batch(requests_ended=[(end - 1, end + 1)]))
    assert log.report() == blocks(1)
    log.take(Batch(requests_ended=[(0, 2 * end)]))
    assert log.report() == [Extent(0, 2 * BLOCK)]


def test_a_loop_device_may_begin_anywhere_in_its_file() -> None:
    log = WriteLog(4 * BLOCK, -(BLOCK + 100))
    log.take(Batch(requests_ended=[(0, 1)]))
    assert log.report() == blocks(1)
    log.take(Batch(requests_ended=[(SECTORS - 1, SECTORS)]))
    assert log.report() == [Extent(BLOCK, 2 * BLOCK)]


def test_merged_and_split_writes() -> None:
    log = WriteLog(SIZE, 0)
    log.take(Batch(queued=[(0, 8), (8, 16), (16, 400)]))
    log.take(Batch(requests_ended=[(0, 200)]))
    assert len(log.pending) == 3  # where one queued write ended and another did not is not known
    log.take(Batch(requests_ended=[(200, 400)]))
    log.report()
    assert log.report() == blocks(0)  # the two short ones are not forgotten, as nobody saw them end
    log.clear()
    log.take(Batch(queued=[(0, 8), (8, 16), (16, 400)]))
    log.take(Batch(requests_ended=[(0, 400)]))
    log.report()
    assert log.report() == []


def test_the_end_of_a_bio_whose_front_was_split_off() -> None:
    log = WriteLog(SIZE, 0)
    log.take(Batch(queued=[(0, 3 * SECTORS)]))
    log.report()
    log.take(Batch(bios_ended=[(2 * SECTORS, 3 * SECTORS)]))
    assert log.report() == [Extent(0, 3 * BLOCK)]
    assert log.report() == []


def test_the_end_of_a_bio_that_was_queued_before_anybody_looked() -> None:
    end = 60 * SECTORS
    expected = [Extent((end - LARGEST_BIO) * 512, LARGEST_BIO * 512)]
    log = WriteLog(SIZE, 0)
    log.take(Batch(bios_ended=[(end - 8, end)]))
    assert log.report() == expected  # its queueing may not have been read yet
    log.take(Batch())
    assert log.report() == expected  # so it was, or never will be
    log.take(Batch())
    assert log.report() == []


def test_an_end_that_is_read_before_its_queueing() -> None:
    log = WriteLog(SIZE, 0)
    log.take(Batch(requests_ended=[(0, 8)]))
    log.take(Batch(complete=False))
    log.take(Batch(queued=[(0, 8)]))
    assert not log.pending
    log.take(Batch(requests_ended=[(8, 16)]))
    log.take(Batch())
    log.take(Batch(queued=[(8, 16)]))
    assert list(log.pending) == [16]


def test_empty_flushes_change_nothing() -> None:
    log = WriteLog(SIZE, 0)
    log.take(Batch(bios_ended=[(0, 0)]))
    log.take(Batch())
    assert log.report() == []


def test_of_two_writes_with_one_end_the_longer_is_kept() -> None:
    log = WriteLog(SIZE, 0)
    log.take(Batch(queued=[(2 * SECTORS, 3 * SECTORS), (0, 3 * SECTORS)]))
    log.take(Batch(bios_ended=[(2 * SECTORS, 3 * SECTORS)]))
    log.report()
    log.take(Batch(bios_ended=[(SECTORS, 3 * SECTORS)]))
    assert log.report() == [Extent(0, 3 * BLOCK)]
    assert not log.pending


def test_clearing_forgets_what_is_under_way() -> None:
    log = WriteLog(SIZE, 0)
    log.take(Batch(queued=[(0, 8)], bios_ended=[(8, 16)]))
    log.clear()
    log.take(Batch())
    assert log.report() == []


def test_large_volumes_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writelog, "MOST_BLOCKS", 16)
    log = WriteLog(64 * BLOCK, 0)
    log.take(Batch(requests_ended=[(SECTORS, SECTORS + 1)]))
    assert log.report() == [Extent(0, 4 * BLOCK)]


@pytest.mark.parametrize("step", [2, 3, 5])
def test_reports_have_a_bounded_number_of_ranges(
    monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(writelog, "MOST_EXTENTS", 10)
    log = WriteLog(1000 * BLOCK, 0)
    written = [(n * SECTORS, n * SECTORS + 8) for n in [*range(100, 300, step), 900]]
    log.take(Batch(requests_ended=written))
    last = written[-2][0] // SECTORS
    assert log.report() == [Extent(100 * BLOCK, (last - 99) * BLOCK), *blocks(900)]


@dataclass
class Operation:
    """Writes that were queued, and what the kernel said as they ended."""

    queued: list[Sectors]
    ended: list[Sectors]
    bio: bool


@st.composite
def operations(draw: st.DrawFn, bio: bool) -> Operation:
    start = draw(st.integers(0, SIZE // 512 - 1024))
    length = draw(st.integers(1, 1024))
    end = start + length
    cut = draw(st.integers(start, end))
    if bio:
        return Operation([(start, end)], [(cut, end)], True)
    if not start < cut < end:
        return Operation([(start, end)], [(start, end)], False)
    parts = [(start, cut), (cut, end)]
    if draw(st.booleans()):
        return Operation(parts, [(start, end)], False)
    return Operation([(start, end)], parts, False)


times = st.integers(0, 1000)
cpus = st.integers(0, CPUS - 1)


@given(st.data(), st.booleans())
def test_each_write_is_reported_after_its_end(data: st.DataObject, bio: bool) -> None:
    """Events of several CPUs, each of which is read a little later than the one before.

    What has ended when a report is asked for must be in it, or in an earlier one that was given
    after the end.
    """
    events: list[tuple[int, int, str, Sectors]] = []
    owed: list[tuple[int, list[Extent]]] = []
    for operation in data.draw(st.lists(operations(bio), max_size=8)):
        queued_at = data.draw(times)
        if data.draw(st.integers(0, 4)):  # else before the beginning
            for sectors in operation.queued:
                events.append((queued_at, data.draw(cpus), "queued", sectors))
        for sectors in operation.ended:
            ends_at = queued_at + 1 + data.draw(times)
            kind = "bios_ended" if bio else "requests_ended"
            events.append((ends_at, data.draw(cpus), kind, sectors))
            owed.append((ends_at, [in_bytes(operation.queued[0] if bio else sectors)]))
    events.sort()

    log = WriteLog(SIZE, 0)
    read_to = [-1] * CPUS
    until = -1
    asked = data.draw(st.lists(st.integers(0, 2500), max_size=5))
    for begins in (*sorted(asked), 3000, 3100, 3200):
        batch = Batch()
        until = max(until, begins)  # none begins before the one before it has ended
        for cpu in range(CPUS):
            until += data.draw(st.integers(0, 100))
            for time, where, kind, sectors in events:
                if where == cpu and read_to[cpu] < time <= until:
                    getattr(batch, kind).append(sectors)
            read_to[cpu] = max(read_to[cpu], until)
        log.take(batch)
        if begins < 3000 and data.draw(st.booleans()):
            continue
        report = log.report()
        owed = [(time, subtract(r, report) if time <= until else r) for time, r in owed]
        assert [ranges for time, ranges in owed if ranges and time <= begins] == []
    if bio:  # requests that overlap may leave some that are reported for ever
        assert not log.pending
        assert log.report() == []
