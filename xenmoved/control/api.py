"""The messages of the control socket, in the frames and the codec of the wire.

The client sends one request and reads its answer; `WatchJob` is answered by `JobReport` after
`JobReport` until the job has ended. Any request may be answered by `Failure`. Sizes are in bytes,
durations in seconds, moments in seconds since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Final

from protocol.codec import MessageSet
from protocol.messages import Action, GuestName, Mode, Problem
from protocol.schema import U16, U32, U63, Length, Name, Pattern, Range, Text

CONTROL: Final = MessageSet()

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

    `memory` is live mode's: it is copied while the guest runs. `tidy` is after the guest is where
    it belongs.
    """

    PREFLIGHT = "preflight"
    PROVISION = "provision"
    PRE_COPY = "pre-copy"
    HOLD = "hold"
    MEMORY = "memory"
    SUSPEND = "suspend"
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
    """One volume of a job. `target` is pool:name there."""

    name: Text
    size: U63
    target: Text
    fresh: bool
    rounds: Annotated[tuple[RoundReport, ...], Length(0, 1000)]


@CONTROL.add
@dataclass(frozen=True, slots=True)
class JobReport:
    """Everything there is to know of a job at one moment; every view is made from it.

    `blackout` is the time from the guest's suspension to the target's word that it runs, known
    when the job is done, and `blackout_parts` is what it was spent on. `suspended` is when the
    guest stood still, in seconds since the job began. `guest` is empty for a sync. `left` is the
    bytes that the guest had written and that were not sent when this was last looked at. `samples`
    are only in the answer to `GetJob`: they are many.
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


@CONTROL.add
@dataclass(frozen=True, slots=True)
class Failure:
    """The request cannot be answered. `problems` says why, every one at once."""

    problems: Annotated[tuple[Problem, ...], Length(1, 512)]


@CONTROL.add
@dataclass(frozen=True, slots=True)
class Done:
    """The request was carried out."""

    text: Text


@CONTROL.add
@dataclass(frozen=True, slots=True)
class GetStatus:
    """Ask how the daemon is. Answered by `Status`."""


@CONTROL.add
@dataclass(frozen=True, slots=True)
class Status:
    """The daemon, its jobs that have not ended, and what needs an operator now."""

    node: Name
    version: Name
    toolstack: Name
    xen_version: Text
    free_memory: U63
    listening: Text
    fingerprint: Text
    peers: U16
    jobs: Annotated[tuple[JobReport, ...], Length(0, 1000)]
    alarms: Annotated[tuple[Problem, ...], Length(0, 1000)] = ()


@CONTROL.add
@dataclass(frozen=True, slots=True)
class ListGuests:
    """Ask for the guests of this host. Answered by `Guests`."""


@dataclass(frozen=True, slots=True)
class DiskRow:
    """A disk of a guest. `volume`: pool:name when a pool has it. `obstacle`: why it cannot move."""

    vdev: Text
    path: Text
    volume: Text | None
    size: U63 | None
    writable: bool
    obstacle: Text | None


@dataclass(frozen=True, slots=True)
class GuestRow:
    """A guest with its disks. `obstacles`: why it cannot move; empty when it can."""

    name: Text
    domid: U63
    kind: Text
    memory: U63
    state: Name
    disks: Annotated[tuple[DiskRow, ...], Length(0, 256)]
    obstacles: Annotated[tuple[Text, ...], Length(0, 256)]


@CONTROL.add
@dataclass(frozen=True, slots=True)
class Guests:
    """The guests of this host."""

    guests: Annotated[tuple[GuestRow, ...], Length(0, 4096)]


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """Choices for one job; None leaves them to the configuration.

    `rate_limit` is in bytes a second, 0 is no limit. `compression` is off, zstd or auto. `pool` is
    where the target is to put new volumes. `keep_partial`: when it fails, volumes made for it stay,
    so that the next try sends only what is missing. `overwrite`: volumes that are there and not
    known to be this guest's may be used. `max_downtime`: the guest may stand still for no
    longer, as far as can be told before. `hold`: it is suspended only when `SetJob` takes that
    back.
    """

    rate_limit: U63 | None = None
    compression: Name | None = None
    verify: bool | None = None
    pool: Name | None = None
    keep_partial: bool = False
    overwrite: bool = False
    max_downtime: Seconds | None = None
    hold: bool = False


@CONTROL.add
@dataclass(frozen=True, slots=True)
class PlanMigration:
    """Ask what stands in the way of a migration. Changes nothing. Answered by `Plan`.

    `mode` None: the first of live, save and cold in which it can be moved.
    """

    guest: GuestName
    peer: Name
    mode: Mode | None
    options: TransferOptions = field(default_factory=TransferOptions)


@dataclass(frozen=True, slots=True)
class PlannedVolume:
    """What would be done with a disk."""

    vdev: Text
    source: Text
    target: Text
    size: U63
    fresh: bool


@CONTROL.add
@dataclass(frozen=True, slots=True)
class Plan:
    """A migration as it would be. `estimate` and `blackout` are None when not known."""

    guest: Text
    peer: Name
    mode: Mode
    problems: Annotated[tuple[Problem, ...], Length(0, 512)]
    warnings: Annotated[tuple[Problem, ...], Length(0, 512)]
    volumes: Annotated[tuple[PlannedVolume, ...], Length(0, 64)]
    memory: U63
    estimate: Seconds | None
    blackout: Seconds | None


@CONTROL.add
@dataclass(frozen=True, slots=True)
class StartMigration:
    """Move a guest. Answered by the first `JobReport`, or by `Failure` with every problem.

    `mode` None: the first of live, save and cold in which it can be moved.
    """

    guest: GuestName
    peer: Name
    mode: Mode | None
    options: TransferOptions = field(default_factory=TransferOptions)


@CONTROL.add
@dataclass(frozen=True, slots=True)
class StartSync:
    """Send a volume (a path, or pool:name). Answered by the first `JobReport`, or `Failure`.

    `target` is pool:name on the peer; None: the same name in the peer's default pool.
    """

    volume: PathText
    peer: Name
    target: Text | None
    options: TransferOptions = field(default_factory=TransferOptions)


@CONTROL.add
@dataclass(frozen=True, slots=True)
class ListJobs:
    """Ask for jobs, newest first: those that have not ended, or with `ended` all that are kept.

    Those that have ended come without their course: `GetJob` has it.
    """

    ended: bool


@CONTROL.add
@dataclass(frozen=True, slots=True)
class Jobs:
    """Jobs, newest first."""

    jobs: Annotated[tuple[JobReport, ...], Length(0, 1000)]


@CONTROL.add
@dataclass(frozen=True, slots=True)
class GetJob:
    """Ask for one job, by its id, the start of it, or the name of a guest (its newest job)."""

    job: Name


@CONTROL.add
@dataclass(frozen=True, slots=True)
class WatchJob:
    """Ask for `JobReport` after `JobReport`, every `interval` seconds, to the end of the job."""

    job: Name
    interval: Annotated[float, Range(0.05, 60)]


@CONTROL.add
@dataclass(frozen=True, slots=True)
class AbortJob:
    """End a job before its commit. Answered by `Done` when the guest runs here again."""

    job: Name


class Decision(StrEnum):
    """What an operator may decide about a migration whose other host cannot tell."""

    KEEP_HERE = "keep-here"
    GIVE_UP = "give-up"
    RESOLVED = "resolved"  # a decision was wrong, and that has been put right


@CONTROL.add
@dataclass(frozen=True, slots=True)
class ListDoubts:
    """Ask what is in doubt, and with `reach` whether the peers answer. Answered by `Doubts`."""

    reach: bool


@dataclass(frozen=True, slots=True)
class DoubtRow:
    """A migration in doubt, or one that was decided without the peer's word.

    `state`: as in docs/handover.md. `domain`: the guest's state here now, or "absent".
    `peer_answers` is None when it was not tried.
    """

    job: JobId
    guest: Text
    peer: Name
    at_source: bool
    state: Name
    since: Moment
    domain: Name
    peer_answers: bool | None
    problem: Problem


@CONTROL.add
@dataclass(frozen=True, slots=True)
class Doubts:
    """Everything that is in doubt on this host."""

    doubts: Annotated[tuple[DoubtRow, ...], Length(0, 1000)]


@CONTROL.add
@dataclass(frozen=True, slots=True)
class DecideDoubt:
    """Decide about a doubt. Answered by `Done`; or, not `confirmed`, by the `Risk` of it."""

    job: Name
    decision: Decision
    confirmed: bool


@CONTROL.add
@dataclass(frozen=True, slots=True)
class Risk:
    """What a decision risks, and what to make sure of first. Nothing was changed."""

    job: JobId
    guest: Text
    peer: Name
    text: Text
    look: Annotated[tuple[Text, ...], Length(0, 16)]


@CONTROL.add
@dataclass(frozen=True, slots=True)
class SetJob:
    """Change a running job. Answered by `Done`. None leaves things as they are.

    `rate_limit` (bytes a second) and `max_downtime` 0 are no limit. `hold` false lets the guest go.
    """

    job: Name
    rate_limit: U63 | None = None
    max_downtime: Seconds | None = None
    hold: bool | None = None


@CONTROL.add
@dataclass(frozen=True, slots=True)
class GetIdentity:
    """Ask for this host's key. Answered by `Identity`."""


