"""How two daemons greet each other, and what one lets the other do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final

from protocol.errors import Code, ProtocolError
from protocol.messages.values import PEER, Names, PoolName, Processors
from protocol.schema import U16, U32, U63, Length, Name, Text

VERSION: Final = 7
CAPABILITIES: Final = ("blake3-64k", "zstd", "zfs-stream")
"""What this release can do. `blake3-64k` is the block hash that every daemon has."""
REQUIRED_CAPABILITIES: Final = frozenset({"blake3-64k"})


@PEER.add
@dataclass(frozen=True, slots=True)
class Hello:
    """Who speaks. Both sides use the intersection of the capabilities."""

    version: U16
    software: Name
    node: Name
    capabilities: Names


@PEER.add
@dataclass(frozen=True, slots=True)
class Working:
    """An answer is still to come: what the target is at meanwhile.

    It has taken `steps` steps before this one. As often as once a second, so that a source can tell
    a slow target from one that hangs: `steps` grows within the limits that the target has for each.
    """

    steps: U32
    doing: Text


@PEER.add
@dataclass(frozen=True, slots=True)
class Ping:
    """Ask for an answer, and for what the other side lets this one do."""


@dataclass(frozen=True, slots=True)
class Room:
    """What new volumes in a pool may take, in bytes; None where that is not limited."""

    pool: PoolName
    free: U63 | None


@PEER.add
@dataclass(frozen=True, slots=True)
class Pong:
    """What the asker may do there, and what fits there, in bytes. A limit of None is none.

    `memory` and `vcpus` limit each guest. `room` has the pools in which it may make volumes.
    """

    toolstack: Name
    xen_version: Text
    actions: Names
    pools: Names
    guests: Names
    quota: U63 | None
    quota_used: U63
    memory: U63 | None
    vcpus: Processors | None
    free_memory: U63
    room: Annotated[tuple[Room, ...], Length(0, 256)]


def releases_match(one: Hello | None, other: Hello) -> bool:
    """Whether two sides that have greeted each other so can do more than to settle a doubt."""
    return one is not None and (
        one.version == other.version
        and intersect(one.capabilities, other.capabilities) >= REQUIRED_CAPABILITIES
    )


def common_capabilities(untrusted_hello: Hello) -> frozenset[str]:
    """Return the capabilities that both sides have.

    Raises ProtocolError where no more is possible than to settle a doubt.
    """
    if untrusted_hello.version != VERSION:
        raise ProtocolError(
            Code.VERSION,
            f"{untrusted_hello.node} ({untrusted_hello.software}) speaks protocol version "
            f"{untrusted_hello.version}, this host version {VERSION}: install releases that match",
        )
    common = intersect(CAPABILITIES, untrusted_hello.capabilities)
    if missing := REQUIRED_CAPABILITIES - common:
        raise ProtocolError(
            Code.VERSION,
            f"{untrusted_hello.node} ({untrusted_hello.software}) lacks {', '.join(missing)}",
        )
    return common


def intersect(ours: Iterable[str], untrusted_theirs: Iterable[str]) -> frozenset[str]:
    """Return the names that both sides have."""
    return frozenset(ours) & frozenset(untrusted_theirs)
