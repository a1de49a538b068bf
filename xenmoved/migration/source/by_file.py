"""The hand-over of a guest of which only its configuration goes, beside its disks.

One that is off is off all the time (cold). One that runs is shut down when its disks are nearly
alike, and started on the target (restart): from its end on nobody can have the disks but this
daemon, and what was written until then is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final

from blake3 import blake3

from protocol.handover import SourceEvent
from protocol.messages import HandOver, Ready, Receiving, Seal
from xenmoved.jobs.job import Job
from xenmoved.jobs.report import Phase
from xenmoved.migration.host import Host
from xenmoved.migration.source.dialogue import Dialogue
from xenmoved.migration.source.finding import users_of
from xenmoved.migration.source.guest_text import text_of
from xenmoved.migration.source.handover import SourceHandover
from xenmoved.migration.source.inventory import GuestFacts, require_same, take
from xenmoved.migration.source.offer import Sending
from xenmoved.migration.source.precopy import Convergence
from xenmoved.migration.source.volumes import Disks
from xenmoved.migration.uncopied_disks import flush_shared
from xenmoved.problems import Obstructed, problem
from xenmoved.toolstack.interface import OutgoingImage, named

_LETTING_GO: Final = 10.0
"""Seconds until nothing is left to see of a domain that has ended."""
_POLL: Final = 0.2

Work = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class ByFile:
    """Hands over the guest of one job.

    `at_cutover` is told when it has shut down, `still_runs` sees that it is as it was,
    `note_written` notes when its volumes were written to last, and `verify` compares them, if that
    is wanted.
    """

    host: Host
    job: Job
    sending: Sending
    facts: GuestFacts
    image: OutgoingImage
    handover: SourceHandover
    at_cutover: Callable[[], None]
    still_runs: Work
    note_written: Work
    verify: Callable[[Disks], Awaitable[None]]

    async def cold(self, dialogue: Dialogue, disks: Disks) -> None:
        """Copy the disks of a guest that nobody can start meanwhile, and have the target ready."""
        await self._check_configuration()
        await self.handover.happen(SourceEvent.SUSPENDING)
        await self.image.start(self.facts.backings)
        await disks.first_round()
        await self.verify(disks)
        await self.image.suspended()
        await self._require_free_disks()
        await flush_shared(self.sending.offer.guest)
        await self.note_written()
        await disks.require_unwritten()
        await self._have_ready(dialogue, disks)

    async def restart(self, dialogue: Dialogue, disks: Disks, convergence: Convergence) -> None:
        """Shut down a guest whose disks are nearly alike, send the rest, and have the target ready.

        The target gets ready before the guest is asked for anything.
        """
        job = self.job
        await self._check_text()
        await self.still_runs()
        await self._require_free_disks(runs=True)
        await self._get_ready(dialogue)
        job.enter(Phase.SHUTDOWN)
        job.suspended_at = monotonic()
        await self.handover.happen(SourceEvent.SUSPENDING)
        await self.image.start(self.facts.backings)
        quiet = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(convergence.stay_close(quiet))
            await self.image.suspended()
            quiet.set()
        job.enter(Phase.FINAL_DELTA)
        self.at_cutover()
        await self._until_disks_are_free()
        await disks.take()
        await disks.round()
        await flush_shared(self.sending.offer.guest)
        await self.note_written()
        await self.verify(disks)
        await self._require_off()
        await self._require_free_disks()
        await disks.require_unwritten()
        job.enter(Phase.READY)
        disks.finish()
        await dialogue.ask(Seal(0, blake3().digest()), Ready)
        await self._require_off()

    async def _get_ready(self, dialogue: Dialogue) -> None:
        assert self.sending.offer.guest is not None
        await dialogue.ask(HandOver(self.sending.offer.guest.size), Receiving)

    async def _have_ready(self, dialogue: Dialogue, disks: Disks) -> None:
        disks.finish()
        self.job.enter(Phase.READY)
        await self._get_ready(dialogue)
        await dialogue.ask(Seal(0, blake3().digest()), Ready)

    async def _require_free_disks(self, *, runs: bool = False) -> None:
        """See that no other domain has a disk of the guest: none at all unless it `runs`."""
        guest, paths = self.job.guest, self.sending.paths
        if found := await users_of(self.host, guest, paths, runs=runs):
            raise Obstructed(found)

    async def _until_disks_are_free(self) -> None:
        """Wait a moment for the same: a domain that is being destroyed may still be described."""
        deadline = monotonic() + _LETTING_GO
        while True:
            try:
                return await self._require_free_disks()
            except Obstructed:
                if monotonic() > deadline:
                    raise
            await asyncio.sleep(_POLL)

    async def _require_off(self) -> None:
        """See that nobody has started a guest that was shut down. Raises Obstructed."""
        guest = self.job.guest
        if (there := named(guest, await self.host.toolstack.domains())) is not None:
            text = f"{guest} was started here again (id {there.domid}) after it was shut down"
            hint = "it runs here, and nothing was lost; migrate it again, and start it nowhere then"
            raise Obstructed([problem("guest-restarted", text, hint)])

    async def _check_configuration(self) -> None:
        """See that a guest that does not run is configured as it was. Raises Obstructed."""
        domain = await self.host.toolstack.configs.describe(self.job.guest)
        if domain is None:
            text = f"the configuration of {self.job.guest} is gone: it was renamed or removed"
            raise Obstructed([problem("guest-gone", text, "xenmovectl list shows the guests here")])
        require_same(self.facts, await take(self.host, domain))

    async def _check_text(self) -> None:
        """See that the file that starts a guest is the one that was offered. Raises Obstructed."""
        offered = self.sending.offer.guest
        assert offered is not None
        text = await text_of(self.host, offered.name, offered.uuid)
        if text is not None and text != offered.config_text:
            what = (
                f"the configuration file of {offered.name} was changed while its disks were copied"
            )
            hint = "it runs on here; migrate it again, as it is to be started now"
            raise Obstructed([problem("config-changed", what, hint)])
