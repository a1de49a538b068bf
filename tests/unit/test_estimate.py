"""What `plan` tells of the time that a migration will take."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from xenmoved.migration.estimate import Content, Rates, estimate, look

MIB = 2**20
RATES = Rates(send=100 * MIB, read=400 * MIB)


def test_a_fresh_copy_is_sent_and_then_read_twice_more() -> None:
    guess = estimate([Content(4000 * MIB, fresh=True)], 1000 * MIB, RATES)
    assert guess.blackout == 10  # reading everything again: the memory needs as long
    assert guess.total == 40 + 10 + 10


def test_what_the_target_has_is_only_read() -> None:
    guess = estimate([Content(4000 * MIB, fresh=False)], 100 * MIB, RATES)
    assert (guess.total, guess.blackout) == (20, 10)


def test_large_memory_decides_the_blackout() -> None:
    guess = estimate([Content(400 * MIB, fresh=False)], 8000 * MIB, RATES)
    assert (guess.total, guess.blackout) == (81, 80)


def test_a_guest_without_disks() -> None:
    guess = estimate([], 100 * MIB, RATES)
    assert (guess.total, guess.blackout) == (1, 1)


def test_looking_counts_data_and_measures_reading(tmp_path: Path) -> None:
    sparse, full = tmp_path / "sparse", tmp_path / "full"
    sparse.touch()
    os.truncate(sparse, 2**40)
    full.write_bytes(os.urandom(4 * MIB))
    data, rate = look([str(sparse), str(full)])
    assert data == [0, 4 * MIB]
    assert 1 * MIB < rate < 2**40
    assert look([]) == ([], float("inf"))


def test_an_empty_disk_has_a_rate(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    os.truncate(empty, MIB)
    data, rate = look([str(empty)])
    assert data == [0]
    assert rate > 0
    assert estimate([Content(0, fresh=True)], 0, Rates(1, rate)).total == pytest.approx(0)
