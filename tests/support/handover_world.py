"""What there is at one moment of the model of the hand-over."""

from __future__ import annotations

from enum import StrEnum, auto
from typing import Any, NamedTuple

from protocol.handover import SourceAction, SourceState, TargetAction, TargetState

S, SA = SourceState, SourceAction
T, TA = TargetState, TargetAction


class Guest(StrEnum):
    """The domain at the source."""

    RUNS = auto()
    SAVING = auto()
    HELD = auto()
    GONE = auto()


class Copy(StrEnum):
    """The domain at the target."""

    ABSENT = auto()
    BUILDING = auto()
    PAUSED = auto()
    RUNS = auto()


class Work(StrEnum):
    """The source's process that began the migration."""

    ON = auto()
    BROKEN = auto()  # the toolstack failed
    OVER = auto()


class Session(StrEnum):
    """The control channel on which it began, as the target sees it."""

    OPEN = auto()
    CUT = auto()  # and not noticed yet
    CLOSED = auto()


class Ask(StrEnum):
    """A question to the target."""

    HAND_OVER = auto()
    SEAL = auto()
    COMMIT = auto()
    ABORT = auto()
    INQUIRE = auto()


class Told(StrEnum):
    """How far a question has come, or its answer."""

    SENT = auto()
    TAKEN = auto()
    LOST = auto()
    FAILED = auto()
    RECEIVING = auto()
    READY = auto()
    STARTED = auto()
    ABORTED = auto()
    UNDECIDED = auto()
    FORGOT = auto()


KEEP_HERE, GIVE_UP_HERE = "source keeps it", "source gives it up"
KEEP_THERE, GIVE_UP_THERE = "target keeps it", "target gives it up"


class Fault(StrEnum):
    """What may happen to a journal."""

    SOURCE_LOST = "the source's journal is lost"
    SOURCE_OLD = "the source's journal is set back"
    SOURCE_FULL = "the source's journal cannot be written"
    TARGET_LOST = "the target's journal is lost"
    TARGET_OLD = "the target's journal is set back"
    TARGET_FULL = "the target's journal cannot be written"


OBSERVE = "observe"
"""The target's daemon sees what came of the start."""


class World(NamedTuple):
    """One moment. `ran` and what is below it only an observer remembers.

    `source_disk` and `target_disk` are what a journal says where that is not the daemon's state.
    Of a journal that is lost the state is what it said before.
    """

    source: S = S.COPYING
    source_settled: bool = False
    source_up: bool = True
    source_disk: S | None = None
    source_todo: tuple[S | SA, ...] = ()
    work: Work = Work.ON
    guest: Guest = Guest.RUNS
    autostart: bool = True
    call: tuple[Ask, Told] | None = None
    delayed: frozenset[Ask] = frozenset()
    session: Session = Session.OPEN
    target: T = T.RECEIVING
    target_settled: bool = False
    target_up: bool = True
    target_disk: T | None = None
    was_ready: bool = False
    lost: frozenset[Fault] = frozenset()
    full: frozenset[Fault] = frozenset()
    target_todo: tuple[T | TA | str, ...] = ()
    sealing: bool = False
    doubt: bool = False
    copy: Copy = Copy.ABSENT
    account: bool = True  # what the target's toolstack wrote of the start can be relied on
    ran: bool = False
    gave_up: bool = False
    resets: frozenset[str] = frozenset()
    said: frozenset[str] = frozenset()  # what operators have decided
    old: frozenset[Fault] = frozenset()  # which journals were set back


_PLACES = {name: place for place, name in enumerate(World._fields)}


def _replace(self: World, **changes: Any) -> World:
    """Do what `_replace` of any named tuple does, in half the time: a walk does little else."""
    values = list(self)
    for name, value in changes.items():
        values[_PLACES[name]] = value
    return World._make(values)


World._replace = _replace  # type: ignore[method-assign]