@CONTROL.add
@dataclass(frozen=True, slots=True)
class Identity:
    """What the operator of a peer needs to add this host."""

    node: Name
    key: Text
    fingerprint: Text
    port: U16


@CONTROL.add
@dataclass(frozen=True, slots=True)
class FetchPeerKey:
    """Ask for the key that a host shows, before it is trusted. Answered by `PeerKey`."""

    address: Name
    port: U16


@CONTROL.add
@dataclass(frozen=True, slots=True)
class PeerKey:
    """The key that a host shows."""

    key: Text
    fingerprint: Text


@dataclass(frozen=True, slots=True)
class PeerRow:
    """A peer as configured, and whether connections exist. `quota` None is no limit."""

    name: Name
    address: Name
    port: U16
    fingerprint: Text
    actions: Annotated[tuple[Action, ...], Length(0, 16)]
    pools: Annotated[tuple[Name, ...], Length(0, 256)]
    guests: Annotated[tuple[Name, ...], Length(0, 256)]
    quota: U63 | None
    connected_from: bool
    connected_to: bool


@CONTROL.add
@dataclass(frozen=True, slots=True)
class ListPeers:
    """Ask for the peers. Answered by `Peers`."""


@CONTROL.add
@dataclass(frozen=True, slots=True)
class Peers:
    """The peers of this host."""

    peers: Annotated[tuple[PeerRow, ...], Length(0, 1000)]


