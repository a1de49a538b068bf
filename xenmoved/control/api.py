"""The messages of the control socket, in the frames and the codec of the wire.

The client sends one request and reads its answer; `WatchJob` is answered by `JobReport` after
`JobReport` until the job has ended. Any request may be answered by `Failure`. Sizes are in bytes,
durations in seconds, moments in seconds since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from protocol.messages import ImageFormat, Mode, Problem, SomeRemarks
from protocol.schema import U16, U63, Length, Name, Range, Text
from xenmoved.control.message_set import CONTROL
from xenmoved.jobs.options import TransferOptions
from xenmoved.jobs.report import JobReport, PathText, Seconds
from xenmoved.migration.report import Decision, Doubts, GuestRow, Risk

CONTROL.add(JobReport)
CONTROL.add(Doubts)
CONTROL.add(Risk)


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


@CONTROL.add
@dataclass(frozen=True, slots=True)
class Guests:
    """The guests of this host."""

    guests: Annotated[tuple[GuestRow, ...], Length(0, 4096)]


@CONTROL.add
@dataclass(frozen=True, slots=True)
class PlanMigration:
    """Ask what stands in the way of a migration. Changes nothing. Answered by `Plan`.

    `mode` None: the first of live, save and cold in which it can be moved.
    """

    guest: Name
    peer: Name
    mode: Mode | None
    options: TransferOptions = field(default_factory=TransferOptions)


@dataclass(frozen=True, slots=True)
class PlannedVolume:
    """What would be done with a disk that is copied. `size` is that of the volume or image.

    A `fresh` volume is made there. Of one that is there all is lost if it is `zeroed`. `served_by`
    says who serves the disk here, `tracking` how writes to it are followed, and `tracking_cost`
    what that costs, in words; "" where the guest does not run.
    """

    vdev: Text
    source: Text
    target: Text
    size: U63
    fresh: bool
    zeroed: bool
    format: ImageFormat
    served_by: Text = ""
    tracking: Text = ""
    tracking_cost: Text = ""


@dataclass(frozen=True, slots=True)
class PlannedDrive:
    """What would be done with a disk that is not copied. An empty `target` is an empty drive.

    `source` and `target` are paths.
    """

    vdev: Text
    source: Text
    target: Text
    cdrom: bool


@dataclass(frozen=True, slots=True)
class PlannedBridge:
    """The bridges of a network interface here and there."""

    source: Text
    target: Text


@CONTROL.add
@dataclass(frozen=True, slots=True)
class Plan:
    """A migration as it would be. `estimate` and `blackout` are None when not known.

    `target_name` is what the guest would be called there, and `volumes`, `drives` and `bridges`
    have everything from here to there; the last three are known only without problems. `warnings`
    stand in nobody's way; those that need somebody when the guest has moved come first.
    """

    guest: Text
    peer: Name
    mode: Mode
    problems: Annotated[tuple[Problem, ...], Length(0, 512)]
    warnings: SomeRemarks
    volumes: Annotated[tuple[PlannedVolume, ...], Length(0, 64)]
    memory: U63
    estimate: Seconds | None
    blackout: Seconds | None
    target_name: Text = ""
    drives: Annotated[tuple[PlannedDrive, ...], Length(0, 256)] = ()
    bridges: Annotated[tuple[PlannedBridge, ...], Length(0, 64)] = ()


@CONTROL.add
@dataclass(frozen=True, slots=True)
class StartMigration:
    """Move a guest. Answered by the first `JobReport`, or by `Failure` with every problem.

    `mode` None: the first of live, save and cold in which it can be moved.
    """

    guest: Name
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


@CONTROL.add
@dataclass(frozen=True, slots=True)
class ListDoubts:
    """Ask what is in doubt, and with `reach` whether the peers answer. Answered by `Doubts`."""

    reach: bool


@CONTROL.add
@dataclass(frozen=True, slots=True)
class DecideDoubt:
    """Decide about a doubt. Answered by `Done`; or, not `confirmed`, by the `Risk` of it."""

    job: Name
    decision: Decision
    confirmed: bool


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
