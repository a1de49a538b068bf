"""Between a peer as it is configured and as a client sees it and asks for it."""

from __future__ import annotations

from typing import Final

from protocol.schema import plain
from xenmoved.config.keys import fingerprint_of
from xenmoved.config.model import Peer
from xenmoved.control.peer_api import AddPeer, PeerRow

_KEPT: Final = ("bridges", "pools", "volumes", "shared", "cdrom")
_KEPT_IN_ALLOW: Final = ("scripts", "ip", "gatewaydev")
"""What 'peer add' does not know of, and leaves as it is."""
_LIMITS: Final = ("quota", "memory", "vcpus")


def peer_row(
    peer: Peer, groups: tuple[str, ...], *, connected_from: bool, connected_to: bool
) -> PeerRow:
    """Return what a client is told of a peer."""
    allow = peer.allow
    return PeerRow(
        name=peer.name,
        address=peer.address or "",
        port=peer.port,
        fingerprint=fingerprint_of(peer.key) if peer.key is not None else "",
        actions=allow.actions,
        pools=allow.pools,
        guests=allow.guests,
        quota=allow.quota,
        memory=allow.memory,
        vcpus=allow.vcpus,
        overwrite=allow.overwrite,
        connected_from=connected_from,
        connected_to=connected_to,
        pinned=peer.key is not None,
        groups=groups,
    )


def peer_data(request: AddPeer, known: Peer | None) -> dict[str, object]:
    """Return what is to be configured of a peer that a client adds, or changes when it is known."""
    data: dict[str, object] = {
        "address": request.address,
        "port": request.port,
        "key": request.key,
    }
    if request.actions or request.pools or request.guests:
        data["allow"] = {
            "actions": [action.value for action in request.actions],
            "pools": list(request.pools),
            "guests": list(request.guests),
            "overwrite": request.overwrite,
            **{key: limit for key in _LIMITS if (limit := getattr(request, key)) is not None},
            **({key: plain(getattr(known.allow, key)) for key in _KEPT_IN_ALLOW} if known else {}),
        }
    if known is not None:
        data.update({key: plain(getattr(known, key)) for key in _KEPT})
    return data
