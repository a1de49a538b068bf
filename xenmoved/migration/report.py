"""What an operator is shown of guests, of volumes, and of migrations in doubt."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from protocol.handover import Word
from protocol.messages import Presence, Problem
from protocol.schema import U63, Length, Name, Text
from xenmoved.jobs.report import JobId, Moment


@dataclass(frozen=True, slots=True)
class Retained:
    """Whose copy a volume is, and the peer that its guest went to when that was: `since`."""

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


@dataclass(frozen=True, slots=True)
class Volumes:
    """Volumes, by pool and name. `problems`: pools that cannot be looked at."""

    volumes: Annotated[tuple[VolumeRow, ...], Length(0, 4096)]
    problems: Annotated[tuple[Problem, ...], Length(0, 512)] = ()


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
    """A guest with its disks. `obstacles`: why it cannot move; empty when it can.

    One that has a configuration here and does not run is in the `state` off, with a `domid` of 0.
    """

    name: Text
    domid: U63
    kind: Text
    memory: U63
    state: Name
    disks: Annotated[tuple[DiskRow, ...], Length(0, 256)]
    obstacles: Annotated[tuple[Text, ...], Length(0, 256)]


class Decision(StrEnum):
    """What an operator may decide about a migration whose other host cannot tell."""

    KEEP_HERE = "keep-here"
    GIVE_UP = "give-up"
    RESOLVED = "resolved"  # a decision was wrong, and that has been put right


@dataclass(frozen=True, slots=True)
class DoubtWord:
    """What the target of a guest in doubt has said last, and whether a domain of it is there.

    Each is one of the words of docs/protocol.md. `unknown` and `never-ready` say that the target's
    journal was lost or set back; only with them was it looked for a domain.
    """

    word: Word
    domain: Presence


@dataclass(frozen=True, slots=True)
class DoubtRow:
    """A migration in doubt, or one that was decided without the peer's word.

    `state`: as in docs/handover.md. `domain`: the guest's state here now, or "absent".
    `peer_answers` is None when it was not tried, and `peer_says` when it has said nothing.
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
    peer_says: DoubtWord | None = None


@dataclass(frozen=True, slots=True)
class Doubts:
    """Everything that is in doubt on this host, and what is tried again until it is done."""

    doubts: Annotated[tuple[DoubtRow, ...], Length(0, 1000)]
    alarms: Annotated[tuple[Problem, ...], Length(0, 1000)] = ()


@dataclass(frozen=True, slots=True)
class Risk:
    """What a decision risks, and what to make sure of first. Nothing was changed."""

    job: JobId
    guest: Text
    peer: Name
    text: Text
    look: Annotated[tuple[Text, ...], Length(0, 16)]
