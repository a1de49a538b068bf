"""What has come of one guest: its record in the journal, its volumes, its memory, its file."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Final

from protocol.errors import Code, ProtocolError
from protocol.handover import TargetState
from protocol.messages import GuestSize, Problem, Remark, Seal
from protocol.schema import plain
from xenmoved.jobs.job import Job
from xenmoved.journal.records import Inbound
from xenmoved.link.framed import Framed
from xenmoved.migration.host import Host
from xenmoved.migration.target.at_boot import as_here
from xenmoved.migration.target.boot_files import foresee
from xenmoved.migration.target.expected import Expected
from xenmoved.migration.target.memory import IncomingMemory
from xenmoved.migration.target.presence import require_alone
from xenmoved.migration.target.volumes import Landing
from xenmoved.migration.uncopied_disks import leads_astray, unreadable_cdrom
from xenmoved.remarks import from_problem, left_out, to_look_at, together
from xenmoved.toolstack.interface import IncomingImage, ToolstackError
from xenmoved.toolstack.sizes import weight

log = logging.getLogger(__name__)

_UNWRITTEN: Final = "config-unwritten"


class IncomingGuest:
    """One guest as far as it is here. Whether it is this host's is the hand-over's to know."""

    def __init__(self, host: Host, peer: str, migration: str, expected: Expected, job: Job) -> None:
        self.host = host
        self.peer = peer
        self.migration = migration
        self.job = job
        self.expected = expected
        self.landing = Landing(host, peer, migration, job.job)
        self.image = self._receiver()
        self._memory: IncomingMemory | None = None

    def _receiver(self) -> IncomingImage:
        toolstack, arrival = self.host.toolstack, self.expected.arrival
        if self.expected.cold:
            return toolstack.incoming_cold(arrival)
        spool = self.host.spool_of(self.migration)
        if self.expected.restart:
            text = self.expected.config or ""
            return toolstack.incoming_restart(self.migration, arrival, spool, text)
        return toolstack.incoming(self.migration, arrival, spool)

    @property
    def name(self) -> str:
        """What it is called here."""
        return self.expected.name

    @property
    def disks(self) -> list[str]:
        """Paths of its disks here."""
        return list(filter(None, self.expected.disks.values()))

    async def write_down(self, state: TargetState, reason: str, *, settled: bool = False) -> None:
        """Record a state of the migration, with all that a later process needs to go on."""
        if state is TargetState.READY:
            left = list(self.image.left_out)
            self.expected = replace(self.expected, was_ready=True, left_out=left)
        details = asdict(self.expected)
        entry = Inbound(self.migration, state, self.peer, reason, self.job.job, details)
        await self.host.journal.record_inbound(entry, settled=settled)

    def resize(self, size: GuestSize) -> None:
        """Note how large it has become since it was offered; its memory has not come yet."""
        announced = self.expected.announced
        assert announced is not None
        self.expected = self.expected.resized(size)
        self.image = self._receiver()
        self.job.memory_total = weight(announced["kind"], size)
        self.host.promises.resize(self.migration, self.job.memory_total)

    async def receive(self) -> None:
        """Get ready for its memory. Raises ToolstackError, StorageError."""
        self.landing.step(f"having the toolstack get ready for {self.name}")
        expected = self.expected
        if expected.by_file and expected.config is not None:
            # A human who has to mend it later does not know what the peer wrote to the image since.
            await self.host.toolstack.configs.check(expected.config, expected.arrival)
        # The guest still runs: now it costs nothing to look.
        await self.landing.require_untouched()
        await self.image.start()
        # Whoever starts a guest of its name or uuid from here on is seen when it is built.
        await require_alone(self.host.toolstack, expected.uuid, expected.name)
        self._memory = IncomingMemory(self.image, self.job, ended=expected.by_file)

    async def serve_memory(self, framed: Framed) -> None:
        """Feed what comes on the memory channel to the toolstack. Raises ProtocolError."""
        if self._memory is None:
            raise ProtocolError(Code.UNEXPECTED, "no memory is expected now")
        await self._memory.serve(framed)

    async def require_whole(self, seal: Seal) -> None:
        """See that all is here and durable. Raises ProtocolError, StorageError."""
        await self.landing.seal()
        self.landing.step("waiting for the end of the memory")
        if self._memory is None:
            raise ProtocolError(Code.UNEXPECTED, "the memory was never asked for")
        await self._memory.require_whole(seal)

    async def build(self) -> None:
        """Build the domain, paused. Raises StorageError, ToolstackError."""
        self.landing.step(f"building the domain {self.name}")
        # From here to the backends' opening there is no more time than it takes; the volumes stay
        # open meanwhile, so that a name that is changed then is seen, too.
        await self.landing.require_untouched()
        await self._require_in_place()
        await self.landing.finish()
        await self.landing.note_filled()
        await self.landing.unlock()
        await self.image.build()
        await self.landing.release()

    async def _require_in_place(self) -> None:
        """See that no shared disk has become a link that leads elsewhere, as a peer may do to it.

        Nor a CD-ROM one that not everybody may read. Raises ToolstackError.
        """
        peer = self.host.peer(self.peer)
        for vdev in self.expected.shared:
            path = self.expected.disks[vdev]
            if await asyncio.to_thread(leads_astray, peer, path):
                raise ToolstackError(f"{path} has become a link, which leads elsewhere.")
            by_path = self.host.pool_of(path) is None
            if by_path and self.expected.sources.get(vdev, {}).get("cdrom"):
                why = await asyncio.to_thread(unreadable_cdrom, path)
                if why is not None:
                    raise ToolstackError(f"{path} is not for guests of {self.peer}: {why}.")

    async def remove(self) -> None:
        """Remove what has come: the domain, and the volumes that were made for it. Idempotent."""
        if self._memory is not None:
            await self._memory.stop()
        await self.landing.stop()
        if self.expected.given_up:  # what the toolstack wrote down says that it may have started
            await self.image.declare_never_started()
        await self.image.abort()
        if not self.expected.keep_partial:
            await self.landing.remove_made()

    def declare_never_started(self) -> None:
        """Note that an operator has said so. Its volumes are kept."""
        self.expected = replace(self.expected, given_up=True, keep_partial=True)

    async def keep_copies(self) -> None:
        """Retain its volumes that were here before, and what `keep_partial` leaves."""
        await self.host.journal.retain(self.migration, self.peer, moved=False)

    @property
    def remarks_noted(self) -> bool:
        """Whether it is known what there is to remark."""
        return self.expected.remarks is not None

    async def note_remarks(self, found: Problem | None) -> None:
        """Find what there is to remark, `found` among it.

        To be written down before `settle_in`: what is found after that, by a daemon that goes on
        after a crash, is our own doing.
        """
        foreseen: tuple[Remark, ...] = ()
        with suppress(ToolstackError, OSError):  # told of when it is installed
            foreseen = await foresee(self.host, self.expected)
        ended = [from_problem(found)] if found is not None else []
        self._remember(ended, foreseen, left_out(self.name, self.expected.left_out))

    async def settle_in(self) -> None:
        """Give it its configuration file and its volumes for good."""
        await self._install_config()
        await self.host.journal.put_to_use(self.migration)

    def _remember(self, *groups: Iterable[Remark]) -> None:
        remarks, known = together(*groups), self.expected.all_remarks
        for remark in as_here(self.expected, (one for one in remarks if one not in known)):
            log.warning("%s; %s", remark.text, remark.hint)
        self.expected = replace(self.expected, remarks=[plain(remark) for remark in remarks])

    async def _install_config(self) -> None:
        expected, toolstack = self.expected, self.host.toolstack
        failed: list[Remark] = []
        try:
            if expected.config is not None:
                await toolstack.configs.install(
                    expected.name, expected.config, expected.arrival, expected.autostart
                )
            else:
                arrival = expected.arrival
                await toolstack.configs.restore(arrival.name, arrival.uuid, arrival)
        except (ToolstackError, OSError) as error:
            text = f"the configuration of {expected.name} is not in place: {error}"
            where = "here, where there is one" if expected.config is None else f"on {self.peer}"
            hint = f"take it from FILE.moved {where}, with the disks that it has here"
            failed.append(to_look_at(_UNWRITTEN, text, hint))
        self._remember([one for one in expected.all_remarks if one.code != _UNWRITTEN], failed)
