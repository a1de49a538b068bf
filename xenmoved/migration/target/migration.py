"""One guest on its way to this host: what its source asks for, step by step."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from protocol.handover import TARGET_UNDECIDED, TargetEvent, TargetState
from protocol.messages import GuestSize, Seal
from xenmoved.jobs.job import Job
from xenmoved.jobs.report import Phase
from xenmoved.migration.host import Host
from xenmoved.migration.target.expected import Expected
from xenmoved.migration.target.guest import IncomingGuest
from xenmoved.migration.target.handover import TargetHandover
from xenmoved.migration.target.hooked import about_arrival
from xenmoved.migration.target.memory_limits import resize_problems
from xenmoved.migration.target.presence import runs_here
from xenmoved.problems import JobError, Obstructed, problem
from xenmoved.tasks import unless

log = logging.getLogger(__name__)


class InboundMigration:
    """The target's side of one migration: its guest, and the hand-over that decides about it."""

    def __init__(self, host: Host, peer: str, migration: str, expected: Expected, job: Job) -> None:
        self.guest = IncomingGuest(host, peer, migration, expected, job)
        self.handover = TargetHandover(self.guest)
        self.unwanted = asyncio.Event()
        """Nobody waits for it any more, while it is begun."""

    async def begin(self) -> None:
        """Write down that it comes, before anything is made for it."""
        host = self.guest.host
        for earlier in await host.journal.supersede_inbound(self.guest.name):
            host.clear_spool(earlier)
        await self._write_down()

    async def restore(self, state: TargetState, reason: str) -> None:
        """Go on from what an earlier process wrote down, in a journal that may have been set back.

        Raises ToolstackError where it cannot be seen whether the guest runs here.
        """
        event = TargetEvent.RESTARTED
        toolstack, uuid = self.guest.host.toolstack, self.guest.expected.uuid
        name = self.guest.name
        disks = self.guest.disks  # by which it is told from one that an operator has started
        if state in TARGET_UNDECIDED and await runs_here(toolstack, uuid, name, disks):
            log.error("%s runs here and is %s in the journal: this was set back", name, state)
            event = TargetEvent.GUEST_RUNS
        self.handover.take_up(state, reason)
        await self.handover.happen(event)

    async def ask_hooks(self) -> None:
        """Ask the hooks of this host, until nobody waits for that. Raises Obstructed, JobError."""
        mode, guest = self.guest.job.mode, self.guest
        about = about_arrival(guest.host, guest.peer, guest.expected, mode)
        hooks = guest.host.hooks.attach(guest.job, about)
        guest.landing.step("asking its hooks")
        asking = unless(hooks.before(), self.handover.ended.wait())
        await unless(asking, self.unwanted.wait())
        self._require_wanted()

    async def resize(self, size: GuestSize) -> None:
        """Note how large the guest has become since it was offered.

        Raises Obstructed when it has no room here any more.
        """
        guest, arrival = self.guest, self.guest.expected.arrival
        announced = arrival.announced
        if announced is None or size == announced.size or guest.expected.cold:
            return
        name, wanted = arrival.announced_name, replace(announced, size=size)
        found = await resize_problems(guest.host, guest.peer, name, wanted, guest.migration)
        if found:
            raise Obstructed(found)
        async with self.handover.undecided:
            if self.handover.state is TargetState.RECEIVING:
                guest.resize(size)
                await self._write_down()

    async def receive(self) -> None:
        """Get ready for the memory. Raises ToolstackError, StorageError, JobError."""
        self._require_wanted()
        self.guest.job.enter(Phase.SUSPEND)
        await self.guest.receive()
        self._require_wanted()

    async def seal(self, seal: Seal) -> None:
        """Check that everything is there and durable, and build the domain, paused.

        Raises ProtocolError, StorageError, ToolstackError, or JobError when it was aborted.
        """
        self._require_wanted()
        await self.guest.require_whole(seal)
        self._require_wanted()
        self.guest.job.enter(Phase.READY)
        await self.guest.build()
        await self.handover.happen(TargetEvent.BUILT, only_in=(TargetState.RECEIVING,))
        if self.handover.state is TargetState.ABORTED:
            raise self._given_up()

    def _require_wanted(self) -> None:
        """See that it was not given up, as on another channel. Raises JobError."""
        if self.handover.state is not TargetState.RECEIVING:
            raise self._given_up()

    def _given_up(self) -> JobError:
        return JobError([problem("aborted", self.handover.reason or "aborted by the source")])

    async def _write_down(self) -> None:
        await self.guest.write_down(self.handover.state, self.handover.reason)
