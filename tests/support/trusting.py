"""Who is believed by listeners that are tested without a daemon."""

from __future__ import annotations

from collections.abc import Mapping

import asyncssh

from xenmoved.config.model import Config
from xenmoved.trust.roster import Roster


class Keys(Roster):
    """Believes keys that are pinned, by their public data, as they are at each moment."""

    def __init__(self, peers: Mapping[bytes, str]) -> None:
        super().__init__(Config)
        self._peers = peers

    def peer_of_key(self, key: str) -> str | None:
        """Return the peer of a key."""
        return self._peers.get(asyncssh.import_public_key(key).public_data)
