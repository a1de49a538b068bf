"""The messages of the control socket about the volumes of this host's pools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from protocol.messages import Problem
from protocol.schema import U63, Length, Name, Text
from xenmoved.control.reports import CONTROL, Moment


@dataclass(frozen=True, slots=True)
class Retained:
    """Whose copy a volume is, since when it is kept here, and the peer where its guest is."""

    guest: Text
    uuid: Text
    since: Moment
    place: Text


@dataclass(frozen=True, slots=True)
class VolumeRow:
    """A volume. `allocated` is None where its pool cannot tell. `users`: who needs it, in words."""

    pool: Text
    name: Text
    path: Text
    size: U63
    allocated: U63 | None
    users: Annotated[tuple[Text, ...], Length(0, 256)]
    retained: Retained | None


@CONTROL.add
@dataclass(frozen=True, slots=True)
class ListVolumes:
    """Ask for the volumes of all pools. Answered by `Volumes`."""


@CONTROL.add
@dataclass(frozen=True, slots=True)
class Volumes:
    """Volumes, by pool and name. `problems`: pools that cannot be looked at."""

    volumes: Annotated[tuple[VolumeRow, ...], Length(0, 4096)]
    problems: Annotated[tuple[Problem, ...], Length(0, 512)] = ()


@CONTROL.add
@dataclass(frozen=True, slots=True)
class DropVolumes:
    """Remove retained copies: one volume (pool:name), or all of a guest (its name or uuid).

    Answered by `Done`; or, not `confirmed`, by the `Volumes` that would be removed. Everything that
    speaks against it comes as `Failure`, and nothing is removed then.
    """

    volume: Text | None
    guest: Name | None
    confirmed: bool
