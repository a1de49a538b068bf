"""The one form of an identity, by whatever a volume is reached: all kinds of pools tell the same.

A logical volume is known by its own uuid, as LVM prints it, and not by the one that the device
mapper has for it, which begins with that of the group. Earlier releases noted it as each kind of
pool called it, and what they noted is brought into this form when the journal is opened.

A loop device that shows all of a file is that file. What earlier releases noted of one stays as it
was, as they did not always note where it ends: so it may be about all of the file or about a part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

_LVM: Final = re.compile(r"\bLVM-[A-Za-z0-9]{32}(?P<volume>[A-Za-z0-9]{32})(?![\w-])")
"""Of a device of LVM. What follows the two uuids says which part of a volume it is."""
_DASHES: Final = (0, 6, 10, 14, 18, 22, 26, 32)
"""Where LVM puts dashes into a uuid, its begin and its end."""
_LOOP: Final = re.compile(r"\bloop on (?P<beneath>(?:(?!\bloop on ).)+?) from \d+(?: to \d+)?")
"""Of a loop device on what is none."""

_PART: Final = re.compile(
    r"CRYPT-.+? on (.+)|(.+) partition \S+|loop on (.+) from \d+(?: to \d+)?", re.DOTALL
)


def canonical(text: str | None) -> str:
    """Return the one form of an identity. That of one that has it already is the same."""
    return _LVM.sub(_as_lvm_prints, text or "")


def as_if_whole(text: str | None) -> str:
    """Return the form of an identity as if each loop device in it showed all of what is behind it.

    That is the volume which somebody may have to leave alone for a note of this identity.
    """
    text, found = canonical(text), 1
    while found:
        text, found = _LOOP.subn(r"\g<beneath>", text)
    return text


def wholes(text: str) -> Iterator[str]:
    """Yield the identities of what the volume of an identity is a part of, the nearest first."""
    while (found := _PART.fullmatch(text)) is not None:
        text = next(whole for whole in found.groups() if whole is not None)
        yield text


def _as_lvm_prints(found: re.Match[str]) -> str:
    return "-".join(found["volume"][begin:end] for begin, end in pairwise(_DASHES))
