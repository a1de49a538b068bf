"""Whether a domain of a guest is on this host, by its uuid, and by its name where there is none."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

from protocol.messages import Presence
from storage.places import places_at
from xenmoved.guestnames import names_on_the_way
from xenmoved.toolstack.interface import (
    Domain,
    DomainState,
    DomainStatus,
    Toolstack,
    ToolstackError,
)


@dataclass(frozen=True, slots=True)
class Sighting:
    """What was seen, and in words for an operator."""

    presence: Presence
    words: str


async def sight(
    toolstack: Toolstack, uuid: str | None, name: str, may_know: Callable[[str], bool]
) -> Sighting:
    """Look for a domain of a guest. Raises nothing that a toolstack does: it is then unseen.

    Of another domain only what is called as `may_know` allows is named.
    """
    try:
        found = await toolstack.describe_all()
    except (ToolstackError, OSError) as error:
        return Sighting(Presence.UNSEEN, f"its domains cannot be listed: {error}")
    shown = partial(_shown, may_know)
    alive = [(status, known) for status, known in found if status.state is not DomainState.DYING]
    names = names_on_the_way(name)
    for status, known in alive:
        if isinstance(known, Domain) and uuid is not None and known.uuid == uuid:
            return Sighting(Presence.THERE, f"a domain of its uuid is there: {shown(status)}")
    for status, known in alive:
        if status.name in names:
            sure = isinstance(known, Domain) and uuid is not None
            presence = Presence.NAMESAKE if sure else Presence.UNSEEN
            other = "with another uuid" if sure else "and its uuid is not known"
            return Sighting(presence, f"a domain of its name is there {other}: {shown(status)}")
    unknown = [status for status, known in alive if not isinstance(known, Domain)]
    if unknown:
        words = f"a domain is there that cannot be told from it: {shown(unknown[0])}"
        return Sighting(Presence.UNSEEN, words)
    if uuid is None:
        return Sighting(Presence.UNSEEN, f"no domain {name} is there, under another name it may be")
    return Sighting(Presence.ABSENT, "no domain of it is there now")


async def require_alone(toolstack: Toolstack, uuid: str, name: str) -> None:
    """See that no domain here has the uuid or name of a guest that is to come.

    Raises ToolstackError for one that has.
    """
    names = names_on_the_way(name)
    for status, known in await toolstack.describe_all():
        same = isinstance(known, Domain) and known.uuid == uuid
        if status.state is not DomainState.DYING and (same or status.name in names):
            raise ToolstackError(
                f"domain {status.domid}, started meanwhile, has the uuid or name of {name}."
            )


async def runs_here(
    toolstack: Toolstack, uuid: str, name: str, disks: Collection[str] | None = None
) -> bool:
    """Whether a guest of this uuid and name executes here, with just these disks if they are given.

    A peer may have sent another one of its uuid. Raises ToolstackError, OSError.
    """
    names = names_on_the_way(name)
    for status, known in await toolstack.describe_all():
        found = status.state is DomainState.RUNNING and status.name in names
        if found and isinstance(known, Domain) and known.uuid == uuid:
            own = places_at(disk.path for disk in known.disks if disk.path)
            return disks is None or own == places_at(disks)
    return False


def _shown(may_know: Callable[[str], bool], status: DomainStatus) -> str:
    name = status.name if may_know(status.name) else "one of another name"
    return f"{name} (id {status.domid}), {status.state}"
