"""The journal of a host, for those who look into it or change it behind its daemon."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

from xenmoved.sandbox.pair import SandboxHost


def query(host: SandboxHost, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """Carry out one statement, durably, and return its rows."""
    database = sqlite3.connect(host.folder / "state" / "journal.db", timeout=10)
    with closing(database), database:
        return database.execute(statement, values).fetchall()
