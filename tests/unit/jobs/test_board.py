"""Which jobs are there, and when they begin."""

from __future__ import annotations

import asyncio

import pytest

from protocol.messages import Remark
from xenmoved.jobs.board import JobBoard
from xenmoved.jobs.job import Job
from xenmoved.jobs.report import JobKind, JobState
from xenmoved.journal.database import Journal, JournalFailed
from xenmoved.problems import Obstructed, problem
from xenmoved.remarks import good_to_know


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


def remark(code: str) -> Remark:
    return good_to_know(code, f"the text of {code}")


async def test_remarks_come_to_a_job_whenever_they_are_found(board: JobBoard) -> None:
    """While it lives, when it has ended, and all of those that come at the same time."""
    job = a_job()
    await board.add(job)
    await board.remark(job.job, [remark("first")])
    assert job.remarks == (remark("first"),)
    await board.end(job, JobState.DONE)
    await asyncio.gather(*(board.remark(job.job, [remark(f"c{n}")]) for n in range(10)))
    await board.amend(job.job, problem=problem("code", "text"))
    await board.remark(job.job, [remark("instead")], instead_of="first")
    await board.remark(job.job, [])
    await board.remark("00000000", [remark("of no job")])
    (report,) = await board.reports()
    assert {one.code for one in report.remarks} == {"instead", *(f"c{n}" for n in range(10))}
    assert report.problem == problem("code", "text")


async def test_a_remark_on_a_job_that_is_not_written_down_yet(
    board: JobBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = a_job()
    await board.add(job)

    async def full(*_: object, **__: object) -> None:
        raise JournalFailed("no space")

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "record_job", full)
        await board.end(job, JobState.DONE)
        await board.remark(job.job, [remark("late")])
    await board.save_rest()
    (report,) = await board.reports()
    assert (report.state, report.remarks) == (JobState.DONE, (remark("late"),))
