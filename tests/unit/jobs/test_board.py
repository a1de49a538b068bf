"""Which jobs are there, and when they begin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from xenmoved.jobs.board import JobBoard
from xenmoved.jobs.job import Job
from xenmoved.jobs.report import JobKind
from xenmoved.journal.database import Journal
from xenmoved.problems import Obstructed


@pytest.fixture
async def board(tmp_path: Path) -> AsyncIterator[JobBoard]:
    journal = Journal(tmp_path / "journal.db")
    await journal.open()
    yield JobBoard(journal)
    await journal.close()


def a_job() -> Job:
    return Job(JobKind.MIGRATE, "web", "host-b")


async def test_a_job_that_is_listed_has_the_task_that_does_it(board: JobBoard) -> None:
    job, done = a_job(), asyncio.Event()
    seen: list[bool] = []

    async def work() -> None:
        done.set()

    async def look() -> None:
        while not done.is_set():
            seen.extend(each.task is not None for each in board.live)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(look())
        await asyncio.sleep(0)
        await board.begin(job, tasks, work)
    assert done.is_set()
    assert board.live == [job]
    assert all(seen)


async def test_nothing_begins_when_the_daemon_ends(board: JobBoard) -> None:
    board.begin_no_more()

    async def work() -> None:
        raise AssertionError

    async with asyncio.TaskGroup() as tasks:
        with pytest.raises(Obstructed, match="being stopped"):
            await board.begin(a_job(), tasks, work)
    assert not board.live
