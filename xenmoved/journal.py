"""What the daemon must know after a crash: ownership of guests, volumes that it made, jobs.

A sqlite database in WAL mode with synchronous=FULL: when a method returns, what it wrote survives
the loss of power. All work is done in one thread of its own, in the order of the calls.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from protocol.handover import SourceState, TargetState
from storage.identity import UNKNOWN, Identity

T = TypeVar("T")

KEPT_JOBS: Final = 500
"""Ended jobs that are remembered."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS outbound (
    migration TEXT PRIMARY KEY, state TEXT NOT NULL, guest TEXT NOT NULL, peer TEXT NOT NULL,
    job TEXT NOT NULL, settled INTEGER NOT NULL, updated REAL NOT NULL);
CREATE TABLE IF NOT EXISTS inbound (
    migration TEXT PRIMARY KEY, state TEXT NOT NULL, peer TEXT NOT NULL, reason TEXT NOT NULL,
    job TEXT NOT NULL, details TEXT NOT NULL, settled INTEGER NOT NULL, updated REAL NOT NULL);
CREATE TABLE IF NOT EXISTS made (
    migration TEXT NOT NULL, pool TEXT NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL,
    peer TEXT NOT NULL, PRIMARY KEY (pool, name));
CREATE TABLE IF NOT EXISTS owners (
    pool TEXT NOT NULL, name TEXT NOT NULL, owner TEXT NOT NULL, PRIMARY KEY (pool, name));
