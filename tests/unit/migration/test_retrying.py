"""One job's failure is its own: what fails in a task, and what is tried until it is done."""

import asyncio
from types import SimpleNamespace

import pytest

from xenmoved.jobs.job import Job
from xenmoved.jobs.report import JobKind
from xenmoved.migration import retrying as persisting
from xenmoved.migration.retrying import until_done
from xenmoved.tasks import Guarded, keep_doing


class _Enough(Exception):
    pass


@pytest.mark.parametrize(
    "error", [RecursionError(), MemoryError(), UnicodeError("x"), OSError(12, "fork")]
)
async def test_what_one_task_raises_disturbs_no_other(error, caplog):
    done = []

    async def fails():
        raise error

    async def works():
        await asyncio.sleep(0.01)
        done.append(True)

    async with Guarded() as tasks:
        failed = tasks.create_task(fails())
        tasks.create_task(works())
    assert done == [True]
    assert failed.result() is None
    assert "fails; everything else goes on" in caplog.text


async def test_the_group_still_ends_when_its_body_does():
    with pytest.raises(ExceptionGroup):
        async with Guarded() as tasks:
            waiting = tasks.create_task(asyncio.sleep(1000))
            await asyncio.sleep(0)
            raise _Enough
    assert waiting.cancelled()


async def test_what_is_done_for_ever_begins_again(monkeypatch):
    monkeypatch.setattr("xenmoved.tasks._AGAIN_AFTER", 0.001)
    times = []
    again = asyncio.Event()

    async def work():
        times.append(True)
        if len(times) == 3:
            again.set()
        raise ValueError("no luck")

    task = asyncio.create_task(keep_doing(work))
    async with asyncio.timeout(5):
        await again.wait()
    task.cancel()


async def test_what_must_be_done_is_tried_until_it_is_with_an_alarm_meanwhile(monkeypatch):
    monkeypatch.setattr(persisting, "_PAUSES", (0.001, 0.002))
    host = SimpleNamespace(alarms={})
    job = Job(JobKind.MIGRATE, "web", "host-b")
    seen = []

    async def work():
        seen.append([alarm.text for alarm in host.alarms.values()])
        if len(seen) < 4:
            raise UnicodeError("label too long")

    await until_done(host, job, "web is not running again", work)
    assert [len(alarms) for alarms in seen] == [0, 1, 1, 1]
    assert "web is not running again: " in seen[3][0]
    assert "label too long" in seen[3][0]
    assert "tried 3 times, and again at " in seen[3][0]
    assert host.alarms == {}
    assert not job.persisting
