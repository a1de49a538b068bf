"""Copies of volumes that stay when their guest has gone: who needs them, and dropping them.

A copy is dropped only if the journal knows it as retained, it still is the volume that the journal
knows, and nobody could need it: no domain, no configuration of a guest here, no migration that is
not settled. Whoever doubts keeps it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from protocol.messages import Problem
from storage.contracts import VolumeInfo
from storage.errors import StorageError, VolumeReplaced
from xenmoved.config.units import format_duration
from xenmoved.control.api import Done
from xenmoved.control.volume_api import DropVolumes, Retained, VolumeRow, Volumes
from xenmoved.journal import Holding
from xenmoved.migration.holdings import is_held, known_holding, when_let_go
from xenmoved.migration.host import Host
from xenmoved.problems import Refused, problem, problems_of
from xenmoved.toolstack.interface import ToolstackError, guests_among

log = logging.getLogger(__name__)

_PATHS: Final = re.compile(r"""(?:(?<=phy:)|(?=/))[^\s'",;\[\]()]+""")
"""What may be a path in a configuration, in whatever syntax; after `phy:` it may be below /dev."""

_IMAGES: Final = re.compile(r"\b(qcow2?|vhd|qed|vmdk|vdi)\b", re.IGNORECASE)

_MOST: Final = 4096

Place = tuple[str, str]
"""Names of a pool and of a volume in it."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Who needs which volumes of this host, as of one moment."""

    users: dict[Place, list[str]]
    guests: set[str]
    """Names and uuids of the guests that are here."""
    undecided: set[str]
    """Names and uuids of guests with a migration that is not settled."""
    unknown: tuple[Problem, ...] = ()
    """Guests that run here and cannot be described: each may need any volume."""


async def needs(host: Host, *, besides: str = "") -> Needs:
    """Look who needs which volumes; the job `besides` does not count. Raises ToolstackError."""
    unknown: list[Problem] = []
    guests: set[str] = set()
    paths: list[tuple[str, str]] = []
    for status, domain in guests_among(await host.toolstack.describe_all()):
        if isinstance(domain, ToolstackError):
            text = f"{status.name} runs here, and what it needs cannot be found out: {domain}"
            unknown.append(problem("guest-unclear", text, "nothing is dropped while it is so"))
            guests.add(status.name)
            continue
        guests |= {domain.name, domain.uuid}
        paths += [(f"disk of {domain.name}", disk.path) for disk in domain.disks if disk.path]
    paths += _named(await host.toolstack.configurations())
    users = await asyncio.to_thread(_by_place, host, paths)
    undecided = {one.guest for one in await host.journal.unsettled_outbound()}
    for arriving in await host.journal.unsettled_inbound():
        # It may have had another name when it left its copies here.
        undecided |= {arriving.details["name"], arriving.details["uuid"]}
    undecided |= {one.guest for one in await host.journal.standing()}
    undecided |= {job.guest for job in host.jobs.live if job.job != besides}
    return Needs(users, guests, undecided, tuple(unknown))


async def named_in_files(host: Host) -> dict[Place, list[str]]:
    """Return the volumes that files of guests name which are at home here, running or not.

    A file that came and waits for its operator is nobody's yet. Raises ToolstackError.
    """
    texts = await host.toolstack.configurations()
    used = {file: text for file, text in texts.items() if not file.endswith(".received")}
    return await asyncio.to_thread(_by_place, host, _named(used))


def _named(texts: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(f"named in {file}", path) for file, text in texts.items() for path in _paths(text)]


@dataclass(frozen=True, slots=True)
class Imagery:
    """A configuration that speaks of disks that are not raw."""

    file: str
    text: str
    formats: frozenset[str]
    paths: frozenset[str]
    """All paths in it, links followed. One with blanks is not among them, only in the text."""


async def imagery(host: Host) -> list[Imagery]:
    """Return the configurations that speak of disks that are not raw.

    Those of guests that moved away count, as they come back to life with the guest. Raises
    ToolstackError.
    """
    return await asyncio.to_thread(_imagery, await host.toolstack.configurations(moved=True))


def _imagery(texts: Mapping[str, str]) -> list[Imagery]:
    return [
        Imagery(file, text, formats, frozenset(map(os.path.realpath, _paths(text))))
        for file, text in texts.items()
        if (formats := frozenset(word.lower() for word in _IMAGES.findall(text)))
    ]


def _paths(text: str) -> Iterator[str]:
    for found in _PATHS.findall(text):
        yield found if found.startswith("/") else f"/dev/{found}"


def _by_place(host: Host, paths: Iterable[tuple[str, str]]) -> dict[Place, list[str]]:
    users: dict[Place, list[str]] = defaultdict(list)
    for user, path in dict.fromkeys(paths):
        for pool in host.pools.values():
            if (name := pool.locate(path)) is not None:
                users[pool.name, name].append(user)
    return dict(users)


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
    users = list(found.users.get((info.pool, info.name), ()))
    if info.in_use is not None:
        users.append(info.in_use)
    retained = None
    if holding is not None and holding.since is not None and is_held(holding, info):
        retained = Retained(holding.guest, holding.owner, holding.since, holding.place)
    return VolumeRow(
        *(info.pool, info.name, info.path, info.size, info.allocated), tuple(users[:256]), retained
    )


def obstacles(row: VolumeRow, found: Needs) -> list[Problem]:
    """Return everything that speaks against dropping a volume."""
    shown = f"{row.pool}:{row.name}"
    problems = [
        problem("volume-in-use", f"{shown} is needed: {user}", "only what nobody needs is dropped")
        for user in row.users
    ]
    if row.retained is None:
        text = f"{shown} is not known to be a copy that is kept of a guest that went away"
        hint = "xenmovectl volumes shows those that are; remove others by hand"
        return [problem("not-retained", text, hint), *problems]
    problems += found.unknown
    guest = row.retained.guest
    if found.guests & {guest, row.retained.uuid}:
        text = f"{shown} is a copy of {guest}, which is here"
        hint = "if it is of no use, remove it by hand, or drop it when the guest has gone"
        problems.append(problem("guest-here", text, hint))
    if found.undecided & {guest, row.retained.uuid}:
        text = f"{shown} is a copy of {guest}, of which a migration is not settled"
        problems.append(problem("unsettled", text, "see: xenmovectl jobs; xenmovectl recover"))
    return problems


async def drop_chosen(host: Host, request: DropVolumes) -> Volumes | Done:
    """Drop what was asked for, or return what that would be.

    Raises Refused, with everything that speaks against it, ToolstackError or StorageError.
    """
    rows = await _chosen(host, request.volume, request.guest)
    if not request.confirmed:
        return Volumes(rows)
    for row in rows:
        await drop(host, row)
    return Done(f"dropped {', '.join(f'{row.pool}:{row.name}' for row in rows)}")


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
        raise Refused([problem("volume-missing", text, hint), *there.problems])
    problems = [each for row in rows for each in obstacles(row, found)]
    for row in rows:
        if await asyncio.to_thread(host.pools[row.pool].capacity) is None:
            text = f"pool {row.pool} removes no volumes: {row.name} is removed by hand"
            problems.append(problem("volume-kind", text, f"it is {row.path}"))
    if problems:
        raise Refused(problems)
    return tuple(rows)


def _is_copy_of(row: VolumeRow, guest: str) -> bool:
    return row.retained is not None and guest in (row.retained.guest, row.retained.uuid)


async def drop(host: Host, row: VolumeRow) -> None:
    """Remove a volume that `obstacles` has nothing against. Raises StorageError."""
    assert row.retained is not None
    async with host.making:
        holding = await known_holding(host, row.pool, row.name)
        if holding is None or holding.since is None:
            raise VolumeReplaced(f"{row.pool}:{row.name} is not the copy any more that was kept")
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


async def _drop_all(host: Host, places: set[Place], job: str) -> list[Problem]:
    """Drop what nobody needs; return what speaks against the rest. Raises VolumeInUse."""
    found = await needs(host, besides=job)
    left: list[Problem] = []
    for row in (await listed(host, found)).volumes:
        place = (row.pool, row.name)
        if place not in places:
            continue
        # Who merely has it open is asked again by the pool, and may be gone in a moment.
        problems = obstacles(replace(row, users=tuple(found.users.get(place, ()))), found)
        if not problems:
            await drop(host, row)
        left += problems
    return left
