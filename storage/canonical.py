"""The one form of an identity, by whatever a volume is reached: all kinds of pools tell the same.

A logical volume is known by its own uuid, as LVM prints it, and not by the one that the device
mapper has for it, which begins with that of the group. A loop device that shows all of a file, or
of another device, is that. Earlier releases noted such volumes as each kind of pool called them,
and what they noted is brought into this form when the journal is opened.
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
_LOOP: Final = re.compile(r"\bloop on (?P<beneath>.+) from 0(?! to )(?= |\Z)")

_PART: Final = re.compile(
    r"CRYPT-.+? on (.+)|(.+) partition \S+|loop on (.+) from \d+(?: to \d+)?", re.DOTALL
)


def canonical(text: str | None) -> str:
    """Return the one form of an identity. That of one that has it already is the same."""
    return _LOOP.sub(r"\g<beneath>", _LVM.sub(_as_lvm_prints, text or ""))


def wholes(text: str) -> Iterator[str]:
    """Yield the identities of what the volume of an identity is a part of, the nearest first."""
    while (found := _PART.fullmatch(text)) is not None:
        text = next(whole for whole in found.groups() if whole is not None)
        yield text


def _as_lvm_prints(found: re.Match[str]) -> str:
    return "-".join(found["volume"][begin:end] for begin, end in pairwise(_DASHES))
