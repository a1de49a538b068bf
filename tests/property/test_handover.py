"""The hand-over tables, in everything that can happen to two hosts; and their picture."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from protocol.handover import (
    SOURCE,
    SOURCE_LEFT,
    TARGET,
    TARGET_LEFT,
    SourceAction,
    SourceEvent,
    SourceState,
    Step,
    TargetAction,
    TargetEvent,
    TargetState,
    mermaid,
)
from tests.support.explorer import Violation, explore
from tests.support.handover_model import HandOverModel
from tests.support.handover_world import Fault, Guest

pytestmark = pytest.mark.long

S, SE, SA = SourceState, SourceEvent, SourceAction
T, TE, TA = TargetState, TargetEvent, TargetAction

FORGETS = (Fault.SOURCE_LOST, Fault.SOURCE_OLD, Fault.TARGET_LOST, Fault.TARGET_OLD)
ELSEWHERE = {
    (S.COMMIT_SENT, SE.GUEST_RUNS),  # where a record failed
    (S.ABORTED, SE.TARGET_STARTED),  # a source that was set back and could not ask
    (S.KEPT, SE.TARGET_FORGOT),
    (S.GIVEN_UP, SE.TARGET_FORGOT),
}
"""What happens only in walks that have a test of their own, or in what no model can mend."""

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "handover.md"


def test_one_owner_whatever_happens():
    alone, operated = HandOverModel(), HandOverModel(operators=True)
    for model in (alone, operated):
        found = explore(model)
        assert found.moments > 10_000, "a walk this short has missed something"
        assert found.ends >= 2, "moved and stayed"
    forgetful = [HandOverModel(journals=[fault]) for fault in FORGETS]
    for model in forgetful:
        assert explore(model).moments > 5_000
    used = set().union(*(model.used for model in (alone, operated, *forgetful)))
    assert {*SOURCE, *TARGET} - used <= ELSEWHERE
    assert used <= {*SOURCE, *TARGET}


@pytest.mark.parametrize("fault", [Fault.SOURCE_FULL, Fault.TARGET_FULL])
def test_one_owner_whatever_a_journal_does_not_take(fault):
    model = HandOverModel(journals=[fault])
    assert explore(model).moments > 10_000
    assert ((S.COMMIT_SENT, SE.GUEST_RUNS) in model.used) == (fault is Fault.SOURCE_FULL)


@pytest.mark.slow
def test_operators_decide_where_the_target_has_forgotten():
    model = HandOverModel(operators=True, journals=[Fault.TARGET_LOST])
    explore(model)
    assert model.used >= {(S.KEPT, SE.TARGET_FORGOT), (S.GIVEN_UP, SE.TARGET_FORGOT)}


def test_every_state_knows_a_restart():
    assert {state for state, event in SOURCE if event is SE.RESTARTED} == {*S} - SOURCE_LEFT
    assert {state for state, event in TARGET if event is TE.RESTARTED} == {*T} - TARGET_LEFT


def broken(
    source: dict[Any, Any] | None = None,
    target: dict[Any, Any] | None = None,
    eager: tuple[SA | TA, ...] = (),
    *,
    operators: bool = False,
) -> HandOverModel:
    """Return a model with some transitions replaced, or actions carried out before the journal."""
    tables = {**SOURCE, **(source or {})}, {**TARGET, **(target or {})}
    return HandOverModel(*tables, eager, operators=operators)


def careless(habit: str, fault: Fault) -> HandOverModel:
    """Return a model in which a daemon does not heed that a journal may fail."""
    return HandOverModel(journals=[fault], habits=[habit])


BUGS = {
    "target that forgot says aborted": careless("says aborted", Fault.TARGET_LOST),
    "target that was set back says aborted": careless("says aborted", Fault.TARGET_OLD),
    "target that was set back does not look": careless("does not look", Fault.TARGET_OLD),
    "target starts without a record": careless("starts unnoted", Fault.TARGET_FULL),
    "target that could not note it says aborted, and then removes its copy": careless(
        "says so too early", Fault.TARGET_FULL
    ),
    "source commits without a record": careless("commits unnoted", Fault.SOURCE_FULL),
    "source resumes as it could not note what it has sent": careless(
        "resumes after it was sent", Fault.SOURCE_FULL
    ),
    "source commits a guest that runs": careless("blind", Fault.SOURCE_FULL),
    "source that was set back resumes unasked": careless("resumes unasked", Fault.SOURCE_OLD),
    "source takes forgetting for an answer": HandOverModel(
        {**SOURCE, (S.COMMIT_SENT, SE.TARGET_FORGOT): Step(S.ABORTED, (SA.RESUME_GUEST,))},
        journals=[Fault.TARGET_LOST],
    ),
    "target that was set back forgets what runs": HandOverModel(
        target={**TARGET, (T.READY, TE.GUEST_RUNS): Step(T.ABORTED, (TA.DESTROY_COPY,))},
        journals=[Fault.TARGET_OLD],
    ),
    "target starts before its journal says committed": broken(eager=(TA.START_GUEST,)),
    "source commits before its journal says so": broken(eager=(SA.SEND_COMMIT,)),
    "source lets its toolstack keep the guest while it commits": HandOverModel(seals=Guest.SAVING),
    "source takes back when the link is lost after the commit": broken(
        {(S.COMMIT_SENT, SE.LINK_LOST): Step(S.ABORTED, (SA.RESUME_GUEST,))}
    ),
    "source takes back when it restarts after the commit": broken(
        {(S.COMMIT_SENT, SE.RESTARTED): Step(S.ABORTED, (SA.RESUME_GUEST,))}
    ),
    "source takes back when something fails after the commit": broken(
        {(S.COMMIT_SENT, SE.FAILED): Step(S.ABORTED, (SA.RESUME_GUEST, SA.SEND_ABORT))}
    ),
    "source discards on ready": broken(
        {(S.HANDING_OVER, SE.TARGET_READY): Step(S.COMMIT_SENT, (SA.DISCARD_GUEST, SA.SEND_COMMIT))}
    ),
    "source is done on ready": broken(
        {(S.HANDING_OVER, SE.TARGET_READY): Step(S.DONE, (SA.SEND_COMMIT, SA.DISCARD_GUEST))}
    ),
    "source does not write that it commits": broken(
        {(S.HANDING_OVER, SE.TARGET_READY): Step(S.HANDING_OVER, (SA.SEND_COMMIT,))}
    ),
    "source never asks again": broken(
        {(S.COMMIT_SENT, event): Step(S.COMMIT_SENT) for event in (SE.LINK_LOST, SE.RESTARTED)}
    ),
    "source lets its host start the guest at boot": broken(
        {(S.COPYING, SE.SUSPENDING): Step(S.HANDING_OVER)}
    ),
    "source forgets to resume": broken({(S.HANDING_OVER, SE.RESTARTED): Step(S.ABORTED)}),
    "target that gave up takes a commit": broken(
        target={(T.ABORTED, TE.COMMIT): Step(T.COMMITTED, (TA.START_GUEST,))}
    ),
    "target starts without a commit": broken(
        target={(T.RECEIVING, TE.BUILT): Step(T.COMMITTED, (TA.START_GUEST,))}
    ),
    "target runs out of patience after the commit": broken(
        target={(T.COMMITTED, TE.READY_TIMEOUT): Step(T.ABORTED, (TA.DESTROY_COPY,))}
    ),
    "target gives up a start when it restarts": broken(
        target={(T.COMMITTED, TE.RESTARTED): Step(T.ABORTED, (TA.DESTROY_COPY,))}
    ),
    "target takes an unclear start for a failed one": broken(
        target={(T.COMMITTED, TE.START_UNCLEAR): Step(T.ABORTED, (TA.SEND_ABORTED,))}
    ),
    "target says started before it is": broken(
        target={(T.READY, TE.COMMIT): Step(T.STARTED, (TA.START_GUEST, TA.SEND_STARTED))}
    ),
    "target leaves its copy behind": broken(target={(T.READY, TE.READY_TIMEOUT): Step(T.ABORTED)}),
    "source forgets what an operator decided": broken(
        {(S.COMMIT_SENT, SE.OPERATOR_KEEPS): Step(S.ABORTED, (SA.RESUME_GUEST,))}, operators=True
    ),
    "source does not tell that it kept the guest": broken(
        {(S.COMMIT_SENT, SE.OPERATOR_KEEPS): Step(S.KEPT, (SA.RESUME_GUEST,))}, operators=True
    ),
    "source takes it for granted that the guest runs on the target": broken(
        {(S.COMMIT_SENT, SE.OPERATOR_GIVES_UP): Step(S.DONE, (SA.DISCARD_GUEST,))}, operators=True
    ),
    "target does not heed that the source kept the guest": broken(
        target={(T.STARTED, TE.ABORT): Step(T.STARTED, (TA.SEND_STARTED,))}, operators=True
    ),
    "target waits for ever": broken(
        target={(T.READY, TE.READY_TIMEOUT): Step(T.READY, (TA.AWAIT_SOURCE,))}
    ),
}


LONG = {  # to find
    "source does not tell that it kept the guest",
    "target does not heed that the source kept the guest",
    "target waits for ever",
    "source forgets to resume",
}


@pytest.mark.sampled
@pytest.mark.parametrize(
    "bug",
    [pytest.param(bug, marks=[pytest.mark.slow] if bug in LONG else []) for bug in BUGS],
)
def test_a_protocol_bug_is_found(bug):
    with pytest.raises(Violation) as found:
        explore(BUGS[bug])
    assert "\n  " in str(found.value), "the way there is told"


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
