"""The messages of the control socket about the volumes of this host's pools."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.schema import Name, Text
from xenmoved.control.message_set import CONTROL
from xenmoved.migration.report import Volumes

CONTROL.add(Volumes)


@CONTROL.add
@dataclass(frozen=True, slots=True)
class ListVolumes:
    """Ask for the volumes of all pools. Answered by `Volumes`."""


@CONTROL.add
@dataclass(frozen=True, slots=True)
class DropVolumes:
    """Remove retained copies: one volume (pool:name), or all of a guest (its name or uuid).

    Answered by `Done`; or, not `confirmed`, by the `Volumes` that would be removed. Everything that
    speaks against it comes as `Failure`, and nothing is removed then.
    """

    volume: Text | None
    guest: Name | None
    confirmed: bool
