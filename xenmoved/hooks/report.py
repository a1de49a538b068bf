"""What an operator is shown of the hooks of a host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from protocol.messages import Problem
from protocol.schema import Length, Text
from xenmoved.hooks.events import HookEvent
from xenmoved.jobs.report import Seconds


@dataclass(frozen=True, slots=True)
class HookRow:
    """A hook that is run at an event, in this order."""

    event: HookEvent
    name: Text
    path: Text


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """What is in the folder of an event and not run. `unsafe`: others than root could change it."""

    event: HookEvent
    name: Text
    why: Text
    hint: Text
    unsafe: bool


@dataclass(frozen=True, slots=True)
class HookRows:
    """The hooks in `folder`, each of which may take `limit` seconds.

    `problems`: folders that cannot be read.
    """

    folder: Text
    limit: Seconds
    hooks: Annotated[tuple[HookRow, ...], Length(0, 1000)]
    skipped: Annotated[tuple[SkippedRow, ...], Length(0, 1000)]
    problems: Annotated[tuple[Problem, ...], Length(0, 16)]
