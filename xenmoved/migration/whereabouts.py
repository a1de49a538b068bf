"""Where the volumes are of which something was noted.

Whoever asks for a noted volume asks here: by its identity, in all pools. An operator may rename a
file, a logical volume, or the pool in the configuration, and give the name to another volume; what
is on a file system that is not mounted is away, and not gone.

Several pools, and names, may lead to one volume. But where two volumes have one identity, as those
of a file system or group and of its block copy or snapshot, nothing tells which of them a note is
about: none of them is known, and nothing is done with any of them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from storage.canonical import as_if_whole, wholes
from storage.contracts import Entry, Pool, VolumeIdentity, VolumeInfo
from storage.errors import StorageError, VolumeNotFound
from storage.places import around, place_at, places_at

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found of a volume.

    `info` is the volume as it is now, under whatever name, or what has its name where nothing tells
    whether it is that one; None when it was not found, or found twice. One that is `gone` is in no
    pool, and in none that cannot be looked into now; what is under its name, if anything, was
    looked at.
    """

    info: VolumeInfo | None
    gone: bool = False


class Whereabouts:
    """Looks for volumes in the pools of a host as they are now. Everything blocks.

    To be used for one question, and not kept: each pool is asked once what there is in it.
    """

    def __init__(self, pools: Mapping[str, Pool]) -> None:
        self._pools = pools
        self._unseen = False
        """Whether a pool could not be looked into."""

    def look(self) -> Self:
        """Look into all pools now, rather than when it is asked. Raises nothing."""
        _ = self._there
        return self

    def look_for(self, pool: str, name: str, identity: VolumeIdentity) -> Seen:
        """Look for a volume that was noted under a name. Raises nothing."""
        if self.is_twice(identity):
            return Seen(None)
        there, could_look = self._find(pool, name)
        if (info := self._that_is(identity, there)) is not None:
            return Seen(info)
        if there is not None and not (identity and there.identity):
            return Seen(there)
        if not could_look or (there is None and self._is_broken_link(pool, name)):
            return Seen(None)
        if not identity:
            return Seen(None, gone=True)
        may_be = identity, VolumeIdentity(as_if_whole(str(identity)))
        here = any(any(self._entries(one)) for one in may_be) or self._unseen
        return Seen(None, gone=not here and (there is not None or self._would_be_here(pool, name)))

    def is_at(self, pool: str, name: str, identity: VolumeIdentity) -> bool:
        """Whether a volume is under this very name. Raises nothing."""
        return any((other, one.name) == (pool, name) for other, one in self._entries(identity))

    def path(self, identity: VolumeIdentity) -> str | None:
        """Return the path of a volume, None when it is not found, or twice. Raises nothing."""
        if self.is_twice(identity):
            return None
        return next((entry.path for _, entry in self._entries(identity)), None)

    def is_twice(self, identity: VolumeIdentity) -> bool:
        """Whether more than one volume has an identity, so that it tells none. Raises nothing."""
        names = [entry.path for _, entry in self._entries(identity)]
        return len(names) > 1 and len(places_at(names)) > 1

    def names(self, identity: VolumeIdentity) -> list[str]:
        """Return what has an identity, as pool:name. Raises nothing."""
        return [f"{pool}:{entry.name}" for pool, entry in self._entries(identity)]

    def overlapping(self, info: VolumeInfo) -> list[str]:
        """Return what has some bytes of a volume, and not all of them, as pool:name.

        Raises nothing. What has no identity is not looked for.
        """
        wider, devices = set(map(VolumeIdentity, wholes(str(info.identity)))), around(info.path)
        return [
            f"{pool}:{entry.name}"
            for those in self._there.values()
            for pool, entry in those
            if entry.identity in wider
            or info.identity in map(VolumeIdentity, wholes(str(entry.identity)))
            or (devices and place_at(entry.path) in devices)
        ]

    def _that_is(self, identity: VolumeIdentity, there: VolumeInfo | None) -> VolumeInfo | None:
        """Return a volume of an identity: `there`, which has its name, or another one."""
        if there is not None and there.identity == identity:
            return there
        found = (self._find(pool, entry.name)[0] for pool, entry in self._entries(identity))
        return next((one for one in found if one is not None and one.identity == identity), None)

    def _entries(self, identity: VolumeIdentity) -> Iterator[tuple[str, Entry]]:
        """Return what has an identity, and the pools that it is in."""
        those = self._there.get(identity.without_handle, ()) if identity else ()
        return ((pool, entry) for pool, entry in those if entry.identity == identity)

    @cached_property
    def _there(self) -> Mapping[str, list[tuple[str, Entry]]]:
        """All that is in the pools, by identities without handles."""
        found: dict[str, list[tuple[str, Entry]]] = {}
        for pool in self._pools.values():
            try:
                there = pool.everything()
            except StorageError as error:
                log.warning("pool %s cannot be looked into for volumes: %s", pool.name, error)
                self._unseen = True
                continue
            for entry in there:
                found.setdefault(entry.identity.without_handle, []).append((pool.name, entry))
        return found

    def _find(self, pool: str, name: str) -> tuple[VolumeInfo | None, bool]:
        """Return what has a name, and whether that could be looked at.

        What is in a pool that is not configured any more was taken out of it: nothing is there.
        """
        if pool not in self._pools:
            return None, True
        try:
            return self._pools[pool].find(name), True
        except StorageError:
            return None, False

    def _would_be_here(self, pool: str, name: str) -> bool:
        """Whether a volume that is not in a pool is in no place that is merely not there now.

        A pool that makes no volumes has a list of devices, which may come back. What is not listed
        any more was taken out of it.
        """
        if pool not in self._pools:
            return True
        try:
            self._pools[pool].path(name)
            return self._pools[pool].prospect(name, 1) is not None
        except VolumeNotFound:
            return True
        except StorageError:
            return False

    def _is_broken_link(self, pool: str, name: str) -> bool:
        """Whether a name is a link to what is not there now: a disk was moved, and is away.

        Links to devices are udev's, which may remove them a moment after the device is gone.
        """
        if pool not in self._pools or not self._pools[pool].holds_files:
            return False
        try:
            would_be = self._pools[pool].prospect(name, 1)
        except StorageError:
            return True
        return would_be is not None and os.path.lexists(would_be.path)
