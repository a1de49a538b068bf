"""What `plan` tells of the time that a migration will take."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from protocol.messages import Mode
from storage import open_source
from xenmoved.migration.source.estimate import Content, Rates, estimate, look
from xenmoved.migration.source.rounds import DISK_GOAL, FIXED_COST

MIB = 2**20
RATES = Rates(send=100 * MIB, read=400 * MIB)


def a_disk(mebibytes: int, *, fresh: bool = False, tracked: bool = False) -> list[Content]:
    return [Content(mebibytes * MIB, fresh, tracked)]


def test_what_nothing_tracks_is_sent_and_then_read_twice_more() -> None:
    guess = estimate(a_disk(4000, fresh=True), 1000 * MIB, RATES, Mode.SAVE)
    assert guess.blackout == 10 + FIXED_COST  # reading everything: the memory needs as long
    assert guess.total == 40 + 10 + guess.blackout


def test_what_the_target_has_is_only_read() -> None:
    guess = estimate(a_disk(4000), 100 * MIB, RATES, Mode.SAVE)
    assert (guess.total, guess.blackout) == (20 + FIXED_COST, 10 + FIXED_COST)


def test_with_a_tracker_the_size_of_the_disk_does_not_count() -> None:
    small, large = (
        estimate(a_disk(size, tracked=True), 100 * MIB, RATES, Mode.SAVE) for size in (1, 10**6)
    )
    assert small.blackout == large.blackout == 1 + FIXED_COST
    assert large.total == pytest.approx(10**6 / 400 + large.blackout)


def test_in_live_mode_memory_is_sent_before_the_blackout() -> None:
    guess = estimate(a_disk(400, tracked=True), 8000 * MIB, RATES, Mode.LIVE)
    assert guess.blackout == DISK_GOAL + FIXED_COST
    assert guess.total == 1 + 80 + guess.blackout


def test_large_memory_decides_the_blackout() -> None:
    guess = estimate(a_disk(400), 8000 * MIB, RATES, Mode.SAVE)
    assert (guess.total, guess.blackout) == (81 + FIXED_COST, 80 + FIXED_COST)


def test_a_guest_without_disks() -> None:
    guess = estimate([], 100 * MIB, RATES, Mode.SAVE)
    assert (guess.total, guess.blackout) == (1 + FIXED_COST, 1 + FIXED_COST)


def test_a_guest_that_does_not_run_waits_for_its_disks() -> None:
    guess = estimate(a_disk(4000, fresh=True), 0, RATES, Mode.COLD)
    assert (guess.total, guess.blackout) == (40, 40)


def test_looking_counts_data_and_measures_reading(tmp_path: Path) -> None:
    sparse, full = tmp_path / "sparse", tmp_path / "full"
    sparse.touch()
    os.truncate(sparse, 2**40)
    full.write_bytes(os.urandom(4 * MIB))
    data, rate = look([str(sparse), str(full)], open_source)
    assert data == [0, 4 * MIB]
    assert 1 * MIB < rate < 2**40
    assert look([], open_source) == ([], float("inf"))


def test_an_empty_disk_has_a_rate(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    os.truncate(empty, MIB)
    data, rate = look([str(empty)], open_source)
    assert data == [0]
    assert rate > 0
    guess = estimate(a_disk(0, fresh=True), 0, Rates(1, rate), Mode.LIVE)
    assert guess.total == pytest.approx(FIXED_COST)
