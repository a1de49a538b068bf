"""What both ends of a volume that goes from snapshot to snapshot need."""

from __future__ import annotations

from typing import Final

MOST_PASSED: Final = 8
"""Snapshots of earlier rounds that may gather: a guest that is held goes through any number."""


def guid_text(guid: int) -> str:
    """Return the guid of a snapshot as messages have it."""
    return f"{guid:016x}"
