"""Two hosts, a guest and a network, with the hand-over's own tables, for the explorer.

It does what `xenmoved.migration` does, one atomic step after the other. A state is written to the
journal, then each action is carried out: between any two steps either daemon may crash, which loses
what it was about to do and keeps the journal, the guest and its copy; either host may be reset,
which loses its domain too; and the link may break, which loses questions and answers, or delays a
question until after those of later connections. Faults are not counted: any number may come. An
operator may decide for a source whose target does not answer, rightly or wrongly, and for a target
that cannot tell what became of the start.

Journals may fail too. One that cannot be written does not take a state, or takes it and says that
it did not: what is not to happen without a record is then given up, and what has to happen is done
without. While a daemon is down its journal may be lost, or set back to an older copy of itself. Not
explored is what nobody can see: that a target's journal is set back to the very moment at which it
was ready, and its domain is gone; or a source's, while its target cannot be asked.

The toolstack's part is the same in both modes. While the source's toolstack still sends (`SAVING`),
it lets the guest run again by itself when its reader or, live, the process that holds its pipes
goes away. Only when it has let go of the guest (`HELD`) is the image whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from protocol.handover import (
    SOURCE,
    SOURCE_LEFT,
    SOURCE_UNCOMMITTED,
    SOURCE_UNCONFIRMED,
    TARGET,
    TARGET_HAS_STARTED,
    TARGET_LEFT,
    TARGET_UNDECIDED,
    SourceAction,
    SourceEvent,
    SourceState,
    SourceTable,
    TargetAction,
    TargetEvent,
    TargetState,
    TargetTable,
)
from tests.support.explorer import Step, Wrong
from tests.support.handover_world import (
    GIVE_UP_HERE,
    GIVE_UP_THERE,
    KEEP_HERE,
    KEEP_THERE,
    OBSERVE,
    Ask,
    Copy,
    Fault,
    Guest,
    Session,
    Told,
    Work,
    World,
)

S, SE, SA = SourceState, SourceEvent, SourceAction
T, TE, TA = TargetState, TargetEvent, TargetAction

ENDED = (S.DONE, S.ABORTED, S.KEPT, S.GIVEN_UP)
"""States in which the source's actions have been carried out, and need not be again."""


