"""Names of volumes that are to be other names: patterns such as ``vm-*-root`` to ``*-disk0``.

A pattern is matched with the whole of a name. Each ``*`` stands for any characters, also for none,
and takes as few as it can, the first one first. In the new name the first ``*`` is what the first
one of the pattern stood for, and so on; the last ones may be missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

STARS: Final = 3
"""Most stars in a pattern: each one more makes it slower to match what a peer names."""

_PATTERN: Final = re.compile(r"[A-Za-z0-9_.+*-]{1,200}")


def check_rule(old: str, new: str) -> None:
    """Raise ValueError, with what is wrong, unless names like `old` can become names like `new`."""
    for pattern in (old, new):
        if not _PATTERN.fullmatch(pattern) or "**" in pattern:
            raise ValueError(
                f"{pattern!r} is no pattern of volume names: letters, digits, _ . + - and single *"
            )
    if old.count("*") > STARS:
        raise ValueError(f"{old!r} has more than {STARS} *")
    if new.count("*") > old.count("*"):
        raise ValueError(f"{new!r} has more * than {old!r} gives it something to put there")


def new_name(name: str, rules: Mapping[str, str]) -> str | None:
    """Return what the first rule that matches makes of a name, None when none does."""
    for old, new in rules.items():
        if (found := _regex(old).fullmatch(name)) is not None:
            first, *rest = new.split("*")
            return first + "".join(map("".join, zip(found.groups(), rest, strict=False)))
    return None


def matches(name: str, old: str) -> bool:
    """Whether a name is like the pattern."""
    return _regex(old).fullmatch(name) is not None


def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile("(.*?)".join(map(re.escape, pattern.split("*"))), re.DOTALL)
