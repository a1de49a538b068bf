"""What Prometheus is told, and under which names. docs/operating.md explains each.

Labels are of bounded sets: words of this program, and pools and peers as they are configured.
Guests and jobs are no labels, and nothing that a peer has said is.
"""

from __future__ import annotations

import asyncio
import platform
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Final

from prometheus_client import Counter, Histogram, disable_created_metrics
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)

import xenmoved
from protocol.handover import SourceState
from protocol.messages import Mode
from xenmoved.jobs.job import Job
from xenmoved.jobs.report import ENDED, JobKind, JobState, Phase
from xenmoved.link.server import Visitor
from xenmoved.migration.host import Host
from xenmoved.monitoring.looks import Looks

BLACKOUTS: Final = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0)
LAGS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_LAG_EVERY: Final = 0.25

_MODES: Final = (Mode.LIVE, Mode.SAVE)
_OUTCOMES: Final = ("moved", "stayed")
_PHASES: Final = tuple(phase for phase in Phase if phase is not Phase.ENDED)
_DIRECTIONS: Final = ("sent", "received")
_SIDES: Final = ("source", "target")


class MetricsCollector:
    """Counts what jobs do, and describes this host at a moment. Only for the event loop's thread.

    A `JobWatcher`: it counts from its making on, so that all begins with 0 when the daemon starts.
    """

    def __init__(self, host: Host, looks: Looks, visitors: Callable[[], Iterable[Visitor]]) -> None:
        self._host = host
        self._looks = looks
        self._visitors = visitors
        self._counted: dict[str, tuple[Job, int, int]] = {}
        """Jobs that live, with the bytes and fallbacks of each that are counted already."""
        self._bytes: Tally[tuple[str, str]] = Tally()
        self._fallbacks = 0
        # Each series would have a second one, of when it began: all did when the process did.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._ended = Counter(
            "xenmoved_jobs_ended",
            "Jobs that have ended since the daemon was started.",
            ("kind", "state"),
            registry=None,
        )
        self._blackouts = Histogram(
            "xenmoved_blackout_seconds",
            "How long guests stood still in migrations from here: until they ran there, or again "
            "here.",
            ("mode", "outcome"),
            buckets=BLACKOUTS,
            registry=None,
        )
        self._lag = Histogram(
            "xenmoved_event_loop_lag_seconds",
            "By how much the daemon came too late to something: tried four times a second.",
            buckets=LAGS,
            registry=None,
        )
        # Every series is there from the start, or what happens first would be no increase.
        for kind in JobKind:
            for state in sorted(ENDED):
                self._ended.labels(kind, state)
        for mode in _MODES:
            for outcome in _OUTCOMES:
                self._blackouts.labels(mode, outcome)

    def begun(self, job: Job) -> None:
        """Begin to count what a job does. What an earlier process did is not counted."""
        self._counted[job.job] = job, job.wire_bytes, job.fallbacks

    def ended(self, job: Job) -> None:
        """Count what a job has done, and how it ended."""
        self._count()
        self._counted.pop(job.job, None)
        self._ended.labels(job.kind, job.state).inc()
        if job.kind is JobKind.MIGRATE and job.mode in _MODES and job.blackout is not None:
            outcome = "moved" if job.state is JobState.DONE else "stayed"
            self._blackouts.labels(job.mode, outcome).observe(job.blackout)

    async def measure_lag(self) -> None:
        """See how late the event loop is, for ever."""
        while True:
            due = monotonic() + _LAG_EVERY
            await asyncio.sleep(_LAG_EVERY)
            self._lag.observe(max(0.0, monotonic() - due))

    def collect(self) -> list[Metric]:
        """Return everything, as it is at this moment. Runs no command and waits for nothing."""
        self._count()
        return [
            self._build(),
            self._jobs(),
            *self._ended.collect(),
            self._transferred(),
            *self._blackouts.collect(),
            CounterMetricFamily(
                "xenmoved_tracker_fallbacks",
                "Times that it was not known what a guest had written, so that all of a volume had "
                "to be read again.",
                self._fallbacks,
            ),
            *self._trouble(),
            *self._pools(),
            *self._copies(),
            self._looked(),
            *self._links(),
            *self._lag.collect(),
        ]

    def _count(self) -> None:
        """Add what jobs have done since this was called last."""
        for name, (job, sent, fallbacks) in self._counted.items():
            direction = "received" if job.kind is JobKind.RECEIVE else "sent"
            # What goes back is begun anew: it was counted.
            self._bytes[job.peer, direction] += max(0, job.wire_bytes - sent)
            self._fallbacks += max(0, job.fallbacks - fallbacks)
            self._counted[name] = job, job.wire_bytes, job.fallbacks

    def _build(self) -> Metric:
        return InfoMetricFamily(
            "xenmoved_build",
            "The release of the daemon, what runs it, and the name of this host among its peers.",
            {
                "version": xenmoved.__version__,
                "python": platform.python_version(),
                "node": self._host.config.node,
            },
        )

    def _jobs(self) -> Metric:
        found = GaugeMetricFamily(
            "xenmoved_jobs",
            "Jobs that have not ended, by what they are busy with.",
            labels=("kind", "state", "phase"),
        )
        there = Tally((job.kind, job.state, job.phase) for job in self._host.jobs.live)
        for kind in JobKind:
            for state in (JobState.RUNNING, JobState.IN_DOUBT):
                for phase in _PHASES:
                    found.add_metric((kind, state, phase), there[kind, state, phase])
        return found

    def _transferred(self) -> Metric:
        found = CounterMetricFamily(
            "xenmoved_transfer_bytes",
            "Bytes of volumes and memory on the wire since the daemon was started.",
            labels=("peer", "direction"),
        )
        for peer in (one.name for one in self._host.roster.all()):
            for direction in _DIRECTIONS:
                found.add_metric((peer, direction), self._bytes[peer, direction])
        return found

    def _trouble(self) -> Iterator[Metric]:
        host, doubts = self._host, self._looks.doubts
        in_doubt = GaugeMetricFamily(
            "xenmoved_doubts",
            "Migrations in doubt, or decided without the peer's word.",
            labels=("side",),
        )
        oldest = GaugeMetricFamily(
            "xenmoved_doubts_oldest_timestamp_seconds",
            "When the oldest of them began; no value while there is none.",
            labels=("side",),
        )
        for side in _SIDES:
            is_source = side == "source"
            since = [one.since for one in doubts if isinstance(one.state, SourceState) is is_source]
            in_doubt.add_metric((side,), len(since))
            if since:
                oldest.add_metric((side,), min(since))
        yield in_doubt
        yield oldest
        failed = host.journal.alarm is not None
        yield GaugeMetricFamily(
            "xenmoved_alarms",
            "Alarms: what is tried again and again, and a journal that cannot be written.",
            len(host.alarms) + len(host.certificate_alarms()) + failed,
        )
        yield GaugeMetricFamily(
            "xenmoved_journal_failed",
            "1 while the journal cannot be written, so that nothing new begins; else 0.",
            failed,
        )

    def _pools(self) -> Iterator[Metric]:
        labels = ("pool", "kind")
        answers = GaugeMetricFamily(
            "xenmoved_pool_up", "1 if the pool can be looked at, else 0.", labels=labels
        )
        total = GaugeMetricFamily(
            "xenmoved_pool_size_bytes", "Space of the pool in all.", labels=labels
        )
        free = GaugeMetricFamily(
            "xenmoved_pool_free_bytes",
            "Space of the pool for new data, without its reserve.",
            labels=labels,
        )
        for pool in self._looks.pools:
            names = pool.name, pool.kind
            answers.add_metric(names, pool.problem is None)
            if pool.problem is None:
                total.add_metric(names, pool.total)
                free.add_metric(names, pool.free)
        yield from (answers, total, free)

    def _copies(self) -> Iterator[Metric]:
        labels = ("pool",)
        count = GaugeMetricFamily(
            "xenmoved_retained_volumes",
            "Copies that are kept of guests that went away.",
            labels=labels,
        )
        size = GaugeMetricFamily(
            "xenmoved_retained_bytes", "Bytes that these copies take.", labels=labels
        )
        oldest = GaugeMetricFamily(
            "xenmoved_retained_oldest_age_seconds",
            "For how long the oldest of them is kept; no value while there is none.",
            labels=labels,
        )
        for pool in self._host.pools if self._looks.copies_at else ():
            copies = [one for one in self._looks.copies.copies if one.pool == pool]
            count.add_metric((pool,), len(copies))
            size.add_metric((pool,), sum(one.size for one in copies))
            if copies:
                oldest.add_metric((pool,), max(one.kept for one in copies))
        yield from (count, size, oldest)

    def _looked(self) -> Metric:
        found = GaugeMetricFamily(
            "xenmoved_looked_timestamp_seconds",
            "When it was last looked at what takes more than a moment; 0 before the first time.",
            labels=("what",),
        )
        found.add_metric(("doubts",), self._looks.doubts_at)
        found.add_metric(("pools",), self._looks.pools_at)
        found.add_metric(("copies",), self._looks.copies_at)
        return found

    def _links(self) -> Iterator[Metric]:
        connected = GaugeMetricFamily(
            "xenmoved_link_connected",
            "1 while there is a connection to the peer, or from it, else 0.",
            labels=("peer", "direction"),
        )
        round_trips = GaugeMetricFamily(
            "xenmoved_link_round_trip_seconds",
            "Round trip time to the peer, by the kernel; no value while there is no connection.",
            labels=("peer",),
        )
        links = self._host.links
        visitors = {one.peer: one for one in self._visitors() if not one.settling}
        for peer in (one.name for one in self._host.roster.all()):
            visitor = visitors.get(peer)
            connected.add_metric((peer, "to"), links.connected(peer))
            connected.add_metric((peer, "from"), visitor is not None)
            round_trip = links.round_trip(peer)
            if round_trip is None and visitor is not None:
                round_trip = visitor.round_trip
            if round_trip is not None:
                round_trips.add_metric((peer,), round_trip)
        yield from (connected, round_trips)