@CONTROL.add
@dataclass(frozen=True, slots=True)
class AddPeer:
    """Add a peer to the configuration, or replace it. Answered by `Done`."""

    name: Name
    address: Name
    port: U16
    key: Text
    actions: Annotated[tuple[Action, ...], Length(0, 16)]
    pools: Annotated[tuple[Name, ...], Length(0, 256)]
    guests: Annotated[tuple[Name, ...], Length(0, 256)]
    quota: U63 | None
    replace: bool


@CONTROL.add
@dataclass(frozen=True, slots=True)
class RemovePeer:
    """Remove a peer that was added with `AddPeer`. Answered by `Done`."""

    name: Name


@CONTROL.add
@dataclass(frozen=True, slots=True)
class PingPeer:
    """Connect to a peer and measure. Answered by `PeerPing`."""

    name: Name


@CONTROL.add
@dataclass(frozen=True, slots=True)
class PeerPing:
    """What a peer answers, and what this host may do there. `throughput` is in bytes a second."""

    peer: Name
    node: Text
    software: Text
    protocol_version: U16
    toolstack: Text
    xen_version: Text
    capabilities: Annotated[tuple[Name, ...], Length(0, 256)]
    round_trip: Seconds
    throughput: Rate
    actions: Annotated[tuple[Name, ...], Length(0, 256)]
    pools: Annotated[tuple[Name, ...], Length(0, 256)]
    guests: Annotated[tuple[Name, ...], Length(0, 256)]
    quota: U63 | None
    quota_used: U63