class HandOverModel:
    """What may follow a moment.

    `eager` actions are carried out before the journal is written. `seals`: what the guest is when
    the source says that its image is whole. With `operators` they decide in every doubt, and the
    source's host is not reset, so that there is not too much to explore; without, a doubt that
    nobody else can break is an end. `journals` is what may happen to them; then questions are not
    late, and the source's host is not reset. `habits` are mistakes of daemons, not of their tables.
    """

    def __init__(
        self,
        source: SourceTable = SOURCE,
        target: TargetTable = TARGET,
        eager: Collection[SA | TA] = (),
        seals: Guest = Guest.HELD,
        *,
        operators: bool = False,
        journals: Collection[Fault] = (),
        habits: Collection[str] = (),
    ) -> None:
        self._source = source
        self._target = target
        self._eager = eager
        self._seals = seals
        self._operators = operators
        self._journals = frozenset(journals)
        self._habits = frozenset(habits)
        self.used: set[tuple[object, object]] = set()

    def first(self) -> World:
        """Volumes and memory are about to be sent."""
        return World()

    def check(self, w: World) -> None:
        """What must be true at every moment."""
        if w.guest is Guest.RUNS and w.copy is Copy.RUNS and KEEP_HERE not in w.said:
            raise Wrong("the guest runs twice")
        dropped = "source" in w.resets or GIVE_UP_HERE in w.said
        if w.guest is Guest.GONE and not (dropped or w.old or w.target in TARGET_HAS_STARTED):
            raise Wrong("the source's domain is gone, and the target has not started its own")
        if w.ran and w.gave_up and GIVE_UP_THERE not in w.said and not w.old:
            raise Wrong("a target that started the guest gave up")
        if w.guest is Guest.RUNS and w.ran and not w.said & {KEEP_HERE, GIVE_UP_THERE}:
            raise Wrong("the guest goes on from before it ran on the target")
        if w.copy is Copy.RUNS and w.gave_up:
            raise Wrong("a target that gave up has started the guest")
        if w.source is S.DONE and w.target is not T.STARTED and not w.old:
            raise Wrong("the source is done without the target's word")
        theirs = w.target is T.STARTED or (w.target is T.COMMITTED and not w.gave_up)
        if w.source is S.ABORTED and theirs and not w.old:
            raise Wrong("the guest is both hosts'")

    def is_end(self, w: World) -> bool:
        """Whether one host has the guest, and both know."""
        if not (w.source_up and w.target_up) or w.source_todo or w.target_todo:
            return False
        if Fault.SOURCE_LOST in w.lost or self._stays_in_doubt(w):
            return True
        if w.doubt and not w.account and not self._operators:
            return w.source in (S.COMMIT_SENT, S.ABORTED)
        if w.call is not None:
            return False
        settled = w.source_settled and w.target_settled
        stayed = w.source is S.ABORTED and w.target is T.ABORTED and w.copy is Copy.ABSENT
        moved = w.source is S.DONE and w.target is T.STARTED and w.guest is Guest.GONE
        here = w.guest is Guest.RUNS or ("source" in w.resets and w.guest is Guest.GONE)
        there = w.copy is Copy.RUNS or ("target" in w.resets and w.copy is Copy.ABSENT)
        if (stayed and here) or (moved and there):
            return settled
        # Operators were wrong, and are told so.
        both = w.source in (S.RAN_TWICE, S.RESOLVED) and w.target in (T.RAN_TWICE, T.RESOLVED)
        none = w.source in (S.LOST, S.RESOLVED) and w.target is T.ABORTED
        return settled and ((both and KEEP_HERE in w.said) or (none and GIVE_UP_HERE in w.said))

    def _stays_in_doubt(self, w: World) -> bool:
        """Whether only an operator can go on, as the target has forgotten."""
        denies = w.target is T.ABORTED and not w.was_ready
        return (Fault.TARGET_LOST in w.lost or denies) and (
            w.source in (S.COMMIT_SENT, *SOURCE_UNCONFIRMED)
            or (w.source is S.DONE and w.guest is Guest.GONE)
            or (w.source is S.ABORTED and w.guest is Guest.RUNS)
        )

    def steps(self, w: World) -> Iterator[Step]:
        """Yield everything that can happen next."""
        yield from self._link(w)
        yield from self._journals_fail(w, Fault.SOURCE_FULL)
        yield from self._journals_fail(w, Fault.TARGET_FULL)
        yield from self._source_steps(w) if w.source_up else self._source_restarts(w)
        yield from self._target_steps(w) if w.target_up else self._target_restarts(w)

    # --- the link

    def _link(self, w: World) -> Iterator[Step]:
        travels = w.call is not None and w.call[1] is not Told.LOST
        if travels and not w.target_up:
            yield Step("the target does not answer", _lose_call(w))
        elif travels or w.session is Session.OPEN:
            cut = _cut(w)
            yield Step("the link breaks", _lose_call(cut), fault=True)
            if late := self._late(w):
                yield Step("the link breaks, a question is late", _lose_call(late(cut)), fault=True)
        for ask in w.delayed:
            yield Step(f"a late {ask} is lost", w._replace(delayed=w.delayed - {ask}))

    def _late(self, w: World) -> Any:
        return None if self._journals else _late(w)

    def _journals_fail(self, w: World, full: Fault) -> Iterator[Step]:
        """A journal cannot be written any more, or can be again."""
        if full in self._journals - w.full:
            yield Step(full, w._replace(full=w.full | {full}), fault=True)
        elif full in w.full:
            yield Step("it can be written again", w._replace(full=w.full - {full}))

    # --- the source

    def _source_happens(self, w: World, event: SE, **changes: Any) -> World:
        if (step := self._source.get((w.source, event))) is None:
            raise Wrong(f"the source cannot take {event} in state {w.source}")
        self.used.add((w.source, event))
        todo = self._ordered(step.state, step.actions)
        settled = (w.source_settled and not step.actions) or step.state in SOURCE_LEFT
        return w._replace(source_todo=todo, source_settled=settled, **changes)

    def _ordered(self, state: Any, actions: tuple[Any, ...]) -> tuple[Any, ...]:
        eager = tuple(action for action in actions if action in self._eager)
        return (*eager, state, *(action for action in actions if action not in eager))

    def _source_restarts(self, w: World) -> Iterator[Step]:
        if w.old and (w.target_todo or not w.target_up):
            return
        up = w._replace(source_up=True, source=w.source_disk or w.source, source_disk=None)
        if Fault.SOURCE_LOST in w.lost:
            pass
        elif not w.source_settled:
            up = self._source_happens(up, self._source_finds(up))
        elif up.source in SOURCE_UNCONFIRMED:
            up = up._replace(source_todo=(SA.TELL_TARGET,))
        yield Step("the source restarts", up)
        if Fault.SOURCE_LOST in self._journals - w.lost:
            lost = w._replace(lost=w.lost | {Fault.SOURCE_LOST}, source_settled=True)
            yield Step(Fault.SOURCE_LOST, lost, fault=True)
        if Fault.SOURCE_OLD in self._journals - w.old and self._fate(w) is not None:
            for state in SOURCE_UNCOMMITTED:
                old = w._replace(source=state, source_disk=None, source_settled=False)
                old = old._replace(old=w.old | {Fault.SOURCE_OLD})
                yield Step(f"{Fault.SOURCE_OLD} to {state}", old, fault=True)

    def _source_finds(self, w: World) -> SE:
        """What a source finds when it restarts."""
        told = self._fate(w)
        begun = told is Told.STARTED or (told is Told.UNDECIDED and w.target is T.COMMITTED)
        if w.source in SOURCE_UNCOMMITTED and begun and "resumes unasked" not in self._habits:
            return SE.TARGET_STARTED
        if w.source is S.COMMIT_SENT and w.guest is Guest.RUNS and "blind" not in self._habits:
            return SE.GUEST_RUNS
        return SE.RESTARTED

    def _source_writes(self, w: World, state: S) -> Iterator[World]:
        """The journal takes a state or not, and a daemon does what it may without a record."""
        if Fault.SOURCE_FULL not in w.full:
            yield w._replace(source=state, source_disk=None)
            return
        disk = w.source_disk or w.source
        for written in {disk, state}:
            needed = state in (S.HANDING_OVER, S.COMMIT_SENT) and w.source in SOURCE_UNCOMMITTED
            if not needed or "commits unnoted" in self._habits:
                yield w._replace(source=state, source_disk=written)
            else:
                sent = w.source_todo if "resumes after it was sent" in self._habits else ()
                failed = _cut(w)._replace(work=Work.OVER, source_disk=written, call=None)
                failed = self._source_happens(failed, SE.FAILED)
                yield failed._replace(source_todo=(*sent, *failed.source_todo))

    def _source_steps(self, w: World) -> Iterator[Step]:
        yield from self._source_crashes(w)
        if w.guest is Guest.SAVING:
            if w.work is Work.OVER:
                yield Step("the save is taken back", w._replace(guest=Guest.RUNS))
            elif w.work is Work.ON:
                broken = w._replace(guest=Guest.RUNS, work=Work.BROKEN)
                yield Step("the save breaks", broken, fault=True)
        if w.source_todo:
            action, *rest = w.source_todo
            left = w._replace(source_todo=tuple(rest))
            if isinstance(action, S):
                for written in self._source_writes(left, action):
                    yield Step(f"source: {action}", written)
            else:
                yield Step(f"source: {action}", self._source_does(left, action))
        elif w.call is not None and w.call[1] not in (Told.SENT, Told.TAKEN):
            yield Step(f"source: {w.call[0]} is {w.call[1]}", self._source_hears(w, *w.call))
        elif w.work is not Work.OVER:
            yield from self._source_works(w)
        elif w.call is not None and w.call[0] is Ask.COMMIT and w.source is S.COMMIT_SENT:
            failed = self._source_happens(w, SE.FAILED, call=None)
            yield Step("the source fails", failed, fault=True)
            if late := self._late(w):
                yield Step("the source fails, its question is late", late(failed), fault=True)
        elif w.call is None and w.session is Session.OPEN:
            yield Step("the source closes the channel", w._replace(session=Session.CUT))
        if self._settles(w, Fault.SOURCE_FULL) and not w.source_settled and w.source in ENDED:
            yield Step("source: settled", w._replace(source_settled=True, source_disk=None))
        if self._operators:
            yield from self._source_operates(w)

    def _settles(self, w: World, full: Fault) -> bool:
        todo = w.source_todo if full is Fault.SOURCE_FULL else w.target_todo
        return not todo and full not in w.full

    def _source_operates(self, w: World) -> Iterator[Step]:
        """An operator decides while the target does not answer."""
        if w.source_todo:
            return
        if w.source is S.COMMIT_SENT and w.call in _UNANSWERED:
            for event, words in (
                (SE.OPERATOR_KEEPS, KEEP_HERE),
                (SE.OPERATOR_GIVES_UP, GIVE_UP_HERE),
            ):
                said = w.said | {words}
                decided = self._source_happens(w, event, call=None, said=said)
                yield Step(f"an operator: {words}", decided, fault=True)
        if w.source in (S.RAN_TWICE, S.LOST):
            resolved = self._source_happens(w, SE.OPERATOR_RESOLVES)
            yield Step("an operator: resolved at the source", resolved, fault=True)

    def _source_crashes(self, w: World) -> Iterator[Step]:
        down = _cut(w)._replace(source_up=False, source_todo=(), work=Work.OVER, call=None)
        yield Step("the source crashes", down, fault=True)
        if late := self._late(w):
            yield Step("the source crashes, its question is late", late(down), fault=True)
        if not self._operators and not self._journals:
            reset = down._replace(guest=Guest.GONE, resets=w.resets | {"source"})
            yield Step("the source's host is reset", reset, fault=True)
            if w.autostart:
                started = reset._replace(guest=Guest.RUNS)
                yield Step("the source's host is reset, and starts the guest", started, fault=True)

    def _source_works(self, w: World) -> Iterator[Step]:
        """Go on with the migration."""
        failed = _cut(w)._replace(work=Work.OVER, call=None)
        yield Step("the source fails", self._source_happens(failed, SE.FAILED), fault=True)
        if w.work is Work.BROKEN:
            yield Step("source: the save has failed", self._source_happens(failed, SE.FAILED))
        elif w.call is not None:
            pass
        elif w.session is not Session.OPEN:
            yield Step("source: link lost", self._source_happens(failed, SE.LINK_LOST))
        elif w.source is S.COPYING:
            yield Step("source: asks", w._replace(call=(Ask.HAND_OVER, Told.SENT)))
        elif w.guest is Guest.RUNS:
            yield Step("source: save", w._replace(guest=Guest.SAVING))
        elif w.guest is self._seals:
            yield Step("source: asks", w._replace(call=(Ask.SEAL, Told.SENT)))
        else:
            yield Step("source: all is saved", w._replace(guest=Guest.HELD))

    def _source_hears(self, w: World, ask: Ask, told: Told) -> World:  # noqa: PLR0911
        heard = w._replace(call=None)
        over = _cut(heard)._replace(work=Work.OVER)
        words = {Told.STARTED: SE.TARGET_STARTED, Told.ABORTED: SE.TARGET_ABORTED}
        match ask, told:
            case Ask.HAND_OVER, Told.RECEIVING:
                return self._source_happens(heard, SE.SUSPENDING)
            case Ask.SEAL, Told.READY:
                return self._source_happens(heard, SE.TARGET_READY, work=Work.OVER)
            case ((Ask.HAND_OVER | Ask.SEAL), Told.LOST):
                return self._source_happens(over, SE.LINK_LOST)
            case ((Ask.HAND_OVER | Ask.SEAL), _):
                return self._source_happens(over, SE.FAILED)
            case Ask.ABORT, Told.STARTED if w.source is S.ABORTED:
                return self._source_happens(heard, SE.TARGET_STARTED)
            case Ask.ABORT, _ if w.source is not S.KEPT:
                return heard
            case _, (Told.STARTED | Told.ABORTED):
                return self._source_happens(heard, words[told])
            case Ask.COMMIT, _ if w.source is S.COMMIT_SENT:
                return self._source_happens(heard, SE.LINK_LOST)
            case Ask.INQUIRE, Told.FORGOT:
                return self._source_happens(heard, SE.TARGET_FORGOT)
            case _, Told.FORGOT if w.source in SOURCE_UNCONFIRMED:
                return self._source_happens(heard, SE.TARGET_FORGOT)
            case Ask.INQUIRE, Told.READY:
                return self._source_happens(heard, SE.TARGET_READY)
            case _:
                return w._replace(call=(ask, Told.SENT))

    def _source_does(self, w: World, action: SA) -> World:  # noqa: PLR0911
        match action:
            case SA.SEND_COMMIT:
                return w._replace(call=(Ask.COMMIT, Told.SENT))
            case SA.SEND_ABORT:
                return w._replace(call=(Ask.ABORT, Told.SENT))
            case SA.ASK_TARGET:
                return w._replace(call=(Ask.INQUIRE, Told.SENT))
            case SA.TELL_TARGET:
                ask = Ask.ABORT if w.source is S.KEPT else Ask.COMMIT
                return w._replace(call=(ask, Told.SENT))
            case SA.HOLD_AUTOSTART:
                return w._replace(autostart=False)
            case SA.RESUME_GUEST:
                there = w._replace(autostart=True)
                return there if w.guest is Guest.GONE else there._replace(guest=Guest.RUNS)
            case SA.DISCARD_GUEST:
                if w.guest is Guest.RUNS:
                    raise Wrong("a guest that runs is discarded")
                return w._replace(guest=Guest.GONE)
        raise NotImplementedError(action)

    # --- the target

    def _target_happens(self, w: World, event: TE, **changes: Any) -> World:
        if (step := self._target.get((w.target, event))) is None:
            raise Wrong(f"the target cannot take {event} in state {w.target}")
        self.used.add((w.target, event))
        todo = self._ordered(step.state, step.actions)
        settled = (w.target_settled and not step.actions) or step.state in TARGET_LEFT
        return w._replace(target_todo=todo, target_settled=settled, **changes)

    def _target_restarts(self, w: World) -> Iterator[Step]:
        up = w._replace(target_up=True, target=w.target_disk or w.target, target_disk=None)
        if not w.target_settled:
            up = self._target_happens(up, self._target_finds(up))
        yield Step("the target restarts", up)
        if Fault.TARGET_LOST in self._journals - w.lost:
            lost = w._replace(lost=w.lost | {Fault.TARGET_LOST}, target_settled=True)
            yield Step(Fault.TARGET_LOST, lost, fault=True)
        if Fault.TARGET_OLD in self._journals - w.old and w.target is not T.RECEIVING:
            back = w._replace(target_disk=None, target_settled=False)
            back = back._replace(old=w.old | {Fault.TARGET_OLD})
            receiving = back._replace(target=T.RECEIVING, was_ready=False)
            yield Step(f"{Fault.TARGET_OLD} to receiving", receiving, fault=True)
            if w.was_ready and (w.copy is Copy.RUNS or not w.ran):
                ready = back._replace(target=T.READY)
                yield Step(f"{Fault.TARGET_OLD} to ready", ready, fault=True)

    def _target_finds(self, w: World) -> TE:
        """What a target finds when it restarts."""
        runs = w.target in TARGET_UNDECIDED and w.copy is Copy.RUNS
        return TE.GUEST_RUNS if runs and "does not look" not in self._habits else TE.RESTARTED

    def _fate(self, w: World) -> Told | None:
        """What a target says that is asked, None while it is down."""
        if not w.target_up:
            return None
        forgot = Fault.TARGET_LOST in w.lost or (w.target is T.ABORTED and not w.was_ready)
        if forgot:
            return Told.ABORTED if "says aborted" in self._habits else Told.FORGOT
        if self._undone(w):
            return Told.UNDECIDED
        fates = {T.READY: Told.READY, T.ABORTED: Told.ABORTED, **_HAS_STARTED}
        return fates.get(w.target, Told.UNDECIDED)

    def _undone(self, w: World) -> bool:
        """Whether it gave up without a record, and the copy may be there yet: this is no word."""
        unnoted = w.target is T.ABORTED and w.target_disk not in (None, T.ABORTED)
        return unnoted and w.copy is not Copy.ABSENT and "says so too early" not in self._habits

    def _target_writes(self, w: World, state: T) -> Iterator[World]:
        """The journal takes a state or not, and a daemon does what it may without a record."""
        was_ready = w.was_ready or state is T.READY
        gave_up = w.gave_up or state is T.ABORTED
        if Fault.TARGET_FULL not in w.full or state is w.target:
            yield w._replace(target=state, target_disk=None, was_ready=was_ready, gave_up=gave_up)
            return
        disk = w.target_disk or w.target
        for written in {disk, state}:
            ready = w.was_ready or written is T.READY
            noted = w._replace(target_disk=written, was_ready=ready)
            if state in (T.ABORTED, T.RAN_TWICE) or "starts unnoted" in self._habits:
                gone = state is T.ABORTED and w.copy is Copy.ABSENT
                yield noted._replace(target=state, gave_up=w.gave_up or gone)
            elif state is T.STARTED:
                yield noted._replace(target_todo=(), doubt=True)
            else:
                call = w.call and (w.call[0], Told.FAILED)
                failed = noted._replace(session=Session.CLOSED, sealing=False, call=call)
                yield self._target_happens(failed, TE.FAILED)

    def _target_steps(self, w: World) -> Iterator[Step]:
        yield from self._target_crashes(w)
        if w.call == (Ask.INQUIRE, Told.SENT):
            fate = self._fate(w)
            yield Step(f"target: fate {fate}", w._replace(call=(Ask.INQUIRE, fate)))
        if w.target_todo:
            action, *rest = w.target_todo
            for done in self._target_does(w._replace(target_todo=tuple(rest)), action):
                yield Step(f"target: {action}", done)
            return
        yield from self._target_answers(w)
        for ask in w.delayed:
            yield Step(f"target: takes a late {ask}", self._target_decides(w, ask))
        if w.session is Session.CUT:
            closed = w._replace(session=Session.CLOSED, sealing=False)
            if not w.target_settled:
                closed = self._target_happens(closed, TE.LINK_LOST)
            yield Step("target: link lost", closed)
        if w.target in (T.RECEIVING, T.READY) and w.session is Session.OPEN:
            failed = w._replace(session=Session.CLOSED, sealing=False)
            if w.call is not None and w.call[1] in (Told.SENT, Told.TAKEN):
                failed = failed._replace(call=(w.call[0], Told.FAILED))
            yield Step("the target fails", self._target_happens(failed, TE.FAILED), fault=True)
        if w.session is Session.CLOSED and (w.target, TE.READY_TIMEOUT) in self._target:
            yield Step("target: time is up", self._target_happens(w, TE.READY_TIMEOUT))
        if w.sealing and w.copy is Copy.BUILDING:
            yield Step("target: build", w._replace(copy=Copy.PAUSED))
        elif w.sealing and w.target is T.RECEIVING:
            yield Step("target: built", self._target_happens(w, TE.BUILT, sealing=False))
        elif w.sealing:
            yield Step("target: built in vain", w._replace(sealing=False))
        if w.doubt:
            yield from self._target_operates(w)
            again = self._target_happens(w._replace(doubt=False), TE.START_UNCLEAR)
            yield Step("target: looks again", again)
        if w.target is T.RAN_TWICE:
            resolved = self._target_happens(w, TE.OPERATOR_RESOLVES)
            yield Step("an operator: resolved at the target", resolved, fault=True)
        may_settle = self._settles(w, Fault.TARGET_FULL) and not w.target_settled
        if may_settle and w.target in (T.STARTED, T.ABORTED):
            yield Step("target: settled", w._replace(target_settled=True, target_disk=None))

    def _target_operates(self, w: World) -> Iterator[Step]:
        """An operator decides where nothing that is here tells: the only way out then."""
        if self._operators and w.copy is Copy.ABSENT:
            for event, words in (
                (TE.OPERATOR_KEEPS, KEEP_THERE),
                (TE.OPERATOR_GIVES_UP, GIVE_UP_THERE),
            ):
                said = w.said | {words}
                decided = self._target_happens(w, event, doubt=False, said=said)
                yield Step(f"an operator: {words}", decided)

    def _target_crashes(self, w: World) -> Iterator[Step]:
        down = _lose_call(w)._replace(
            target_up=False, target_todo=(), session=Session.CLOSED, sealing=False, doubt=False
        )
        yield Step("the target crashes", down, fault=True)
        if w.copy in (Copy.BUILDING, Copy.PAUSED):
            yield Step("the target and its receiver crash", down._replace(copy=Copy.ABSENT), True)
        if Fault.TARGET_OLD in w.old and w.target in TARGET_UNDECIDED:
            return
        reset = down._replace(copy=Copy.ABSENT, resets=w.resets | {"target"})
        yield Step("the target's host is reset", reset, fault=True)
        yield Step(
            "the target's host is reset, all is forgotten", reset._replace(account=False), True
        )

    def _target_answers(self, w: World) -> Iterator[Step]:
        match w.call:
            case Ask.HAND_OVER, Told.SENT:
                if w.target is T.RECEIVING and w.copy is Copy.ABSENT:
                    begun = w._replace(copy=Copy.BUILDING, call=(Ask.HAND_OVER, Told.RECEIVING))
                    yield Step("target: receives", begun)
                else:
                    yield _answer(w, Told.FAILED)
            case Ask.SEAL, Told.SENT:
                if w.target is T.RECEIVING and w.copy is Copy.BUILDING:
                    yield Step(
                        "target: seals", w._replace(sealing=True, call=(Ask.SEAL, Told.TAKEN))
                    )
                else:
                    yield _answer(w, Told.FAILED)
            case Ask.SEAL, Told.TAKEN:
                if not w.sealing:
                    yield _answer(w, Told.READY if w.target is T.READY else Told.FAILED)
            case (Ask.COMMIT | Ask.ABORT) as ask, Told.SENT:
                taken = w._replace(call=(ask, Told.TAKEN))
                yield Step(f"target: takes {ask}", self._target_decides(taken, ask))
            case (Ask.COMMIT | Ask.ABORT) as ask, Told.TAKEN:
                told = self._fate(w)
                if ask is Ask.ABORT and w.target is T.STARTED and told is Told.STARTED:
                    told = None  # it has not been told of it
                words = (Told.STARTED, Told.ABORTED, Told.FORGOT)
                yield _answer(w, told if told in words else Told.FAILED)

    def _target_decides(self, w: World, ask: Ask) -> World:
        """Bring the source's decision to the table, unless the migration is history here."""
        event = TE.COMMIT if ask is Ask.COMMIT else TE.ABORT
        history = w.target_settled and not (w.target is T.STARTED and event is TE.ABORT)
        history = history or Fault.TARGET_LOST in w.lost
        if history or (w.target, event) not in self._target:
            return w
        return self._target_happens(w, event)

    def _target_does(self, w: World, action: T | TA | str) -> Iterator[World]:
        match action:
            case T():
                yield from self._target_writes(w, action)
            case TA.START_GUEST:
                if w.gave_up:
                    raise Wrong("a target that gave up starts the guest")
                for copy in _outcomes(w.copy):
                    started = w._replace(copy=copy, ran=w.ran or copy is Copy.RUNS)
                    yield started._replace(target_todo=(OBSERVE, *w.target_todo))
                    yield self._target_happens(started, TE.START_UNCLEAR)
                yield self._target_happens(w, TE.START_UNCLEAR)
            case TA.SETTLE:
                yield from self._target_settles(w)
            case TA.DESTROY_COPY:
                if w.copy is Copy.RUNS:
                    raise Wrong("a copy that runs is destroyed")
                yield w._replace(copy=Copy.ABSENT, gave_up=w.gave_up or w.target is T.ABORTED)
            case str() if action is OBSERVE:
                runs = w.copy is Copy.RUNS
                yield self._target_happens(w, TE.GUEST_RUNS if runs else TE.START_FAILED)
            case _:
                yield w

    def _target_settles(self, w: World) -> Iterator[World]:
        if w.copy is not Copy.RUNS and (w.copy is not Copy.ABSENT or not w.account):
            yield w._replace(doubt=True)
        if w.copy is Copy.ABSENT and not w.account:
            return
        if w.copy is Copy.ABSENT:
            yield self._target_happens(w, TE.GUEST_RUNS if w.ran else TE.START_FAILED)
            return
        for copy in _outcomes(w.copy):
            done = w._replace(copy=copy, ran=w.ran or copy is Copy.RUNS)
            yield done._replace(target_todo=(OBSERVE, *w.target_todo))


_HAS_STARTED = dict.fromkeys(TARGET_HAS_STARTED, Told.STARTED)
_UNANSWERED = ((Ask.INQUIRE, Told.SENT), (Ask.INQUIRE, Told.LOST))


def _outcomes(copy: Copy) -> tuple[Copy, ...]:
    """What may become of a copy that is to start."""
    return (Copy.RUNS, Copy.ABSENT) if copy is Copy.PAUSED else (copy,)


def _cut(w: World) -> World:
    return w._replace(session=Session.CUT) if w.session is Session.OPEN else w


def _lose_call(w: World) -> World:
    return w if w.call is None else w._replace(call=(w.call[0], Told.LOST))


def _late(w: World) -> Any:
    """Return what delays the question that is on its way, None when none is that can do harm."""
    if w.call in ((Ask.COMMIT, Told.SENT), (Ask.ABORT, Told.SENT)):
        ask = w.call[0]
        return lambda world: world._replace(delayed=world.delayed | {ask})
    return None


def _answer(w: World, told: Told) -> Step:
    assert w.call is not None
    return Step(f"target: answers {told}", w._replace(call=(w.call[0], told)))
