"""What a journal still settles, read from its file without changing it.

For whoever is about to remove it: a source that sent Commit may ask for the target's word at any
time, so that a record which holds such a word is needed for as long as that host has the other.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from xenmoved.journal.statements import STANDING_IN, STANDING_OUT

_LEAVES: Final = f"""
    SELECT guest, peer, state FROM outbound WHERE NOT settled OR {STANDING_OUT} ORDER BY updated
"""
_COMES: Final = f"""
    SELECT json_extract(details, '$.name'), peer, state, settled AND NOT {STANDING_IN}
    FROM inbound WHERE NOT settled OR state<>'aborted'
    OR ifnull(json_extract(details, '$.was_ready'), 1) ORDER BY updated
"""


def unsettled(state_dir: Path) -> list[str]:
    """Return a line for each migration that the journal in a folder is still needed for.

    None where there is no journal. Raises sqlite3.Error, OSError where there is one that cannot be
    read, which then has to be kept.
    """
    file = state_dir / "journal.db"
    if not file.exists():
        return []
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database:
        leaving = database.execute(_LEAVES).fetchall()
        coming = database.execute(_COMES).fetchall()
    return [
        *(f"guest {guest!r} to {peer}: {state}" for guest, peer, state in leaving),
        *(
            f"guest {guest!r} from {peer}: {state}{', as that host may ask' if asked else ''}"
            for guest, peer, state, asked in coming
        ),
    ]
