"""What an operator is told of a migration beforehand, though it stands in nobody's way."""

from __future__ import annotations

from protocol.messages import Mode, Remark
from storage.tracking.choice import TrackingKind
from xenmoved.migration.geometry import enlargement
from xenmoved.migration.source.content import converted
from xenmoved.migration.source.preflight import Preflight
from xenmoved.remarks import good_to_know, together


def lasting(found: Preflight) -> tuple[Remark, ...]:
    """Return what this host has to remark that is still so when the guest has moved."""
    if found.sending is None:
        return ()
    larger = [
        enlargement(offered, place.size, f"{place.pool}:{place.name} on {found.move.peer}")
        for offered, place in zip(found.sending.offer.volumes, found.placements, strict=False)
    ]
    changed = converted(found.sending.offer, found.placements, found.move.peer)
    return together(found.sending.warnings, changed, filter(None, larger))


def warnings(found: Preflight) -> tuple[Remark, ...]:
    """Return everything that both hosts have to remark before a guest moves."""
    return together(lasting(found), found.findings.remarks, found.remarks, _untracked(found))


def _untracked(found: Preflight) -> list[Remark]:
    sending = found.sending
    if sending is None or found.move.mode is Mode.COLD:
        return []
    return [
        good_to_know("untracked", f"writes to {path} are not tracked: {method.reason}", method.cost)
        for path, method in zip(sending.paths, sending.methods, strict=False)
        if method.kind is TrackingKind.REHASH
    ] + [
        good_to_know(
            "untracked",
            f"what QEMU notes of {path} is gone when {sending.offer.guest.name} has shut down",
            "then all of it is read once more",
        )
        for path, method in zip(sending.paths, sending.methods, strict=False)
        if found.move.mode is Mode.RESTART
        and method.kind is TrackingKind.BITMAP
        and sending.offer.guest is not None
    ]
