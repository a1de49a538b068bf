"""Names of guests that every host can take, and what to do about others."""

from __future__ import annotations

import re
import shlex
from typing import Final

from protocol.errors import SchemaError
from protocol.messages import GuestName, Problem
from protocol.schema import build
from xenmoved.namemap import proposed_name

_FILES: Final = re.compile(r"\.(?:cfg|auto|entry|moved|replaced|received)\Z")
"""Ends of what lies beside a guest's configuration file: it would be taken for that of another."""
_COPIES: Final = re.compile(r"\Amigrating-|--(?:incoming|migratedaway)\Z")


def unfit(name: str) -> str | None:
    """Return why no host takes a guest of this name, None when each does."""
    if name.isdigit():
        return "the toolstacks take a number for the id of a domain"
    if found := _COPIES.search(name):
        return f"{found[0]} marks a copy that is on its way"
    if found := _FILES.search(name):
        return f"{found[0]} marks files of configurations"
    try:
        build(GuestName, name)
    except SchemaError:
        return "at most 80 letters and digits of ASCII, _ . + - are allowed, and no . + - in front"
    return None


def names_on_the_way(name: str) -> tuple[str, ...]:
    """Return every name that a domain may have while the guest of this name is moved.

    By libxl (tools/xl/xl_migrate.c) and by xend (XendCheckpoint.py), beside its own.
    """
    return name, f"{name}--incoming", f"{name}--migratedaway", f"migrating-{name}"


def proposed(name: str) -> str:
    """Return a name that is fit, much like one that is not."""
    plain = proposed_name(_FILES.sub("", _COPIES.sub("", name)), "guest")[:80].strip("-+.")
    return f"vm{plain}" if plain.isdigit() else plain


def misnamed_here(name: str, toolstack: str) -> Problem | None:
    """Return what stands in the way of moving a guest of this host because of its name."""
    if (why := unfit(name)) is None:
        return None
    old, new = shlex.quote(name), proposed(name)
    hint = f"{toolstack} rename {old} {new}, and name = '{new}' in its configuration file"
    return Problem("guest-name", f"a guest called '{name[:200]}' cannot move: {why}", hint)


def misnamed_there(name: str) -> Problem | None:
    """Return what stands in the way of having a guest called so on another host."""
    if (why := unfit(name)) is None:
        return None
    text = f"no guest can be called '{name[:200]}': {why}"
    return Problem("guest-name", text, f"choose another name, as: --rename {proposed(name)}")
