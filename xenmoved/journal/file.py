"""The file of the journal: its tables, how it is opened, and read where it cannot be."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from storage.canonical import as_if_whole, canonical

LAYOUT: Final = 2
"""What is written in it, and how: a release that writes anything else has the next number. Journals
of earlier numbers are taken up, what has a later one is refused."""
_LOCK_PATIENCE: Final = 2.0
"""Seconds that another process may hold the database."""
_LOG_PAGES: Final = 128
"""Pages of 4 KiB after which the log is carried over: it takes the space of that beside it."""
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS outbound (
    migration TEXT PRIMARY KEY, state TEXT NOT NULL, guest TEXT NOT NULL, peer TEXT NOT NULL,
    job TEXT NOT NULL, settled INTEGER NOT NULL, updated REAL NOT NULL);
CREATE TABLE IF NOT EXISTS inbound (
    migration TEXT PRIMARY KEY, state TEXT NOT NULL, peer TEXT NOT NULL, reason TEXT NOT NULL,
    job TEXT NOT NULL, details TEXT NOT NULL, settled INTEGER NOT NULL, updated REAL NOT NULL);
CREATE TABLE IF NOT EXISTS jobs (
    job TEXT PRIMARY KEY, started REAL NOT NULL, ended INTEGER NOT NULL, report TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS syncs (migration TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS keys (
    migration TEXT PRIMARY KEY, peer TEXT NOT NULL, key TEXT NOT NULL, address TEXT NOT NULL,
    port INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS samples (job TEXT PRIMARY KEY, samples TEXT NOT NULL);
"""
_KNOWN: Final = "ifnull(identity, '')!=''"
_ONE_OF_EACH: Final = {
    "volume": f"(identity) WHERE {_KNOWN}",
    "place": f"(pool, name) WHERE NOT {_KNOWN}",
}
"""A volume that is known has one row, whatever it is called. Of others the name tells."""


class _Table(NamedTuple):
    """A table about what may be renamed. Layout 1 had a row in it for each name."""

    columns: str
    each: str
    """What has one row. Where layout 1 has more, the `first` counts: of a guest at home, or what
    was noted last."""
    first: str
    unique: Mapping[str, str]


_BY_IDENTITY: Final = {
    "made": _Table(
        "migration TEXT NOT NULL, pool TEXT NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, "
        "peer TEXT NOT NULL, identity TEXT DEFAULT '', disk_size INTEGER NOT NULL DEFAULT 0",
        "ifnull(nullif(identity, ''), rowid)",
        "rowid DESC",
        _ONE_OF_EACH,
    ),
    "owners": _Table(
        "pool TEXT NOT NULL, name TEXT NOT NULL, owner TEXT NOT NULL, guest TEXT NOT NULL DEFAULT "
        "'', identity TEXT, migration TEXT NOT NULL DEFAULT '', since REAL, place TEXT NOT NULL "
        "DEFAULT '', written INTEGER, kept REAL NOT NULL DEFAULT 0, moved_by TEXT NOT NULL "
        "DEFAULT '', form TEXT NOT NULL DEFAULT '', format TEXT NOT NULL DEFAULT ''",
        "ifnull(nullif(identity, ''), rowid)",
        "since IS NULL DESC, rowid DESC",
        _ONE_OF_EACH,
    ),
    "folders": _Table(
        "pool TEXT NOT NULL, path TEXT NOT NULL, identity TEXT NOT NULL",
        "path",
        "rowid DESC",
        {"path": "(path)"},
    ),
}
_OF_VOLUMES: Final = ("made", "owners")
_MAGIC: Final = b"SQLite format 3\0"
_HEADER: Final = 100
_VERSION_AT: Final = 60
"""Where the header of a database of sqlite has its `user_version`."""
_LATER_COLUMNS: Final = {
    "outbound": ("uuid TEXT NOT NULL DEFAULT ''",),
    "jobs": ("apart TEXT NOT NULL DEFAULT ''",),
    "made": ("identity TEXT DEFAULT ''", "disk_size INTEGER NOT NULL DEFAULT 0"),
    "owners": (
        *("guest TEXT NOT NULL DEFAULT ''", "identity TEXT", "migration TEXT NOT NULL DEFAULT ''"),
        *("since REAL", "place TEXT NOT NULL DEFAULT ''", "written INTEGER"),
        *("kept REAL NOT NULL DEFAULT 0", "moved_by TEXT NOT NULL DEFAULT ''"),
        *("form TEXT NOT NULL DEFAULT ''", "format TEXT NOT NULL DEFAULT ''"),
    ),
}
"""What journals of earlier releases do not have."""


def prepared(path: Path) -> sqlite3.Connection:
    """Open a journal and see that it can be written. Raises sqlite3.Error, OSError."""
    database = sqlite3.connect(path, isolation_level=None, timeout=_LOCK_PATIENCE)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
        database.execute(f"PRAGMA journal_size_limit={_LOG_PAGES << 12}")
        _lay_out(database)
        # Writes, whatever was there: a database that can only be read is found out now.
        database.execute(f"PRAGMA user_version={LAYOUT}")
    except BaseException:
        database.close()
        raise
    return database


