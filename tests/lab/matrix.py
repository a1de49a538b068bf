"""Which guests were moved with which disks, and when: kept from run to run.

    python -m tests.lab.matrix

enters what was moved here since then into the table of docs/lab.md, and prints it. What was tried
again in vain is taken out of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

from tests.lab.guests import BACKENDS, KINDS
from tests.lab.image import ROOT
from tests.lab.pair import RESULTS

_FILE: Final = RESULTS / "matrix.json"
_DOCUMENT: Final = ROOT / "docs/lab.md"
_BEGIN: Final = "<!-- matrix: python -m tests.lab.matrix -->\n"
_END: Final = "<!-- end of the matrix -->\n"
_MODES: Final = ("live", "save", "cold")


@contextmanager
def cell(kind: str, backend: str, mode: str) -> Iterator[list[dict[str, Any]]]:
    """Try a cell: it gets the jobs that are put into the list when the context ends well."""
    key, jobs = f"{kind} {backend} {mode}", list[dict[str, Any]]()
    _write(_read() | {key: {"day": "", "blackout": 0.0}})
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


def recorded(table: str) -> dict[str, str]:
    """Return what the cells of a table say."""
    found = {}
    for line in table.splitlines()[2:]:
        kind, mode, *cells = (text.strip() for text in line.strip("|").split("|"))
        found |= {f"{kind} {one} {mode}": text for one, text in zip(BACKENDS, cells, strict=True)}
    return found


def table(cells: dict[str, str]) -> str:
    """Return cells in Markdown."""
    lines = [f"| guest | mode | {' | '.join(BACKENDS)} |", "|---" * (2 + len(BACKENDS)) + "|"]
    for kind in KINDS:
        for mode in _MODES:
            found = " | ".join(cells.get(f"{kind} {one} {mode}", "") for one in BACKENDS)
            lines.append(f"| {kind} | {mode} | {found} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Enter the cells of this machine into the document."""
    before, rest = _DOCUMENT.read_text(encoding="utf-8").split(_BEGIN)
    old, after = rest.split(_END)
    new = table(recorded(old) | {key: one["day"] for key, one in _read().items()})
    _DOCUMENT.write_text(f"{before}{_BEGIN}{new}{_END}{after}", encoding="utf-8")
    print(new)


if __name__ == "__main__":
    main()
