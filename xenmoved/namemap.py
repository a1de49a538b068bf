"""Names of volumes that are to be other names: patterns such as ``vm-*-root`` to ``*-disk0``.

A pattern is matched with the whole of a name. Each ``*`` stands for any characters, also for none,
and takes as few as it can, the first one first. In the new name the first ``*`` is what the first
one of the pattern stood for, and so on; the last ones may be missing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Final

STARS: Final = 3
"""Most stars in a pattern: each one more makes it slower to match what a peer names."""

_PATTERN: Final = re.compile(r"[A-Za-z0-9_.+*-]{1,200}")
_FOUND: Final = re.compile(r"[^\x00-\x1f\x7f/]{1,200}")
"""What a name may be that is there already, if it is called otherwise from here on."""
_UNFIT: Final = re.compile(r"[^A-Za-z0-9_.+-]+")


def check_rule(old: str, new: str) -> None:
    """Raise ValueError, with what is wrong, unless names like `old` can become names like `new`."""
    if not _FOUND.fullmatch(old) or "**" in old:
        raise ValueError(f"{old!r} is no pattern of volume names: no slash, and single *")
    if not _PATTERN.fullmatch(new) or "**" in new:
        raise ValueError(
            f"{new!r} is no pattern of volume names: letters, digits, _ . + - and single *"
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


def proposed_name(name: str, otherwise: str = "disk") -> str:
    """Return a name that every host can take, much like one that some cannot."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return _UNFIT.sub("-", plain).strip("-+.")[:120] or otherwise


def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile("(.*?)".join(map(re.escape, pattern.split("*"))), re.DOTALL)
