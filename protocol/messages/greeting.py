"""How two daemons greet each other, and what one lets the other do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final

from protocol.errors import ReleasesDiffer
from protocol.messages.values import PEER, Names, PoolName, Processors
from protocol.schema import U16, U32, U63, Length, Name, Text

VERSION: Final = 8
"""The newest version that this release speaks. A message or field that comes makes a new one."""
OLDEST: Final = 7
"""The oldest that it speaks: no later than what the release before it spoke as its newest."""
EQUAL: Final = 7
"""What the greeting says as its version, as long as that is spoken: releases without `from-N` speak
this one, and only with who greets with it."""
CAPABILITIES: Final = ("blake3-64k", "zstd", "zfs-stream")
"""What this release can do. `blake3-64k` is the block hash that every daemon has."""
REQUIRED_CAPABILITIES: Final = frozenset({"blake3-64k"})


_FROM: Final = re.compile(r"from-([0-9]{1,5})")
"""The capability that says from which version on a release speaks all, to its newest."""
_TO: Final = re.compile(r"to-([0-9]{1,5})")
"""The capability that says which one that is, where it is later than that of its `Hello`."""


@PEER.frozen
@dataclass(frozen=True, slots=True)
class Hello:
    """Who speaks. Both sides use the intersection of the capabilities.

    The capability `from-N` says that it speaks all versions from N on to the newest that it speaks:
    that is `version`, unless `to-M` says a later one. Without `from-N`, it speaks `version` only,
    and with nobody who has another one there.
    """

    version: U16
    software: Name
    node: Name
    capabilities: Names


@PEER.frozen
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


def greeting(software: str, node: str) -> Hello:
    """Return the greeting of this release."""
    said = EQUAL if OLDEST <= EQUAL else VERSION
    return Hello(said, software, node, (*CAPABILITIES, f"from-{OLDEST}", f"to-{VERSION}"))


def newest(hello: Hello) -> int:
    """Return the newest version that a release speaks."""
    if _range_start(hello) is None:
        return hello.version
    return max(hello.version, *_numbers(_TO, hello), 0)


def agreed_version(one: Hello | None, other: Hello) -> int | None:
    """Return the version in which two sides speak that have greeted each other so.

    It is the older one of their newest, where both speak it. None where no more is possible than to
    settle a doubt.
    """
    if one is None or not intersect(one.capabilities, other.capabilities) >= REQUIRED_CAPABILITIES:
        return None
    agreed = min(newest(one), newest(other))
    return agreed if agreed in _spoken(one, other) and agreed in _spoken(other, one) else None


def common_capabilities(ours: Hello, untrusted_hello: Hello, peer: str) -> frozenset[str]:
    """Return the capabilities that this host and a peer have.

    Raises ReleasesDiffer where no more is possible than to settle a doubt.
    """
    common = intersect(CAPABILITIES, untrusted_hello.capabilities)
    if missing := ", ".join(sorted(REQUIRED_CAPABILITIES - common)):
        text = f"{peer} ({untrusted_hello.software}) lacks {missing}"
        behind = newest(untrusted_hello) <= newest(ours)
        needed = f"that {'has' if behind else 'can do without'} {missing}"
        raise ReleasesDiffer(peer, text, needed, peer_is_older=behind)
    if agreed_version(ours, untrusted_hello) is None:
        older, newer = sorted((ours, untrusted_hello), key=newest)
        raise ReleasesDiffer(
            peer,
            f"{peer} ({untrusted_hello.software}) speaks {_versions(untrusted_hello)} of the "
            f"protocol, this host ({ours.software}) {_versions(ours)}",
            f"that speaks version {_needed(older, newer)}",
            peer_is_older=older is untrusted_hello,
        )
    return common


def _spoken(one: Hello, to: Hello) -> range:
    """Return the versions in which a release speaks to another."""
    if _range_start(one) is None and one.version != to.version:
        return range(0)
    return range(_oldest(one), newest(one) + 1)


def _needed(older: Hello, newer: Hello) -> int:
    """Return the version that the older release must speak to be understood by the newer one."""
    return _oldest(newer) if _range_start(older) is not None else newer.version


def _oldest(one: Hello) -> int:
    start = _range_start(one)
    return one.version if start is None else min(start, one.version)


def _range_start(one: Hello) -> int | None:
    said = _numbers(_FROM, one)
    return max(said) if said else None


def _numbers(pattern: re.Pattern[str], one: Hello) -> list[int]:
    return [int(found[1]) for name in one.capabilities if (found := pattern.fullmatch(name))]


def _versions(one: Hello) -> str:
    first = _oldest(one)
    last = newest(one)
    return f"version {first}" if first == last else f"versions {first} to {last}"


def intersect(ours: Iterable[str], untrusted_theirs: Iterable[str]) -> frozenset[str]:
    """Return the names that both sides have."""
    return frozenset(ours) & frozenset(untrusted_theirs)
