"""Rounds of blocks of a volume (see `protocol.blocksync`), and what opens its channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.messages.values import PEER, Digest, MigrationId
from protocol.schema import U8, U16, U32, U63

BLOCK_SIZE: Final = 64 * 1024
"""Bytes of a volume that share one hash."""


@PEER.frozen
@dataclass(frozen=True, slots=True)
class Attach:
    """First message on a volume or memory channel: what it belongs to.

    `volume` is the index in the offer; 0 on a memory channel.
    """

    migration: MigrationId
    volume: U8


@PEER.add
@dataclass(frozen=True, slots=True)
class BeginRound:
    """Start of a round. With `compare` the target streams the hashes of what it has."""

    number: U32
    compare: bool


@PEER.add
@dataclass(frozen=True, slots=True)
class Credit:
    """The target may send this many more frames of its comparison."""

    frames: U16


@PEER.add
@dataclass(frozen=True, slots=True)
class EndRound:
    """All of the round was sent. `digest` is described in `protocol.blocksync.RoundDigest`."""

    number: U32
    data_bytes: U63
    zero_bytes: U63
    frames: U32
    digest: Digest


@PEER.add
@dataclass(frozen=True, slots=True)
class Receipt:
    """What the target received in the round, all of it written and durable."""

    number: U32
    data_bytes: U63
    zero_bytes: U63
    frames: U32
    digest: Digest
