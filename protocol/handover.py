"""Who owns the guest: the hand-over as two transition tables.

Theory of operation. A migration has two roles, each with a durable journal. An event (something
that happened) takes a role from one state to the next and asks for actions. The state is written to
the journal before any of its actions is carried out, so that a crash at any moment leaves a state
from which `RESTARTED` goes on. The target decides:

- The source may let its suspended guest run again only while the target cannot start its copy: that
  is before Commit was sent, or after the target's durable word that it did not and will not start.
  A target that has no record, or one that denies what it has said before, gives no word at all.
- The target starts its copy only from COMMITTED, which it enters on Commit and only from READY, and
  ABORTED is for ever. So from the moment COMMIT_SENT is on disk the guest belongs to whoever the
  target's journal says, and the source asks until it knows.
- Where the other host is gone for good, or has forgotten, nobody can know, and an operator decides.
  The decision is a state of its own: should that host come back, it is told, and if the decision
  was wrong both sides know.
- A domain that runs has been started, whatever a journal says that was set back to an older copy.

Everything that affects ownership is in these two tables; docs/handover.md is drawn from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, TypeVar


class SourceState(StrEnum):
    """States of the side that the guest leaves."""

    COPYING = "copying"  # the guest runs here
    HANDING_OVER = "handing-over"  # suspended, or about to be; may still be resumed
    COMMIT_SENT = "commit-sent"  # in doubt until the target's word is known
    DONE = "done"  # the guest runs on the target
    ABORTED = "aborted"  # the guest is the source's
    KEPT = "kept"  # the guest runs here by an operator's decision; the target's word is missing
    GIVEN_UP = "given-up"  # the suspended copy was dropped by one; the target's word is missing
    RAN_TWICE = "ran-twice"  # kept, and the target has started it
    LOST = "lost"  # given up, and the target has never started it
    RESOLVED = "resolved"  # an operator has put that right


class SourceEvent(StrEnum):
    """What can happen to the source."""

    SUSPENDING = "suspending"  # the domain is about to be suspended
    TARGET_READY = "target-ready"
    TARGET_STARTED = "target-started"  # its durable word that the guest is its own
    TARGET_ABORTED = "target-aborted"  # its durable word that it will never start the guest
    TARGET_FORGOT = "target-forgot"  # it has no record of what it had said: this is no word
    GUEST_RUNS = "guest-runs"  # seen after a restart, where it was to be suspended
    FAILED = "failed"  # anything went wrong here, or the operator aborts
    LINK_LOST = "link-lost"
    RESTARTED = "restarted"  # this daemon began anew and found the migration in its journal
    OPERATOR_KEEPS = "operator-keeps"  # an operator says: it never runs on the target
    OPERATOR_GIVES_UP = "operator-gives-up"  # an operator says: it runs on the target
    OPERATOR_RESOLVES = "operator-resolves"


class SourceAction(StrEnum):
    """What the source then does."""

    HOLD_AUTOSTART = "hold-autostart"  # this host does not start the guest if it is booted
    SEND_COMMIT = "send-commit"
    RESUME_GUEST = "resume-guest"  # and let the host start it at boot again
    DISCARD_GUEST = "discard-guest"
    SEND_ABORT = "send-abort"
    ASK_TARGET = "ask-target"  # connect, ask for the fate, until it is known
    TELL_TARGET = "tell-target"  # connect, tell what was decided, until its word is known


class Word(StrEnum):
    """What a target's journal says of a migration: this is all that two hosts must agree on.

    It is the same in every release, whatever states each of them has.
    """

    RECEIVING = "receiving"  # it is not ready yet
    READY = "ready"  # it waits for Commit or Abort
    COMMITTED = "committed"  # it was told to start the guest, and finds out what came of that
    STARTED = "started"  # durable: the guest was started there
    ABORTED = "aborted"  # durable: it was ready, and will never start the guest
    NEVER_READY = "never-ready"  # durable: it was never ready, and will never start the guest
    UNKNOWN = "unknown"  # there is no record of it


class TargetState(StrEnum):
    """States of the side that the guest comes to."""

    RECEIVING = "receiving"
    READY = "ready"  # every volume durable, the domain built and paused
    COMMITTED = "committed"  # the guest is the target's; being started
    STARTED = "started"
    ABORTED = "aborted"  # this migration's guest will never start here
    RAN_TWICE = "ran-twice"  # started here, and the source's operator kept it there
    RESOLVED = "resolved"  # an operator has put that right


class TargetEvent(StrEnum):
    """What can happen to the target."""

    BUILT = "built"
    COMMIT = "commit"
    GUEST_RUNS = "guest-runs"
    START_FAILED = "start-failed"  # certain: the copy is destroyed
    START_UNCLEAR = "start-unclear"  # it may run, or may not: somebody has to look
    ABORT = "abort"
    FAILED = "failed"
    LINK_LOST = "link-lost"
    READY_TIMEOUT = "ready-timeout"
    RESTARTED = "restarted"
    OPERATOR_KEEPS = "operator-keeps"  # an operator says: it has run here
    OPERATOR_GIVES_UP = "operator-gives-up"  # an operator says: it was never started here
    OPERATOR_RESOLVES = "operator-resolves"


class TargetAction(StrEnum):
    """What the target then does."""

    SEND_READY = "send-ready"
    START_GUEST = "start-guest"
    SEND_STARTED = "send-started"
    DESTROY_COPY = "destroy-copy"  # the domain and the volumes that were made for it
    SEND_ABORTED = "send-aborted"
    AWAIT_SOURCE = "await-source"  # until Commit, Abort or the ready timeout
    SETTLE = "settle"  # find out on the host what became of the start


State = TypeVar("State", bound=StrEnum)
Event = TypeVar("Event", bound=StrEnum)
Action = TypeVar("Action", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Step(Generic[State, Action]):
    """Where an event leads and what it asks for, in order."""

    state: State
    actions: tuple[Action, ...] = ()


class InvalidTransition(Exception):
    """An event came in a state that does not know it: a bug, or a peer that breaks the protocol."""


_S, _SE, _SA = SourceState, SourceEvent, SourceAction
_T, _TE, _TA = TargetState, TargetEvent, TargetAction

SourceTable = Mapping[tuple[SourceState, SourceEvent], Step[SourceState, SourceAction]]
TargetTable = Mapping[tuple[TargetState, TargetEvent], Step[TargetState, TargetAction]]

_RESUME = Step(_S.ABORTED, (_SA.RESUME_GUEST, _SA.SEND_ABORT))
_TAKE_BACK = Step(_S.ABORTED, (_SA.RESUME_GUEST,))
_LET_GO = Step(_S.DONE, (_SA.DISCARD_GUEST,))
_KEEP = Step(_S.KEPT, (_SA.RESUME_GUEST, _SA.TELL_TARGET))
_DROP = Step(_S.GIVEN_UP, (_SA.DISCARD_GUEST, _SA.TELL_TARGET))
_GIVE_UP = Step(_T.ABORTED, (_TA.DESTROY_COPY,))
_REFUSE = Step(_T.ABORTED, (_TA.DESTROY_COPY, _TA.SEND_ABORTED))

SOURCE: Final[SourceTable] = {
    # From here on the guest may become the target's while this host is down.
    (_S.COPYING, _SE.SUSPENDING): Step(_S.HANDING_OVER, (_SA.HOLD_AUTOSTART,)),
    (_S.COPYING, _SE.FAILED): Step(_S.ABORTED, (_SA.SEND_ABORT,)),
    (_S.COPYING, _SE.LINK_LOST): Step(_S.ABORTED),
    # To resume a guest that runs does nothing; it does not where this journal was set back.
    (_S.COPYING, _SE.RESTARTED): _RESUME,
    # Found by a restart: this journal was set back to before the commit that the target has had.
    (_S.COPYING, _SE.TARGET_STARTED): Step(_S.COMMIT_SENT, (_SA.ASK_TARGET,)),
    (_S.HANDING_OVER, _SE.TARGET_STARTED): Step(_S.COMMIT_SENT, (_SA.ASK_TARGET,)),
    (_S.HANDING_OVER, _SE.TARGET_READY): Step(_S.COMMIT_SENT, (_SA.SEND_COMMIT,)),
    (_S.HANDING_OVER, _SE.FAILED): _RESUME,
    (_S.HANDING_OVER, _SE.LINK_LOST): _RESUME,
    (_S.HANDING_OVER, _SE.RESTARTED): _RESUME,
    (_S.COMMIT_SENT, _SE.TARGET_READY): Step(_S.COMMIT_SENT, (_SA.SEND_COMMIT,)),
    (_S.COMMIT_SENT, _SE.TARGET_STARTED): _LET_GO,
    (_S.COMMIT_SENT, _SE.TARGET_ABORTED): _TAKE_BACK,
    (_S.COMMIT_SENT, _SE.FAILED): Step(_S.COMMIT_SENT, (_SA.ASK_TARGET,)),
    (_S.COMMIT_SENT, _SE.LINK_LOST): Step(_S.COMMIT_SENT, (_SA.ASK_TARGET,)),
    (_S.COMMIT_SENT, _SE.RESTARTED): Step(_S.COMMIT_SENT, (_SA.ASK_TARGET,)),
    (_S.COMMIT_SENT, _SE.TARGET_FORGOT): Step(_S.COMMIT_SENT, (_SA.ASK_TARGET,)),
    # It was resumed by whoever saw a record fail that is on disk all the same, or by hand.
    (_S.COMMIT_SENT, _SE.GUEST_RUNS): _KEEP,
    (_S.COMMIT_SENT, _SE.OPERATOR_KEEPS): _KEEP,
    (_S.COMMIT_SENT, _SE.OPERATOR_GIVES_UP): _DROP,
    # Both ends repeat their actions after a crash: they are idempotent.
    (_S.DONE, _SE.RESTARTED): _LET_GO,
    (_S.ABORTED, _SE.RESTARTED): _RESUME,
    # This journal was set back to before the commit, and the target could not be asked in time.
    (_S.ABORTED, _SE.TARGET_STARTED): Step(_S.RAN_TWICE),
    (_S.KEPT, _SE.TARGET_ABORTED): Step(_S.ABORTED),
    (_S.KEPT, _SE.TARGET_STARTED): Step(_S.RAN_TWICE),
    (_S.KEPT, _SE.TARGET_FORGOT): Step(_S.KEPT),
    (_S.KEPT, _SE.RESTARTED): _KEEP,
    (_S.GIVEN_UP, _SE.TARGET_STARTED): Step(_S.DONE),
    (_S.GIVEN_UP, _SE.TARGET_ABORTED): Step(_S.LOST),
    (_S.GIVEN_UP, _SE.TARGET_FORGOT): Step(_S.GIVEN_UP),
    (_S.GIVEN_UP, _SE.RESTARTED): _DROP,
    (_S.RAN_TWICE, _SE.OPERATOR_RESOLVES): Step(_S.RESOLVED),
    (_S.LOST, _SE.OPERATOR_RESOLVES): Step(_S.RESOLVED),
}

TARGET: Final[TargetTable] = {
    (_T.RECEIVING, _TE.BUILT): Step(_T.READY, (_TA.SEND_READY,)),
    (_T.RECEIVING, _TE.ABORT): _REFUSE,
    (_T.RECEIVING, _TE.FAILED): _REFUSE,
    (_T.RECEIVING, _TE.LINK_LOST): _GIVE_UP,
    (_T.RECEIVING, _TE.RESTARTED): _GIVE_UP,
    (_T.READY, _TE.COMMIT): Step(_T.COMMITTED, (_TA.START_GUEST,)),
    (_T.READY, _TE.ABORT): _REFUSE,
    (_T.READY, _TE.FAILED): _REFUSE,
    (_T.READY, _TE.LINK_LOST): Step(_T.READY, (_TA.AWAIT_SOURCE,)),
    (_T.READY, _TE.READY_TIMEOUT): _GIVE_UP,
    # The toolstack's receiver dies with the daemon that held its pipe, and the domain with it.
    (_T.READY, _TE.RESTARTED): _GIVE_UP,
    # Only Commit starts it: this journal was set back to before that.
    (_T.RECEIVING, _TE.GUEST_RUNS): Step(_T.STARTED, (_TA.SEND_STARTED,)),
    (_T.READY, _TE.GUEST_RUNS): Step(_T.STARTED, (_TA.SEND_STARTED,)),
    (_T.COMMITTED, _TE.GUEST_RUNS): Step(_T.STARTED, (_TA.SEND_STARTED,)),
    (_T.COMMITTED, _TE.START_FAILED): _REFUSE,
    (_T.COMMITTED, _TE.START_UNCLEAR): Step(_T.COMMITTED, (_TA.SETTLE,)),
    (_T.COMMITTED, _TE.COMMIT): Step(_T.COMMITTED),
    # To a target that was told to start it, only a source says so whose operator kept the guest.
    (_T.COMMITTED, _TE.ABORT): Step(_T.COMMITTED),
    (_T.COMMITTED, _TE.LINK_LOST): Step(_T.COMMITTED),
    (_T.COMMITTED, _TE.RESTARTED): Step(_T.COMMITTED, (_TA.SETTLE,)),
    (_T.COMMITTED, _TE.OPERATOR_KEEPS): Step(_T.STARTED, (_TA.SEND_STARTED,)),
    (_T.COMMITTED, _TE.OPERATOR_GIVES_UP): _REFUSE,
    (_T.STARTED, _TE.COMMIT): Step(_T.STARTED, (_TA.SEND_STARTED,)),
    (_T.STARTED, _TE.ABORT): Step(_T.RAN_TWICE, (_TA.SEND_STARTED,)),
    (_T.STARTED, _TE.LINK_LOST): Step(_T.STARTED),
    (_T.STARTED, _TE.RESTARTED): Step(_T.STARTED),
    (_T.ABORTED, _TE.COMMIT): Step(_T.ABORTED, (_TA.SEND_ABORTED,)),
    (_T.ABORTED, _TE.ABORT): Step(_T.ABORTED, (_TA.SEND_ABORTED,)),
    (_T.ABORTED, _TE.LINK_LOST): Step(_T.ABORTED),
    # A crash may have come between the journal and the clean-up, which is idempotent.
    (_T.ABORTED, _TE.RESTARTED): _GIVE_UP,
    (_T.RAN_TWICE, _TE.OPERATOR_RESOLVES): Step(_T.RESOLVED),
}

SOURCE_UNCOMMITTED: Final = frozenset({_S.COPYING, _S.HANDING_OVER})
"""States in which Commit was never sent, unless the journal was set back."""
SOURCE_UNCONFIRMED: Final = frozenset({_S.KEPT, _S.GIVEN_UP})
"""States that an operator brought about, and of which the target has not heard yet."""
SOURCE_LEFT: Final = frozenset({_S.RAN_TWICE, _S.LOST, _S.RESOLVED})
"""States in which the program has nothing left to do, whatever happens."""
TARGET_LEFT: Final = frozenset({_T.RAN_TWICE, _T.RESOLVED})
TARGET_UNDECIDED: Final = frozenset({_T.RECEIVING, _T.READY})
"""States in which nothing was started, and which a restart ends."""
TARGET_HAS_STARTED: Final = frozenset({_T.STARTED, _T.RAN_TWICE, _T.RESOLVED})
"""States in which the target's word is that the guest was started there."""

