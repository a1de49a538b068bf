"""Which guests were moved with which disks, and when: kept from run to run.

    python -m tests.lab.matrix

prints the table of docs/lab.md. A cell counts until its test is begun again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

from tests.lab.guests import BACKENDS, KINDS
from tests.lab.pair import RESULTS

_FILE: Final = RESULTS / "matrix.json"
_MODES: Final = ("live", "save", "cold")


@contextmanager
def cell(kind: str, backend: str, mode: str) -> Iterator[list[dict[str, Any]]]:
    """Try a cell: it gets the jobs that are put into the list when the context ends well."""
    key, jobs = f"{kind} {backend} {mode}", list[dict[str, Any]]()
    _write({name: one for name, one in _read().items() if name != key})
    yield jobs
    blackout = max(job["blackout"] or 0.0 for job in jobs)
    day = datetime.now(UTC).date().isoformat()
    _write(_read() | {key: {"day": day, "blackout": blackout}})


def _read() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(_FILE.read_text()) if _FILE.exists() else {}
    return found


def _write(cells: dict[str, dict[str, Any]]) -> None:
    _FILE.parent.mkdir(exist_ok=True)
    _FILE.write_text(json.dumps(cells, indent=1))


def table() -> str:
    """Return all cells in Markdown: the day when they were moved and verified last."""
    cells = _read()
    lines = [f"| guest | mode | {' | '.join(BACKENDS)} |", "|---" * (2 + len(BACKENDS)) + "|"]
    for kind in KINDS:
        for mode in _MODES:
            found = [cells.get(f"{kind} {backend} {mode}", {}) for backend in BACKENDS]
            days = " | ".join(one.get("day", "") for one in found)
            lines.append(f"| {kind} | {mode} | {days} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