def layout_of(path: Path) -> int:
    """Return the layout of a journal, 0 where there is none. Raises sqlite3.Error, OSError.

    Nothing is changed: the log that a killed daemon left, which may know better than the file,
    would be carried over by whoever opens them where they are.
    """
    if not path.exists():
        return 0
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        with _copy(path) as copy:
            return int(copy.execute("PRAGMA user_version").fetchone()[0])
    with path.open("rb") as file:
        header = file.read(_HEADER)
    known = header.startswith(_MAGIC)
    return int.from_bytes(header[_VERSION_AT : _VERSION_AT + 4], "big") if known else 0


def _lay_out(database: sqlite3.Connection) -> None:
    database.executescript(_SCHEMA)
    for table, wanted in _BY_IDENTITY.items():
        database.execute(f"CREATE TABLE IF NOT EXISTS {table} ({wanted.columns})")
    for table, later in _LATER_COLUMNS.items():
        _add_columns(database, table, later)
    for table in _BY_IDENTITY:
        if any(row[5] for row in database.execute(f"PRAGMA table_info({table})").fetchall()):
            _take_up(database, table)
        _index(database, table)
    for function in (as_if_whole, canonical):
        database.create_function(function.__name__, 1, function, deterministic=True)
    for table in _OF_VOLUMES:
        _call_alike(database, table)


def copied(path: Path) -> sqlite3.Connection:
    """Return what a database holds that cannot be opened where it is, in memory.

    With its log, which has what was written last. Raises sqlite3.Error, OSError.
    """
    memory = sqlite3.connect(":memory:", isolation_level=None)
    with _copy(path) as copy:
        copy.backup(memory)
    _lay_out(memory)
    return memory


@contextmanager
def _copy(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a copy of a database and its log, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="xenmoved-", dir=_writable_folder()) as folder:
        for name in (path.name, f"{path.name}-wal"):
            if (file := path.with_name(name)).exists():
                shutil.copyfile(file, Path(folder) / name)
        with closing(sqlite3.connect(Path(folder) / path.name)) as copy:
            yield copy


def _writable_folder() -> str | None:
    """Return a folder in memory, as the disks of this host may be what fails."""
    return next((name for name in ("/dev/shm", "/run") if os.access(name, os.W_OK)), None)


def is_about_space(error: BaseException) -> bool:
    """Whether an error may be one of too little space."""
    if isinstance(error, sqlite3.Error):
        # Where a quota or a shared memory file is at its limit, it is an I/O error to sqlite.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _add_columns(database: sqlite3.Connection, table: str, columns: Iterable[str]) -> None:
    there = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
    for column in columns:
        if column.split()[0] not in there:
            database.execute(f"ALTER TABLE {table} ADD COLUMN {column}")


def _take_up(database: sqlite3.Connection, table: str) -> None:
    """Take up a table of layout 1, whose key is a name: all of it, or nothing."""
    wanted = _BY_IDENTITY[table]
    names = ", ".join(row[1] for row in database.execute(f"PRAGMA table_info({table})"))
    nth = f"row_number() OVER (PARTITION BY {wanted.each} ORDER BY {wanted.first})"
    with _all_or_nothing(database):
        database.execute(f"CREATE TABLE anew ({wanted.columns})")
        database.execute(
            f"INSERT INTO anew ({names}) SELECT {names} FROM "
            f"(SELECT *, {nth} AS nth FROM {table}) WHERE nth=1"
        )
        database.execute(f"DROP TABLE {table}")
        database.execute(f"ALTER TABLE anew RENAME TO {table}")
        _index(database, table)


def _call_alike(database: sqlite3.Connection, table: str) -> None:
    """Have a table of volumes know each by the one form of its identity: all of it, or nothing.

    Earlier releases noted some of them by what the kind of their pool called them. The layout is
    the same: they read this form as well. Of several notes that would be about one volume then, the
    others stay as they are: they may be about another one, whose group was copied.
    """
    differs = f"{_KNOWN} AND identity!=canonical(identity)"
    if database.execute(f"SELECT 1 FROM {table} WHERE {differs} LIMIT 1").fetchone() is None:
        return
    wanted = _BY_IDENTITY[table]
    each = wanted.each.replace("identity", "canonical(identity)")
    own = "identity=canonical(identity) DESC"  # which has that form already
    nth = f"row_number() OVER (PARTITION BY {each} ORDER BY {own}, {wanted.first})"
    rows = f"(SELECT rowid AS one, {nth} AS nth FROM {table})"
    first = f"rowid IN (SELECT one FROM {rows} WHERE nth=1)"
    with _all_or_nothing(database):
        database.execute(
            f"UPDATE {table} SET identity=canonical(identity) WHERE {differs} AND {first}"
        )


@contextmanager
def _all_or_nothing(database: sqlite3.Connection) -> Iterator[None]:
    """Do all of it in one transaction."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _index(database: sqlite3.Connection, table: str) -> None:
    for name, rows in _BY_IDENTITY[table].unique.items():
        database.execute(f"CREATE UNIQUE INDEX IF NOT EXISTS {table}_{name} ON {table} {rows}")
