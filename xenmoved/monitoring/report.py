"""What was seen of pools and of copies that are kept. Quick to import."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.messages import Problem
from protocol.schema import U63, Name, Text
from xenmoved.jobs.report import Seconds


@dataclass(frozen=True, slots=True)
class PoolHealth:
    """Space of a pool in bytes; `problem` is why it is not known, None where it is."""

    name: Name
    kind: Name
    total: U63
    free: U63
    problem: Problem | None


@dataclass(frozen=True, slots=True)
class CopyHealth:
    """A volume that is kept, for `kept` seconds, of a guest that went to the peer `place`.

    `size` is the bytes that it takes, or has where its pool cannot tell.
    """

    pool: Text
    name: Text
    guest: Text
    place: Text
    size: U63
    kept: Seconds
