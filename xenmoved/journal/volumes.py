"""What the journal has of volumes: which were made for whom, and whose data they hold.

The methods are those of `Journal`, and raise JournalFailed like its others.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from typing import Any

from storage.contracts import UNKNOWN, PoolFolder, VolumeIdentity
from xenmoved.journal.records import Holding, MadeVolume, read_holding, read_made, row_of
from xenmoved.journal.statements import HOLDING, HOLDING_COLUMNS, HOLDING_OF, MADE_COLUMNS, NOTED


class VolumeTables:
    """The tables `made`, `owners` and `folders`."""

    @abstractmethod
    async def _execute(self, statement: str, *values: object) -> None: ...

    @abstractmethod
    async def _select(self, statement: str, *values: object) -> list[tuple[Any, ...]]: ...

    async def record_made(self, volume: MadeVolume) -> None:
        """Note a volume, before it is made, and again when it is there."""
        await self._execute(
            f"INSERT OR REPLACE INTO made ({MADE_COLUMNS}) VALUES (?,?,?,?,?,?,?)",
            *row_of(volume),
        )

    async def forget_volume(self, pool: str, name: str) -> None:
        """Forget a volume that was removed."""
        await self._execute("DELETE FROM made WHERE pool=? AND name=?", pool, name)
        await self._execute("DELETE FROM owners WHERE pool=? AND name=?", pool, name)

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

    async def folder_at(self, pool: str, path: str) -> VolumeIdentity | None:
        """Return which folder was noted for a pool, None when none was noted at that path."""
        statement = "SELECT identity FROM folders WHERE pool=? AND path=?"
        rows = await self._select(statement, pool, path)
        return VolumeIdentity(str(rows[0][0])) if rows else None

    async def record_holding(self, holding: Holding) -> None:
        """Note whose data a volume holds."""
        await self._execute(
            f"INSERT OR REPLACE INTO owners ({HOLDING_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
            *row_of(holding),
        )

    async def holding(
        self, pool: str, name: str, identity: VolumeIdentity = UNKNOWN
    ) -> Holding | None:
        """Return whose data a volume holds, None when not known.

        What was noted of a volume of its `identity` is about it, whatever it was called and in
        which pool it was then; it comes before what was noted of another one that had its name.
        """
        rows = await self._select(HOLDING_OF, pool, name, str(identity))
        return read_holding(rows[0]) if rows else None

    async def places_noted(self) -> list[tuple[str, str, VolumeIdentity]]:
        """Return pool, name and identity of all volumes of which something was noted."""
        rows = await self._select(NOTED)
        return [(pool, name, VolumeIdentity(identity or "")) for pool, name, identity in rows]

    async def identities_noted(self, pool: str, name: str) -> list[VolumeIdentity]:
        """Return which volumes were noted under a name, of those that are known."""
        rows = await self._select(
            f"SELECT identity FROM ({NOTED}) WHERE pool=? AND name=?", pool, name
        )
        return [VolumeIdentity(identity) for (identity,) in rows if identity]

    async def call_otherwise(
        self, before: tuple[str, str], now: tuple[str, str], identity: VolumeIdentity
    ) -> None:
        """Note that a volume of which something was noted has another name, or pool, by now."""
        for table in ("owners", "made"):
            await self._execute(
                f"UPDATE OR REPLACE {table} SET pool=?, name=? "
                "WHERE pool=? AND name=? AND identity=?",
                *(*now, *before, str(identity)),
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
