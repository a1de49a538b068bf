"""What every version of the protocol has on the wire, as text: recorded in tests/compat/messages.

``python -m tests.support.wire_tables`` records the newest version, as long as no release has it.
``python -P wire_tables.py VERSION``, with another release on the path, prints what that one has.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, Union, get_args, get_origin

from protocol.conversation import TABLE
from protocol.messages import PEER, REQUIRED_CAPABILITIES, VERSION

FOLDER: Final = Path(__file__).parents[1] / "compat"
RELEASES: Final = FOLDER / "releases.txt"
_FROZEN: Final = "settling"
"""Of this stage are the frozen messages, which have a test of their own."""


def recorded(name: str) -> Path:
    """Return the file with a recorded table."""
    return FOLDER / "messages" / f"{name}.txt"


def released_versions() -> set[int]:
    """Return the versions that some release speaks as its newest."""
    lines = RELEASES.read_text(encoding="utf-8").splitlines()
    return {int(line.split()[2]) for line in lines if line and not line.startswith("#")}


def version_table(version: int) -> str:
    """Return everything that can be said in a version, one field a line."""
    kinds = PEER.at(version).kinds if hasattr(PEER, "at") else PEER.kinds
    turns = [
        f"{stage}: {request.__name__} -> {reply.__name__} -> {after}"
        for (stage, request), replies in TABLE.items()
        for reply, after in replies.items()
        if stage != _FROZEN and {request, reply} <= set(kinds)
    ]
    required = f"requires {', '.join(sorted(REQUIRED_CAPABILITIES))}"
    return "\n".join([required, "", *turns, "", *_described(kinds, version)]) + "\n"


def frozen_table() -> str:
    """Return the same of the messages that never change, and who may say them when."""
    kinds = tuple(kind for kind in PEER.kinds if kind in PEER.frozen_kinds)
    turns = [
        f"{stage}: {request.__name__} -> {reply.__name__} -> {after}"
        for (stage, request), replies in TABLE.items()
        for reply, after in replies.items()
        if stage == _FROZEN
    ]
    return "\n".join([*turns, "", *_described(kinds, sys.maxsize)]) + "\n"


def _described(kinds: tuple[type[Any], ...], version: int) -> Iterator[str]:
    waiting, seen = list(kinds), set(kinds)
    for kind in waiting:
        yield kind.__name__
        hints = typing.get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            if _since(hints[field.name]) > version:
                continue
            default = "" if field.default is dataclasses.MISSING else f" = {field.default!r}"
            yield f"  {field.name}: {_shown(hints[field.name])}{default}"
            for part in _parts(hints[field.name]):
                if isinstance(part, type) and dataclasses.is_dataclass(part) and part not in seen:
                    seen.add(part)
                    waiting.append(part)
        yield ""


def _since(hint: Any) -> int:
    notes = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return max((getattr(note, "version", 0) for note in notes), default=0)


def _shown(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return "".join([_shown(args[0]), *map(_bound, args[1:])])
    if origin in (Union, types.UnionType):
        return " or ".join(_shown(arg) for arg in args)
    if origin is not None:
        return f"{origin.__name__}[{', '.join(_shown(arg) for arg in args if arg is not ...)}]"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "|".join(member.value for member in hint)
    return str(hint.__name__)


def _bound(note: Any) -> str:
    if hasattr(note, "regex"):
        return f"({note.regex})"
    return f"({note.low}..{note.high})" if hasattr(note, "low") else ""


def _parts(hint: Any) -> Iterator[Any]:
    yield hint
    for part in get_args(hint):
        yield from _parts(part)


def _record() -> None:
    if VERSION in released_versions():
        sys.exit(f"version {VERSION} is spoken by releases in {RELEASES.name}: make a new one")
    recorded(f"version-{VERSION}").write_text(version_table(VERSION), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(version_table(int(sys.argv[1])), end="")
    else:
        _record()
