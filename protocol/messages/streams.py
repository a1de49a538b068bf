"""Rounds of a volume as streams that storage makes of it (see `protocol.streams`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from protocol.messages.values import PEER, Guid, Names
from protocol.schema import U32, U63, Length, Text


@PEER.add
@dataclass(frozen=True, slots=True)
class StreamOffer:
    """Ask whether the volume may come as streams (see `protocol.streams`).

    `snapshots` is what the source has of it, the newest first; `features` is what the target's
    storage has to know for streams with compressed blocks.
    """

    snapshots: Annotated[tuple[Guid, ...], Length(0, 1024)]
    features: Names


@PEER.add
@dataclass(frozen=True, slots=True)
class StreamTerms:
    """How the streams have to be, if they are accepted.

    `base` is the newest snapshot that both have, None if all has to be sent. `resume` is where an
    earlier stream was interrupted.
    """

    accepted: bool
    base: Guid | None
    compressed: bool
    resume: Text | None


@PEER.add
@dataclass(frozen=True, slots=True)
class BeginStream:
    """Start of a stream from `base` (None: from nothing) to `snapshot`, of about `size` bytes.

    `resumed`: the rest of the stream that `StreamTerms` told of.
    """

    number: U32
    base: Guid | None
    snapshot: Guid
    size: U63
    resumed: bool


@PEER.add
@dataclass(frozen=True, slots=True)
class EndStream:
    """All of the stream was sent, `size` bytes."""

    number: U32
    size: U63


@PEER.add
@dataclass(frozen=True, slots=True)
class StreamReceipt:
    """The stream was taken in, is durable, and led to this snapshot."""

    number: U32
    size: U63
    snapshot: Guid
