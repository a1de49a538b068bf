"""The messages of the control socket about moving all guests away."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from protocol.messages import Mode
from protocol.schema import Length, Name, Range
from xenmoved.control.message_set import CONTROL
from xenmoved.evacuation.report import MOST_AT_ONCE, Evacuation
from xenmoved.jobs.options import TransferOptions

CONTROL.add(Evacuation)


Peers = Annotated[tuple[Name, ...], Length(1, 64)]


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
