"""What the statements of the journal have in common, and those that are long."""

from __future__ import annotations

from typing import Final

UPDATED: Final = "updated=CASE state WHEN excluded.state THEN updated ELSE excluded.updated END"
WITH_IDS: Final = (
    *(("outbound", "migration"), ("inbound", "migration"), ("syncs", "migration")),
    *(("made", "migration"), ("owners", "migration"), ("owners", "moved_by")),
    ("keys", "migration"),
)
MADE_COLUMNS: Final = "migration, pool, name, size, peer, identity, disk_size"
HOLDING_COLUMNS: Final = (
    "pool, name, owner, guest, identity, migration, since, place, written, kept, moved_by, form, "
    "format"
)
HOLDING: Final = f"SELECT {HOLDING_COLUMNS} FROM owners"
SAME: Final = "(identity!='' AND identity IN (?3, ?4))"
"""Whether a row is that of a volume with this identity, ?4 as earlier releases noted it."""
IN_IT: Final = "(identity!='' AND as_if_whole(identity) IN (?3, ?4))"
"""Whether a row is that of this volume, or of a loop device on it that may have shown a part."""
HOLDING_OF: Final = (
    f"{HOLDING} WHERE (pool=?1 AND name=?2) OR {IN_IT} ORDER BY (identity!='' AND identity=?3) "
    f"DESC, {SAME} DESC, {IN_IT} DESC, since IS NULL DESC, rowid DESC"
)
"""What was noted of a volume: at best of this identity, whatever it is called, else of what may be
a part of it, at worst of another one that had this name."""
STANDING_OUT: Final = "state IN ('commit-sent', 'kept', 'given-up', 'ran-twice', 'lost')"
STANDING_IN: Final = "state IN ('committed', 'ran-twice')"
DROP_OLD_JOBS: Final = (
    "DELETE FROM jobs WHERE ended AND job IN (SELECT job FROM (SELECT job, apart, "
    "row_number() OVER (PARTITION BY apart ORDER BY started DESC) AS place FROM jobs) "
    "WHERE place > CASE apart WHEN '' THEN ? ELSE ? END) "
    f"AND job NOT IN (SELECT job FROM outbound WHERE {STANDING_OUT}) "
    f"AND job NOT IN (SELECT job FROM inbound WHERE {STANDING_IN})"
)
OLD_ATTEMPTS: Final = (
    "SELECT migration FROM inbound WHERE peer=? AND state=? AND settled "
    "AND NOT ifnull(json_extract(details, '$.was_ready'), 1) "
    "ORDER BY updated DESC, rowid DESC LIMIT -1 OFFSET ?"
)
SHORTEN_OLD: Final = (
    "UPDATE inbound SET reason=substr(reason, 1, 100), "
    "details=json_replace(details, '$.remarks', json('[]')) WHERE peer=?1 AND settled "
    "AND (length(reason) > 100 OR json_array_length(details, '$.remarks') > 0) "
    "AND migration NOT IN (SELECT migration FROM inbound WHERE peer=?1 AND settled "
    "ORDER BY updated DESC, rowid DESC LIMIT ?2)"
)
INBOUND: Final = "SELECT migration, state, peer, reason, job, details FROM inbound"
