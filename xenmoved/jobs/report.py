"""What a job looks like to the client: every view is made from these reports."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

from protocol.messages import Mode, Problem, SomeRemarks
from protocol.schema import U32, U63, Length, Name, Pattern, Range, Text

JobId = Annotated[str, Pattern(r"[0-9a-f]{8}", "a job id (8 hex digits)")]
Moment = Annotated[float, Range(0, 1e12)]
Seconds = Annotated[float, Range(0, 1e9)]
Rate = Annotated[float, Range(0, 1e18)]
PathText = Annotated[str, Length(1, 4096)]


class JobKind(StrEnum):
    """What a job does, seen from this host."""

    MIGRATE = "migrate"  # a guest leaves
    SYNC = "sync"  # a volume is sent
    RECEIVE = "receive"  # a guest or a volume arrives


class JobState(StrEnum):
    """How a job stands."""

    RUNNING = "running"
    IN_DOUBT = "in-doubt"  # the target's word is not known: nothing runs here, nothing is lost
    DONE = "done"
    FAILED = "failed"
    ABORTED = "aborted"


ENDED: Final = frozenset({JobState.DONE, JobState.FAILED, JobState.ABORTED})


class Phase(StrEnum):
    """What a job is busy with, in this order.

    `memory` is live mode's: it is copied while the guest runs. `shutdown` is restart mode's. `tidy`
    is after the guest is where it belongs.
    """

    PREFLIGHT = "preflight"
    PROVISION = "provision"
    PRE_COPY = "pre-copy"
    HOLD = "hold"
    MEMORY = "memory"
    SUSPEND = "suspend"
    SHUTDOWN = "shutdown"
    FINAL_DELTA = "final-delta"
    VERIFY = "verify"
    READY = "ready"
    COMMIT = "commit"
    TIDY = "tidy"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class PhaseReport:
    """`at` so many seconds after its beginning a job came to a phase."""

    phase: Phase
    at: Seconds


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a blackout: `at` so many seconds after the beginning of the job, and how long."""

    what: Text
    at: Seconds
    seconds: Seconds


@dataclass(frozen=True, slots=True)
class Sample:
    """What a job had sent `at` so many seconds after its beginning, in bytes on the wire.

    `left` is what the rounds that were going on had not examined yet; None where not known.
    """

    at: Seconds
    disks: U63
    memory: U63
    left: U63 | None


@dataclass(frozen=True, slots=True)
class RoundReport:
    """One round of one volume: blocks alike, sent, and made zero; `examined` out of `total`.

    It began `at` so many seconds after the job. `dirty` is the bytes that it found to be written
    since the round before, `dirty_rate` the same a second; in the first round of a volume `dirty`
    is what differed. A `verify` round only compares.
    """

    number: U32
    total: U63
    examined: U63
    same: U63
    diff: U63
    zero: U63
    data_bytes: U63
    zero_bytes: U63
    wire_bytes: U63
    seconds: Seconds
    at: Seconds = 0.0
    verify: bool = False
    dirty: U63 = 0
    dirty_rate: Rate | None = None


@dataclass(frozen=True, slots=True)
class VolumeReport:
    """One volume of a job. `target` is pool:name there.

    A `streamed` one goes by `zfs send`: nothing is compared, but in rounds to verify.
    """

    name: Text
    size: U63
    target: Text
    fresh: bool
    rounds: Annotated[tuple[RoundReport, ...], Length(0, 1000)]
    streamed: bool = False


@dataclass(frozen=True, slots=True)
class JobReport:
    """Everything there is to know of a job at one moment; every view is made from it.

    `blackout` is the time from the guest's suspension, in mode restart from the request to shut
    down, to the target's word that it runs, or to when it ran here again, known when the job has
    ended; `blackout_parts` is what it was spent on if the guest has moved. `remark` is why the
    guest is held although it was to go, and `remarks` what an operator should know of a guest that
    has moved, on both hosts: what needs somebody comes first. `keep_partial` is as in the job's
    options, and `confirmed` whether the target has confirmed that it gave the job up. `suspended`
    is when the guest stood still, in seconds since the job began. `guest` is empty for a sync.
    `other_name` is what the other host calls it, empty when that is the same. `left` is the bytes
    that the guest had written and that were not sent when this was last looked at. `doing` is what
    is done in this phase, where that is known more closely. `samples` are only in the answer to
    `GetJob`: they are many.
    """

    job: JobId
    kind: JobKind
    state: JobState
    phase: Phase
    guest: Text
    peer: Name
    mode: Mode
    started: Moment
    ended: Moment | None
    volumes: Annotated[tuple[VolumeReport, ...], Length(0, 64)] = ()
    memory_sent: U63 = 0
    memory_total: U63 = 0
    wire_bytes: U63 = 0
    blackout: Seconds | None = None
    left: U63 = 0
    rate_limit: U63 | None = None
    max_downtime: Seconds | None = None
    hold: bool = False
    problem: Problem | None = None
    phases: Annotated[tuple[PhaseReport, ...], Length(0, 64)] = ()
    suspended: Seconds | None = None
    blackout_parts: Annotated[tuple[Stretch, ...], Length(0, 16)] = ()
    samples: Annotated[tuple[Sample, ...], Length(0, 512)] = ()
    other_name: Text = ""
    doing: Text = ""
    remark: Problem | None = None
    keep_partial: bool = False
    confirmed: bool = False
    remarks: SomeRemarks = ()
