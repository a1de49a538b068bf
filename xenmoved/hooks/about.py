"""What a hook is told: one JSON object on its standard input.

All of it is ASCII: other characters are escaped. What comes from a peer was validated, and what it
says in words has nothing in it that could move a cursor. There are no secrets in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Final

from protocol.jsonschema import DIALECT, Definitions, Schema
from protocol.messages import Mode, Problem
from protocol.schema import Length, Name, Text, plain
from xenmoved.hooks.events import HookEvent
from xenmoved.jobs.report import JobId, Seconds
from xenmoved.logs import printable
from xenmoved.toolstack.interface import Nic

_MAC: Final = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_ADDRESS: Final = re.compile(r"[0-9a-f.:]{2,45}(?:/\d{1,3})?")
MOST: Final = 64


class Direction(StrEnum):
    """Whether the guest leaves this host or comes to it."""

    DEPARTURE = "departure"
    ARRIVAL = "arrival"


class HookOutcome(StrEnum):
    """What became of the move. `decided`: by an operator, without the other host's word."""

    MOVED = "moved"
    STAYED = "stayed"
    DECIDED = "decided"


@dataclass(frozen=True, slots=True)
class HookInterface:
    """A network interface of the guest.

    `mac` and `bridge` are null where they are not known, and `bridge` is what this host calls it.
    `addresses` are those that `ip` of the interface names here; a guest may have others.
    """

    mac: Text | None
    bridge: Name | None
    addresses: Annotated[tuple[Text, ...], Length(0, MOST)] = ()


@dataclass(frozen=True, slots=True)
class HookVolume:
    """A disk of the guest, by its `path` on this host. One that is not `copied` is shared."""

    vdev: Text
    path: Text
    copied: bool


@dataclass(frozen=True, slots=True)
class HookInput:
    """What a hook is told of the move.

    With `plan` it is only asked what would stand in the way: nothing must be changed. `host` is
    this host and `peer` the other one. `guest` is what it is called here, and `other_name` what the
    other host calls it, empty for the same. `job` is null in a plan, `outcome` before the end, and
    `blackout` where it is not known: the source alone measures it, in seconds. `problems` say why
    the guest has not moved, or is in doubt.
    """

    event: HookEvent
    plan: bool
    host: Name
    peer: Name
    direction: Direction
    job: JobId | None
    mode: Mode
    guest: Name
    other_name: Text
    uuid: Text
    interfaces: Annotated[tuple[HookInterface, ...], Length(0, MOST)] = ()
    volumes: Annotated[tuple[HookVolume, ...], Length(0, 256)] = ()
    outcome: HookOutcome | None = None
    blackout: Seconds | None = None
    problems: Annotated[tuple[Problem, ...], Length(0, MOST)] = ()

    def with_problems(self, *found: Problem | None) -> HookInput:
        """Return the same with these problems, which may be in the words of a peer."""
        told = tuple(_without_control(one) for one in found if one is not None)
        return replace(self, problems=told[:MOST])

    def encoded(self) -> bytes:
        """Return it as a hook reads it."""
        return json.dumps(plain(self)).encode("ascii") + b"\n"


def _without_control(found: Problem) -> Problem:
    code, text, hint = map(printable, (found.code, found.text, found.hint))
    return Problem(code[:200], text[:4000], hint[:4000])


def interface(nic: Nic, bridge: str | None) -> HookInterface:
    """Return an interface, without anything in it that is no address; `bridge` as it is here."""
    mac = (nic.mac or "").lower()
    addresses = [
        one for one in re.split(r"[\s,]+", (nic.ip or "").lower()) if _ADDRESS.fullmatch(one)
    ]
    return HookInterface(
        mac if _MAC.fullmatch(mac) else None,
        printable(bridge)[:200] if bridge else None,
        tuple(addresses[:MOST]),
    )


def volumes(paths: Iterable[tuple[str, str]], copied: Iterable[str]) -> tuple[HookVolume, ...]:
    """Return volumes, of the path of each disk by its vdev; empty drives are left out."""
    among = set(copied)
    found = [HookVolume(vdev, path[:4096], vdev in among) for vdev, path in paths if path]
    return tuple(found[:256])


def schema() -> Schema:
    """Return the JSON Schema of what a hook is told."""
    definitions = Definitions()
    described = definitions.object(HookInput)
    return {
        "$schema": DIALECT,
        **described,
        "title": "What a hook of xenmoved reads on its standard input",
        "$defs": definitions.schemas,
    }
