"""What an evacuation looks like to the client: every view is made from it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

from protocol.messages import Problem, SomeRemarks
from protocol.schema import U63, Length, Name, Range, Text
from xenmoved.jobs.report import JobId, JobReport, Moment, Seconds

MOST_AT_ONCE: Final = 64


class GuestFate(StrEnum):
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
    fate: GuestFate
    job: JobId | None = None
    progress: JobReport | None = None
    sent: U63 = 0
    seconds: Seconds = 0.0
    problems: Annotated[tuple[Problem, ...], Length(0, 512)] = ()
    remarks: SomeRemarks = ()


@dataclass(frozen=True, slots=True)
class Evacuation:
    """An evacuation, its guests in the order of the plan: first those that cannot move.

    `problems` are of peers that were named and take none, as they could not be asked.
    """

    state: EvacuationState
    concurrency: Annotated[int, Range(1, MOST_AT_ONCE)]
    started: Moment
    ended: Moment | None
    guests: Annotated[tuple[GuestToMove, ...], Length(0, 1000)]
    problems: Annotated[tuple[Problem, ...], Length(0, 512)] = ()
