"""Which message may come when on a control channel.

The source asks, the target answers each request once, in order; a `Failed` may take the place of
any answer, or come from the target at any time, and ends the channel. While an answer is
outstanding, but for the greeting's, the target says what it is at with `Working`. Both sides walk
the same table, so a message that the table does not know is the other side's mistake (or ours).

Two releases that do not match, by version or capability, can still ask and answer what settles a
doubt, and what is to be remarked then: these messages are the same in every release.

A migration is aborted by closing its channels and saying `Abort` on a new control channel: the same
way that a restarted daemon takes, so that there is no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from protocol.errors import Code, ProtocolError
from protocol.messages import (
    Abort,
    Accepted,
    Begin,
    Commit,
    Failed,
    Fate,
    Findings,
    Finish,
    Finished,
    HandOver,
    Hello,
    Inquire,
    Offer,
    Ping,
    Pong,
    Ready,
    Recall,
    Receiving,
    Refused,
    Remarks,
    Seal,
    Working,
    agreed_version,
)


class Stage(StrEnum):
    """How far a control channel has come."""

    GREETING = "greeting"
    IDLE = "idle"
    SETTLING = "settling"  # of two releases that do not match: doubts can be settled all the same
    COPYING = "copying"
    RECEIVING = "receiving"
    READY = "ready"
    ENDED = "ended"


Replies = Mapping[type[Any], Stage]

TABLE: Final[Mapping[tuple[Stage, type[Any]], Replies]] = {
    (Stage.GREETING, Hello): {Hello: Stage.IDLE},
    (Stage.SETTLING, Inquire): {Fate: Stage.SETTLING},
    (Stage.SETTLING, Recall): {Remarks: Stage.SETTLING},
    (Stage.SETTLING, Commit): {Fate: Stage.ENDED},
    (Stage.SETTLING, Abort): {Fate: Stage.ENDED},
    (Stage.IDLE, Ping): {Pong: Stage.IDLE},
    (Stage.IDLE, Offer): {Findings: Stage.IDLE},
    (Stage.IDLE, Inquire): {Fate: Stage.IDLE},
    (Stage.IDLE, Recall): {Remarks: Stage.IDLE},
    (Stage.IDLE, Begin): {Accepted: Stage.COPYING, Refused: Stage.IDLE},
    (Stage.IDLE, Commit): {Fate: Stage.ENDED},
    (Stage.IDLE, Abort): {Fate: Stage.ENDED},
    (Stage.COPYING, HandOver): {Receiving: Stage.RECEIVING},
    (Stage.COPYING, Finish): {Finished: Stage.ENDED},
    (Stage.RECEIVING, Seal): {Ready: Stage.READY},
    (Stage.READY, Commit): {Fate: Stage.ENDED},
}
"""(stage, request) -> the answers that it may have, and the stage after each."""


class Conversation:
    """The state of one control channel, the same on both sides.

    `request` and `reply` are called with every message in the order on the wire, before it is sent
    or after it is decoded. They raise ProtocolError on a message out of turn.
    """

    def __init__(self) -> None:
        self.stage = Stage.GREETING
        self.version: int | None = None
        """What the greetings have agreed on; None as long as no more can be said than is frozen."""
        self._awaited: Replies | None = None
        self._greeting: Hello | None = None

    def request(self, message: object) -> None:
        """Take note of a message from the source to the target."""
        replies = TABLE.get((self.stage, type(message)))
        if self._awaited is not None:
            raise self._unexpected(message, "an answer is outstanding")
        if replies is None:
            raise self._unexpected(message, f"the channel is {self.stage}")
        self._awaited = replies
        if isinstance(message, Hello):
            self._greeting = message

    def reply(self, message: object) -> None:
        """Take note of a message from the target to the source."""
        if isinstance(message, Failed):
            self.stage, self._awaited = Stage.ENDED, None
            return
        if isinstance(message, Working) and self._awaited and self.stage is not Stage.GREETING:
            return
        if self._awaited is None or type(message) not in self._awaited:
            raise self._unexpected(message, f"the channel is {self.stage}")
        self.stage, self._awaited = self._awaited[type(message)], None
        if isinstance(message, Hello):
            self.version = agreed_version(self._greeting, message)
            self.stage = Stage.SETTLING if self.version is None else self.stage

    @staticmethod
    def _unexpected(message: object, why: str) -> ProtocolError:
        return ProtocolError(Code.UNEXPECTED, f"{type(message).__name__} is out of turn: {why}")
