"""Codes of problems and remarks by which this host decides what to do next.

All others are for people, and for programs that read what `xenmovectl --json` prints.
"""

from __future__ import annotations

from typing import Final

LINK_LOST: Final = "link-lost"
UNHEARD: Final = "unheard"
NOT_KEPT: Final = "config-not-kept"
RECEIVED: Final = "config-received"

_ACTED_UPON: Final = frozenset((LINK_LOST, UNHEARD))


def code_of_peer(untrusted_code: str) -> str:
    """Return the code of what a peer says: never one that this host acts upon."""
    return f"peer-{untrusted_code}" if untrusted_code in _ACTED_UPON else untrusted_code
