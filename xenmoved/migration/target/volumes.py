"""The volumes of an arriving guest or sync: made, opened, written, closed, and removed again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Final

from protocol.errors import Code, ProtocolError
from protocol.messages import ImageFormat, Offer, Placement, VolumeOffer, Working
from storage.contracts import History, Pool, VolumeInfo
from storage.errors import StorageError, VolumeExists, VolumeReplaced
from storage.files.pool import DirectoryPool
from storage.window import window
from xenmoved.journal.database import JournalFailed
from xenmoved.journal.records import Holding, MadeVolume
from xenmoved.link.framed import Framed
from xenmoved.migration.host import Host
from xenmoved.migration.removal import remove_noted
from xenmoved.migration.target.expected import laid_out
from xenmoved.migration.target.filling import FilledVolume
from xenmoved.migration.target.layouts import form_of
from xenmoved.migration.target.reuse import Claim, is_image_of, owner_of, reuse
from xenmoved.migration.volume_needs import needs
from xenmoved.migration.volume_notes import is_made, note_blank, note_copy, note_filled, when_let_go
from xenmoved.migration.whereabouts import Whereabouts
from xenmoved.problems import Obstructed, problem
from xenmoved.sync.devices import DeviceThreads
from xenmoved.sync.progress import VolumeProgress
from xenmoved.sync.stream_target import StreamTarget
from xenmoved.sync.target import VolumeTarget
from xenmoved.tasks import all_done, wait_through
from xenmoved.units import format_size

log = logging.getLogger(__name__)

_END_PATIENCE: Final = 60.0


class Landing:
    """Where the volumes of one migration or sync arrive."""

    def __init__(self, host: Host, peer: str, migration: str, job: str = "") -> None:
        self._host = host
        self._peer = peer
        self._migration = migration
        self._job = job
        self._volumes: list[FilledVolume] = []
        self._ours: list[FilledVolume] = []
        """Those that may be filled, and of which is not noted yet how they are left."""
        self._free_at = 0.0
        self._histories: list[History | None] = []
        self._streams: dict[int, StreamTarget] = {}
        self._targets: dict[int, VolumeTarget] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sealed = False
        self._provisioning = asyncio.Lock()
        self.progress: list[VolumeProgress] = []
        self.doing = Working(0, "looking whether it can take what is offered")

    def step(self, doing: str) -> None:
        """Note what is done from now on: whoever waits for it is told."""
        self.doing = Working(self.doing.steps + 1, doing[:4000])

    def give_up(self) -> None:
        """Have what makes and empties volumes come to an end: nobody waits for it any more."""
        self._sealed = True

    async def provision(
        self, offer: Offer, placements: Sequence[Placement]
    ) -> tuple[Placement, ...]:
        """Make what is missing and open every volume for writing; return the places, as they are.

        What is made is in the journal before it is there, so that it can be removed after a crash.
        Raises StorageError, Obstructed, or ProtocolError when the source gives up meanwhile, as
        `stop` waits for the end of it.
        """
        found = []
        here_as = laid_out(offer)
        async with self._provisioning:
            for volume, placement in zip(here_as.volumes, placements, strict=True):
                self._require_wanted()
                size = await self._provide(here_as, volume, placement)
                found.append(replace(placement, size=size))
        return tuple(found)

    def _require_wanted(self) -> None:
        if self._sealed:
            raise ProtocolError(Code.UNEXPECTED, "given up while its volumes were made")

    async def _provide(self, offer: Offer, wanted: VolumeOffer, placement: Placement) -> int:
        """Make a volume if it is missing, open it, and empty it if need be; return its size."""
        pool = self._host.pools[placement.pool]
        shown = f"{placement.pool}:{placement.name}"
        self.step(f"{'making' if placement.fresh else 'opening'} {shown}")
        if placement.fresh:
            made = MadeVolume(
                self._migration,
                placement.pool,
                placement.name,
                wanted.size,
                self._peer,
                disk_size=wanted.disk_size,
            )
            await self._make(made, placement, wanted)
        opening = partial(
            FilledVolume.open,
            pool,
            placement,
            wanted,
            guest=offer.guest is not None,
            sockets=self._host.qemu_sockets,
        )
        volume = await when_let_go(partial(asyncio.to_thread, opening))
        self._volumes.append(volume)
        if not placement.fresh:
            # What somebody wrote to a device is counted when it is on it.
            await asyncio.to_thread(volume.volume.flush)
        owner = owner_of(self._peer, offer)
        guest = offer.guest.target_name if offer.guest is not None else ""
        form, kind = form_of(wanted, placement.format)
        copy = Holding(
            pool.name,
            placement.name,
            owner,
            guest,
            migration=self._migration,
            form=form,
            format=kind,
        )
        to_empty = placement.zeroed and not (placement.fresh and pool.makes_zeros)
        async with self._host.making:
            if not placement.fresh:
                await self._require_allowed(offer, wanted, placement)
            if to_empty:
                await note_blank(self._host, pool.name, placement.name, self._peer)
            else:
                await note_copy(self._host, copy, self._peer, wanted.moved_by)
        self._ours.append(volume)
        if to_empty:
            await self._empty(volume, shown)
            await note_copy(self._host, copy, self._peer, wanted.moved_by)
        # What others kept of it is no base for streams of this one.
        streams = placement.fresh or not placement.zeroed
        self._histories.append(pool.history(placement.name) if streams else None)
        self.progress.append(VolumeProgress(shown, wanted.size, shown, placement.fresh))
        return volume.size

    async def _require_allowed(
        self, offer: Offer, wanted: VolumeOffer, placement: Placement
    ) -> None:
        """See that a volume that is open here may be used as it was promised. Raises Obstructed.

        Since then somebody may have come to need it, or the configuration may be another one.
        """
        host = self._host
        info = await asyncio.to_thread(host.pools[placement.pool].find, placement.name)
        if info is None:
            raise VolumeReplaced(f"{placement.pool}:{placement.name} was removed or renamed")
        peer = host.peer(self._peer)
        found = await reuse(
            host,
            Claim(peer, offer, wanted, placement.format),
            info,
            await needs(host, besides=self._job, coming=offer.guest, peer=peer),
        )
        if found.problems:
            raise Obstructed(found.problems)
        if not (found.kept or placement.zeroed):
            text = f"{placement.pool}:{placement.name} is not the copy any more that it was"
            raise Obstructed([problem("volume-exists", text, "try again")])

    async def _empty(self, volume: FilledVolume, shown: str) -> None:
        emptying = volume.emptying()
        whole = format_size(volume.size)
        while (done := await asyncio.to_thread(next, emptying, None)) is not None:
            self._require_wanted()
            self.step(f"emptying {shown}: {format_size(done)} of {whole}")

    async def serve(self, index: int, framed: Framed) -> None:
        """Write what comes on a volume channel until the source ends it: streams, then blocks."""
        if self._sealed or index in self._streams or index >= len(self.progress):
            raise ProtocolError(Code.UNEXPECTED, f"volume {index} cannot be attached")
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            readers = self._host.config.transfer.readers
            async with DeviceThreads(f"in{index}", readers) as threads:
                progress, filled = self.progress[index], self._volumes[index]
                streams = self._streams[index] = StreamTarget(
                    self._histories[index],
                    filled.volume,
                    framed,
                    threads,
                    progress,
                    peer=self._peer,
                    migration=self._migration,
                )
                begun = await streams.serve()
                if streams.rounds:
                    filled.size = progress.size
                if begun is None:
                    return
                progress.size = filled.size
                volume = window(filled.volume, filled.size)
                target = VolumeTarget(
                    volume, framed, threads, self._host.incoming_buffers, progress
                )
                self._targets[index] = target
                await target.serve(begun)
        finally:
            self._tasks.discard(task)

    async def seal(self) -> None:
        """Wait for the end of every channel, and check that all is durable.

        Raises ProtocolError when the source says that all was sent, and it was not, StorageError
        when an image that came needs other files, which the guest could thus get hold of.
        """
        self._sealed = True
        self.step("waiting for the end of the volumes' channels")
        if not await all_done(self._tasks, _END_PATIENCE):
            text = f"the channels of the volumes did not end within {_END_PATIENCE:g} s"
            raise ProtocolError(Code.UNEXPECTED, text)
        for index in range(len(self._volumes)):
            if not self._is_complete(index):
                raise ProtocolError(Code.UNEXPECTED, f"volume {index} is not complete")
        await self._each(FilledVolume.require_whole)

    async def require_untouched(self) -> None:
        """See that all volumes are what was opened, and that nobody else has or had them.

        Raises StorageError.
        """
        await self._each(FilledVolume.require_untouched)

    async def finish(self) -> None:
        """Have images closed by what writes them, when all is durable. Raises StorageError."""
        await self._each(FilledVolume.finish)

    async def unlock(self) -> None:
        """Let a toolstack have the volumes, which stay open here. Raises StorageError."""
        await self._each(FilledVolume.unlock)

    async def release(self) -> None:
        """Close the volumes, when they are found under their names still. Raises StorageError."""
        self.step("closing the volumes")
        await self._each(FilledVolume.require_there)
        await self._close_volumes()
        await self._settle_streams()

    async def note_filled(self) -> None:
        """Note when the volumes, of which all is durable, were written to last, once.

        To be called while nobody else can have them. Raises StorageError, JournalFailed.
        """
        ours, self._ours = self._ours, []
        for volume in ours:
            await self._note_filled(volume)

    async def stop(self) -> None:
        """End what is going on and close the volumes, which are known as they are. Idempotent."""
        self._sealed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._settle_streams()
        async with self._provisioning:
            try:
                await self._note_interrupted()
                await self.until_others_are_told()
            finally:
                await self._close_volumes()

    async def _settle_streams(self) -> None:
        """Leave one snapshot of each volume for the peer, however many streams came."""
        for streams in self._streams.values():
            await asyncio.to_thread(streams.settle)
        self._streams.clear()

    async def _note_interrupted(self) -> None:
        """Note of volumes that are not complete how they are left, to be gone on with later."""
        ours, self._ours = self._ours, []
        for volume in ours:
            try:
                await asyncio.to_thread(volume.require_settled)
                await self._note_filled(volume)
            except (StorageError, JournalFailed) as error:
                shown = f"{volume.pool.name}:{volume.name}"
                log.warning("what came of %s is not known as such later: %s", shown, error)

    async def _note_filled(self, volume: FilledVolume) -> None:
        place = volume.pool.name, volume.name
        wait = await note_filled(self._host, *place, self._peer, self._migration)
        self._free_at = max(self._free_at, monotonic() + wait)

    async def until_others_are_told(self) -> None:
        """Wait until what others write to what was noted has another moment than that has."""
        await asyncio.sleep(max(0.0, self._free_at - monotonic()))

    async def remove_made(self) -> None:
        """Remove the volumes that were made for this migration. Idempotent; never others."""
        await remove_made(self._host, self._migration)

    async def _make(self, made: MadeVolume, placement: Placement, wanted: VolumeOffer) -> None:
        pool, journal = self._host.pools[made.pool], self._host.journal
        async with self._host.making:
            if await asyncio.to_thread(pool.find, made.name) is not None:
                raise VolumeExists(f"volume {made.pool}:{made.name} was made by somebody else")
            await journal.record_made(made)
            try:
                info = await asyncio.to_thread(_create, pool, placement, wanted)
            except StorageError:
                # Nothing was made, and what is there under this name now is somebody else's.
                await journal.forget_made(made)
                raise
            await journal.record_made(replace(made, identity=info.identity))

    def _is_complete(self, index: int) -> bool:
        ends = [ends[index] for ends in (self._streams, self._targets) if index in ends]
        return all(end.idle for end in ends) and any(end.rounds for end in ends)

    async def _each(self, work: Callable[[FilledVolume], None]) -> None:
        volumes = list(self._volumes)

        def work_on_all() -> None:
            for volume in volumes:
                work(volume)

        await asyncio.to_thread(work_on_all)

    async def _close_volumes(self) -> None:
        """Close them all, even if this is cancelled: one that stays open stays locked."""
        volumes, self._volumes = self._volumes, []
        await wait_through(_close(volumes))


def _create(pool: Pool, placement: Placement, wanted: VolumeOffer) -> VolumeInfo:
    """Make a volume for what comes, or an image for the content that comes. Blocks.

    Raises StorageError.
    """
    kind = placement.format
    if not is_image_of(wanted, kind):
        return pool.create(placement.name, wanted.size)
    assert isinstance(pool, DirectoryPool)  # no other one holds files
    cluster = wanted.cluster if kind is ImageFormat.QCOW2 else 0
    return pool.create_image(placement.name, placement.size, kind, cluster=cluster or None)


async def _close(volumes: Sequence[FilledVolume]) -> None:
    for volume in volumes:
        await asyncio.to_thread(volume.close)


async def remove_made(host: Host, migration: str) -> None:
    """Remove the volumes that were made for a migration. Raises StorageError.

    One that may be somebody else's stays: there was a crash while it was to be made, or it is
    another one by now. So does what somebody gave another name or moved into another pool, to keep
    it, or what is away: it stays noted as made, and so counts for the quota of its peer.
    """
    for made in await host.journal.made(migration=migration):
        if made.pool in host.pools:
            # Where that fails, all of it is tried again later.
            await asyncio.to_thread(host.pools[made.pool].find, made.name)
        look_for = Whereabouts(host.pools).look_for
        seen = await asyncio.to_thread(look_for, made.pool, made.name, made.identity)
        if seen.info is None:
            await _note_missing(host, made, gone=seen.gone)
        elif not is_made(made, seen.info):
            log.error(
                "volume %s:%s stays, as it is not certain to be the one that was made for a "
                "migration that failed: look at it, and remove it if nobody needs it",
                *(made.pool, made.name),
            )
            if not made.identity:
                await host.journal.forget_made(made)
        elif (seen.info.pool, seen.info.name) != (made.pool, made.name):
            log.error(
                "volume %s:%s stays, as somebody called it %s:%s since: it was made for a "
                "migration that failed, remove it if nobody needs it",
                *(made.pool, made.name, seen.info.pool, seen.info.name),
            )
        else:
            await _remove(host, made)


async def _remove(host: Host, made: MadeVolume) -> None:
    """Remove a volume where it was made, once it is let go, if it is that one still then."""
    removing = partial(remove_noted, host, made.pool, made.name, made.identity)
    try:
        await when_let_go(removing)
    except VolumeReplaced as error:
        log.error(
            "what was made for a migration that failed as %s:%s stays, wherever it is now: %s",
            *(made.pool, made.name, error),
        )
    else:
        log.info("removed volume %s:%s", made.pool, made.name)


async def _note_missing(host: Host, made: MadeVolume, *, gone: bool) -> None:
    """Forget a volume that is not found, if it is certain to be gone."""
    if gone:
        await host.journal.forget_made(made)
    else:
        log.error(
            "volume %s:%s is left: it is not here now, or there are two that are the same",
            *(made.pool, made.name),
        )
