"""The course of a job: bounded samples, what rounds found to be written, what a blackout was."""

import asyncio
import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.schema import build, plain
from xenmoved.jobs.board import JobBoard
from xenmoved.jobs.job import Job
from xenmoved.jobs.report import JobKind, JobReport, JobState, Phase, PhaseReport, Sample
from xenmoved.jobs.timeline import (
    FIRST_INTERVAL,
    MOST_SAMPLES,
    Samples,
    blackout_parts,
    round_reports,
    sample,
)
from xenmoved.sync.progress import KEPT_ROUNDS, RoundProgress, VolumeProgress

MIB = 2**20


@pytest.mark.parametrize("hours", [0.001, 0.1, 3, 100])
def test_samples_are_few_and_spread_over_the_whole_life_of_a_job(hours: float) -> None:
    samples = Samples()
    at, end, step = 0.0, hours * 3600, FIRST_INTERVAL if hours < 4 else 7.0
    while at <= end:
        if samples.due(at):
            samples.add(Sample(at, int(at), 0, None))
        at += step
    moments = [one.at for one in samples.kept]
    gaps = [b - a for a, b in itertools.pairwise(moments)]
    assert moments[0] == 0.0
    assert end - moments[-1] <= 2.1 * max(gaps)
    assert len(moments) < MOST_SAMPLES
    assert len(moments) > min(end / step, MOST_SAMPLES) / 2 - 2
    assert max(gaps) < 2.1 * min(gaps)


def test_a_sample_counts_what_was_sent_and_what_is_left() -> None:
    done = VolumeProgress("a", 100, rounds=[RoundProgress(1, 100, 100, wire_bytes=70)])
    going = VolumeProgress("b", 50, rounds=[RoundProgress(2, 50, 20, wire_bytes=9)])
    waiting = VolumeProgress("c", 7)
    assert sample(1.5, [done, going, waiting], 3, sends=True) == Sample(1.5, 79, 3, 37)
    assert sample(1.5, [done, going, waiting], 3, sends=False).left is None


def test_what_was_written_is_what_a_tracker_says_or_what_differed() -> None:
    size = 1024 * MIB
    rounds = [
        RoundProgress(1, size, data_bytes=900 * MIB, zero_bytes=5 * MIB, started=10.0),
        RoundProgress(2, 64 * MIB, data_bytes=60 * MIB, started=18.0),
        RoundProgress(3, size, data_bytes=3 * MIB, zero_bytes=MIB, started=20.0),
        RoundProgress(4, size, verify=True, started=21.0),
    ]
    reports = round_reports(VolumeProgress("a", size, rounds=rounds), 9.0)
    assert [one.at for one in reports] == [1.0, 9.0, 11.0, 12.0]
    assert [one.dirty for one in reports] == [905 * MIB, 64 * MIB, 4 * MIB, 0]
    assert [one.dirty_rate for one in reports] == [None, 8 * MIB, 2 * MIB, None]


def test_rounds_that_are_not_told_apart_have_the_rate_of_all_of_them() -> None:
    volume = VolumeProgress("a", 1024 * MIB)
    for number in range(KEPT_ROUNDS + 10):
        total = 1024 * MIB if number == 0 else 6 * MIB
        volume.add(RoundProgress(number + 1, total, total, started=10.0 + 2 * number))
    reports = round_reports(volume, 10.0)
    assert len(reports) == KEPT_ROUNDS
    assert [one.dirty_rate for one in reports] == [None] + [3 * MIB] * (KEPT_ROUNDS - 1)
    assert reports[1].dirty == 11 * 6 * MIB
    assert [one.number for one in reports[:4]] == [1, 2, 13, 14]


PHASES = [
    PhaseReport(phase, at)
    for phase, at in [
        (Phase.PREFLIGHT, 0.0),
        (Phase.PRE_COPY, 1.0),
        (Phase.SUSPEND, 9.0),
        (Phase.FINAL_DELTA, 10.0),
        (Phase.VERIFY, 11.0),
        (Phase.READY, 14.0),
        (Phase.COMMIT, 15.0),
        (Phase.TIDY, 17.0),
    ]
]


def _rounds(*spans: tuple[float, float, bool]):
    rounds = [
        RoundProgress(number, 10, started=at, seconds=seconds, verify=verify)
        for number, (at, seconds, verify) in enumerate(spans, 1)
    ]
    return round_reports(VolumeProgress("a", 100, rounds=rounds), 0.0)


def test_a_blackout_is_told_apart_into_what_it_was_spent_on() -> None:
    rounds = _rounds((1.0, 8.0, False), (10.0, 1.0, False), (11.0, 2.0, True))
    parts = blackout_parts(10.0, 6.5, PHASES, rounds)
    assert [(one.what, one.at, one.seconds) for one in parts] == [
        ("last changes of the disks", 10.0, 1.0),
        ("verification", 11.0, 2.0),
        ("rest of the memory", 13.0, 1.0),
        ("flush and build", 14.0, 1.0),
        ("commit and start", 15.0, 1.5),
    ]


