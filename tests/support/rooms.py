"""Draws who imports whom, package by package, as docs/development.md shows it.

`python -m tests.support.rooms` draws it anew in the document.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
DOCUMENT: Final = ROOT / "docs" / "development.md"
PACKAGES: Final = ("xenmoved", "protocol", "storage")
EVERYWHERE: Final = (
    "xenmoved",
    "xenmoved.problems",
    "xenmoved.remarks",
    "xenmoved.tasks",
    "xenmoved.logs",
    "xenmoved.units",
)
"""Modules that anybody may use: to draw them would hide the rest."""

_BOTH_SIDES: Final = ("doubts", "restart")
"""Modules of migration that stand above its two sides, while all others stand beneath them."""


def rooms() -> dict[str, set[str]]:
    """Return which package imports which; single modules of `xenmoved` count as packages.

    What is below the top of `protocol` and `storage` counts as those.
    """
    files = [file for name in PACKAGES for file in sorted((ROOT / name).rglob("*.py"))]
    known = {_module(file) for file in files}
    arrows: defaultdict[str, set[str]] = defaultdict(set)
    for file in files:
        room = _room(_module(file), known)
        for name in _imported(file):
            other = _room(name, known)
            if other and other != room and other not in EVERYWHERE and room not in EVERYWHERE:
                arrows[room].add(other)
    return {room: arrows[room] for room in sorted(arrows)}


def drawing() -> str:
    """Return the Mermaid diagram. An arrow that follows from two others is left out."""
    arrows = rooms()
    shown = []
    for room, others in arrows.items():
        further = {name for other in others for name in _reached(other, arrows, {room, other})}
        shown += [f"    {_label(room)} --> {_label(other)}" for other in sorted(others - further)]
    return "\n".join(["flowchart TD", *shown])


def _reached(start: str, arrows: dict[str, set[str]], besides: set[str]) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for name in arrows.get(waiting.pop(), set()) - found - besides:
            found.add(name)
            waiting.append(name)
    return found


def drawn(text: str) -> str:
    """Return the diagram that a document has."""
    found = re.search(r"```mermaid\n(flowchart TD.*?)\n```", text, re.DOTALL)
    assert found is not None
    return found[1]


def _module(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room(name: str, known: set[str]) -> str:
    parts = name.split(".")
    while parts and ".".join(parts) not in known:
        parts.pop()
    if not parts or parts[0] != "xenmoved":
        return parts[0] if parts else ""
    if parts[1:2] == ["migration"] and parts[2:3]:
        if parts[2] in ("source", "target"):
            return ".".join(parts[:3])
        if parts[2] in _BOTH_SIDES:
            return "xenmoved.migration.both"
    return ".".join(parts[:2])


def _imported(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _label(room: str) -> str:
    return room.removeprefix("xenmoved.").replace(".", "/")


def main() -> None:
    """Draw it anew."""
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(text.replace(drawn(text), drawing()), encoding="utf-8")


if __name__ == "__main__":
    main()
