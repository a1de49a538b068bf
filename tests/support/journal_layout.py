"""What a journal has in it, as text: recorded in tests/compat/journal for every layout.

``python -m tests.support.journal_layout --record`` records the present one.
``python -P journal_layout.py``, with another release on the path, prints what that one has.
"""

from __future__ import annotations

import dataclasses
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

from protocol.handover import SourceState, TargetState
from xenmoved.jobs.report import JobKind, JobReport, JobState, Phase
from xenmoved.journal import records
from xenmoved.journal.file import prepared
from xenmoved.migration.target.expected import Expected

FOLDER: Final = Path(__file__).parents[1] / "compat" / "journal"
_LATER: Final = [vars(records)[name] for name in ("Form",) if name in vars(records)]
"""What the first releases, for which this is run as well, do not have."""
_ENUMS: Final = (SourceState, TargetState, JobKind, JobState, Phase, *_LATER)


def recorded(layout: int) -> Path:
    """Return the file with the record of a layout."""
    return FOLDER / f"layout-{layout}.txt"


def layout_text() -> str:
    """Return the tables, the words, and what is in records of guests and jobs, one a line.

    A field that may be missing, as it was in earlier releases, ends with a question mark.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.db"
        with closing(prepared(path)) as database:
            tables = sorted(_tables(database))
    words = [f"word {kind.__name__} {member.value}" for kind in _ENUMS for member in kind]
    return "\n".join([*tables, *words, *_fields(Expected), *_fields(JobReport)]) + "\n"


def _tables(database: sqlite3.Connection) -> Iterator[str]:
    names = database.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchall()
    for (table,) in names:
        for column in database.execute(f"PRAGMA table_info({table})"):
            yield f"column {table} {column[1]}"


def _fields(kind: type[Any]) -> Iterator[str]:
    waiting = [kind]
    for one in waiting:
        for field in dataclasses.fields(one):
            nothing = dataclasses.MISSING
            optional = field.default is not nothing or field.default_factory is not nothing
            yield f"field {one.__name__} {field.name}{'?' if optional else ''}"
        for hint in get_type_hints(one, include_extras=True).values():
            parts = [part for part in _parts(hint) if dataclasses.is_dataclass(part)]
            waiting += [part for part in parts if isinstance(part, type) and part not in waiting]


def _parts(hint: Any) -> Iterator[Any]:
    yield hint
    for part in get_args(hint):
        yield from _parts(part)


if __name__ == "__main__":
    if "--record" in sys.argv:
        from xenmoved.journal.file import LAYOUT

        recorded(LAYOUT).write_text(layout_text(), encoding="utf-8")
    else:
        print(layout_text(), end="")