@given(
    st.floats(0, 50),
    st.floats(0, 50),
    st.lists(st.tuples(st.floats(0, 60), st.floats(0, 60), st.booleans()), max_size=5),
    st.lists(st.tuples(st.sampled_from(Phase), st.floats(0, 60)), max_size=8),
)
def test_whatever_was_recorded_the_parts_are_the_whole(suspended, blackout, spans, entered) -> None:
    phases = [PhaseReport(phase, at) for phase, at in entered]
    parts = blackout_parts(suspended, blackout, phases, _rounds(*spans))
    assert sum(one.seconds for one in parts) == pytest.approx(blackout, abs=1e-6)
    at = suspended
    for one in parts:
        assert one.at == pytest.approx(at, abs=1e-6)
        assert one.seconds >= 0
        at = one.at + one.seconds


def test_a_job_knows_when_it_came_to_each_phase() -> None:
    job = Job(JobKind.MIGRATE, "web", "host-b")
    for phase in (Phase.PROVISION, Phase.PROVISION, Phase.PRE_COPY):
        job.enter(phase)
    phases = job.report().phases
    assert [one.phase for one in phases] == [Phase.PREFLIGHT, Phase.PROVISION, Phase.PRE_COPY]
    assert 0.0 == phases[0].at <= phases[1].at <= phases[2].at < 5.0


def test_a_report_of_an_earlier_release_can_be_read() -> None:
    job = Job(JobKind.MIGRATE, "web", "host-b")
    job.volumes = [VolumeProgress("a", 100, "p:a", False, [RoundProgress(1, 100)])]
    old = plain(job.report())
    assert isinstance(old, dict)
    for name in ("phases", "suspended", "blackout_parts", "samples"):
        del old[name]
    for name in ("at", "verify", "dirty", "dirty_rate"):
        del old["volumes"][0]["rounds"][0][name]
    report = build(JobReport, json.loads(json.dumps(old)))
    assert (report.phases, report.samples, report.volumes[0].rounds[0].at) == ((), (), 0.0)
    assert Job.restored(report, Samples()).report().phases == (PhaseReport(Phase.PREFLIGHT, 0.0),)


async def test_samples_are_kept_apart_from_reports(board: JobBoard) -> None:
    job = Job(JobKind.MIGRATE, "web", "host-b")
    await board.add(job)
    observer = asyncio.create_task(board.observe())
    try:
        async with asyncio.timeout(5):
            while len(job.samples.kept) < 3:
                job.memory_sent += 1000
                await asyncio.sleep(0.01)
    finally:
        observer.cancel()
    live = await board.find("web")
    assert live is not None
    assert live.samples == ()
    assert (await board.with_samples(live)).samples == job.samples.kept
    await board.end(job, JobState.DONE)
    kept = await board.find("web")
    assert kept is not None
    assert kept.samples == ()
    assert (await board.with_samples(kept)).samples == job.samples.kept
    last = job.samples.kept[-1]
    assert last.memory == job.memory_sent
    assert kept.ended is not None
    assert last.at <= kept.ended - kept.started + 1e-3


async def test_a_job_that_is_taken_up_again_keeps_its_course(board: JobBoard) -> None:
    job = Job(JobKind.MIGRATE, "web", "host-b", memory_total=77)
    job.volumes = [VolumeProgress("a", 100, "p:a", True, [RoundProgress(1, 100, wire_bytes=5)])]
    job.enter(Phase.PRE_COPY)
    job.suspended_at = job.began + 0.5
    await board.add(job)
    kept = job.report()
    again = await board.restored(kept)
    assert again.samples.kept == job.samples.kept
    assert again.elapsed() == pytest.approx(job.elapsed(), abs=0.5)
    report = again.report()
    (one,), (before,) = report.volumes[0].rounds, kept.volumes[0].rounds
    assert one.at == pytest.approx(before.at)
    assert report.suspended == pytest.approx(0.5)
    volume = replace(report.volumes[0], rounds=kept.volumes[0].rounds)
    assert replace(report, volumes=(volume,), suspended=kept.suspended) == kept


async def test_what_a_peer_sends_in_vain_pushes_out_no_other_report(
    board: JobBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xenmoved.journal.database.KEPT_APART", 2)
    monkeypatch.setattr("xenmoved.journal.database.KEPT_JOBS", 3)
    ours = [
        (JobKind.MIGRATE, "host-b", JobState.FAILED),
        (JobKind.RECEIVE, "host-b", JobState.DONE),
        (JobKind.RECEIVE, "host-c", JobState.ABORTED),
    ]
    flood = [(JobKind.RECEIVE, "host-b", JobState.FAILED)] * 6
    for kind, peer, state in [*ours, *flood]:
        job = Job(kind, f"{kind} {state}", peer)
        await board.add(job)
        await board.end(job, state)
    left = [(one.kind, one.peer, one.state) for one in await board.reports()]
    assert left == [*flood[:2], *reversed(ours)]
