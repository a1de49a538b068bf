"""All guests and volumes that are on their way to this host."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from protocol.errors import Code, ProtocolError
from protocol.handover import (
    TARGET_UNDECIDED,
    InvalidTransition,
    TargetEvent,
    TargetState,
    Word,
    target_word,
)
from protocol.messages import (
    Action,
    Attach,
    Begin,
    Fate,
    GuestSize,
    Inquire,
    Mode,
    Offer,
    Placement,
    Presence,
    Remarks,
    Working,
)
from xenmoved.jobs.job import Job
from xenmoved.jobs.report import JobKind, Phase
from xenmoved.journal.database import JournalFailed
from xenmoved.journal.records import Inbound, NotedKey
from xenmoved.link.channel import Purpose
from xenmoved.link.errors import LinkLost
from xenmoved.link.framed import Framed
from xenmoved.link.server import Visitor
from xenmoved.logs import log_context
from xenmoved.migration.host import Host
from xenmoved.migration.promises import Promise
from xenmoved.migration.retrying import until_done
from xenmoved.migration.target.expected import Expected
from xenmoved.migration.target.hooked import about_arrival
from xenmoved.migration.target.migration import InboundMigration
from xenmoved.migration.target.preflight import Assessment, assess
from xenmoved.migration.target.presence import Sighting, sight
from xenmoved.migration.target.volumes import Landing
from xenmoved.problems import JobError, Obstructed, problem, problems_of
from xenmoved.remarks import together
from xenmoved.tasks import within
from xenmoved.toolstack.interface import NotAnnounced, ToolstackError
from xenmoved.toolstack.sizes import weight

log = logging.getLogger(__name__)


_TICK: Final = 0.5
"""Seconds between looks whether anything of a migration is due."""
_LOOKS: Final = 4
_FORGOTTEN: Final = (Word.UNKNOWN, Word.NEVER_READY)
"""Words after which a source in doubt needs to know what is here."""

_LOOKING: Final = Working(0, "looking at its guests and volumes")

OnFailure = Callable[[BaseException], None]


@dataclass(frozen=True, slots=True)
class _Site:
    """What bulk channels of one connection may reach, and whom to tell when one of them fails."""

    visitor: Visitor
    landing: Landing
    on_failure: OnFailure
    paths: tuple[str, ...] = ()
    """Of the volumes of a sync; those of a guest are its disks."""


class Arrivals:
    """What comes to this host. `tasks` runs what must outlive the channel that it began on."""

    def __init__(self, host: Host, tasks: asyncio.TaskGroup) -> None:
        self.host = host
        self._tasks = tasks
        self._migrations: dict[str, InboundMigration] = {}
        self._landings: dict[str, _Site] = {}
        self._placing = asyncio.Lock()
        self._looks: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(_LOOKS)
        )
        self._stopping = False

    def stop(self) -> None:
        """Begin nothing more: the daemon ends. What is ready is settled at the next start."""
        self._stopping = True

    def looking(self, peer: str) -> asyncio.Semaphore:
        """Return what limits how many questions of a peer make this host look at itself at a time.

        Every look takes a few processes, and other peers wait while something is placed.
        """
        return self._looks[peer]

    async def assess(self, peer: str, offer: Offer) -> Assessment:
        """Look at what an offer needs; changes nothing."""
        try:
            await self.host.journal.require()
        except JournalFailed as error:
            text = f"{self.host.config.node} can take nothing in: {problems_of(error)[0].text}"
            return Assessment((problem("journal", text, problems_of(error)[0].hint),))
        arriving: dict[str, Sequence[str]] = {
            migration.guest.name: migration.guest.disks for migration in self._migrations.values()
        }
        arriving |= {
            f"a sync that is on its way ({number})": site.paths
            for number, site in enumerate(self._landings.values(), 1)
            if site.paths
        }
        return await assess(self.host, self.host.peer(peer), offer, arriving)

    async def foresee(self, peer: str, offer: Offer) -> Assessment:
        """Look at what an offer needs, and ask the hooks if nothing else stands in its way."""
        async with self.looking(peer):
            found = await self.assess(peer, offer)
        if found.problems or offer.guest is None:
            return found
        expected = found.expected(self.host, offer, keep_partial=False)
        asked = await self.host.hooks.plan(about_arrival(self.host, peer, expected, offer.mode))
        if asked.problems:
            return Assessment(asked.problems)
        return replace(found, remarks=together(found.remarks, asked.remarks))

    async def begin_guest(
        self, visitor: Visitor, begin: Begin, on_failure: OnFailure
    ) -> tuple[InboundMigration, tuple[Placement, ...]]:
        """Take in a guest: provision its volumes. Raises Obstructed, or what went wrong.

        From when anything is made until it is here or undone, it is a job of this host.
        """
        offer, guest = begin.offer, begin.offer.guest
        assert guest is not None
        self.host.hooks.require_room(visitor.peer)
        async with self.looking(visitor.peer), self._placing:
            accepted = await self._accept(visitor, begin)
            placements = accepted.placements
            memory = 0 if offer.mode is Mode.COLD else weight(guest.kind, guest.size)
            sizes = tuple(volume.disk_size for volume in offer.volumes)
            at_boot = accepted.at_boot.memory
            promise = Promise(visitor.peer, guest.target_name, memory, placements, sizes, at_boot)
            job = Job(JobKind.RECEIVE, guest.target_name, visitor.peer, offer.mode)
            job.other_name = guest.name if guest.wish is not None else ""
            job.enter(Phase.PROVISION)
            job.memory_total = memory
            expected = accepted.expected(self.host, offer, keep_partial=begin.keep_partial)
            await self._require_configured(expected)
            migration = InboundMigration(self.host, visitor.peer, begin.migration, expected, job)
            if visitor.certificate is not None:
                noted = NotedKey(begin.migration, visitor.peer, visitor.key)
                await self.host.journal.note_key(noted)
                self.host.roster.may_settle(visitor.key, visitor.peer)
            await migration.begin()
            self.host.promises.give(begin.migration, promise)
            self._migrations[begin.migration] = migration
            self._landings[begin.migration] = _Site(visitor, migration.guest.landing, on_failure)
        job.volumes = migration.guest.landing.progress
        self._tasks.create_task(self._keep(migration))
        try:
            await self.host.jobs.add(job)
            # Not while others wait for a look: they may have a guest in doubt.
            await migration.ask_hooks()
            async with self.looking(visitor.peer):
                placements = await migration.guest.landing.provision(offer, placements)
        except Exception as error:
            await migration.handover.fail(TargetEvent.FAILED, problems_of(error)[0].text)
            raise
        job.enter(Phase.PRE_COPY)
        return migration, placements

    async def hand_over(self, migration: InboundMigration, size: GuestSize) -> None:
        """Get ready for the memory of a guest of this size. Raises Obstructed, ToolstackError."""
        async with self._placing:
            await migration.resize(size)
        await migration.receive()

    async def begin_sync(
        self, visitor: Visitor, begin: Begin, on_failure: OnFailure
    ) -> tuple[Landing, tuple[Placement, ...]]:
        """Take in volumes without a guest. What was written stays if it breaks off."""
        async with self._placing:
            placements = (await self._accept(visitor, begin)).placements
            await self.host.journal.record_sync(begin.migration)
            landing = Landing(self.host, visitor.peer, begin.migration)
            paths = tuple(self.host.pools[place.pool].path(place.name) for place in placements)
            sizes = tuple(volume.disk_size for volume in begin.offer.volumes)
            promise = Promise(visitor.peer, "", 0, placements, sizes)
            self.host.promises.give(begin.migration, promise)
            self._landings[begin.migration] = _Site(visitor, landing, on_failure, paths)
        try:
            placements = await landing.provision(begin.offer, placements)
        except Exception:
            await self.end_sync(begin.migration)
            raise
        return landing, placements

    async def end_sync(self, migration: str) -> None:
        """Release the volumes of a sync. Idempotent."""
        if (entry := self._landings.pop(migration, None)) is not None:
            try:
                await entry.landing.stop()
            finally:
                self.host.promises.release(migration)

    def give_up(self, migration: str) -> None:
        """Have what is being made for a migration come to an end, as nobody waits for it."""
        if (site := self._landings.get(migration)) is not None:
            site.landing.give_up()
        if (coming := self._migrations.get(migration)) is not None:
            coming.unwanted.set()

    def landing(self, visitor: Visitor, migration: str) -> Landing:
        """Return the volumes that a channel of this connection may write to."""
        return self._site(visitor, migration).landing

    def doing(self, migration: str) -> Working:
        """Return what is done for a migration or sync at this moment."""
        site = self._landings.get(migration)
        return site.landing.doing if site is not None else _LOOKING

    async def serve_bulk(
        self, visitor: Visitor, purpose: Purpose, attach: Attach, framed: Framed
    ) -> None:
        """Take in a volume or memory channel; a failure ends what it belongs to."""
        site = self._site(visitor, attach.migration)
        migration = self._migrations.get(attach.migration)
        try:
            if purpose is Purpose.VOLUME:
                await site.landing.serve(attach.volume, framed)
            elif migration is not None:
                await migration.guest.serve_memory(framed)
            else:
                raise ProtocolError(Code.UNEXPECTED, "a sync has no memory")
        except Exception as error:
            site.on_failure(error)
            raise

    async def inquire(self, peer: str, question: Inquire) -> Fate:
        """Answer what became of a migration; where that is forgotten, whether its guest is here.

        Nothing is said of a guest with a name that the peer may not bring.
        """
        fate = await self.fate(peer, question.migration)
        if fate.word not in _FORGOTTEN:
            return fate
        may_bring = functools.partial(self.host.peer(peer).may, Action.MIGRATE)
        if may_bring(question.name):
            async with self.looking(peer):
                seen = await sight(self.host.toolstack, question.uuid, question.name, may_bring)
        else:
            seen = Sighting(Presence.UNSEEN, f"{peer} may not bring {question.name} here")
        return Fate(fate.word, seen.presence, f"{fate.reason}; {seen.words}"[:4000])

    async def fate(self, peer: str, migration: str) -> Fate:
        """Return what may be said of a migration from this peer: it is true after a crash, too."""
        if (live := self._live(peer, migration)) is not None:
            return _fate(live.handover.word, live.handover.reason)
        entry = await self.host.journal.inbound(migration)
        if entry is None:
            return _fate(Word.UNKNOWN, "there is no record of it here")
        if entry.peer != peer:
            return _fate(Word.UNKNOWN, "the record of it here is about another peer")
        was_ready = Expected.of(entry).was_ready
        return _fate(target_word(entry.state, was_ready=was_ready), entry.reason)

    async def recall(self, peer: str, migration: str) -> Remarks:
        """Return what an operator should know of a guest of this peer that has come."""
        if (live := self._live(peer, migration)) is not None and not live.handover.ended.is_set():
            return Remarks(complete=False, remarks=())
        entry = await self.host.journal.inbound(migration)
        if entry is None or entry.peer != peer:
            return Remarks(complete=True, remarks=())
        return Remarks(complete=True, remarks=Expected.of(entry).all_remarks)

    async def decide(self, peer: str, migration: str, event: TargetEvent) -> Fate:
        """Bring the source's decision, COMMIT or ABORT, to a migration; returns what came of it.

        ABORT to a guest that was started here means that the source's operator has kept it.
        """
        live = self._live(peer, migration)
        if live is None and event is TargetEvent.ABORT:
            live = await self._started_before(peer, migration)
        if live is not None:
            try:
                await live.handover.happen(event)
            except InvalidTransition as error:
                raise ProtocolError(Code.UNEXPECTED, str(error)) from None
        return await self.fate(peer, migration)

    async def link_lost(self, migration: InboundMigration) -> None:
        """Note that the control channel ended; a guest that is ready waits for its source."""
        await migration.handover.happen(TargetEvent.LINK_LOST)
        if migration.handover.state is TargetState.READY and not self._stopping:
            self._tasks.create_task(self._await_source(migration))

    async def recover(self, entry: Inbound, job: Job) -> None:
        """Go on from what an earlier daemon wrote down about a migration."""
        migration = self._of(entry, job)
        self._migrations[entry.migration] = migration
        self._tasks.create_task(self._keep(migration))
        reason = entry.reason or "the daemon was restarted"
        what = f"{migration.guest.name}, which was {entry.state}, is not taken up again"
        restore = functools.partial(migration.restore, entry.state, reason)
        await until_done(self.host, job, what, restore)

    def _site(self, visitor: Visitor, migration: str) -> _Site:
        site = self._landings.get(migration)
        if site is None or site.visitor is not visitor:
            raise ProtocolError(Code.UNEXPECTED, "no such migration on this connection")
        return site

    def _live(self, peer: str, migration: str) -> InboundMigration | None:
        live = self._migrations.get(migration)
        return live if live is not None and live.guest.peer == peer else None

    async def _started_before(self, peer: str, migration: str) -> InboundMigration | None:
        """Return a migration that has ended, with its guest here."""
        entry = await self.host.journal.inbound(migration)
        if entry is None or entry.peer != peer or entry.state is not TargetState.STARTED:
            return None
        started = self._of(entry, job_of(entry))
        started.handover.take_up(entry.state, "", ended=True)
        return started

    def _of(self, entry: Inbound, job: Job) -> InboundMigration:
        expected = Expected.of(entry)
        return InboundMigration(self.host, entry.peer, entry.migration, expected, job)

    async def _require_configured(self, expected: Expected) -> None:
        """See that a guest that is nothing but its configuration has the announced one.

        Only when it is to come: a guest is offered without disks that cannot be sent, to hear of
        all that stands in the way. Raises Obstructed.
        """
        if not expected.cold or expected.config is None:
            return
        try:
            await self.host.toolstack.configs.check(expected.config, expected.arrival)
        except NotAnnounced as error:
            raise Obstructed(problems_of(error)) from None
        except ToolstackError as error:
            text = f"{self.host.config.node} does not take its configuration: {error}"
            hint = "change it there, and migrate the guest again"
            raise Obstructed([problem("guest-config", text, hint)]) from None

    async def _accept(self, visitor: Visitor, begin: Begin) -> Assessment:
        self.host.jobs.require_open()
        # What is noted of volumes, and what lies in the spool, is found by it alone.
        if begin.migration in self._landings or await self.host.journal.knows(begin.migration):
            raise ProtocolError(Code.UNEXPECTED, "this migration was begun before")
        assessment = await self.assess(visitor.peer, begin.offer)
        if assessment.problems:
            raise Obstructed(assessment.problems)
        if visitor.gone:
            # Its source has failed and says so: whoever looks here then must find nothing made.
            text = f"{visitor.peer} went away before anything was made for it"
            log.info("%s", text)
            raise LinkLost(text)
        return assessment

    async def _await_source(self, migration: InboundMigration) -> None:
        timeout = self.host.config.timeouts.ready
        log.warning("%s is ready, its source is gone: waiting %g s", migration.guest.name, timeout)
        if not await within(migration.handover.ended, timeout):
            reason = f"the source did not come back within {timeout:g} s"
            await migration.handover.fail(TargetEvent.READY_TIMEOUT, reason)

    async def _keep(self, migration: InboundMigration) -> None:
        """Keep a migration until it has ended, and see to it that a doubt has an end."""
        guest = migration.guest
        with log_context(job=guest.job.job, domain=guest.name, peer=guest.peer):
            while not await within(migration.handover.ended, _TICK):
                try:
                    if guest.job.abort_requested.is_set():
                        await self._abort(migration)
                    await migration.handover.go_on()
                except Exception:
                    log.exception("%s is looked at again later", guest.name)
        self._migrations.pop(guest.migration, None)
        self._landings.pop(guest.migration, None)
        self.host.promises.release(guest.migration)

    async def _abort(self, migration: InboundMigration) -> None:
        """Give up a guest that nothing was promised of yet, as an operator wishes; tell its source.

        Until the commit it is the source's, also when it was told that all is ready here.
        """
        if migration.handover.state not in TARGET_UNDECIDED:
            return
        reason = migration.guest.job.abort_reason
        if (site := self._landings.get(migration.guest.migration)) is not None:
            site.on_failure(JobError([problem("aborted", reason)]))
        await migration.handover.fail(TargetEvent.FAILED, reason)


def _fate(word: Word, reason: str) -> Fate:
    return Fate(word, Presence.UNSEEN, reason[:4000])


def job_of(entry: Inbound) -> Job:
    """Return the job of a migration of which only the journal knows."""
    return Job(JobKind.RECEIVE, entry.guest, entry.peer, job=entry.job, other_name=entry.other_name)
