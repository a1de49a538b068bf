"""The hand-over tables, walked through every order of events, crashes and messages.

The model knows two hosts, their journals, the guest at the source, its copy at the target, and a
network that delivers what was ever sent at any later time, any number of times, or never. Work
that was not done at a crash is lost; the journal, the guest, the copy and the network stay.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import pytest

from protocol.handover import (
    SOURCE,
    TARGET,
    SourceAction,
    SourceEvent,
    SourceState,
    SourceTable,
    Step,
    TargetAction,
    TargetEvent,
    TargetState,
    TargetTable,
    mermaid,
)

S, SE, SA = SourceState, SourceEvent, SourceAction
T, TE, TA = TargetState, TargetEvent, TargetAction

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "handover.md"


class Guest(Enum):
    """The guest at the source."""

    RUNS = 1
    SUSPENDED = 2
    GONE = 3


class Copy(Enum):
    """The guest at the target."""

    ABSENT = 1
    PAUSED = 2
    RUNS = 3


class Message(Enum):
    COMMIT = 1
    ABORT = 2
    INQUIRE = 3
    READY = 4
    STARTED = 5
    ABORTED = 6


OBSERVE = "observe"
"""The target's daemon looks what came of the start."""


class World(NamedTuple):
    """One moment. `driving`: the source process that began the migration still carries it out."""

    source: S = S.COPYING
    source_up: bool = True
    source_todo: tuple[SA, ...] = ()
    driving: bool = True
    guest: Guest = Guest.RUNS
    target: T = T.RECEIVING
    target_up: bool = True
    target_todo: tuple[TA | str, ...] = ()
    copy: Copy = Copy.ABSENT
    network: frozenset[Message] = frozenset()


