"""The age of copies, whatever the clock says."""

import logging
from types import SimpleNamespace
from unittest.mock import AsyncMock

import pytest

from xenmoved.journal.database import Journal
from xenmoved.journal.records import Form, Holding
from xenmoved.migration import expiry

YEARS = 3 * 365 * 86400.0


class Clock:
    def __init__(self):
        self.now, self.passed = 1000.0, 50.0

    def sleep(self, seconds, step=0.0):
        self.now += seconds + step
        self.passed += seconds


@pytest.mark.parametrize(("step", "way"), [(YEARS, "forward"), (-YEARS, "back")])
def test_a_clock_that_is_set_makes_nothing_older(caplog, step, way):
    clock = Clock()
    watch = expiry.RetentionClock(lambda: clock.now, lambda: clock.passed)
    clock.sleep(600)
    assert watch.look(1200) == 600
    assert caplog.records == []
    clock.sleep(600, step)
    assert watch.look(1200) == 600
    assert f"was set {way} by 1095d" in caplog.text


def test_one_look_makes_nothing_old():
    clock = Clock()
    watch = expiry.RetentionClock(lambda: clock.now, lambda: clock.passed)
    clock.sleep(YEARS)  # the host slept
    assert watch.look(1200) == 1200


async def test_an_image_whose_content_went_is_no_copy_of_anything(tmp_path, monkeypatch):
    """What else is in it, as snapshots, is nowhere else."""
    journal = Journal(tmp_path / "journal.db")
    await journal.open()
    dropped = []
    monkeypatch.setattr(expiry, "needs", AsyncMock())
    monkeypatch.setattr(expiry, "obstacles", AsyncMock(return_value=[]))

    async def copies(host, found):
        return [(one.name, one) for one in await journal.retained()]

    async def drop(host, row, copy):
        dropped.append(row)

    monkeypatch.setattr(expiry, "copies", copies)
    monkeypatch.setattr(expiry, "drop", drop)
    try:
        for form in Form:
            note = Holding("images", form.name, "uuid", "web", since=1.0, kept=90.0, form=form)
            await journal.record_holding(note)
        await expiry._expire(SimpleNamespace(journal=journal), 60.0, set())
    finally:
        await journal.close()
    assert sorted(dropped) == ["IMAGE", "RAW"]


@pytest.mark.parametrize("since", [0.0, -YEARS, 4e9])
async def test_only_what_was_counted_is_due(tmp_path, monkeypatch, caplog, since):
    """A copy of the year 1970 and one that comes from the future: both wait, and then go."""
    caplog.set_level(logging.WARNING)
    journal = Journal(tmp_path / "journal.db")
    await journal.open()
    await journal.record_holding(Holding("images", "web", "uuid", "web", since=since))
    looked = []

    async def needs(host):
        looked.append(host)

    async def copies(host, found):
        return []

    monkeypatch.setattr(expiry, "needs", needs)
    monkeypatch.setattr(expiry, "copies", copies)
    host = SimpleNamespace(journal=journal)
    try:
        told = set()
        for _ in range(2):
            await expiry._expire(host, 86400.0, told)
        assert looked == []
        assert caplog.text.count("is old enough by the clock") == (since < 4e9)
        await journal.count_kept(86400.0)
        await expiry._expire(host, 86400.0, told)
        assert looked == [host]
    finally:
        await journal.close()
