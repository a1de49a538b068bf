"""The messages of the control socket about moving all guests away."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Final

from protocol.messages import Mode, Problem, SomeRemarks
from protocol.schema import U63, Length, Name, Range, Text
from xenmoved.control.api import TransferOptions
from xenmoved.control.reports import CONTROL, JobId, JobReport, Moment, Seconds

MOST_AT_ONCE: Final = 64

Peers = Annotated[tuple[Name, ...], Length(1, 64)]


class Fate(StrEnum):
    """What became of a guest of a host that is evacuated."""

    BLOCKED = "blocked"  # it cannot move: nothing was begun
    WAITING = "waiting"
    MOVING = "moving"
    MOVED = "moved"
    FAILED = "failed"
    IN_DOUBT = "in-doubt"
    LEFT = "left"  # it was not its turn before the evacuation was stopped


class EvacuationState(StrEnum):
    """How an evacuation stands."""

    PLANNED = "planned"  # it was only asked what it would be
    RUNNING = "running"
    STOPPING = "stopping"  # nothing more is begun
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class GuestToMove:
    """A guest of a host that is evacuated.

    `peer`: where it goes, None when it cannot. `memory` and `size` (of its disks) are in bytes.
    `progress` is its job while it moves. `sent` and `seconds` are of a job that has ended.
    `remarks` are what there is to know of it, foreseen as long as it has not moved.
    """

    guest: Text
    peer: Name | None
    memory: U63
    size: U63
    fate: Fate
    job: JobId | None = None
    progress: JobReport | None = None
    sent: U63 = 0
    seconds: Seconds = 0.0
    problems: Annotated[tuple[Problem, ...], Length(0, 512)] = ()
    remarks: SomeRemarks = ()


@CONTROL.add
@dataclass(frozen=True, slots=True)
class Evacuation:
    """An evacuation, its guests in the order of the plan: first those that cannot move."""

    state: EvacuationState
    concurrency: Annotated[int, Range(1, MOST_AT_ONCE)]
    started: Moment
    ended: Moment | None
    guests: Annotated[tuple[GuestToMove, ...], Length(0, 1000)]


@CONTROL.add
@dataclass(frozen=True, slots=True)
class PlanEvacuation:
    """Ask which guest would go where. Changes nothing. Answered by `Evacuation`."""

    peers: Peers
    mode: Mode | None
    options: TransferOptions = field(default_factory=TransferOptions)


@CONTROL.add
@dataclass(frozen=True, slots=True)
class StartEvacuation:
    """Move every guest that runs here, so many at a time. Answered by the first `Evacuation`.

    Guests that cannot move do not keep the others here.
    """

    peers: Peers
    mode: Mode | None
    concurrency: Annotated[int, Range(1, MOST_AT_ONCE)]
    options: TransferOptions = field(default_factory=TransferOptions)


@CONTROL.add
@dataclass(frozen=True, slots=True)
class WatchEvacuation:
    """Ask for `Evacuation` after `Evacuation` of the one under way, to its end; else for the last.

    `interval` is in seconds.
    """

    interval: Annotated[float, Range(0.05, 60)]


@CONTROL.add
@dataclass(frozen=True, slots=True)
class StopEvacuation:
    """Begin no more. What is moving goes on. Answered by `Done`."""
