"""When pre-copy ends."""

from __future__ import annotations

from itertools import pairwise

import pytest

from storage.contracts import EVERYTHING, Everything, Extent
from xenmoved.migration.source.rounds import (
    DISK_GOAL,
    Outlook,
    another_round,
    least_rate,
    outlook,
    send_rate,
)
from xenmoved.sync.progress import RoundProgress

MIB = 2**20


def tracked(*seconds: float) -> list[Outlook]:
    """Return outlooks of which nothing stays whatever is sent before."""
    return [Outlook(int(one * 100 * MIB), one, 0.0) for one in seconds]


@pytest.mark.parametrize("most", [1, 2, 5])
def test_never_more_than_asked_for(most: int) -> None:
    shrinking = tracked(*(1000 / 2**number for number in range(most)))
    assert not another_round(shrinking, DISK_GOAL, most)
    assert another_round(shrinking, DISK_GOAL, most + 1)


def test_it_ends_when_the_goal_is_met() -> None:
    assert another_round(tracked(10, 3), 2.0, 9)
    assert not another_round(tracked(10, 2), 2.0, 9)
    assert not another_round(tracked(0), DISK_GOAL, 9)


def test_after_the_first_round_there_is_a_second_however_much_is_left() -> None:
    assert another_round(tracked(1000), DISK_GOAL, 9)


def test_it_ends_when_the_rounds_no_longer_shrink() -> None:
    assert another_round(tracked(10, 8, 6.4), DISK_GOAL, 9)
    assert not another_round(tracked(10, 8, 7), DISK_GOAL, 9)
    assert not another_round(tracked(10, 2, 4), DISK_GOAL, 9)


def test_it_ends_when_reading_costs_more_than_sending() -> None:
    assert another_round([Outlook(0, 20, 10)], DISK_GOAL, 9)
    assert not another_round([Outlook(0, 10.5, 10)], DISK_GOAL, 9)


def test_what_is_tracked_costs_its_sending() -> None:
    found = outlook([([Extent(0, 60 * MIB)], []), ([Extent(5, 40 * MIB)], [])], 200 * MIB)
    assert found == Outlook(100 * MIB, 0.5, 0.0)


def test_what_is_not_tracked_costs_reading_all_of_it() -> None:
    rounds = [
        RoundProgress(1, 1024 * MIB, data_bytes=1024 * MIB, seconds=20.0),
        RoundProgress(2, 1024 * MIB, data_bytes=100 * MIB, seconds=4.0),
    ]
    pending: list[tuple[list[Extent] | Everything, list[RoundProgress]]] = [
        (EVERYTHING, rounds),
        ([], []),
    ]
    assert outlook(pending, 50 * MIB) == Outlook(100 * MIB, 6.0, 4.0)


def test_the_rate_is_the_best_that_was_reached_under_the_limit() -> None:
    done = [(100 * MIB, 2.0), (80 * MIB, 1.0), (1 * MIB, 0.001)]
    assert send_rate(done, None) == 80 * MIB
    assert send_rate(done, 10 * MIB) == 10 * MIB
    assert send_rate([(0, 0.0)], 10 * MIB) == 10 * MIB
    assert send_rate([(4 * MIB, 0.0)], None) > 0


@pytest.mark.parametrize("written", [0.0, 1.0, 20.0, 100.0, 500.0])
@pytest.mark.parametrize("speed", [50.0, 400.0])
@pytest.mark.parametrize("floor", [0.0, 5.0])
def test_it_comes_to_an_end_under_any_load(written: float, speed: float, floor: float) -> None:
    """`written` MiB a second at a guest of 2 GiB, sent with `speed`."""
    took = 2048 / speed
    outlooks: list[Outlook] = []
    while True:
        left = min(2048.0, written * took)
        outlooks.append(Outlook(int(left * MIB), floor + left / speed, floor))
        if not another_round(outlooks, DISK_GOAL, 1000):
            break
        took = outlooks[-1].seconds
    assert len(outlooks) <= 30
    if written < speed / 2 and not floor:
        assert outlooks[-1].seconds <= DISK_GOAL
    assert all(b.seconds <= a.seconds for a, b in pairwise(outlooks[:-1]))


@pytest.mark.parametrize(
    ("done", "limit", "least"),
    [
        ([], None, MIB),
        ([(MIB, 1.0)], None, MIB),
        ([(1000 * MIB, 1.0)], None, 4 * MIB),
        ([(20 * MIB, 1.0)], None, 2 * MIB),
        ([(1000 * MIB, 1.0)], MIB, MIB / 10),
        ([(20 * MIB, 10_000.0)], None, MIB / 4),
    ],
)
def test_a_tenth_of_what_was_reached_is_slow_and_no_stall(
    done: list[tuple[int, float]], limit: int | None, least: float
) -> None:
    assert least_rate(done, limit) == least
