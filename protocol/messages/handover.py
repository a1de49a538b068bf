"""The hand-over of the guest (see `protocol.handover`), and how a doubt about it is settled."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from protocol.handover import Word
from protocol.messages.offer import GuestSize
from protocol.messages.values import PEER, Digest, GuestName, MigrationId, Uuid
from protocol.schema import U63, Text


class Presence(StrEnum):
    """Whether a domain of a guest is on the target."""

    THERE = "there"  # one of its uuid, under whatever name
    NAMESAKE = "namesake"  # none of its uuid, but one of its name
    ABSENT = "absent"
    UNSEEN = "unseen"  # it was not looked, or what was seen does not tell


@PEER.add
@dataclass(frozen=True, slots=True)
class HandOver:
    """The guest is about to be suspended: get ready to receive its memory.

    `size` is what it has come to by now, as its host may have given it more since it was offered.
    """

    size: GuestSize


@PEER.add
@dataclass(frozen=True, slots=True)
class Receiving:
    """The memory channel may be opened."""


@PEER.add
@dataclass(frozen=True, slots=True)
class Seal:
    """Memory and the last round of every volume have been sent: build the domain, paused.

    `memory_digest` is the BLAKE3 hash of the image, `memory_size` its length.
    """

    memory_size: U63
    memory_digest: Digest


@PEER.add
@dataclass(frozen=True, slots=True)
class Ready:
    """Every volume is durable, the domain is built and paused."""


@PEER.frozen
@dataclass(frozen=True, slots=True)
class Commit:
    """The guest is yours. Idempotent. The answer is `started` once it runs there."""

    migration: MigrationId


@PEER.frozen
@dataclass(frozen=True, slots=True)
class Abort:
    """End this migration without the guest. Idempotent.

    A source whose operator has kept the guest, as nobody could tell whether the target had started
    it, tells so in this way. `started` is then the answer of a target that had.
    """

    migration: MigrationId
    reason: Text


@PEER.frozen
@dataclass(frozen=True, slots=True)
class Inquire:
    """Ask what became of a migration. Changes nothing.

    `uuid` is the guest's, None where the source does not know it any more, and `name` what it is
    called on the target: a target without a record looks for a domain of it.
    """

    migration: MigrationId
    uuid: Uuid | None
    name: GuestName


@PEER.frozen
@dataclass(frozen=True, slots=True)
class Fate:
    """What the target's journal says of a migration: the answer to `Inquire`, `Commit` and `Abort`.

    `unknown`, and `never-ready` to a source that was told `Ready`, say that its journal was lost or
    set back. They are no word about the guest: the source stays in doubt. `domain` is then the
    answer to `Inquire` of whether a domain of the guest is there. `reason` is for an operator.
    """

    word: Word
    domain: Presence
    reason: Text
