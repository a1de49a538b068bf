"""Volumes that are called otherwise than when something was noted of them.

An operator may rename a file, a logical volume, or the pool in the configuration. What the journal
has of a volume is about that one and no other, so it is noted anew under the name that it has now.
"""

from __future__ import annotations

import asyncio
import logging

from storage.contracts import VolumeIdentity
from storage.errors import StorageError
from xenmoved.journal.database import JournalFailed
from xenmoved.migration.host import Host

Noted = tuple[str, str, VolumeIdentity]

log = logging.getLogger(__name__)


async def follow_volumes(host: Host) -> None:
    """Have the journal call all volumes as they are called now.

    To be called when the daemon begins. Raises nothing: what cannot be found out is told in the
    log, and noted as it was.
    """
    try:
        noted = await host.journal.places_noted()
        away = await asyncio.to_thread(_away, host, noted)
        await _call_as_now(host, away)
    except JournalFailed as error:
        log.error("volumes that were renamed are not looked for: %s", error)


async def follow_volume(host: Host, pool: str, name: str) -> None:
    """Do the same for what was noted of a volume whose name another one is to have, or has.

    To be called before something is noted of that one, which would replace it.
    """
    noted = await host.journal.identities_noted(pool, name)
    if not noted or pool not in host.pools:
        return
    there = await asyncio.to_thread(host.pools[pool].find, name)
    strays = [one for one in noted if there is None or one != there.identity]
    await _call_as_now(host, [(pool, name, one) for one in strays])


async def _call_as_now(host: Host, away: list[Noted]) -> None:
    """Note what volumes that are not where they were are called now, if they are here."""
    if not away:
        return
    now = await asyncio.to_thread(_by_identity, host)
    for pool, name, identity in away:
        if (found := now.get(identity)) is not None:
            log.warning("what was %s:%s is %s:%s now", pool, name, *found)
            await host.journal.call_otherwise((pool, name), found, identity)


def _away(host: Host, noted: list[Noted]) -> list[Noted]:
    return [one for one in noted if one[2] and not _is_there(host, one[0], one[1])]


def _is_there(host: Host, pool: str, name: str) -> bool:
    """Whether a pool has a volume of this name; one that cannot be looked into may have."""
    if pool not in host.pools:
        return False
    try:
        return host.pools[pool].find(name) is not None
    except StorageError:
        return True


def _by_identity(host: Host) -> dict[VolumeIdentity, tuple[str, str]]:
    found: dict[VolumeIdentity, tuple[str, str]] = {}
    for pool in host.pools.values():
        try:
            infos = pool.volumes()
        except StorageError as error:
            log.warning("pool %s cannot be looked into for renamed volumes: %s", pool.name, error)
            continue
        found |= {info.identity: (info.pool, info.name) for info in infos if info.identity}
    return found