CREATE TABLE IF NOT EXISTS jobs (
    job TEXT PRIMARY KEY, started REAL NOT NULL, ended INTEGER NOT NULL, report TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS samples (job TEXT PRIMARY KEY, samples TEXT NOT NULL);
"""
_LATER_COLUMNS: Final = {
    "outbound": ("uuid TEXT NOT NULL DEFAULT ''",),
    "made": ("identity TEXT DEFAULT ''",),
    "owners": (
        *("guest TEXT NOT NULL DEFAULT ''", "identity TEXT", "migration TEXT NOT NULL DEFAULT ''"),
        *("since REAL", "place TEXT NOT NULL DEFAULT ''", "written INTEGER"),
        *("kept REAL NOT NULL DEFAULT 0", "moved_by TEXT NOT NULL DEFAULT ''"),
    ),
}
"""What journals of earlier releases do not have."""


@dataclass(frozen=True, slots=True)
class Outbound:
    """A migration that leaves this host. `uuid` is the guest's, "" in records of old releases."""

    migration: str
    state: SourceState
    guest: str
    peer: str
    job: str
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class Inbound:
    """A migration that comes to this host. `details` is plain data of its owner's choice."""

    migration: str
    state: TargetState
    peer: str
    reason: str
    job: str
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Standing:
    """A migration that may need an operator, at the source or the target.

    `since`: the moment (seconds since 1970) at which it came into its state. `other_name`: what the
    other host calls the guest, "" for the same.
    """

    migration: str
    state: SourceState | TargetState
    guest: str
    peer: str
    job: str
    settled: bool
    since: float
    other_name: str = ""


@dataclass(frozen=True, slots=True)
class MadeVolume:
    """A volume that was made for a peer. `size` in bytes.

    `identity` is not known until the volume is known to be there.
    """

    migration: str
    pool: str
    name: str
    size: int
    peer: str
    identity: Identity = UNKNOWN


@dataclass(frozen=True, slots=True)
class Holding:
    """Whose data a volume holds: `owner` is a guest's uuid, or a sync's source.

    `identity` is the volume's. `migration` is the last one that read or wrote it, `moved_by` the
    last one with which its guest came or went. A copy that is retained is so `since` that moment
    (seconds since 1970, by a clock that may have been wrong), and its guest went to, or never came
    from, the peer `place`. It was `written` last then (nanoseconds since 1970, None where nothing
    tells), and was seen to be `kept` for so many seconds.
    """

    pool: str
    name: str
    owner: str
    guest: str = ""
    identity: Identity = UNKNOWN
    migration: str = ""
    since: float | None = None
    place: str = ""
    written: int | None = None
    kept: float = 0.0
    moved_by: str = ""


class Journal:
    """The database. Construct, `open`, and `close` at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._database: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Open the database, making it when it is not there. Raises sqlite3.Error, OSError."""

        def work() -> None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            database = sqlite3.connect(self._path, isolation_level=None)
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            database.executescript(_SCHEMA)
            for table, columns in _LATER_COLUMNS.items():
                _add_columns(database, table, columns)
            self._database = database

        await self._run(work)

    async def close(self) -> None:
        """Close the database. Idempotent."""
        if self._database is not None:
            await self._run(self._database.close)
            self._database = None
        self._thread.shutdown()

    async def record_outbound(self, entry: Outbound, *, settled: bool = False) -> None:
        """Write the state of a migration that leaves."""
        await self._execute(
            "INSERT INTO outbound (migration, state, guest, peer, job, settled, updated, uuid) "
            "VALUES (?,?,?,?,?,?,?,?) ON CONFLICT (migration) DO UPDATE SET "
            f"state=excluded.state, settled=excluded.settled, {_UPDATED}",
            entry.migration,
            entry.state.value,
            entry.guest,
            entry.peer,
            entry.job,
            settled,
            time.time(),
            entry.uuid,
        )

    async def supersede_outbound(self, guest: str) -> list[str]:
        """Call settled what earlier migrations of a guest left to do, but for one in doubt.

        To be called when the guest is seen to run here. Returns the migrations.
        """
        return await self._supersede("outbound", "guest=? AND state<>'commit-sent'", guest)

    async def unsettled_outbound(self) -> list[Outbound]:
        """Migrations that left something to do here."""
        rows = await self._select(
            "SELECT migration, state, guest, peer, job, uuid FROM outbound WHERE NOT settled"
        )
        return [Outbound(m, SourceState(state), *rest) for m, state, *rest in rows]

    async def record_inbound(self, entry: Inbound, *, settled: bool = False) -> None:
        """Write the state of a migration that comes."""
        await self._execute(
            "INSERT INTO inbound VALUES (?,?,?,?,?,?,?,?) ON CONFLICT (migration) DO UPDATE SET "
            "state=excluded.state, reason=excluded.reason, details=excluded.details, "
            f"settled=excluded.settled, {_UPDATED}",
            entry.migration,
            entry.state.value,
            entry.peer,
            entry.reason,
            entry.job,
            json.dumps(entry.details),
            settled,
            time.time(),
        )

    async def inbound(self, migration: str) -> Inbound | None:
        """Return one migration that came, None when it is not known."""
        rows = await self._select(f"{_INBOUND} WHERE migration=?", migration)
        return _inbound(rows[0]) if rows else None

    async def supersede_inbound(self, guest: str) -> list[str]:
        """Call settled what earlier migrations of a guest that never came left to do here.

        To be called before the guest comes again. Returns the migrations.
        """
        condition = "json_extract(details, '$.name')=? AND state='aborted'"
        return await self._supersede("inbound", condition, guest)

    async def unsettled_inbound(self) -> list[Inbound]:
        """Migrations that left something to do here."""
        return [_inbound(row) for row in await self._select(f"{_INBOUND} WHERE NOT settled")]

    async def standing(self) -> list[Standing]:
        """Migrations in doubt, and those that an operator decided or has to put right."""
        outbound = await self._select(
            "SELECT migration, state, guest, peer, job, settled, updated, "
            "(SELECT json_extract(report, '$.other_name') FROM jobs WHERE job=outbound.job) "
            "FROM outbound WHERE state IN ('commit-sent', 'kept', 'given-up', 'ran-twice', 'lost')"
        )
        inbound = await self._select(
            "SELECT migration, state, json_extract(details, '$.name'), peer, job, settled, "
            "updated, json_extract(details, '$.source_name') FROM inbound "
            "WHERE state IN ('committed', 'ran-twice')"
        )
        return [
            *(_standing(SourceState, row) for row in outbound),
            *(_standing(TargetState, row) for row in inbound),
        ]

    async def record_made(self, volume: MadeVolume) -> None:
        """Note a volume, before it is made, and again when it is there."""
        await self._execute(
            "INSERT OR REPLACE INTO made (migration, pool, name, size, peer, identity) "
            "VALUES (?,?,?,?,?,?)",
            *_values(volume),
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
            "SELECT migration, pool, name, size, peer, identity FROM made "
            "WHERE migration=ifnull(?, migration) AND peer=ifnull(?, peer)",
            migration,
            peer,
        )
        return [_made(row) for row in rows]

    async def record_holding(self, holding: Holding) -> None:
        """Note whose data a volume holds."""
        await self._execute(
            f"INSERT OR REPLACE INTO owners ({_HOLDING_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
            *_values(holding),
        )

    async def holding(self, pool: str, name: str) -> Holding | None:
        """Return whose data a volume holds, None when not known."""
        rows = await self._select(f"{_HOLDING} WHERE pool=? AND name=?", pool, name)
        return _holding(rows[0]) if rows else None

    async def retained(self) -> list[Holding]:
        """Return what was noted of every volume that is retained."""
        rows = await self._select(f"{_HOLDING} WHERE since IS NOT NULL ORDER BY pool, name")
        return [_holding(row) for row in rows]

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

    async def record_job(self, job: str, started: float, ended: bool, report: object) -> None:
        """Keep a job's report (plain data), dropping the oldest ended ones."""
        text = json.dumps(report)
        await self._execute(
            "INSERT OR REPLACE INTO jobs VALUES (?,?,?,?)", job, started, ended, text
        )
        await self._execute(
            "DELETE FROM jobs WHERE ended AND job NOT IN "
            "(SELECT job FROM jobs ORDER BY started DESC LIMIT ?)",
            KEPT_JOBS,
        )

    async def record_samples(self, job: str, samples: object) -> None:
        """Keep what a job that is kept had sent by when (plain data), apart from its report."""
        text = json.dumps(samples)
        await self._execute("INSERT OR REPLACE INTO samples VALUES (?,?)", job, text)
        await self._execute("DELETE FROM samples WHERE job NOT IN (SELECT job FROM jobs)")

    async def samples(self, job: str) -> list[Any]:
        """Return what `record_samples` was given, nothing where it was not called."""
        rows = await self._select("SELECT samples FROM samples WHERE job=?", job)
        return list(json.loads(rows[0][0])) if rows else []

    async def jobs(self) -> list[Any]:
        """Return the reports of all jobs that are kept, newest first, as plain data."""
        rows = await self._select("SELECT report FROM jobs ORDER BY started DESC")
        return [json.loads(row[0]) for row in rows]

    async def _supersede(self, table: str, condition: str, value: str) -> list[str]:
        where = f"WHERE NOT settled AND {condition}"
        rows = await self._select(f"SELECT migration FROM {table} {where}", value)
        await self._execute(f"UPDATE {table} SET settled=1 {where}", value)
        return [migration for (migration,) in rows]

    async def _execute(self, statement: str, *values: object) -> None:
        await self._run(lambda: self._connection().execute(statement, values).close())

    async def _select(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        return await self._run(lambda: self._connection().execute(statement, values).fetchall())

    def _connection(self) -> sqlite3.Connection:
        if self._database is None:
            raise sqlite3.ProgrammingError("the journal is not open")
        return self._database

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


_UPDATED: Final = "updated=CASE state WHEN excluded.state THEN updated ELSE excluded.updated END"
_HOLDING_COLUMNS: Final = (
    "pool, name, owner, guest, identity, migration, since, place, written, kept, moved_by"
)
_HOLDING: Final = f"SELECT {_HOLDING_COLUMNS} FROM owners"
_INBOUND: Final = "SELECT migration, state, peer, reason, job, details FROM inbound"


def _add_columns(database: sqlite3.Connection, table: str, columns: Iterable[str]) -> None:
    there = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
    for column in columns:
        if column.split()[0] not in there:
            database.execute(f"ALTER TABLE {table} ADD COLUMN {column}")


def _standing(kind: type[SourceState] | type[TargetState], row: Iterable[Any]) -> Standing:
    migration, state, guest, peer, job, settled, since, other_name = row
    return Standing(
        migration, kind(state), guest, peer, job, bool(settled), since, other_name or ""
    )


def _values(record: MadeVolume | Holding) -> list[object]:
    values: tuple[object, ...] = astuple(record)
    return [str(value) if isinstance(value, Identity) else value for value in values]


def _identity(text: str | None) -> Identity:
    return Identity(text) if text else UNKNOWN


def _made(row: Iterable[Any]) -> MadeVolume:
    migration, pool, name, size, peer, identity = row
    return MadeVolume(migration, pool, name, size, peer, _identity(identity))


def _holding(row: Iterable[Any]) -> Holding:
    pool, name, owner, guest, identity, *rest = row
    return Holding(pool, name, owner, guest, _identity(identity), *rest)


def _inbound(row: Iterable[Any]) -> Inbound:
    migration, state, peer, reason, job, details = row
    return Inbound(migration, TargetState(state), peer, reason, job, json.loads(details))
