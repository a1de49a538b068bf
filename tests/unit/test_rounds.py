"""How many pre-copy rounds are run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from xenmoved.migration.rounds import another_round
from xenmoved.sync.progress import RoundProgress

MIB = 2**20


def ran(*rounds: tuple[float, float]) -> list[RoundProgress]:
    """Return rounds that sent so many MiB in so many seconds."""
    return [
        RoundProgress(number, 1024 * MIB, data_bytes=int(mebibytes * MIB), seconds=seconds)
        for number, (mebibytes, seconds) in enumerate(rounds, 1)
    ]


def test_there_is_always_a_first_round() -> None:
    assert another_round([], 1)


@pytest.mark.parametrize("most", [1, 2, 5])
def test_never_more_than_asked_for(most: int) -> None:
    shrinking = ran(*((1000 / 2**number, 1.0) for number in range(most)))
    assert not another_round(shrinking, most)


def test_after_the_first_round_there_is_a_second_unless_it_sent_next_to_nothing() -> None:
    assert another_round(ran((1000, 10)), 5)
    assert another_round(ran((17, 10)), 5)
    assert not another_round(ran((16, 10)), 5)
    assert not another_round(ran((0, 10)), 5)


def test_it_ends_when_the_rounds_no_longer_shrink() -> None:
    assert another_round(ran((1000, 10), (200, 2), (150, 2)), 9)
    assert not another_round(ran((1000, 10), (200, 2), (170, 2)), 9)
    assert not another_round(ran((1000, 10), (200, 2), (400, 4)), 9)


def test_it_ends_when_reading_costs_more_than_sending() -> None:
    # Each round reads everything in 10 s; what is left can be sent in a moment.
    assert not another_round(ran((1000, 10), (40, 10)), 9)
    # Sending takes as long as reading: another round takes load from the last one.
    assert another_round(ran((1000, 10), (800, 10)), 9)


def test_rounds_that_took_no_time_do_no_harm() -> None:
    assert another_round(ran((100, 0)), 5)
    assert another_round(ran((100, 0), (50, 0)), 5)
    assert not another_round(ran((100, 0), (0, 0)), 5)


def every_load() -> Iterator[tuple[float, float]]:
    for written in (0.0, 1.0, 20.0, 100.0, 500.0):
        for speed in (50.0, 400.0):
            yield written, speed


@pytest.mark.parametrize(("written", "speed"), list(every_load()))
def test_it_comes_to_an_end_under_any_load(written: float, speed: float) -> None:
    """`written` MiB a second at a guest of 2 GiB, sent with `speed`."""
    rounds: list[RoundProgress] = []
    dirty = 2048.0
    while another_round(rounds, 100):
        seconds = dirty / speed + 1
        rounds += ran((dirty, seconds))
        dirty = min(2048.0, written * seconds)
    assert len(rounds) <= 12
