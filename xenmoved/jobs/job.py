"""Jobs: what the daemon is busy with, and what every view of it is made from."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from dataclasses import dataclass, field, fields
from time import monotonic
from typing import Final

from protocol.messages import Mode, Problem, Remark
from xenmoved.jobs.report import (
    JobKind,
    JobReport,
    JobState,
    Phase,
    PhaseReport,
    VolumeReport,
)
from xenmoved.jobs.steering import Steering
from xenmoved.jobs.timeline import Samples, blackout_parts, round_reports, sample
from xenmoved.sync.progress import RoundProgress, VolumeProgress
from xenmoved.tasks import within

log = logging.getLogger(__name__)

_LOOK_EVERY: Final = 0.2
_ROUND_FIELDS: Final = {field.name for field in fields(RoundProgress)} - {"started", "latest"}


def both_names(guest: str, other_name: str, peer: str) -> str:
    """Name a guest, with what its other host calls it if that is something else."""
    return f"{guest} (called {other_name} on {peer})" if other_name else guest


@dataclass(slots=True, eq=False)
class Job:
    """One piece of work. Its owner updates the fields; `report` is a picture of the moment.

    `began` is by the monotonic clock, as is `suspended_at`: when the guest stood still.
    `persisting` while it only waits to try again what must be done in the end.
    """

    kind: JobKind
    guest: str
    peer: str
    mode: Mode = Mode.SAVE
    job: str = field(default_factory=lambda: secrets.token_hex(4))
    state: JobState = JobState.RUNNING
    phase: Phase = Phase.PREFLIGHT
    started: float = field(default_factory=time.time)
    began: float = field(default_factory=monotonic)
    ended: float | None = None
    volumes: list[VolumeProgress] = field(default_factory=list)
    memory_sent: int = 0
    memory_total: int = 0
    phases: list[PhaseReport] = field(default_factory=list)
    samples: Samples = field(default_factory=Samples)
    suspended_at: float | None = None
    blackout: float | None = None
    left: int = 0
    problem: Problem | None = None
    remarks: tuple[Remark, ...] = ()
    other_name: str = ""
    doing: str = ""
    keep_partial: bool = False
    confirmed: bool = False
    persisting: bool = False
    steering: Steering = field(default_factory=Steering)
    task: asyncio.Task[None] | None = None
    abort_reason: str = ""
    abort_requested: asyncio.Event = field(default_factory=asyncio.Event)
    finished: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        if not self.phases:
            self.phases.append(PhaseReport(self.phase, 0.0))

    def request_abort(self, why: str) -> None:
        """Have the job end before its commit, if it still can; `why` is told to the operator."""
        self.abort_reason = why
        self.abort_requested.set()

    @property
    def wire_bytes(self) -> int:
        """Bytes on the wire so far, of volumes and of memory."""
        rounds = (one for volume in self.volumes for one in volume.rounds)
        return sum(one.wire_bytes for one in rounds) + self.memory_sent

    @property
    def fallbacks(self) -> int:
        """How often a tracker could not tell what was written to one of its volumes."""
        return sum(volume.fallbacks for volume in self.volumes)

    @property
    def stuck(self) -> bool:
        """Whether nobody can say when it ends: it is in doubt, or tries again what must be done."""
        return self.persisting or self.state is JobState.IN_DOUBT

    async def over(self, *, decided: bool = False) -> bool:
        """Wait for its end; return False when it is stuck before that.

        A doubt is nothing to be stuck in when it is `decided`.
        """
        while not await within(self.finished, _LOOK_EVERY):
            if self.persisting if decided else self.stuck:
                return False
        return True

    @property
    def both_names(self) -> str:
        """What the guest is called here, and on the other host where that differs."""
        return both_names(self.guest, self.other_name, self.peer)

    def enter(self, phase: Phase) -> None:
        """Go on to a phase."""
        if phase is not self.phase:
            self.phase, self.doing = phase, ""
            self.phases.append(PhaseReport(phase, self.elapsed()))
            self.take_sample()
            log.info("phase %s", phase)

    @property
    def suspending(self) -> bool:
        """Whether it is too late to hold the guest here."""
        return self.phase not in (
            Phase.PREFLIGHT,
            Phase.PROVISION,
            Phase.PRE_COPY,
            Phase.HOLD,
        )

    def note(self, doing: str) -> None:
        """Note what is done in this phase, where that is more than its name tells."""
        self.doing = doing

    def elapsed(self) -> float:
        """Return the seconds since the job began."""
        return max(0.0, monotonic() - self.began)

    def take_sample(self) -> None:
        """Note how much was sent by now."""
        sends = self.kind is not JobKind.RECEIVE
        self.samples.add(sample(self.elapsed(), self.volumes, self.memory_sent, sends=sends))

    def report(self) -> JobReport:
        """Return everything there is to know at this moment, but for the samples."""
        volumes = tuple(
            VolumeReport(
                volume.name,
                volume.size,
                volume.target,
                volume.fresh,
                round_reports(volume, self.began),
                volume.streamed,
            )
            for volume in self.volumes
        )
        rounds = [one for volume in volumes for one in volume.rounds]
        suspended = None if self.suspended_at is None else max(0.0, self.suspended_at - self.began)
        parts = None
        moved = any(one.phase is Phase.COMMIT for one in self.phases)
        if suspended is not None and self.blackout is not None and moved:
            parts = blackout_parts(suspended, self.blackout, self.phases, rounds)
        return JobReport(
            job=self.job,
            kind=self.kind,
            state=self.state,
            phase=self.phase,
            guest=self.guest,
            peer=self.peer,
            mode=self.mode,
            started=self.started,
            ended=self.ended,
            volumes=volumes,
            memory_sent=self.memory_sent,
            memory_total=self.memory_total,
            wire_bytes=self.wire_bytes,
            blackout=self.blackout,
            left=self.left,
            rate_limit=self.steering.limiter.rate,
            max_downtime=self.steering.max_downtime,
            hold=self.steering.hold,
            problem=self.problem,
            phases=tuple(self.phases),
            suspended=suspended,
            blackout_parts=parts or (),
            other_name=self.other_name,
            doing=self.doing if self.state is JobState.RUNNING else "",
            remark=self.steering.remark,
            keep_partial=self.keep_partial,
            confirmed=self.confirmed,
            remarks=self.remarks,
        )

    @classmethod
    def restored(cls, report: JobReport, samples: Samples) -> Job:
        """Return the job that an earlier process reported on, to be gone on with."""
        began = monotonic() - max(0.0, time.time() - report.started)
        return cls(
            kind=report.kind,
            guest=report.guest,
            peer=report.peer,
            mode=report.mode,
            job=report.job,
            phase=report.phase,
            started=report.started,
            began=began,
            volumes=[_progress(volume, began) for volume in report.volumes],
            memory_sent=report.memory_sent,
            memory_total=report.memory_total,
            phases=list(report.phases),
            samples=samples,
            other_name=report.other_name,
            remarks=report.remarks,
            suspended_at=None if report.suspended is None else began + report.suspended,
        )


def _progress(volume: VolumeReport, began: float) -> VolumeProgress:
    rounds = [
        RoundProgress(
            **{name: getattr(one, name) for name in _ROUND_FIELDS}, started=began + one.at
        )
        for one in volume.rounds
    ]
    return VolumeProgress(
        volume.name, volume.size, volume.target, volume.fresh, rounds, volume.streamed
    )
