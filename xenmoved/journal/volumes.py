"""What the journal has of volumes: which were made for whom, and whose data they hold.

It is kept by identity: of a volume that is known there is one note of either kind, wherever it is
by now, and no other volume that gets its name takes that away. Pool and name are what it was called
when it was noted: `migration.whereabouts` says where it is. Of one without an identity nothing but
the name tells.

The methods are those of `Journal`, and raise JournalFailed like its others.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from storage.contracts import UNKNOWN, PoolFolder, VolumeIdentity
from xenmoved.journal.records import Holding, MadeVolume, read_holding, read_made, row_of
from xenmoved.journal.statements import (
    HOLDING,
    HOLDING_COLUMNS,
    HOLDING_OF,
    IN_IT,
    MADE_COLUMNS,
)

Step: TypeAlias = tuple[str, Sequence[object]]
"""A statement and its values."""

_OF: Final = f"({IN_IT} OR (pool=?1 AND name=?2 AND ifnull(identity, '')=''))"
"""The rows of a volume by pool, name and identity: its own with what is in it, and what was noted
under its name when nothing told it from others."""


def _values(pool: str, name: str, identity: VolumeIdentity) -> tuple[str, str, str, str]:
    """Return ?1 to ?4 of the statements about one volume."""
    return pool, name, str(identity), identity.without_handle


class VolumeTables:
    """The tables `made`, `owners` and `folders`."""

    @abstractmethod
    async def _execute(self, statement: str, *values: object) -> None: ...

    @abstractmethod
    async def _select(self, statement: str, *values: object) -> list[tuple[Any, ...]]: ...

    @abstractmethod
    async def _execute_all(self, *steps: Step) -> None: ...

    async def record_made(self, volume: MadeVolume) -> None:
        """Note a volume, before it is made, and again when it is there."""
        place = _values(volume.pool, volume.name, volume.identity)
        await self._execute_all(
            (f"DELETE FROM made WHERE {_OF}", place),
            (f"INSERT INTO made ({MADE_COLUMNS}) VALUES (?,?,?,?,?,?,?)", row_of(volume)),
        )

    async def forget_volume(self, pool: str, name: str, identity: VolumeIdentity) -> None:
        """Forget a volume that was removed: nothing is under its name now."""
        place = _values(pool, name, identity)
        await self._execute_all(
            *((f"DELETE FROM {table} WHERE {_OF}", place) for table in ("made", "owners"))
        )

    async def forget_made(self, volume: MadeVolume) -> None:
        """Forget that a volume was to be made, or was: what is under its name is another's."""
        place = _values(volume.pool, volume.name, volume.identity)
        await self._execute(
            f"DELETE FROM made WHERE {_OF} AND migration=?5", *place, volume.migration
        )

    async def made(
        self, *, migration: str | None = None, peer: str | None = None
    ) -> list[MadeVolume]:
        """Volumes that were made for a migration, or for a peer."""
        rows = await self._select(
            f"SELECT {MADE_COLUMNS} FROM made "
            "WHERE migration=ifnull(?, migration) AND peer=ifnull(?, peer)",
            migration,
            peer,
        )
        return [read_made(row) for row in rows]

    async def record_folder(self, pool: str, folder: PoolFolder) -> None:
        """Note which folder a pool is."""
        statement = "INSERT OR REPLACE INTO folders (pool, path, identity) VALUES (?,?,?)"
        await self._execute(statement, pool, folder.path, str(folder.identity))

    async def folder_at(self, path: str) -> VolumeIdentity | None:
        """Return which folder was noted for a pool at a path, whatever the pool was called.

        None when none was.
        """
        rows = await self._select("SELECT identity FROM folders WHERE path=?", path)
        return VolumeIdentity(str(rows[0][0])) if rows else None

    async def record_holding(self, holding: Holding) -> None:
        """Note whose data a volume holds."""
        place = _values(holding.pool, holding.name, holding.identity)
        await self._execute_all(
            (f"DELETE FROM owners WHERE {_OF}", place),
            (
                f"INSERT INTO owners ({HOLDING_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
                row_of(holding),
            ),
        )

    async def holding(
        self, pool: str, name: str, identity: VolumeIdentity = UNKNOWN
    ) -> Holding | None:
        """Return whose data a volume holds, None when not known.

        What was noted of a volume of its `identity` is about it, whatever it was called and in
        which pool it was then; it comes before what was noted of another one that had its name.
        """
        rows = await self._select(HOLDING_OF, *_values(pool, name, identity))
        return read_holding(rows[0]) if rows else None

    async def holdings(self) -> list[Holding]:
        """Return what was noted of every volume."""
        return [read_holding(row) for row in await self._select(HOLDING)]

    async def call_otherwise(self, identity: VolumeIdentity, pool: str, name: str) -> None:
        """Note what a volume of which something was noted is called by now."""
        await self._execute(
            "UPDATE owners SET pool=?, name=? WHERE identity=? AND identity!=''",
            *(pool, name, str(identity)),
        )

    async def in_use(self, uuid: str, name: str) -> list[Holding]:
        """Return what was noted of every volume of guests of a uuid or name at home here."""
        where = "since IS NULL AND (owner=? OR guest=?)"
        return [
            read_holding(row) for row in await self._select(f"{HOLDING} WHERE {where}", uuid, name)
        ]

    async def retained(self) -> list[Holding]:
        """Return what was noted of every volume that is retained."""
        rows = await self._select(f"{HOLDING} WHERE since IS NOT NULL ORDER BY pool, name")
        return [read_holding(row) for row in rows]

    async def retain(self, migration: str, place: str, *, moved: bool) -> None:
        """Call retained, from now on, the volumes of a migration whose guest is at a peer.

        With `moved` it went there with that migration.
        """
        await self._execute(
            "UPDATE owners SET since=ifnull(since, ?), place=?, "
            "moved_by=CASE WHEN ? THEN migration ELSE moved_by END WHERE migration=?",
            time.time(),
            place,
            moved,
            migration,
        )

    async def count_kept(self, seconds: float) -> None:
        """Note that all copies that are retained were kept for some seconds more."""
        await self._execute("UPDATE owners SET kept=kept+? WHERE since IS NOT NULL", seconds)

    async def put_to_use(self, migration: str) -> None:
        """Call the volumes of a migration whose guest is here now no longer retained."""
        await self._execute(
            "UPDATE owners SET since=NULL, place='', written=NULL, kept=0, moved_by=migration "
            "WHERE migration=?",
            migration,
        )
