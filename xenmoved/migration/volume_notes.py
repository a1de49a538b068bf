"""What the journal knows of volumes, and whether they still are the ones that it knows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from time import monotonic
from typing import Final, TypeVar

from storage.canonical import as_if_whole
from storage.contracts import UNKNOWN, VolumeIdentity, VolumeInfo
from storage.errors import VolumeInUse
from storage.last_write import last_write, seconds_to_later, tells
from storage.same_volume import is_same
from xenmoved.journal.records import NOBODY, Form, Holding, MadeVolume
from xenmoved.migration.host import Host
from xenmoved.migration.whereabouts import Whereabouts

log = logging.getLogger(__name__)

T = TypeVar("T")

_LETTING_GO: Final = 10.0
"""Seconds until a toolstack has let go of the disks of a domain that is gone: on real hosts scripts
still detach them then."""


def is_made(made: MadeVolume, info: VolumeInfo) -> bool:
    """Whether a volume that is there is the one that was made; False when that is not certain."""
    return made.identity == info.identity


def why_not_held(holding: Holding, info: VolumeInfo) -> str | None:
    """Say why a volume that is there is not known as the one whose owner was noted; None if it is.

    A copy that was written to since it is retained is not known either, whatever it is, nor is what
    came without a guest.
    """
    kept = holding.since is not None or not holding.guest
    if not info.identity:
        return "is not known to be the copy that was there: nothing tells it from others"
    if not holding.identity:
        return "is not known to be the copy that was there: nothing told it from others then"
    if may_be_in(holding, info):
        return "is not known to be the copy that was there, which may have been only a part of it"
    if holding.identity != info.identity:
        return "is another volume than the copy that was there: it was made anew since"
    if kept and holding.written is not None and holding.written.is_before(info.written):
        return "was written to since it was kept as a copy: something else may be in it"
    return None


def why_not_as_left(holding: Holding, info: VolumeInfo) -> str | None:
    """Say why a volume is not certain to be as it was left; None if nothing was written to it.

    Only then may a peer hear what is in it, or write to it without a word. What was not noted, as
    there was a crash, and what nothing tells, counts as written.
    """
    if (why := why_not_held(holding, info)) is not None:
        return why
    if holding.written is None:
        return "is not known to be as it was left: nobody noted when it was written to last"
    if holding.written.is_before(info.written) is None:
        return "may have been written to since it was left: its device tells only since it is there"
    return None


def is_held(holding: Holding, info: VolumeInfo) -> bool:
    """Whether a volume that is there is certain to be the one whose owner was noted."""
    return why_not_held(holding, info) is None


def may_be_in(holding: Holding, info: VolumeInfo) -> bool:
    """Whether what was noted may be in a part of a volume that is there, or be all of it."""
    noted = VolumeIdentity(as_if_whole(str(holding.identity)))
    return holding.identity != info.identity == noted


def may_be_image(holding: Holding, info: VolumeInfo) -> bool:
    """Whether a volume that is there may be one that was noted as an image.

    No peer writes to that one, whatever is allowed: a configuration that nobody has found may have
    it opened as an image, and what the new bytes name as its backing file would be read.
    """
    unknown = not (holding.identity and info.identity)
    same = unknown or holding.identity == info.identity or may_be_in(holding, info)
    return holding.form is not Form.RAW and same


def is_of_a_part(holding: Holding) -> bool:
    """Whether what was noted may be in a part of a volume, or was known by a longer identity."""
    return as_if_whole(str(holding.identity)) != str(holding.identity)


def synced_from(peer: str) -> str:
    """Return the owner of what a peer sent without a guest."""
    return f"sync from {peer}"


def is_of(holding: Holding, owner: str, peer: str, moved_by: str | None) -> bool:
    """Whether a volume holds what came from this very peer, or a copy of what went to it.

    Of a guest it is its copy, which may be compared with what the guest has there: who knows no
    more than a uuid must not learn what is in it. Guests without a uuid in their configuration have
    another one after each start. So a peer may name the migration with which the guest came to it.
    That is believed only of a copy of a guest that went with this migration: nobody else knows of
    it, and could as well have kept the uuid. An image is a copy of what its guest saw, if it is
    known how it is opened.
    """
    if holding.form is not Form.RAW and not holding.format:
        return False
    if owner == synced_from(peer):
        return holding.owner == owner and holding.form is Form.RAW
    went = holding.since is not None and holding.place == peer
    return went and (holding.owner == owner or (bool(moved_by) and holding.moved_by == moved_by))


def is_blank(holding: Holding, peer: str) -> bool:
    """Whether a volume was being emptied for a peer, and holds nobody's data that counts."""
    return holding.owner == NOBODY and holding.place == peer


async def note_blank(host: Host, pool: str, name: str, peer: str) -> None:
    """Note that what a volume holds is nobody's from now on, and is to be emptied for a peer.

    It stays so until `note_copy`: it is emptied again before anybody gets it. Raises StorageError.
    """
    await _record(host, Holding(pool, name, NOBODY, place=peer))


