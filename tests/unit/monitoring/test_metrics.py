"""What Prometheus is told: it is counted once, and labels are bounded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import asyncssh
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from protocol.handover import SourceState, TargetState
from protocol.messages import Mode, Problem
from xenmoved.config.model import Config, Peer
from xenmoved.jobs.board import JobBoard
from xenmoved.jobs.job import Job
from xenmoved.jobs.report import JobKind, JobState, Phase
from xenmoved.journal.database import Journal
from xenmoved.journal.records import Standing
from xenmoved.migration.host import Host, Links
from xenmoved.monitoring.looks import Looks
from xenmoved.monitoring.metrics import BLACKOUTS, MetricsCollector
from xenmoved.monitoring.report import CopyHealth, PoolHealth
from xenmoved.monitoring.space import KeptCopies, StorageSpace
from xenmoved.sync.devices import Buffers
from xenmoved.sync.progress import RoundProgress, VolumeProgress

HOSTILE = 'x"} 1\nxenmoved_alarms 99\n#'


class Scene:
    """A host with a peer, and what is exported of it."""

    def __init__(self, host: Host, space: StorageSpace) -> None:
        self.host = host
        self.looks = Looks(host, space)
        self.visitors: list[Any] = []
        self.collector = MetricsCollector(host, self.looks, lambda: self.visitors)
        host.jobs.watchers.append(self.collector)
        self._registry = CollectorRegistry()
        self._registry.register(self.collector)

    def value(self, name: str, **labels: str) -> float | None:
        return self._registry.get_sample_value(name, labels)

    def metrics(self) -> list[Metric]:
        return self.collector.collect()


@pytest.fixture
async def scene(journal: Journal) -> Any:
    async with asyncio.TaskGroup() as tasks:
        host = Host(
            config=Config(node="host-a", peers={"host-b": Peer("host-b", "192.0.2.2", "")}),
            toolstack=None,  # type: ignore[arg-type]  # nobody asks for anything here
            pools={},
            journal=journal,
            jobs=JobBoard(journal),
            hooks=None,  # type: ignore[arg-type]
            links=Links(asyncssh.generate_private_key("ssh-ed25519")),
            outgoing_buffers=Buffers(1),
            incoming_buffers=Buffers(1),
        )
        yield Scene(host, StorageSpace(host, tasks))


def job_with(sent: int, kind: JobKind = JobKind.MIGRATE, **fields: Any) -> Job:
    job = Job(kind, "web", "host-b", **fields)
    volume = VolumeProgress("xvda", 2**20)
    volume.add(RoundProgress(1, 2**20, wire_bytes=sent))
    job.volumes.append(volume)
    return job


async def test_jobs_are_counted_by_what_they_are_busy_with(scene: Scene) -> None:
    job = job_with(0)
    await scene.host.jobs.add(job)
    job.enter(Phase.PRE_COPY)
    labels = {"kind": "migrate", "state": "running", "phase": "pre-copy"}
    assert scene.value("xenmoved_jobs", **labels) == 1
    assert scene.value("xenmoved_jobs", **{**labels, "phase": "preflight"}) == 0
    ended = {"kind": "migrate", "state": "failed"}
    assert scene.value("xenmoved_jobs_ended_total", **ended) == 0
    await scene.host.jobs.end(job, JobState.FAILED)
    assert scene.value("xenmoved_jobs_ended_total", **ended) == 1
    assert scene.value("xenmoved_jobs", **labels) == 0


async def test_bytes_are_counted_once_whenever_it_is_asked(scene: Scene) -> None:
    sent = {"peer": "host-b", "direction": "sent"}
    job = job_with(0)
    await scene.host.jobs.add(job)
    job.volumes[0].rounds[0].wire_bytes = 100
    assert scene.value("xenmoved_transfer_bytes_total", **sent) == 100
    assert scene.value("xenmoved_transfer_bytes_total", **sent) == 100
    job.memory_sent = 50
    await scene.host.jobs.end(job, JobState.DONE)
    assert scene.value("xenmoved_transfer_bytes_total", **sent) == 150
    comes = job_with(0, JobKind.RECEIVE)
    await scene.host.jobs.add(comes)
    comes.memory_sent = 7
    await scene.host.jobs.end(comes, JobState.ABORTED)
    assert scene.value("xenmoved_transfer_bytes_total", **sent) == 150
    received = {**sent, "direction": "received"}
    assert scene.value("xenmoved_transfer_bytes_total", **received) == 7


async def test_what_an_earlier_process_did_is_not_counted(scene: Scene) -> None:
    """The counters of a new process begin with 0: Prometheus takes what it finds for new."""
    job = job_with(1000)
    job.volumes[0].fallbacks = 3
    await scene.host.jobs.add(job)
    job.volumes[0].rounds[0].wire_bytes += 1
    job.volumes[0].fallbacks += 1
    sent = {"peer": "host-b", "direction": "sent"}
    assert scene.value("xenmoved_transfer_bytes_total", **sent) == 1
    assert scene.value("xenmoved_tracker_fallbacks_total") == 1


async def test_a_counter_never_goes_back(scene: Scene) -> None:
    job = job_with(0)
    await scene.host.jobs.add(job)
    sent = {"peer": "host-b", "direction": "sent"}
    for bytes_sent, counted in ((100, 100), (0, 100), (30, 130)):
        job.volumes[0].rounds[0].wire_bytes = bytes_sent
        assert scene.value("xenmoved_transfer_bytes_total", **sent) == counted


@pytest.mark.parametrize(
    ("state", "outcome"), [(JobState.DONE, "moved"), (JobState.FAILED, "stayed")]
)
async def test_blackouts_are_put_into_buckets(scene: Scene, state: JobState, outcome: str) -> None:
    job = job_with(0, mode=Mode.LIVE, blackout=0.25)
    await scene.host.jobs.add(job)
    await scene.host.jobs.end(job, state)
    labels = {"mode": "live", "outcome": outcome}
    bucket = "xenmoved_blackout_seconds_bucket"
    assert scene.value(bucket, le="0.2", **labels) == 0
    assert scene.value(bucket, le="0.3", **labels) == 1
    assert scene.value("xenmoved_blackout_seconds_count", **labels) == 1
    assert scene.value("xenmoved_blackout_seconds_count", mode="save", outcome=outcome) == 0
    assert (BLACKOUTS[0], BLACKOUTS[-1]) == (0.05, 60.0)


@pytest.mark.parametrize(
    "job",
    [
        job_with(0, mode=Mode.COLD, blackout=1.0),
        job_with(0, JobKind.RECEIVE, mode=Mode.LIVE, blackout=1.0),
        job_with(0, mode=Mode.LIVE),
    ],
    ids=["cold", "receive", "not suspended"],
)
async def test_what_is_no_blackout_of_a_guest_of_this_host(scene: Scene, job: Job) -> None:
    await scene.host.jobs.add(job)
    await scene.host.jobs.end(job, JobState.DONE)
    (found,) = [one for one in scene.metrics() if one.name == "xenmoved_blackout_seconds"]
    assert sum(one.value for one in found.samples) == 0


async def test_doubts_and_alarms(scene: Scene) -> None:
    def standing(state: SourceState | TargetState, since: float) -> Standing:
        return Standing("m", state, "web", "host-b", "1a2b3c4d", False, since)

    assert scene.value("xenmoved_doubts", side="source") == 0
    oldest = "xenmoved_doubts_oldest_timestamp_seconds"
    assert scene.value(oldest, side="source") is None
    scene.looks.doubts = (
        standing(SourceState.COMMIT_SENT, 20),
        standing(SourceState.KEPT, 10),
        standing(TargetState.COMMITTED, 30),
    )
    assert scene.value("xenmoved_doubts", side="source") == 2
    assert scene.value("xenmoved_doubts", side="target") == 1
    assert scene.value(oldest, side="source") == 10
    assert scene.value("xenmoved_alarms") == 0
    scene.host.alarms["1a2b3c4d"] = Problem("unfinished", "tried again", "")
    scene.host.journal.trouble = "no space"
    assert scene.value("xenmoved_alarms") == 2
    assert scene.value("xenmoved_journal_failed") == 1


async def test_pools_and_copies_as_they_were_seen_last(scene: Scene) -> None:
    scene.looks.pools = (
        PoolHealth("images", "dir", 100, 40, None),
        PoolHealth("fast", "lvm", 0, 0, Problem("storage", "no such group", "")),
    )
    assert scene.value("xenmoved_pool_free_bytes", pool="images", kind="dir") == 40
    assert scene.value("xenmoved_pool_size_bytes", pool="images", kind="dir") == 100
    assert scene.value("xenmoved_pool_up", pool="images", kind="dir") == 1
    assert scene.value("xenmoved_pool_up", pool="fast", kind="lvm") == 0
    assert scene.value("xenmoved_pool_free_bytes", pool="fast", kind="lvm") is None

    scene.host.pools = {"images": SimpleNamespace(), "fast": SimpleNamespace()}  # type: ignore[dict-item]
    assert scene.value("xenmoved_retained_bytes", pool="images") is None, "not looked yet"
    copies = tuple(CopyHealth("images", "a", HOSTILE, HOSTILE, 5, kept) for kept in (1, 9))
    scene.looks.copies, scene.looks.copies_at = KeptCopies(copies), 1.0
    assert scene.value("xenmoved_retained_bytes", pool="images") == 10
    assert scene.value("xenmoved_retained_volumes", pool="images") == 2
    assert scene.value("xenmoved_retained_oldest_age_seconds", pool="images") == 9
    assert scene.value("xenmoved_retained_bytes", pool="fast") == 0


async def test_connections_and_how_long_they_take(scene: Scene) -> None:
    assert scene.value("xenmoved_link_connected", peer="host-b", direction="from") == 0
    assert scene.value("xenmoved_link_round_trip_seconds", peer="host-b") is None
    scene.visitors = [SimpleNamespace(peer="host-b", settling=False, round_trip=0.002)]
    assert scene.value("xenmoved_link_connected", peer="host-b", direction="from") == 1
    assert scene.value("xenmoved_link_connected", peer="host-b", direction="to") == 0
    assert scene.value("xenmoved_link_round_trip_seconds", peer="host-b") == 0.002


def series(metrics: list[Metric]) -> Iterator[tuple[str, frozenset[tuple[str, str]]]]:
    for metric in metrics:
        for sample in metric.samples:
            yield sample.name, frozenset(sample.labels.items())


async def test_series_do_not_grow_with_guests_jobs_and_what_peers_say(scene: Scene) -> None:
    before = set(series(scene.metrics()))
    for number in range(20):
        job = Job(JobKind.RECEIVE, f"{HOSTILE}{number}", f"gone-{number}", other_name=HOSTILE)
        await scene.host.jobs.add(job)
        job.memory_sent = 100
        await scene.host.jobs.end(job, JobState.FAILED, Problem("x", HOSTILE, HOSTILE))
    scene.visitors = [
        SimpleNamespace(peer=f"gone-{n}", settling=False, round_trip=0.1) for n in range(20)
    ]
    assert set(series(scene.metrics())) == before


async def test_a_peer_that_comes_has_its_series_at_once_and_one_that_goes_has_none(
    scene: Scene,
) -> None:
    scene.host.config = Config(peers={"host-c": Peer("host-c", "192.0.2.3", "")})
    peers = {
        dict(labels)["peer"] for _, labels in series(scene.metrics()) if "peer" in dict(labels)
    }
    assert peers == {"host-c"}


async def test_names_are_as_prometheus_wants_them(scene: Scene) -> None:
    for metric in scene.metrics():
        assert metric.name.startswith("xenmoved_")
        assert metric.documentation.endswith(".")
        assert metric.type != "unknown"
        if metric.type == "gauge":
            assert not metric.name.endswith(("_total", "_count", "_sum", "_info"))
        assert not metric.name.endswith(("_ms", "_kib", "_percent", "_minutes"))


async def test_the_lag_of_the_event_loop_is_measured(scene: Scene) -> None:
    measuring = asyncio.create_task(scene.collector.measure_lag())
    await asyncio.sleep(0.3)
    time.sleep(0.6)  # noqa: ASYNC251 - that is what is measured
    await asyncio.sleep(0.05)
    measuring.cancel()
    late = "xenmoved_event_loop_lag_seconds"
    count, early = scene.value(f"{late}_count"), scene.value(f"{late}_bucket", le="0.2")
    assert count is not None
    assert early is not None
    assert count > early
