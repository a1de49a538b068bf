"""Copies of volumes that stay when their guest has gone: who needs them, and dropping them.

A copy is dropped only if the journal knows it as retained, it still is the volume that the journal
knows, and nobody could need it: no domain, no configuration of a guest here, no migration that is
not settled. Whoever doubts keeps it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import Final

from protocol.messages import Problem
from storage.contracts import VolumeInfo
from storage.errors import StorageError
from xenmoved.journal.records import Holding
from xenmoved.migration.host import Host
from xenmoved.migration.report import Retained, VolumeRow, Volumes
from xenmoved.migration.volume_needs import Needs, against, needs
from xenmoved.migration.volume_notes import is_held, when_let_go
from xenmoved.problems import Obstructed, problem, problems_of
from xenmoved.toolstack.interface import ToolstackError
from xenmoved.units import format_duration

log = logging.getLogger(__name__)

_MOST: Final = 4096

_UNUSED: Final = "only what nobody needs is dropped"


async def list_volumes(host: Host) -> Volumes:
    """Describe the volumes of every pool. Raises ToolstackError."""
    found = await listed(host, await needs(host))
    return replace(found, volumes=found.volumes[:_MOST])


async def listed(host: Host, found: Needs) -> Volumes:
    """Describe the volumes of every pool, of whose users `found` tells."""
    holdings = {(one.pool, one.name): one for one in await host.journal.retained()}
    rows: list[VolumeRow] = []
    problems = list(found.unknown)
    for pool in host.pools.values():
        try:
            infos = await asyncio.to_thread(pool.volumes)
        except StorageError as error:
            problems += problems_of(error)
            continue
        rows += [_row(info, holdings.get((info.pool, info.name)), found) for info in infos]
    rows.sort(key=lambda row: (row.pool, row.name))
    return Volumes(tuple(rows), tuple(problems))


def _row(info: VolumeInfo, holding: Holding | None, found: Needs) -> VolumeRow:
    users = found.users(info)
    if info.in_use is not None:
        users.append(info.in_use)
    retained = None
    if holding is not None and holding.since is not None and is_held(holding, info):
        retained = Retained(holding.guest, holding.owner, holding.since, holding.place)
    return VolumeRow(
        *(info.pool, info.name, info.path, info.size, info.allocated), tuple(users[:256]), retained
    )


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
    rows = await _chosen(host, volume, guest)
    if not confirmed:
        return Volumes(rows)
    for row in rows:
        await drop(host, row)
    return Volumes(rows)


async def _chosen(host: Host, volume: str | None, guest: str | None) -> tuple[VolumeRow, ...]:
    found = await needs(host)
    there = await listed(host, found)
    if guest is not None:
        rows = [row for row in there.volumes if _is_copy_of(row, guest)]
        text = f"no copies of a guest {guest} are kept here"
    else:
        rows = [row for row in there.volumes if f"{row.pool}:{row.name}" == volume]
        text = f"there is no volume {volume} here"
    if not rows:
        hint = "xenmovectl volumes lists what is kept"
        raise Obstructed([problem("volume-missing", text, hint), *there.problems])
    problems: list[Problem] = []
    for row in rows:
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
    return tuple(rows)


def _is_copy_of(row: VolumeRow, guest: str) -> bool:
    return row.retained is not None and guest in (row.retained.guest, row.retained.uuid)


async def drop(host: Host, row: VolumeRow, *, besides: str = "") -> None:
    """Remove a volume, if nobody needs it now; the job `besides` does not count.

    Raises Obstructed, ToolstackError or StorageError.
    """
    assert row.retained is not None
    async with host.making:
        if problems := await obstacles(host, row, await needs(host, besides=besides)):
            raise Obstructed(problems)
        await asyncio.to_thread(host.pools[row.pool].remove, row.name)
        await host.journal.forget_volume(row.pool, row.name)
    kept = format_duration(max(0.0, time.time() - row.retained.since))
    log.info(
        "dropped %s:%s, the copy of %s (uuid %s) that went to %s, kept for %s",
        *(row.pool, row.name, row.retained.guest, row.retained.uuid, row.retained.place, kept),
    )


async def drop_source(host: Host, migration: str, job: str) -> list[Problem]:
    """Drop the copies of a guest that its job has moved; return why some of them stay."""
    places = {
        (one.pool, one.name) for one in await host.journal.retained() if one.migration == migration
    }
    try:
        return await when_let_go(lambda: _drop_all(host, places, job))
    except (ToolstackError, StorageError, OSError) as error:
        return list(problems_of(error))


async def _drop_all(host: Host, places: set[tuple[str, str]], job: str) -> list[Problem]:
    """Drop what nobody needs; return what speaks against the rest. Raises VolumeInUse."""
    left: list[Problem] = []
    for row in (await listed(host, await needs(host, besides=job))).volumes:
        if (row.pool, row.name) in places and row.retained is not None:
            try:
                await drop(host, row, besides=job)
            except Obstructed as error:
                left += error.problems
    return left