async def known_holding(host: Host, pool: str, name: str) -> Holding | None:
    """Return whose data a volume of this host holds; None when there is none, or not known.

    Raises StorageError.
    """
    info = await asyncio.to_thread(host.pools[pool].find, name) if pool in host.pools else None
    if info is None:
        return None
    holding = await host.journal.holding(pool, name, info.identity)
    if holding is None or not is_held(holding, info) or await _twice(host, holding, info):
        return None
    return holding


async def _twice(host: Host, holding: Holding, info: VolumeInfo) -> bool:
    """Whether a note may be about another volume than one that is there."""
    whereabouts = await asyncio.to_thread(Whereabouts(host.pools).look)
    return any(map(whereabouts.is_twice, (holding.identity, info.identity)))


async def moved_by(host: Host, path: str) -> str | None:
    """Return the migration with which a disk that is in use here came. Raises StorageError."""
    if (located := await asyncio.to_thread(host.pool_of, path)) is None:
        return None
    holding = await known_holding(host, located[0].name, located[1])
    return holding.moved_by or None if holding is not None and holding.since is None else None


async def claim(
    host: Host,
    path: str,
    owner: str,
    guest: str,
    migration: str,
    *,
    form: Form,
    image_format: str = "",
) -> None:
    """Note whose data a volume holds that is in use here, if a pool has it. Raises StorageError.

    It goes from here in a `form`; one that is an image has an `image_format`.
    """
    if (located := host.pool_of(path)) is None:
        return
    pool, name = located
    before = await known_holding(host, pool.name, name)
    came = before.moved_by if before is not None else ""
    holding = Holding(
        pool.name,
        name,
        owner,
        guest,
        migration=migration,
        moved_by=came,
        form=form,
        format=image_format,
    )
    await _record(host, holding)


async def note_copy(host: Host, copy: Holding, peer: str, offered: str | None) -> None:
    """Note whose data a volume is to hold that a peer writes to; `offered` see `is_of`.

    A copy that is retained of the same owner stays so, until it is in use. Until `note_filled` it
    is not known what is in it. Raises StorageError.
    """
    before = await known_holding(host, copy.pool, copy.name)
    if before is not None and is_of(before, copy.owner, peer, offered):
        copy = replace(
            copy,
            since=before.since,
            place=before.place,
            kept=before.kept,
            moved_by=before.moved_by,
            form=before.form,
            format=before.format,
        )
    await _record(host, copy)


async def _record(host: Host, holding: Holding) -> None:
    """Note it, of what cannot be told from another volume by its name alone."""
    info = await asyncio.to_thread(host.pools[holding.pool].find, holding.name)
    identity = info.identity if info is not None else UNKNOWN
    if await asyncio.to_thread(Whereabouts(host.pools).is_twice, identity):
        log.warning(
            "%s:%s is not known later, as another volume has the same identity: unmount or "
            "deactivate what is a block copy or a snapshot, or take it out of the pools",
            *(holding.pool, holding.name),
        )
        identity = UNKNOWN
    await host.journal.record_holding(replace(holding, identity=identity))


async def note_written(host: Host, path: str, migration: str) -> None:
    """Note when a volume that a migration has claimed was written to last. Raises StorageError."""
    if (located := await asyncio.to_thread(host.pool_of, path)) is None:
        return
    holding = await _noted_of(host, located[0].name, located[1])
    if holding is not None and holding.migration == migration:
        await _note_last_write(host, holding, path)


async def note_filled(host: Host, pool: str, name: str, peer: str, migration: str) -> float:
    """Note the same of a volume that a peer has filled, or that was emptied for it.

    To be called while nobody else can have it, and before anybody hears that it is finished.
    Returns the seconds until a write of somebody else can be told from the last one. Raises
    StorageError.
    """
    holding = await _noted_of(host, pool, name)
    if holding is not None and (holding.migration == migration or is_blank(holding, peer)):
        return await _note_last_write(host, holding, host.pools[pool].path(name))
    return 0.0


async def _noted_of(host: Host, pool: str, name: str) -> Holding | None:
    """Return what was noted of the very volume that has a name. Raises StorageError."""
    info = await asyncio.to_thread(host.pools[pool].find, name)
    if info is None:
        return None
    holding = await host.journal.holding(pool, name, info.identity)
    if holding is None or not is_same(info.identity, holding.identity):
        return None
    return replace(holding, pool=pool, name=name, identity=info.identity)


async def _note_last_write(host: Host, holding: Holding, path: str) -> float:
    written = await asyncio.to_thread(last_write, path)
    if written is None or not tells(written):
        return 0.0
    await host.journal.record_holding(replace(holding, written=written))
    return seconds_to_later(written)


async def when_let_go(attempt: Callable[[], Awaitable[T]]) -> T:
    """Return what an attempt does, once a toolstack has let go of the disks of a domain that went.

    Raises VolumeInUse when it does not for long, and whatever else the attempt does.
    """
    deadline = monotonic() + _LETTING_GO
    while True:
        try:
            return await attempt()
        except VolumeInUse:
            if monotonic() > deadline:
                raise
        await asyncio.sleep(0.2)
