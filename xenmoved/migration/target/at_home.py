"""Whether a guest that comes, or another one of its name or uuid, is at home here already.

It may be off: then nothing runs, and what tells is its configuration file and the journal. A name
is a guest's who has it here, and a uuid proves nothing: whoever was ever told it can say it. So a
guest that comes is the one that is known here only if it comes with the disks that it has here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from protocol.handover import SourceState
from protocol.messages import GuestOffer, Offer, Placement, Problem
from storage.contracts import Pool
from storage.errors import StorageError
from storage.places import Place, place_at, places_at
from xenmoved.config.model import Peer
from xenmoved.guestnames import misnamed_there, names_on_the_way
from xenmoved.jobs.report import JobKind
from xenmoved.journal.records import Holding
from xenmoved.migration.host import Host
from xenmoved.migration.volume_needs import Needs
from xenmoved.migration.volume_notes import is_held
from xenmoved.migration.whereabouts import Seen, Whereabouts
from xenmoved.problems import problem
from xenmoved.toolstack.configs.boot_entries import is_entry_called
from xenmoved.toolstack.configs.text import named, own_disks, uuid_in
from xenmoved.toolstack.interface import HostInfo

log = logging.getLogger(__name__)

_ANOTHER_NAME = "else have this one called otherwise: --rename NEW"


def running_here(
    host: Host,
    info: HostInfo,
    guest: GuestOffer,
    here: Mapping[str, str],
    arriving: Collection[str],
    *,
    peer: Peer,
) -> list[Problem]:
    """Compare a guest with those that are `here` (uuids by names), and with those that come."""
    node, name = host.config.node, guest.target_name
    found = [one] if (one := misnamed_there(name)) is not None else []
    if guest.toolstack != info.toolstack:
        text = f"{node} has the toolstack {info.toolstack}, the guest comes from {guest.toolstack}"
        found.append(problem("toolstack", text, "a guest moves only between hosts of one kind"))
    for other, uuid in here.items():
        shown = peer.shown(other, "another guest")
        hint = f"if it is a leftover, destroy it there: {info.toolstack} destroy {shown}"
        if other in names_on_the_way(name):
            text = f"{node} has a domain called {shown} already"
            hint = f"{hint}; else have this one called otherwise there: --rename NEW"
            found.append(problem("guest-exists", text, hint))
        elif uuid == guest.uuid:
            text = f"{node} has a domain with the uuid of {guest.name}: {shown}"
            found.append(problem("guest-exists", text, hint))
    if name in arriving:
        text = f"{name} is on its way to {node} already"
        found.append(problem("guest-exists", text, f"on {node}: xenmovectl watch {name}"))
    return found


async def on_the_way(host: Host, guest: GuestOffer) -> list[Problem]:
    """See that no guest of its name or uuid is on its way to or from here, or not settled yet.

    Until then everything under its name is that one's, though no domain and no file have it.
    """
    node, name = host.config.node, guest.target_name
    unsettled = [
        one
        for one in await host.journal.unsettled_outbound()
        if one.guest == name or one.uuid == guest.uuid
    ]
    disputed = [
        one
        for one in await host.journal.standing()
        if one.guest == name and isinstance(one.state, SourceState)
    ]
    coming = [one for one in await host.journal.arriving_as(guest.uuid) if one.guest != name]
    busy = host.jobs.busy_with(name)
    if not (unsettled or disputed or coming) and (busy is None or busy.kind is JobKind.RECEIVE):
        return []
    text = f"{node} has a migration of a guest of this name or uuid that is not at its end"
    hint = f"on {node}, see xenmovectl jobs, xenmovectl recover"
    return [problem("guest-exists", text, f"{hint}; {_ANOTHER_NAME}")]


async def off_here(
    host: Host,
    offer: Offer,
    found: Needs,
    placements: Sequence[Placement | None],
    shared: Sequence[str],
    *,
    peer: Peer,
) -> list[Problem]:
    """Find what keeps a guest from being at home here, running or not, where no domain does.

    `placements` and `shared` are where its disks are here. A guest that comes with nothing but its
    configuration comes to none. Raises ToolstackError, StorageError.
    """
    guest = offer.guest
    assert guest is not None
    if offer.by_file and guest.config is None:
        return [problem("guest-config", f"{guest.name} came without its configuration")]
    disks = await asyncio.to_thread(_own_disks, host, offer, placements, shared)
    if stands := await _by_name(host, guest, disks, cold=not offer.starts):
        return [stands]
    beside = await asyncio.to_thread(_in_files, host, peer, guest, found.texts, disks)
    return beside or await _in_journal(host, peer, guest, placements)


def _own_disks(
    host: Host, offer: Offer, placements: Sequence[Placement | None], shared: Sequence[str]
) -> set[str]:
    """Return the paths here of the disks that the guest writes, of those that have a place.

    Blocks.
    """
    assert offer.guest is not None
    placed = {
        host.pools[placement.pool].path(placement.name)
        for volume, placement in zip(offer.volumes, placements, strict=True)
        if placement is not None
        and volume.writable
        # The disk of another guest may have been there, on what is not mounted now.
        and (not placement.fresh or _is_gone(host, host.pools[placement.pool].path(placement.name)))
    }
    beside = zip(offer.guest.shared, shared, strict=True)
    return placed | {path for disk, path in beside if disk.writable}


async def _by_name(
    host: Host, guest: GuestOffer, disks: Collection[str], *, cold: bool
) -> Problem | None:
    """Look for the file of another guest of that name: this host starts that one at boot."""
    node, name = host.config.node, guest.target_name
    if (unread := await host.toolstack.configs.unreadable(name)) is not None:
        text = f"{unread} on {node}, which may be of another guest called {name}, cannot be read"
        return problem("guest-exists", text, f"mount or mend what it leads to; {_ANOTHER_NAME}")
    if (kept := await host.toolstack.configs.kept_for_another(name, guest.uuid)) is not None:
        log.info("%s does not come: %s is kept for a guest that is leaving", name, kept)
        text = f"the place of {name}'s configuration on {node} is another guest's, which is leaving"
        hint = f"wait until that is at its end: on {node}, see xenmovectl jobs, xenmovectl recover"
        return problem("guest-exists", text, f"{hint}; {_ANOTHER_NAME}")
    files = await host.toolstack.configs.files(name, guest.uuid)
    # What is in the place of its file, and says another name, is a guest's who is called that.
    mine = [file.is_of(name, guest.uuid, disks) for file in files if file.name in (None, name)]
    other = False in mine
    if not (other or (cold and mine)):
        return None
    whose = "another guest" if other else "a guest"
    text = f"{node} has a configuration of {whose} called {name} already"
    hint = (
        "if it is this guest's of former times, or not needed any more, rename it there to end in "
        f".replaced; {_ANOTHER_NAME}"
    )
    return problem("guest-exists", text, hint)


def _in_files(
    host: Host, peer: Peer, guest: GuestOffer, texts: Mapping[str, str], disks: Collection[str]
) -> list[Problem]:
    """Look for files of its uuid, or of its name without one, whose guest has other disks here.

    An entry of `auto` that is called like it, and says neither, is of its name, as whoever has that
    may be started from it. Blocks.
    """
    mine = places_at(disks)
    found = []
    for file, text in texts.items():
        said, same_name = uuid_in(text), named(text) == guest.target_name
        if said and said != guest.uuid and same_name:
            found.append(_namesake(host, peer, guest, file))
        by_entry = named(text) is None and is_entry_called(file, guest.target_name)
        if said != guest.uuid and (said or not (same_name or by_entry)):
            continue
        if (why := _at_home_by(host, text, mine)) is not None:
            log.info("%s does not come: of %s, %s", guest.name, file, why)
            name = named(text) or guest.target_name
            shown = peer.shown_file(file, name)
            told = f"{shown} on {host.config.node} has the uuid or name of {guest.name}, and "
            told += why if peer.shown(name, "") else "its disks may be there"
            away = (
                "take it out of auto" if by_entry else f"rename {shown} there to end in .replaced"
            )
            hint = (
                f"if it is out of date, {away}; if that guest is "
                "at home there, call this one otherwise (--rename), or see why it has its uuid"
            )
            found.append(problem("guest-here", told, hint))
    return found


def _namesake(host: Host, peer: Peer, guest: GuestOffer, file: str) -> Problem:
    name = guest.target_name
    shown = peer.shown_file(file, name)
    text = f"{shown} on {host.config.node} is of another guest called {name}"
    return problem("guest-exists", text, f"if it is not needed, remove it there; {_ANOTHER_NAME}")


def _at_home_by(host: Host, text: str, mine: Collection[Place]) -> str | None:
    """Say why the guest of a text may be at home here, other than with the disks `mine`.

    It is out of date where it names local disks, and all of them are gone. Blocks.
    """
    disks = own_disks(text)
    if disks is None or not all(path.startswith("/") for path in disks):
        return "its disks may be anywhere"
    if not disks:
        return "it has no disk of its own to tell where it is at home"
    others = sorted(path for path in disks if place_at(path) not in mine)
    left = next((path for path in others if not _is_gone(host, path)), None)
    if left is None:
        return None
    if os.path.lexists(left):
        return f"its disk {left} is there"
    return f"its disk {left} may be on what is not mounted, or not active, now"


def _is_gone(host: Host, path: str) -> bool:
    """Whether a disk is not here any more, rather than what it is on is away for a while.

    A volume is gone where its pool can be looked into and has none; another file, where there are
    others in its folder, as there are none in that of a file system that is not mounted. Nothing
    tells of a device in no pool. Blocks.
    """
    if os.path.lexists(path):
        return False
    if (pool := _pool_at(host, path)) is not None:
        name = Path(path).name
        try:
            return pool.find(name) is None and pool.prospect(name, 1) is not None
        except StorageError:
            return False
    folder = Path(os.path.realpath(path)).parent
    if folder.is_relative_to("/dev"):
        return False
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return any(entries)
    return False


def _pool_at(host: Host, path: str) -> Pool | None:
    """Return the pool in which a volume at a path would be, None without one. Blocks."""
    place = place_at(Path(path).parent)
    for pool in host.pools.values():
        with contextlib.suppress(StorageError):
            folder = pool.folder()
            if folder is None:
                mine = pool.path(Path(path).name) == path
            else:
                mine = place_at(folder.path) == place
            if mine:
                return pool
    return None


async def _in_journal(
    host: Host, peer: Peer, guest: GuestOffer, placements: Sequence[Placement | None]
) -> list[Problem]:
    """Look for volumes that came for one of its uuid or name, and are that one's own here still."""
    noted = await host.journal.in_use(guest.uuid, guest.target_name)
    found = []
    for holding, seen in await asyncio.to_thread(_at_home, host, noted, placements):
        name = holding.guest or guest.target_name
        pool, volume = holding.pool, holding.name
        if seen.info is not None:
            pool, volume = seen.info.pool, seen.info.name
        shown = f"{pool}:{volume}" if peer.shown(name, "") else "a volume"
        text = f"{shown} on {host.config.node} is the disk of {peer.shown(name)}"
        hint = f"if it left that host in another way, remove {shown}, or take it out of its pool"
        found.append(problem("guest-here", f"{text}, which is at home there", hint))
    return found


def _at_home(
    host: Host, noted: Sequence[Holding], placements: Sequence[Placement | None]
) -> list[tuple[Holding, Seen]]:
    """Return which volumes of guests may be here, or away, and are none of the placements. Blocks.

    Each counts as what it is, whatever it is called by now.
    """
    whereabouts = Whereabouts(host.pools)
    mine = places_at(
        host.pools[place.pool].path(place.name) for place in placements if place is not None
    )
    found = []
    for holding in noted:
        seen = whereabouts.look_for(holding.pool, holding.name, holding.identity)
        if seen.info is None:
            at_home = not seen.gone
        else:
            at_home = is_held(holding, seen.info) and place_at(seen.info.path) not in mine
        if at_home:
            found.append((holding, seen))
    return found
