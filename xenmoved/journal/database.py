"""What the daemon must know after a crash: ownership of guests, volumes that it made, jobs.

A sqlite database in WAL mode with synchronous=FULL: when a method returns, what it wrote survives
the loss of power. All work is done in one thread of its own, in the order of the calls.

Where the database cannot be written, every method that would raises JournalFailed, within a limit
also when the disk hangs; what it says can still be read, from a copy if need be. `mend` tries to
come back. Some space is kept for what decides over guests; reports of jobs get none of it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path
from typing import Any, Final, TypeVar

from protocol.handover import SourceState, TargetState
from xenmoved.journal.file import LAYOUT, copied, is_about_space, layout_of, prepared
from xenmoved.journal.records import (
    Inbound,
    NotedKey,
    Outbound,
    Standing,
    read_inbound,
    read_outbound,
    read_standing,
    without_what_is_done,
)
from xenmoved.journal.reserve import Reserve
from xenmoved.journal.statements import (
    DROP_OLD_JOBS,
    INBOUND,
    OLD_ATTEMPTS,
    SHORTEN_OLD,
    STANDING_IN,
    STANDING_OUT,
    UPDATED,
    WITH_IDS,
)
from xenmoved.journal.volumes import Step, VolumeTables
from xenmoved.tasks import all_done, retrieve

log = logging.getLogger(__name__)

T = TypeVar("T")

_PATIENCE: Final = 30.0
"""Seconds that the disk may take for one record before it counts as failed."""

KEPT_JOBS: Final = 500
"""Ended jobs that are remembered, beside those that count apart."""
KEPT_APART: Final = 50
"""Ended jobs that are remembered of those that count apart together."""
KEPT_ATTEMPTS: Final = 200
"""Settled migrations of one peer that are remembered though they never were ready."""
KEPT_IN_FULL: Final = 200
"""Settled migrations of one peer of which remarks and the whole reason are remembered."""
_REASON_LENGTH: Final = 4000
"""Characters that are kept of why a migration ended: no message has room for more."""


class JournalFailed(Exception):
    """The journal could not be read or written. The message says why."""


class Journal(VolumeTables):
    """The database. Construct, `open`, and `close` at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._database: sqlite3.Connection | None = None
        self._reserve = Reserve(path.with_name(f"{path.name}.reserve"))
        self._under_way: asyncio.Future[Any] | None = None
        self.trouble: str | None = None
        """Why it cannot be written, None while it can."""

    async def open(self) -> None:
        """Open the database, making it when it is not there.

        One that can only be read is read. Raises JournalFailed when that cannot be done either.
        """

        def work() -> None:
            try:
                self._database = self._connect()
            except (sqlite3.Error, OSError) as error:
                self.trouble = str(error)
                self._database = copied(self._path)
                return
            self._reserve.make()

        await self._run(work, "opened")

    async def mend(self) -> bool:
        """Try to write again where that failed, and keep space again; return whether it works."""

        def work() -> None:
            if self.trouble is not None:
                fresh, old = self._connect(), self._database
                self._database, self.trouble = fresh, None
                if old is not None:
                    old.close()
            self._reserve.make()

        try:
            await self._run(work, "written")
        except JournalFailed as error:
            log.debug("%s", error)
        return self.trouble is None

    @property
    def alarm(self) -> str | None:
        """What an operator must know of it, None when all is well."""
        if self.trouble is not None:
            return f"the journal {self._path} cannot be written: {self.trouble}"
        if not self._reserve.there:
            folder = self._path.parent
            return f"the file system of {folder} is full: only what decides over guests is recorded"
        return None

    async def require(self) -> None:
        """See that something new may begin. Raises JournalFailed unless there is space for it."""
        if self.alarm is not None:
            await self.mend()
        if (alarm := self.alarm) is not None:
            raise JournalFailed(alarm)

    async def close(self) -> None:
        """Close the database. Idempotent. Raises JournalFailed."""
        if self._database is not None:
            await self._run(self._database.close, "closed")
            self._database = None
        self._thread.shutdown(wait=self._under_way is None or self._under_way.done())

    def _connect(self) -> sqlite3.Connection:
        """Open the database and see that it can be written.

        Raises sqlite3.Error, OSError, or JournalFailed when a newer release has written it.
        """
        if (layout := layout_of(self._path)) > LAYOUT:
            raise JournalFailed(
                f"the journal {self._path} is of a newer release (its layout is {layout}, this "
                f"release knows {LAYOUT}), and was not touched: install that release again"
            )
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            return prepared(self._path)
        except (sqlite3.Error, OSError) as error:
            if not (is_about_space(error) and self._reserve.give()):
                raise
            return prepared(self._path)

    async def record_outbound(self, entry: Outbound, *, settled: bool = False) -> None:
        """Write the state of a migration that leaves."""
        await self._execute(
            "INSERT INTO outbound (migration, state, guest, peer, job, settled, updated, uuid) "
            "VALUES (?,?,?,?,?,?,?,?) ON CONFLICT (migration) DO UPDATE SET "
            f"state=excluded.state, settled=excluded.settled, {UPDATED}",
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
        return [read_outbound(row) for row in rows]

    async def outbound_of(self, job: str) -> Outbound | None:
        """Return the migration of a job that sends a guest, None when it is not known."""
        rows = await self._select(
            "SELECT migration, state, guest, peer, job, uuid FROM outbound WHERE job=?", job
        )
        return read_outbound(rows[0]) if rows else None

    async def departure(self, migration: str) -> Outbound | None:
        """Return a migration by which a guest was to leave, None when none is known by this id."""
        rows = await self._select(
            "SELECT migration, state, guest, peer, job, uuid FROM outbound WHERE migration=?",
            migration,
        )
        return read_outbound(rows[0]) if rows else None

    async def went_to(self, guest: str) -> tuple[str, str] | None:
        """Return the peer to which a guest of this name went last, and its uuid, if one did."""
        rows = await self._select(
            "SELECT peer, uuid FROM outbound WHERE guest=? "
            "AND state IN ('done', 'given-up', 'ran-twice', 'lost') ORDER BY updated DESC LIMIT 1",
            guest,
        )
        return rows[0] if rows else None

    async def record_inbound(self, entry: Inbound, *, settled: bool = False) -> None:
        """Write the state of a migration that comes.

        Of a settled one only what is asked for later stays, and of those that never were ready the
        newest few of each peer; the ids of the others stay used. Of older ones there are no remarks
        and only the beginning of the reason. So a peer that begins again and again does not fill
        this host.
        """
        details = without_what_is_done(entry.state) if settled else "?"
        await self._execute(
            f"INSERT INTO inbound VALUES (?,?,?,?,?,{details},?,?) "
            "ON CONFLICT (migration) DO UPDATE SET "
            "state=excluded.state, reason=excluded.reason, details=excluded.details, "
            f"settled=excluded.settled, {UPDATED}",
            entry.migration,
            entry.state.value,
            entry.peer,
            entry.reason[:_REASON_LENGTH],
            entry.job,
            json.dumps(entry.details),
            settled,
            time.time(),
        )

        if settled:
            await self._execute(SHORTEN_OLD, entry.peer, KEPT_IN_FULL)
        if settled and entry.state is TargetState.ABORTED:
            await self._forget_attempts(entry.peer)

    async def _forget_attempts(self, peer: str) -> None:
        """Drop the oldest settled migrations of a peer that never were ready, but for their ids.

        Their source has never sent Commit: to it, no record says the same as theirs. That one which
        was ready is not to start is a word, and kept for ever.
        """
        await self._execute(
            f"INSERT OR IGNORE INTO syncs {OLD_ATTEMPTS}", peer, TargetState.ABORTED, KEPT_ATTEMPTS
        )
        for table in ("keys", "inbound"):
            await self._execute(
                f"DELETE FROM {table} WHERE migration IN ({OLD_ATTEMPTS})",
                peer,
                TargetState.ABORTED,
                KEPT_ATTEMPTS,
            )

    async def note_key(self, noted: NotedKey) -> None:
        """Write down by which key a peer was known when a migration began: the first counts."""
        await self._execute("INSERT OR IGNORE INTO keys VALUES (?,?,?,?,?)", *astuple(noted))

    async def noted_key(self, migration: str) -> NotedKey | None:
        """Return the key that was noted of a migration, None where none was."""
        rows = await self._select("SELECT * FROM keys WHERE migration=?", migration)
        return NotedKey(*rows[0]) if rows else None

    async def noted_keys(self) -> list[tuple[str, str]]:
        """Return each key with which migrations came here, and the peer whose it was last."""
        return await self._select(
            "SELECT key, peer FROM keys JOIN inbound USING (migration, peer) ORDER BY updated"
        )

    async def inbound(self, migration: str) -> Inbound | None:
        """Return one migration that came, None when it is not known."""
        rows = await self._select(f"{INBOUND} WHERE migration=?", migration)
        return read_inbound(rows[0]) if rows else None

    async def inbound_of(self, job: str) -> Inbound | None:
        """Return the migration of a job that takes a guest in, None when it is not known."""
        rows = await self._select(f"{INBOUND} WHERE job=?", job)
        return read_inbound(rows[0]) if rows else None

    async def arrivals_from(self, peer: str) -> list[Inbound]:
        """Migrations of a peer that have come, or are on their way. Raises JournalFailed."""
        rows = await self._select(f"{INBOUND} WHERE peer=? AND state<>'aborted'", peer)
        return [read_inbound(row) for row in rows]

    async def supersede_inbound(self, guest: str) -> list[str]:
        """Call settled what earlier migrations of a guest that never came left to do here.

        To be called before the guest comes again. Returns the migrations.
        """
        condition = "json_extract(details, '$.name')=? AND state='aborted'"
        fewer = without_what_is_done(TargetState.ABORTED, "details")
        return await self._supersede("inbound", condition, guest, f", details={fewer}")

    async def unsettled_inbound(self) -> list[Inbound]:
        """Migrations that left something to do here."""
        return [read_inbound(row) for row in await self._select(f"{INBOUND} WHERE NOT settled")]

    async def record_sync(self, migration: str) -> None:
        """Write down the id of a sync that begins, in or out, so that it is never used again.

        In `syncs` are also the ids of migrations of which no more is kept.
        """
        await self._execute("INSERT OR IGNORE INTO syncs VALUES (?)", migration)

    async def knows(self, migration: str) -> bool:
        """Whether an id was ever used here, whoever sent what to whom."""
        rows = await self._select(
            " UNION ALL ".join(
                f"SELECT 1 FROM {table} WHERE {column}=?1" for table, column in WITH_IDS
            ),
            migration,
        )
        return bool(rows)

    async def arriving_as(self, uuid: str) -> list[Inbound]:
        """Return what comes, and is not at its end or given up, with this uuid for its guest's."""
        coming = await self.unsettled_inbound()
        mine = (one for one in coming if one.uuid == uuid)
        return [one for one in mine if one.state is not TargetState.ABORTED]

    async def standing(self) -> list[Standing]:
        """Migrations in doubt, and those that an operator decided or has to put right."""
        outbound = await self._select(
            "SELECT migration, state, guest, peer, job, settled, updated, "
            "(SELECT json_extract(report, '$.other_name') FROM jobs WHERE job=outbound.job) "
            f"FROM outbound WHERE {STANDING_OUT}"
        )
        inbound = await self._select(
            "SELECT migration, state, json_extract(details, '$.name'), peer, job, settled, "
            f"updated, json_extract(details, '$.source_name') FROM inbound WHERE {STANDING_IN}"
        )
        return [
            *(read_standing(SourceState, row) for row in outbound),
            *(read_standing(TargetState, row) for row in inbound),
        ]

    async def record_job(
        self, job: str, started: float, ended: bool, report: object, *, apart: str = ""
    ) -> None:
        """Keep a job's report (plain data), dropping the oldest ended ones.

        Jobs that count `apart` under one name push out only each other. None is dropped while its
        migration is `standing`. Raises JournalFailed.
        """
        text = json.dumps(report)
        self._require_plenty()
        await self._execute(
            "INSERT OR REPLACE INTO jobs (job, started, ended, report, apart) VALUES (?,?,?,?,?)",
            *(job, started, ended, text, apart),
        )
        await self._execute(DROP_OLD_JOBS, KEPT_JOBS, KEPT_APART)

    async def record_samples(self, job: str, samples: object) -> None:
        """Keep what a job that is kept had sent by when (plain data), apart from its report."""
        text = json.dumps(samples)
        self._require_plenty()
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

    async def _supersede(self, table: str, condition: str, value: str, also: str = "") -> list[str]:
        where = f"WHERE NOT settled AND {condition}"
        rows = await self._select(f"SELECT migration FROM {table} {where}", value)
        await self._execute(f"UPDATE {table} SET settled=1{also} {where}", value)
        return [migration for (migration,) in rows]

    def _require_plenty(self) -> None:
        """Keep what is left of the space for what decides over guests. Raises JournalFailed."""
        if self.trouble is None and not self._reserve.there:
            raise JournalFailed(f"the journal {self._path} has no space to spare for reports")

    async def _execute(self, statement: str, *values: object) -> None:
        await self._execute_all((statement, values))

    async def _execute_all(self, *steps: Step) -> None:
        """Carry out several statements: all of them, or none."""
        todo = [(statement, tuple(map(_storable, values))) for statement, values in steps]

        def work() -> None:
            try:
                _carry_out(self._connection(), todo)
            except sqlite3.Error as error:
                if not (is_about_space(error) and self._reserve.give()):
                    raise
                _carry_out(self._connection(), todo)

        if self.trouble is not None and not await self.mend():
            raise JournalFailed(f"the journal {self._path} cannot be written: {self.trouble}")
        await self._run(work, "written")

    async def _select(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        return await self._run(
            lambda: self._connection().execute(statement, values).fetchall(), "read"
        )

    def _connection(self) -> sqlite3.Connection:
        if self._database is None:
            raise sqlite3.ProgrammingError("the journal is not open")
        return self._database

    async def _run(self, work: Callable[[], T], done: str) -> T:
        """Do something in the thread of the journal, after all that came before it."""
        what = f"the journal {self._path} cannot be {done}"
        if self._under_way is not None and not self._under_way.done():
            raise JournalFailed(f"{what}: its disk has not answered yet to what was written before")
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        future.add_done_callback(retrieve)
        if not await all_done([future], _PATIENCE):
            self._under_way = future
            self.trouble = f"its disk did not answer within {_PATIENCE:g} s"
            raise JournalFailed(f"{what}: {self.trouble}")
        try:
            return future.result()
        except (sqlite3.Error, OSError) as error:
            if done == "written":
                self.trouble = str(error)
            raise JournalFailed(f"{what}: {error}") from error


def _carry_out(database: sqlite3.Connection, steps: Sequence[Step]) -> None:
    """Carry out statements in one transaction. Raises sqlite3.Error, with nothing done."""
    if len(steps) > 1:
        database.execute("BEGIN IMMEDIATE").close()
    try:
        for statement, row in steps:
            database.execute(statement, row).close()
        if database.in_transaction:
            database.execute("COMMIT").close()
    except sqlite3.Error:
        if database.in_transaction:
            database.execute("ROLLBACK").close()
        raise


def _storable(value: object) -> object:
    """Return a value as sqlite takes it: bytes of a text that were no UTF-8 as question marks."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value
