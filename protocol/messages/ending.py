"""What comes after a guest has moved, the end of a sync, and the end of what fails."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.messages.remarks import Problem, SomeRemarks
from protocol.messages.values import PEER, MigrationId


@PEER.frozen
@dataclass(frozen=True, slots=True)
class Recall:
    """Ask what an operator should know of a guest that has come. Changes nothing."""

    migration: MigrationId


@PEER.frozen
@dataclass(frozen=True, slots=True)
class Remarks:
    """What the target has to remark on its configuration, its start at boot and its volumes there.

    It is in the target's journal: the answer to the same question stays the same once it is
    `complete`. Before, the target has not tidied up yet. A target without a record has no remarks.
    """

    complete: bool
    remarks: SomeRemarks


@PEER.add
@dataclass(frozen=True, slots=True)
class Finish:
    """End of a sync: make the volumes durable and release them."""


@PEER.add
@dataclass(frozen=True, slots=True)
class Finished:
    """The volumes are durable and released."""


@PEER.frozen
@dataclass(frozen=True, slots=True)
class Failed:
    """The side that says this cannot go on; it closes the channel afterwards."""

    problem: Problem