class Model:
    """What may follow a moment, by the tables."""

    def __init__(self, source: SourceTable = SOURCE, target: TargetTable = TARGET) -> None:
        self._source = source
        self._target = target
        self.used: set[tuple[object, object]] = set()

    def after(self, w: World) -> Iterator[World]:
        """Yield every moment that may come next."""
        yield from self._source_steps(w) if w.source_up else self._source_restart(w)
        yield from self._target_steps(w) if w.target_up else self._target_restart(w)

    # --- the source

    def _happen_source(self, w: World, event: SE) -> World:
        step = self._source[w.source, event]
        self.used.add((w.source, event))
        return w._replace(source=step.state, source_todo=step.actions)

    def _source_restart(self, w: World) -> Iterator[World]:
        yield self._happen_source(w._replace(source_up=True), SE.RESTARTED)

    def _source_steps(self, w: World) -> Iterator[World]:
        yield w._replace(source_up=False, source_todo=(), driving=False)
        if w.source_todo:
            action, *rest = w.source_todo
            yield self._source_action(w._replace(source_todo=tuple(rest)), action)
            return
        if w.source is S.COMMIT_SENT:
            yield w._replace(network=w.network | {Message.INQUIRE})
        if w.driving and w.source in (S.COPYING, S.HANDING_OVER, S.COMMIT_SENT):
            for event in (SE.FAILED, SE.LINK_LOST):
                yield self._happen_source(w._replace(driving=False), event)
        if w.driving and w.source is S.COPYING:
            yield self._happen_source(w, SE.SUSPENDING)
        if w.driving and w.source is S.HANDING_OVER and w.guest is Guest.RUNS:
            yield w._replace(guest=Guest.SUSPENDED)
        if w.driving or w.source is S.COMMIT_SENT:
            words = {
                Message.READY: SE.TARGET_READY,
                Message.STARTED: SE.TARGET_STARTED,
                Message.ABORTED: SE.TARGET_ABORTED,
            }
            for message in w.network & words.keys():
                # What comes on a channel whose migration is over here is heard by nobody.
                if (w.source, words[message]) in self._source:
                    yield self._happen_source(w, words[message])

    @staticmethod
    def _source_action(w: World, action: SA) -> World:
        match action:
            case SA.SEND_COMMIT:
                return w._replace(network=w.network | {Message.COMMIT})
            case SA.SEND_ABORT:
                return w._replace(network=w.network | {Message.ABORT})
            case SA.ASK_TARGET:
                return w._replace(network=w.network | {Message.INQUIRE})
            case SA.RESUME_GUEST:
                assert w.guest is not Guest.GONE, "nothing is left to resume"
                return w._replace(guest=Guest.RUNS)
            case SA.DISCARD_GUEST:
                assert w.guest is not Guest.RUNS, "a guest that runs is discarded"
                return w._replace(guest=Guest.GONE)

    # --- the target

    def _happen_target(self, w: World, event: TE) -> World:
        step = self._target[w.target, event]
        self.used.add((w.target, event))
        return w._replace(target=step.state, target_todo=step.actions)

    def _target_restart(self, w: World) -> Iterator[World]:
        yield self._happen_target(w._replace(target_up=True), TE.RESTARTED)

    def _target_steps(self, w: World) -> Iterator[World]:
        down = w._replace(target_up=False, target_todo=())
        yield down
        if w.copy is Copy.PAUSED:  # the receiver ends with the daemon, or leaves it behind
            yield down._replace(copy=Copy.ABSENT)
        if w.target_todo:
            action, *rest = w.target_todo
            yield from self._target_action(w._replace(target_todo=tuple(rest)), action)
            return
        yield self._happen_target(w, TE.LINK_LOST)
        # The image is whole only if the guest was suspended.
        if w.target is T.RECEIVING and w.guest is Guest.SUSPENDED and w.driving:
            if w.copy is Copy.ABSENT:
                yield w._replace(copy=Copy.PAUSED)
            else:
                yield self._happen_target(w, TE.BUILT)
        if w.target in (T.RECEIVING, T.READY):
            yield self._happen_target(w, TE.FAILED)
        if w.target is T.READY:
            yield self._happen_target(w, TE.READY_TIMEOUT)
        if Message.COMMIT in w.network:
            assert w.target is not T.RECEIVING, "a commit of what is not ready"
            yield self._happen_target(w, TE.COMMIT)
        if Message.ABORT in w.network:
            assert w.target not in (T.COMMITTED, T.STARTED), "committed and aborted"
            yield self._happen_target(w, TE.ABORT)
        if Message.INQUIRE in w.network:
            fates = {
                T.READY: Message.READY,
                T.STARTED: Message.STARTED,
                T.ABORTED: Message.ABORTED,
            }
            if w.target in fates:
                yield w._replace(network=w.network | {fates[w.target]})

    def _target_action(self, w: World, action: TA | str) -> Iterator[World]:
        match action:
            case TA.SEND_READY:
                yield w._replace(network=w.network | {Message.READY})
            case TA.SEND_STARTED:
                yield w._replace(network=w.network | {Message.STARTED})
            case TA.SEND_ABORTED:
                yield w._replace(network=w.network | {Message.ABORTED})
            case TA.START_GUEST | TA.SETTLE:
                outcomes = {w.copy}
                if w.copy is Copy.PAUSED:
                    outcomes = {Copy.RUNS, Copy.ABSENT}
                yield w._replace(target_todo=())  # it cannot be told: somebody has to look
                for outcome in outcomes:
                    yield w._replace(copy=outcome, target_todo=(OBSERVE, *w.target_todo))
            case str() if action is OBSERVE:
                runs = w.copy is Copy.RUNS
                yield self._happen_target(w, TE.GUEST_RUNS if runs else TE.START_FAILED)
            case TA.DESTROY_COPY:
                assert w.copy is not Copy.RUNS, "a copy that runs is destroyed"
                yield w._replace(copy=Copy.ABSENT)
            case TA.AWAIT_SOURCE:
                yield w


def check(w: World) -> None:
    """Assert what must be true at every moment."""
    assert not (w.guest is Guest.RUNS and w.copy is Copy.RUNS), f"the guest runs twice: {w}"
    assert w.guest is not Guest.GONE or w.copy is Copy.RUNS, f"the guest is lost: {w}"
    if w.source is S.DONE:
        assert w.target is T.STARTED, f"done without the target's word: {w}"
    if w.source is S.ABORTED:
        assert w.target not in (T.COMMITTED, T.STARTED), f"both own the guest: {w}"


def is_end(w: World) -> bool:
    """Whether all is decided, and done."""
    if w.source_todo or w.target_todo or not (w.source_up and w.target_up):
        return False
    moved = (S.DONE, Guest.GONE, T.STARTED, Copy.RUNS)
    stayed = (S.ABORTED, Guest.RUNS, T.ABORTED, Copy.ABSENT)
    return (w.source, w.guest, w.target, w.copy) in (moved, stayed)


def crashed(moment: World, following: World) -> bool:
    """Whether a host crashes in between, but for one that is restarted to find out."""
    unclear = moment.target is T.COMMITTED and not moment.target_todo
    return following.source_up < moment.source_up or (
        following.target_up < moment.target_up and not unclear
    )