WORDS: Final[Mapping[Word, SourceEvent]] = {
    Word.READY: _SE.TARGET_READY,
    Word.STARTED: _SE.TARGET_STARTED,
    Word.ABORTED: _SE.TARGET_ABORTED,
    Word.NEVER_READY: _SE.TARGET_FORGOT,  # it was ready, or Commit would not have been sent
    Word.UNKNOWN: _SE.TARGET_FORGOT,
}
"""What a word means to a source that has sent Commit; after any other it is to ask again."""

SETTLING: Final = (Word.STARTED, Word.ABORTED)
"""Words that settle a doubt: all others may be followed by one of these."""


def target_word(state: TargetState | None, *, was_ready: bool) -> Word:
    """Return what a target may say of a migration: `state` is None where it has no record."""
    if state is None:
        return Word.UNKNOWN
    if state in TARGET_HAS_STARTED:
        return Word.STARTED
    if state is TargetState.ABORTED and not was_ready:
        return Word.NEVER_READY
    return Word(state.value)


def source_step(state: SourceState, event: SourceEvent) -> Step[SourceState, SourceAction]:
    """Return the source's transition. Raises InvalidTransition."""
    return _look_up(SOURCE, state, event, "source")


def target_step(state: TargetState, event: TargetEvent) -> Step[TargetState, TargetAction]:
    """Return the target's transition. Raises InvalidTransition."""
    return _look_up(TARGET, state, event, "target")


def mermaid(table: Mapping[tuple[State, Event], Step[State, Action]]) -> str:
    """Draw a table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2"]
    for (state, event), step in table.items():
        actions = ", ".join(step.actions)
        label = f"{event} / {actions}" if actions else event
        lines.append(f"    {_word(state)} --> {_word(step.state)}: {label}")
    return "\n".join(lines)


def _look_up(
    table: Mapping[tuple[State, Event], Step[State, Action]], state: State, event: Event, role: str
) -> Step[State, Action]:
    try:
        return table[state, event]
    except KeyError:
        raise InvalidTransition(f"the {role} cannot take {event} in state {state}") from None


def _word(state: StrEnum) -> str:
    return str(state).replace("-", "_")
