"""Which names a volume may have.

Names come from peers and end up in paths, command lines and messages, so that what they may hold
is listed rather than what they may not.
"""

from __future__ import annotations

import re
from typing import Final

from storage.errors import InvalidVolumeName

MAX_NAME: Final = 200
"""Longest name in characters: file systems take 255 bytes, and suffixes need some."""

_NAME: Final = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9._+-]*")


def check_name(pool: str, volume: str) -> None:
    """Raise `InvalidVolumeName` unless a volume of `pool` may have the name."""
    if len(volume) > MAX_NAME:
        raise InvalidVolumeName(
            f"pool {pool}: a volume name may have {MAX_NAME} characters, not {len(volume)}"
        )
    if not _NAME.fullmatch(volume):
        raise InvalidVolumeName(
            f"pool {pool}: {volume!r} cannot be a volume name: only letters, digits and . _ + - "
            "may be in it, and it may not begin with a dot or a dash"
        )