def walk(model: Model) -> tuple[int, int]:
    """Go through everything that can happen; returns the number of moments and of ends.

    Raises AssertionError when something must not be, or when an end cannot be reached any more
    unless a host crashes.
    """
    first = World()
    before: dict[World, list[World]] = defaultdict(list)
    seen = {first}
    waiting = deque(seen)
    while waiting:
        moment = waiting.popleft()
        check(moment)
        for following in model.after(moment):
            if not crashed(moment, following):
                before[following].append(moment)
            if following not in seen:
                seen.add(following)
                waiting.append(following)
    hopeful = {moment for moment in seen if is_end(moment)}
    ends = len(hopeful)
    back = deque(hopeful)
    while back:
        for moment in before[back.popleft()]:
            if moment not in hopeful:
                hopeful.add(moment)
                back.append(moment)
    stuck = seen - hopeful
    assert not stuck, f"{len(stuck)} moments never end, such as {next(iter(stuck))}"
    return len(seen), ends


def test_one_owner_whatever_happens():
    model = Model()
    moments, ends = walk(model)
    assert moments > 1000, "a walk this short has missed something"
    assert ends >= 2, "moved and stayed"
    assert model.used == {*SOURCE, *TARGET}, "every transition is there because it can happen"


def test_every_state_knows_a_restart():
    assert {state for state, event in SOURCE if event is SE.RESTARTED} == set(S)
    assert {state for state, event in TARGET if event is TE.RESTARTED} == set(T)


BROKEN = {
    "source takes back after the commit": (
        {(S.COMMIT_SENT, SE.LINK_LOST): Step(S.ABORTED, (SA.RESUME_GUEST,))},
        {},
    ),
    "source takes back after the commit at a restart": (
        {(S.COMMIT_SENT, SE.RESTARTED): Step(S.ABORTED, (SA.RESUME_GUEST,))},
        {},
    ),
    "source discards before the word": (
        {(S.HANDING_OVER, SE.TARGET_READY): Step(S.DONE, (SA.SEND_COMMIT, SA.DISCARD_GUEST))},
        {},
    ),
    "source commits before it wrote so": (
        {(S.HANDING_OVER, SE.TARGET_READY): Step(S.HANDING_OVER, (SA.SEND_COMMIT,))},
        {},
    ),
    "source never asks": (
        {
            (S.COMMIT_SENT, event): Step(S.ABORTED)
            for event in (SE.LINK_LOST, SE.FAILED, SE.RESTARTED)
        },
        {},
    ),
    "source forgets to resume": ({(S.HANDING_OVER, SE.RESTARTED): Step(S.ABORTED)}, {}),
    "target starts what it aborted": (
        {},
        {(T.ABORTED, TE.COMMIT): Step(T.COMMITTED, (TA.START_GUEST,))},
    ),
    "target starts before the commit": (
        {},
        {(T.RECEIVING, TE.BUILT): Step(T.COMMITTED, (TA.START_GUEST,))},
    ),
    "target gives up a start that was begun": (
        {},
        {(T.COMMITTED, TE.RESTARTED): Step(T.ABORTED, (TA.DESTROY_COPY,))},
    ),
    "target says started before it is": (
        {},
        {(T.READY, TE.COMMIT): Step(T.STARTED, (TA.START_GUEST, TA.SEND_STARTED))},
    ),
    "target leaves its copy behind": ({}, {(T.READY, TE.READY_TIMEOUT): Step(T.ABORTED)}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_table_is_found_out(name):
    source, target = BROKEN[name]
    with pytest.raises((AssertionError, KeyError)):
        walk(Model({**SOURCE, **source}, {**TARGET, **target}))


def diagrams(text: str) -> list[str]:
    """Return the Mermaid diagrams of a document."""
    return re.findall(r"```mermaid\n(.*?)\n```", text, re.DOTALL)


def redraw(text: str) -> str:
    """Return the document with its diagrams drawn from the tables."""
    drawn = iter((mermaid(SOURCE), mermaid(TARGET)))
    return re.sub(
        r"(```mermaid\n).*?(\n```)",
        lambda found: f"{found[1]}{next(drawn)}{found[2]}",
        text,
        flags=re.DOTALL,
    )


def test_the_document_shows_these_tables():
    assert diagrams(DOCUMENT.read_text()) == [mermaid(SOURCE), mermaid(TARGET)], (
        "docs/handover.md is out of date; run: python tests/property/test_handover.py"
    )


if __name__ == "__main__":
    DOCUMENT.write_text(redraw(DOCUMENT.read_text()))
