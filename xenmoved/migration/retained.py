"""Copies of volumes that stay when their guest has gone: who needs them, and dropping them.

A copy is dropped only if the journal knows it as retained, it still is the volume that the journal
knows, and nobody could need it: no domain, no configuration of a guest here, no migration that is
not settled. Whoever doubts keeps it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from protocol.messages import Problem
from storage.contracts import VolumeIdentity, VolumeInfo
from storage.errors import StorageError, VolumeReplaced
from xenmoved.journal.records import Holding
from xenmoved.migration.host import Host
from xenmoved.migration.removal import remove_noted
from xenmoved.migration.report import Retained, VolumeRow, Volumes
from xenmoved.migration.volume_needs import Needs, against, needs
from xenmoved.migration.volume_notes import is_held, when_let_go
from xenmoved.problems import Obstructed, problem, problems_of
from xenmoved.toolstack.interface import ToolstackError
from xenmoved.units import format_duration

log = logging.getLogger(__name__)

_MOST: Final = 4096

_UNUSED: Final = "only what nobody needs is dropped"


@dataclass(frozen=True, slots=True)
class Copy:
    """A volume that is here, with what was noted of it if it is certain to be that one."""

    row: VolumeRow
    holding: Holding | None


async def list_volumes(host: Host) -> Volumes:
    """Describe the volumes of every pool. Raises ToolstackError."""
    there, problems = await listed(host, await needs(host))
    return Volumes(tuple(one.row for one in there[:_MOST]), tuple(problems))


async def copies(host: Host, found: Needs) -> list[tuple[VolumeRow, Holding]]:
    """Return the copies that are retained and are here, each under the name that it has now."""
    there, _ = await listed(host, found)
    return [(one.row, one.holding) for one in _once(there) if one.holding is not None]


def _once(there: Iterable[Copy]) -> list[Copy]:
    """Return each copy once that two pools or names lead to: as it was noted, if it can be."""
    found: dict[VolumeIdentity, Copy] = {}
    for one in there:
        if one.holding is not None and (
            one.holding.identity not in found
            or (one.row.pool, one.row.name) == (one.holding.pool, one.holding.name)
        ):
            found[one.holding.identity] = one
    return list(found.values())


async def listed(host: Host, found: Needs) -> tuple[list[Copy], list[Problem]]:
    """Describe the volumes of every pool, of whose users `found` tells."""
    holdings = {one.identity: one for one in await host.journal.retained() if one.identity}
    there: list[Copy] = []
    problems = list(found.unknown)
    for pool in host.pools.values():
        try:
            infos = await asyncio.to_thread(pool.volumes)
        except StorageError as error:
            problems += problems_of(error)
            continue
        for info in infos:
            holding = holdings.get(info.identity)
            if holding is not None and found.whereabouts.is_twice(holding.identity):
                holding = None
            there.append(_described(info, holding, found))
    there.sort(key=lambda one: (one.row.pool, one.row.name))
    return there, problems


def _described(info: VolumeInfo, holding: Holding | None, found: Needs) -> Copy:
    users = found.users(info)
    if info.in_use is not None:
        users.append(info.in_use)
    if holding is None or holding.since is None or not is_held(holding, info):
        retained = holding = None
    else:
        retained = Retained(holding.guest, holding.owner, holding.since, holding.place)
    about = info.pool, info.name, info.path, info.size, info.allocated
    return Copy(VolumeRow(*about, tuple(users[:256]), retained), holding)


async def obstacles(host: Host, row: VolumeRow, found: Needs) -> list[Problem]:
    """Return everything that speaks against dropping a volume. Raises StorageError.

    Who merely has it open is told by the pool, and may be gone in a moment.
    """
    info = await asyncio.to_thread(host.pools[row.pool].find, row.name)
    if info is None:
        return []
    holding = await host.journal.holding(row.pool, row.name, info.identity)
    problems = against(found, info, holding, _UNUSED)
    if holding is None or holding.since is None or not is_held(holding, info):
        text = f"{row.pool}:{row.name} is not known to be a copy that is kept of a guest that went"
        hint = "xenmovectl volumes shows those that are; remove others by hand"
        problems.insert(0, problem("not-retained", f"{text} away", hint))
    return problems


async def drop_chosen(
    host: Host, *, volume: str | None = None, guest: str | None = None, confirmed: bool
) -> Volumes:
    """Drop one volume (pool:name) or all of a guest if that is `confirmed`. Returns which.

    Raises Obstructed, with everything that speaks against it, ToolstackError or StorageError.
    """
    chosen = await _chosen(host, volume, guest)
    if confirmed:
        for one in chosen:
            assert one.holding is not None  # what is not known as a copy was refused
            await drop(host, one.row, one.holding)
    return Volumes(tuple(one.row for one in chosen))


async def _chosen(host: Host, volume: str | None, guest: str | None) -> list[Copy]:
    found = await needs(host)
    there, unseen = await listed(host, found)
    if guest is not None:
        chosen = _once(one for one in there if _is_copy_of(one.row, guest))
        text = f"no copies of a guest {guest} are kept here"
    else:
        chosen = [one for one in there if f"{one.row.pool}:{one.row.name}" == volume]
        text = f"there is no volume {volume} here"
    if not chosen:
        hint = "xenmovectl volumes lists what is kept"
        raise Obstructed([problem("volume-missing", text, hint), *unseen])
    problems: list[Problem] = []
    for row in (one.row for one in chosen):
        problems += await obstacles(host, row, found)
        pool = host.pools[row.pool]
        info = await asyncio.to_thread(pool.find, row.name)
        if info is not None and info.in_use is not None:
            text = f"{row.pool}:{row.name} is in use: {info.in_use}"
            problems.append(problem("volume-in-use", text, _UNUSED))
        if await asyncio.to_thread(pool.capacity) is None:
            text = f"pool {row.pool} removes no volumes: {row.name} is removed by hand"
            problems.append(problem("volume-kind", text, f"it is {row.path}"))
    if problems:
        raise Obstructed(problems)
    return chosen


def _is_copy_of(row: VolumeRow, guest: str) -> bool:
    return row.retained is not None and guest in (row.retained.guest, row.retained.uuid)


async def drop(host: Host, row: VolumeRow, copy: Holding, *, besides: str = "") -> None:
    """Remove a volume if it still is that copy, and nobody needs it now; nor the job `besides`.

    Raises Obstructed, ToolstackError or StorageError.
    """
    pool = host.pools[row.pool]
    async with host.making:
        if problems := await obstacles(host, row, await needs(host, besides=besides)):
            raise Obstructed(problems)
        info = await asyncio.to_thread(pool.find, row.name)
        if info is None or info.identity != copy.identity:
            raise VolumeReplaced(f"{row.pool}:{row.name} was removed or renamed")
        await remove_noted(host, row.pool, row.name, copy.identity)
    kept = format_duration(max(0.0, time.time() - (copy.since or 0.0)))
    log.info(
        "dropped %s:%s, the copy of %s (uuid %s) that went to %s, kept for %s",
        *(row.pool, row.name, copy.guest, copy.owner, copy.place, kept),
    )


async def drop_source(host: Host, migration: str, job: str) -> list[Problem]:
    """Drop the copies of a guest that its job has moved; return why some of them stay."""
    try:
        return await when_let_go(lambda: _drop_all(host, migration, job))
    except (ToolstackError, StorageError, OSError) as error:
        return list(problems_of(error))


async def _drop_all(host: Host, migration: str, job: str) -> list[Problem]:
    """Drop what nobody needs; return what speaks against the rest. Raises VolumeInUse."""
    left: list[Problem] = []
    for row, copy in await copies(host, await needs(host, besides=job)):
        if copy.migration == migration:
            try:
                await drop(host, row, copy, besides=job)
            except Obstructed as error:
                left += error.problems
    return left
