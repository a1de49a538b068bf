"""The messages of the control socket about how this host is, for monitoring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from protocol.messages import Problem
from protocol.schema import U16, U32, Length, Name, Text
from xenmoved.control.message_set import CONTROL
from xenmoved.jobs.report import JobId
from xenmoved.migration.report import DoubtRow
from xenmoved.monitoring.report import CopyHealth, PoolHealth


@CONTROL.add
@dataclass(frozen=True, slots=True)
class GetHealth:
    """Ask how this host is, and with `reach` whether its peers answer. Answered by `Health`."""

    reach: bool


@dataclass(frozen=True, slots=True)
class PeerHealth:
    """A peer: the release that it says it has, or why it does not answer."""

    name: Name
    software: Text
    problem: Problem | None


@dataclass(frozen=True, slots=True)
class TrackerHealth:
    """A job whose trackers could not tell what was written, so many times."""

    job: JobId
    guest: Text
    fallbacks: U32


@CONTROL.add
@dataclass(frozen=True, slots=True)
class Health:
    """How a host is. `version` is the daemon's, `jobs` how many have not ended.

    `peers` are None where it was not asked for them. `unseen` is why it is not known which copies
    are kept, None where it is.
    """

    node: Name
    version: Name
    jobs: U16
    alarms: Annotated[tuple[Problem, ...], Length(0, 1000)]
    doubts: Annotated[tuple[DoubtRow, ...], Length(0, 1000)]
    trackers: Annotated[tuple[TrackerHealth, ...], Length(0, 1000)]
    pools: Annotated[tuple[PoolHealth, ...], Length(0, 1000)]
    copies: Annotated[tuple[CopyHealth, ...], Length(0, 4096)]
    unseen: Problem | None
    peers: Annotated[tuple[PeerHealth, ...], Length(0, 1000)] | None
