"""`xenmovectl recover`: what is in doubt on this host, and what an operator decides about it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Final

from protocol.errors import ProtocolError
from protocol.handover import (
    SETTLING,
    SourceEvent,
    SourceState,
    TargetEvent,
    TargetState,
    Word,
    source_step,
    target_step,
)
from protocol.messages import Fate, Presence, Problem
from xenmoved.jobs.job import both_names
from xenmoved.journal.database import JournalFailed
from xenmoved.journal.records import Outbound, Standing
from xenmoved.link.errors import LinkError
from xenmoved.migration.doubt_texts import has_forgotten, risk, verdict
from xenmoved.migration.host import Host
from xenmoved.migration.report import Decision, DoubtRow, Doubts, DoubtWord, Risk
from xenmoved.migration.source.dialogue import open_dialogue
from xenmoved.migration.source.handover import SourceHandover
from xenmoved.migration.target.handover import TargetHandover
from xenmoved.problems import JobError, Obstructed, problem, problems_of
from xenmoved.tasks import TookTooLong, at_most

log = logging.getLogger(__name__)

_PEER_PATIENCE: Final = 30.0
WORD_COUNTS: Final = 600.0
"""Seconds for which what a target says, and does not settle the doubt, keeps an operator from
deciding it: longer than a start takes. After that it is told with the risk."""
_IN_DOUBT: Final = (SourceState.COMMIT_SENT, TargetState.COMMITTED)
_WENT_WRONG: Final = (SourceState.RAN_TWICE, SourceState.LOST, TargetState.RAN_TWICE)
_ABSENT: Final = "absent"


async def list_doubts(host: Host, *, reach: bool) -> Doubts:
    """Return everything that is in doubt here, or was decided without the peer's word.

    With `reach` it is tried whether the peers answer. A journal that cannot be read is an alarm.
    """
    told = _unfinished(host)
    try:
        rows = await in_doubt(host)
    except JournalFailed as error:
        rows, told = [], [*told, *problems_of(error)]
    answers = dict.fromkeys({one.peer for one in rows})
    if reach:
        last = {one.peer: one.migration for one in rows}
        reached = await asyncio.gather(*(_reaches(host, peer, last[peer]) for peer in answers))
        answers = dict(zip(answers, reached, strict=True))
    states = await _domain_states(host)
    return Doubts(
        tuple(
            DoubtRow(
                job=one.job,
                guest=one.guest,
                peer=one.peer,
                at_source=isinstance(one.state, SourceState),
                state=one.state.value,
                since=one.since,
                domain=_state_of(states, one.guest),
                peer_answers=answers[one.peer],
                problem=_told(host, one),
                peer_says=_heard(host, one),
            )
            for one in rows
        )[:1000],
        tuple(told)[:1000],
    )


async def in_doubt(host: Host) -> list[Standing]:
    """Return what is in doubt here, or was decided without the peer's word. Raises JournalFailed.

    A start that is under way is no doubt, and neither is a commit that is being sent.
    """
    rows = await host.journal.standing()
    return [one for one in rows if one.state not in _IN_DOUBT or one.job in host.doubts]


async def alarms(host: Host) -> tuple[Problem, ...]:
    """Return what an operator must know of: what is tried again and again, what went wrong."""
    found = _unfinished(host)
    try:
        rows = await host.journal.standing()
        found += [_told(host, one) for one in rows if one.state in _WENT_WRONG]
    except JournalFailed as error:
        found += problems_of(error)
    return tuple(found)


def _unfinished(host: Host) -> list[Problem]:
    """Return what nobody has to decide: it is tried again until it is done."""
    alarm = host.journal.alarm
    journal = problems_of(JournalFailed(alarm)) if alarm is not None else []
    return [*journal, *host.alarms.values()]


async def weigh(host: Host, wanted: str, decision: Decision) -> Risk:
    """Return what a decision risks. Raises Obstructed unless it may be taken now."""
    one = await _find(host, wanted)
    heard = await _check(host, one, decision)
    at_source = isinstance(one.state, SourceState)
    guest = both_names(one.guest, one.other_name, one.peer)
    text, look = risk(at_source, decision, guest, one.peer, heard)
    return Risk(one.job, one.guest, one.peer, text, look)


async def decide(host: Host, wanted: str, decision: Decision) -> str:
    """Carry out a decision; return what came of it. Raises Obstructed."""
    one = await _find(host, wanted)
    await _check(host, one, decision)
    if decision is Decision.RESOLVED:
        await _resolve(host, one)
        return f"{one.guest} is not mentioned any more"
    log.warning("an operator decides for %s, in doubt with %s: %s", one.guest, one.peer, decision)
    doubt = host.doubts[one.job]
    await (doubt.keep() if decision is Decision.KEEP_HERE else doubt.give_up())
    return await _outcome(host, one, decision)


async def _outcome(host: Host, one: Standing, decision: Decision) -> str:
    rows = {row.migration: row.state for row in await host.journal.standing()}
    domain = _state_of(await _domain_states(host), one.guest)
    if one.state is TargetState.COMMITTED:
        if decision is Decision.KEEP_HERE:
            return f"{one.guest} is this host's: start it from its file; {one.peer} drops its copy"
        return f"{one.guest} is {one.peer}'s, which resumes it as soon as it asks"
    if rows.get(one.migration) not in (SourceState.KEPT, SourceState.GIVEN_UP):
        return f"{one.peer} has answered meanwhile; see: xenmovectl show {one.job}"
    if decision is Decision.KEEP_HERE:
        return f"{one.guest} is this host's; its domain here: {domain}"
    return f"{one.guest} is {one.peer}'s; its domain here: {domain}"


def _heard(host: Host, one: Standing) -> DoubtWord | None:
    """Return what the target has said last to a source in doubt."""
    doubt = host.doubts.get(one.job)
    if not isinstance(doubt, SourceHandover) or doubt.heard is None:
        return None
    return DoubtWord(doubt.heard.word, doubt.heard.domain)


def _told(host: Host, one: Standing) -> Problem:
    doubt = host.doubts.get(one.job)
    if isinstance(doubt, SourceHandover) and has_forgotten(doubt.heard):
        return doubt.doubt
    guest = both_names(one.guest, one.other_name, one.peer)
    found = verdict(one.state, guest, one.peer, one.job)
    assert found is not None, one.state
    return found


async def _find(host: Host, wanted: str) -> Standing:
    """Find by the job, the start of it, or the guest (the newest). Raises Obstructed.

    Also one whose report is not kept: what is to be decided is in the journal without it.
    """
    report = await host.jobs.find(wanted)
    rows = await in_doubt(host)
    named = [one for one in rows if report is not None and one.job == report.job]
    named = named or [one for one in rows if wanted in (one.job, one.guest)]
    if not named and report is None:
        named = [one for one in rows if wanted and one.job.startswith(wanted)]
        if len(named) == 1:
            return named[0]
        hint = "xenmovectl recover shows what is in doubt"
        raise Obstructed([problem("job-unknown", f"no job is called {wanted}", hint)])
    if not named:
        assert report is not None
        text = f"job {report.job} is not in doubt: it is {report.state}"
        raise Obstructed([problem("not-in-doubt", text, "there is nothing to decide")])
    return named[-1]


async def _check(host: Host, one: Standing, decision: Decision) -> Fate | None:
    """Raise Obstructed where a decision is not an operator's to take, or cannot be recorded.

    Returns what the target has said, where that is no word.
    """
    await host.journal.require()
    told = _told(host, one)
    if (decision is Decision.RESOLVED) != (one.state in _WENT_WRONG):
        raise Obstructed(
            [problem("wrong-decision", f"{decision} does not fit: {told.text}", told.hint)]
        )
    doubt = host.doubts.get(one.job)
    if isinstance(doubt, SourceHandover):
        return await _check_target_gives_no_word(doubt, one, decision)
    if isinstance(doubt, TargetHandover):
        await _check_nothing_tells(host, doubt, one)
    elif one.state in (SourceState.KEPT, SourceState.GIVEN_UP):
        raise Obstructed([problem("decided", f"it was decided: {told.text}", told.hint)])
    return None


async def _check_target_gives_no_word(
    doubt: SourceHandover, one: Standing, decision: Decision
) -> Fate | None:
    try:
        async with at_most(_PEER_PATIENCE, "it did not say what it has"):
            fate = await doubt.ask_fate()
    except (TookTooLong, LinkError, ProtocolError, JobError) as error:
        log.info("%s does not answer: %s", one.peer, error)
        return None
    if fate.word in SETTLING:
        doubt.hear(fate)
        text = f"{one.peer} answers and decides: {one.guest} is {fate.word} there"
        hint = "the doubt ends by itself within moments"
        raise Obstructed([problem("peer-answers", text, hint)])
    if not doubt.lasts(WORD_COUNTS):
        _check_word(fate, one, decision)
    return fate


def _check_word(fate: Fate, one: Standing, decision: Decision) -> None:
    """Raise Obstructed where a word of the target that settles nothing should be heeded."""
    if has_forgotten(fate):
        if decision is Decision.KEEP_HERE and fate.domain is Presence.THERE:
            text = f"{one.guest} cannot be kept here: {one.peer} says: {fate.reason}"
            hint = (
                f"if it has run there: --give-up. If it never has, and is to go on here: destroy "
                f"that domain on {one.peer} first"
            )
            raise Obstructed([problem("domain-there", text, hint)])
        return
    text = f"{one.peer} answers: {one.guest} is {fate.word} there"
    hint = "the doubt ends by itself within moments"
    if fate.word is Word.COMMITTED:
        text = (
            f"{one.peer} answers: it was told to start {one.guest}, and finds out what came of it"
        )
        hint = "if it cannot, decide there, where there is more to see: xenmovectl recover"
    if fate.word is not Word.READY:
        hint += f"; after {WORD_COUNTS / 60:g} minutes of the same, here"
    raise Obstructed([problem("peer-answers", text, hint)])


async def _check_nothing_tells(host: Host, doubt: TargetHandover, one: Standing) -> None:
    await doubt.happen(TargetEvent.START_UNCLEAR, only_in=(TargetState.COMMITTED,))
    if not doubt.in_doubt:
        text = f"it is not in doubt any more: {one.guest} is {doubt.state} here"
        raise Obstructed([problem("not-in-doubt", text, "there is nothing to decide")])
    domain = _state_of(await _domain_states(host), one.guest)
    if domain != _ABSENT:
        text = f"a domain of {one.guest} is here, {domain}: there is nothing to guess"
        hint = "look why it does not start; xenmoved settles it when it runs or is gone"
        raise Obstructed([problem("domain-here", text, hint)])


async def _resolve(host: Host, one: Standing) -> None:
    journal = host.journal
    log.warning("an operator has resolved what was %s: %s", one.state, one.guest)
    if isinstance(one.state, SourceState):
        after = source_step(one.state, SourceEvent.OPERATOR_RESOLVES).state
        entry = Outbound(one.migration, after, one.guest, one.peer, one.job)
        await journal.record_outbound(entry, settled=True)
    elif (arrived := await journal.inbound(one.migration)) is not None:
        state = target_step(one.state, TargetEvent.OPERATOR_RESOLVES).state
        await journal.record_inbound(replace(arrived, state=state), settled=True)


async def _domain_states(host: Host) -> dict[str, str]:
    return {domain.name: domain.state.value for domain in await host.toolstack.domains()}


def _state_of(states: dict[str, str], guest: str) -> str:
    """Return the state of a guest's domain, be it under the name of a migration's copy."""
    names = [name for name in states if name == guest or name.startswith(f"{guest}--")]
    return states[min(names)] if names else _ABSENT


async def _reaches(host: Host, peer: str, migration: str) -> bool:
    try:
        limit = at_most(_PEER_PATIENCE, f"{peer} did not answer")
        async with limit, open_dialogue(host, peer, settling=True, migration=migration):
            return True
    except (TookTooLong, LinkError, ProtocolError, JobError):
        return False
