"""Who needs which volumes of this host, and so what nobody may write to or remove.

`against` is asked before a peer writes to a volume and before a copy is dropped, whoever wants it
and whatever is allowed: beforehand, and again when it is done. Whoever doubts keeps the volume. Who
needs an image needs all that lies beneath it, there or not.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from protocol.handover import SourceState
from protocol.messages import GuestOffer, Problem
from storage.contracts import VolumeInfo
from storage.files.chains import beneath, with_beneath
from storage.places import Place, around, place_at, places_at
from xenmoved.config.model import Peer
from xenmoved.journal.records import Holding
from xenmoved.migration.host import Host
from xenmoved.migration.volume_notes import is_held, is_of_a_part, may_be_in
from xenmoved.migration.whereabouts import Whereabouts
from xenmoved.problems import problem
from xenmoved.toolstack.configs.keeping import MOVED, is_newer
from xenmoved.toolstack.configs.opened import opened, written
from xenmoved.toolstack.configs.text import named, uuid_in
from xenmoved.toolstack.interface import Disk, Domain, DomainStatus, ToolstackError, guests_among

log = logging.getLogger(__name__)

_RECEIVED: Final = re.compile(r"\.received(?:(?:\.\d+)?\.replaced)?\Z")
"""Of a file that came from a peer and waits for its operator, or waited: it is nobody's word.

Earlier releases kept one that another came after as NAME.cfg.received.replaced."""

_MOST_NAMED: Final = 10
"""Volumes of one identity, or with bytes in common, that an operator is told of."""
_PLAIN: Final = ("raw", "empty")
_Named: TypeAlias = list[tuple[str, str]]
"""Who uses a path, in words, and the path."""
_Users = Mapping[Place, list[str]]
"""Who uses what, in words, by pool and volume and by place, whether anything is there or not."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Who needs which volumes of this host, as of one moment."""

    node: str
    """What this host is called."""
    disks: _Users
    """Domains that have them."""
    files: _Users
    """Configurations that name them, by their paths."""
    below: _Users
    """Configurations that name an image above them."""
    guests: frozenset[str]
    """Names and uuids of the guests that are at home here, running or not."""
    undecided: frozenset[str]
    """Names and uuids of guests with a migration that is not settled."""
    disputed: frozenset[str]
    """Names of guests that went from here, and of which nobody knows where they are."""
    written: frozenset[Place]
    """Places of disks that a domain or a configuration here writes, or may write."""
    texts: Mapping[str, str]
    """The configurations, by their paths."""
    whereabouts: Whereabouts
    """What is in the pools."""
    parts: tuple[Holding, ...] = ()
    """What was noted of what may be a part of a volume, or another one that is known as it."""
    peer: Peer | None = None
    """Who is told of it, None for an operator of this host."""
    unknown: tuple[Problem, ...] = ()
    """Guests that run here and cannot be described: each may need any volume."""

    def users(self, info: VolumeInfo) -> list[str]:
        """Return in words who has a volume as a disk, and what names it."""
        files = map(_naming, _among(self.files, info))
        return [*_among(self.disks, info), *files, *map(_above, _among(self.below, info))]

    def shown(self, guest: str) -> str:
        """Return what may be told of a guest."""
        return _shown(self.peer, guest)

    def without(self, files: Collection[str]) -> Needs:
        """Return the same, but for what these configurations name."""
        return replace(self, files=_but(self.files, files), below=_but(self.below, files))


def _but(users: _Users, files: Collection[str]) -> _Users:
    return {key: [file for file in those if file not in files] for key, those in users.items()}


_Described = Sequence[tuple[DomainStatus, Domain | ToolstackError]]


async def needs(
    host: Host,
    *,
    besides: str = "",
    here: _Described | None = None,
    coming: GuestOffer | None = None,
    peer: Peer | None = None,
) -> Needs:
    """Look who needs which volumes; `here` are the domains, if they were looked at just now.

    Who that is, is said as `peer` may be told it, or with all names where there is none.

    The job `besides` does not count. Nor do copies of the file that was set aside for the guest
    that is `coming`: they say nothing of what it needs here now. Raises ToolstackError.
    """
    if here is None:
        here = await host.toolstack.describe_all()
    unknown: list[Problem] = []
    guests: set[str] = set()
    disks: list[tuple[str, Disk]] = []
    for status, domain in guests_among(here):
        if isinstance(domain, ToolstackError):
            log.warning("what %s needs cannot be found out: %s", status.name, domain)
            text = f"{_shown(peer, status.name)} runs here, and what it needs cannot be found out"
            unknown.append(problem("guest-unclear", text, "no volume is given away while it is so"))
            guests.add(status.name)
            continue
        guests |= {domain.name, domain.uuid}
        who = _shown(peer, domain.name)
        disks += [(who, disk) for disk in domain.disks if disk.path]
    texts = _in_use(await host.toolstack.configs.read_all())
    if coming is not None:
        own = await host.toolstack.configs.files(coming.target_name, coming.uuid)
        counted = {str(file.path) for file in own}
        everything = _in_use(await host.toolstack.configs.read_all(moved=True))
        copies = await asyncio.to_thread(_copies_of, coming, everything)
        # One that is in use and set aside is of a guest that is leaving.
        texts = {
            file: text
            for file, text in texts.items()
            if file in counted or file not in copies or file.endswith(MOVED)
        }
    guests |= await asyncio.to_thread(_names_in, texts.values())
    named_in, below = await asyncio.to_thread(_paths_in, texts, peer)
    return Needs(
        host.config.node,
        await asyncio.to_thread(_by_place, host, await asyncio.to_thread(_disks_of, disks)),
        await asyncio.to_thread(_by_place, host, named_in),
        await asyncio.to_thread(_by_place, host, below),
        frozenset(guests),
        await _undecided(host, besides),
        await _disputed(host),
        await asyncio.to_thread(_written, disks, texts),
        texts,
        await asyncio.to_thread(Whereabouts(host.pools).look),
        tuple(filter(is_of_a_part, await host.journal.holdings())),
        peer,
        tuple(unknown),
    )


def _shown(peer: Peer | None, guest: str) -> str:
    return peer.shown(guest) if peer is not None else guest


def _names_in(texts: Iterable[str]) -> set[str]:
    """Return the guests that texts are for. Blocks, as long as it takes to take them apart."""
    return {name for text in texts if (name := named(text)) is not None}


def _paths_in(texts: Mapping[str, str], peer: Peer | None) -> tuple[_Named, _Named]:
    """Return what texts have opened, each with what may be told of its file; and what is beneath.

    Blocks, as above, and as long as it takes to look at the headers of images.
    """
    named_in: _Named = []
    below: _Named = []
    for file, text in texts.items():
        shown = peer.shown_file(file, named(text)) if peer is not None else file
        found = opened(text)
        named_in += [(shown, path) for path in found.paths]
        below += [(shown, path) for image in found.images for path in beneath(image)]
    return named_in, below


def _beneath(disk: Disk) -> tuple[str, ...]:
    """Return what lies beneath a disk that is an image; of a raw one its guest writes. Blocks."""
    return beneath(disk.path) if disk.path and disk.format not in _PLAIN else ()


def with_disks_beneath(disks: Iterable[Disk]) -> list[str]:
    """Return the paths of disks, and of what lies beneath them. Blocks."""
    return [path for disk in disks for path in (disk.path, *_beneath(disk))]


def _disks_of(disks: Iterable[tuple[str, Disk]]) -> _Named:
    found: _Named = []
    for who, disk in disks:
        found.append((f"disk of {who}", disk.path))
        found += [(f"beneath a disk of {who}", path) for path in _beneath(disk)]
    return found


def _written(disks: Iterable[tuple[str, Disk]], texts: Mapping[str, str]) -> frozenset[Place]:
    """Return the places of what guests write, or read for a part of what they write. Blocks."""
    paths = set()
    for _, disk in disks:
        if disk.writable:
            paths |= {disk.path, *_beneath(disk)}
    for text in texts.values():
        paths |= {*(own := written(text)), *with_beneath(own & opened(text).images)}
    return places_at(paths)


def _in_use(texts: Mapping[str, str]) -> dict[str, str]:
    return {file: text for file, text in texts.items() if not _RECEIVED.search(file)}


def _copies_of(coming: GuestOffer, texts: Mapping[str, str]) -> set[str]:
    """Return files with a guest's name that name no disk but those of the file set aside for it.

    Another, without a uuid, may be of another guest that has the name now; one that names no disk
    is a copy of nothing, and one that was put there since may be of the guest that is back. Blocks.
    """
    named_here = {file: text for file, text in texts.items() if named(text) == coming.target_name}
    aside = {
        file: _places_in(text)
        for file, text in named_here.items()
        if file.endswith(MOVED) and uuid_in(text) in ("", coming.uuid)
    }
    return {
        file
        for file, text in named_here.items()
        if (own := _places_in(text))
        and any(own <= paths and not is_newer(file, left) for left, paths in aside.items())
    }


def _places_in(text: str) -> frozenset[Place]:
    return places_at(opened(text).paths)


async def _disputed(host: Host) -> frozenset[str]:
    """Their copies here may be all that is left of them, whoever had them last."""
    rows = await host.journal.standing()
    return frozenset(one.guest for one in rows if isinstance(one.state, SourceState))


async def _undecided(host: Host, besides: str) -> frozenset[str]:
    found = {one.guest for one in await host.journal.unsettled_outbound() if one.job != besides} | {
        one.guest for one in await host.journal.standing() if one.job != besides
    }
    for arriving in await host.journal.unsettled_inbound():
        if arriving.job != besides:
            # It may have had another name when it left its copies here.
            found |= {arriving.guest, arriving.uuid}
    return frozenset(found | {job.guest for job in host.jobs.live if job.job != besides})


def against(
    found: Needs, info: VolumeInfo, holding: Holding | None, hint: str, *, own: bool = False
) -> list[Problem]:
    """Return everything that speaks against writing to a volume that is there, or removing it.

    `holding` is what the journal notes of it. `own`: it is filled anew for the guest whose copy it
    is. Whether that one is here, or has a migration that is not settled, is then for those to see
    who take it in.
    """
    problems = [*claims(found, info, hint), *_alike(found, info, holding), *_parts(found, info)]
    if holding is not None and (is_held(holding, info) or may_be_in(holding, info)):
        problems += _noted(found, info, holding, hint, own=own)
    for other in found.parts:
        if other != holding and may_be_in(other, info):
            problems += _noted(found, info, other, hint, own=False)
    return [*problems, *found.unknown]


def _noted(
    found: Needs, info: VolumeInfo, holding: Holding, hint: str, *, own: bool
) -> list[Problem]:
    """Say so if the guest that is noted for a volume needs it."""
    if not holding.guest:
        return []
    whose, shown = {holding.guest, holding.owner}, found.shown(holding.guest)
    if holding.since is None:
        text = f"it is the disk of {shown}, which is at home there"
        return [_needed("guest-here", found, info, text, hint)]
    if not own and found.guests & whose:
        text = f"it is a copy of {shown}, which is there"
        return [_needed("guest-here", found, info, text, hint)]
    if found.disputed & whose or (not own and found.undecided & whose):
        text = f"it is a copy of {shown}, of which a migration is not settled"
        hint = "see on that host: xenmovectl jobs; xenmovectl recover"
        return [_needed("unsettled", found, info, text, hint)]
    return []


def _parts(found: Needs, info: VolumeInfo) -> list[Problem]:
    """Say so if another volume has some of the bytes of a volume: nothing is noted of both."""
    if not (names := found.whereabouts.overlapping(info)):
        return []
    shown = f"{info.pool}:{info.name} on {found.node}"
    text = f"{shown} has bytes in common with another volume there{_named_to(found, names)}"
    hint = "one is a part of the other: there, have only one of them in the pools"
    return [problem("volume-overlaps", text, hint)]


def _named_to(found: Needs, names: Sequence[str]) -> str:
    """Return volumes in words for an operator of this host, nothing for a peer."""
    return "" if found.peer is not None else f" ({', '.join(names[:_MOST_NAMED])})"


def _alike(found: Needs, info: VolumeInfo, holding: Holding | None) -> list[Problem]:
    """Say so if nothing tells a volume, or that of which something is noted, from another one."""
    identities = [info.identity, *([holding.identity] if holding is not None else [])]
    twice = next(filter(found.whereabouts.is_twice, identities), None)
    if twice is None:
        return []
    shown = f"{info.pool}:{info.name} on {found.node}"
    names = _named_to(found, found.whereabouts.names(twice))
    text = f"{shown} cannot be told from another volume there, which has the same identity{names}"
    hint = (
        "one may be on a block copy or a snapshot of what the other is on: there, unmount or "
        "deactivate that, or take it out of the pools in the configuration"
    )
    return [problem("volume-twice", text, hint)]


def claims(found: Needs, info: VolumeInfo, hint: str) -> list[Problem]:
    """Return who has a volume as a disk or will have it, as soon as something is in its place."""
    disks = [("volume-in-use", one) for one in _among(found.disks, info)]
    files = [("guest-here", _naming(one)) for one in _among(found.files, info)]
    files += [("guest-here", _above(one)) for one in _among(found.below, info)]
    return [_needed(code, found, info, f"it is {one}", hint) for code, one in disks + files]


def _needed(code: str, found: Needs, info: VolumeInfo, why: str, hint: str) -> Problem:
    text = f"{info.pool}:{info.name} on {found.node} is needed: {why}"
    return problem(code, text, hint)


def _naming(file: str) -> str:
    return f"named in {file}"


def _above(file: str) -> str:
    return f"beneath an image that is named in {file}"


def _among(users: _Users, info: VolumeInfo) -> list[str]:
    keys: tuple[Place, ...] = ((info.pool, info.name), place_at(info.path), *around(info.path))
    return list(dict.fromkeys(one for key in keys for one in users.get(key, ())))


def _by_place(host: Host, paths: Iterable[tuple[str, str]]) -> _Users:
    users: dict[Place, list[str]] = defaultdict(list)
    for user, path in dict.fromkeys(paths):
        users[place_at(path)].append(user)
        for pool in host.pools.values():
            if (name := pool.locate(path)) is not None:
                users[pool.name, name].append(user)
    return dict(users)


@dataclass(frozen=True, slots=True)
class Imagery:
    """A configuration that has disks opened that are not raw."""

    file: str
    guest: str | None
    """Name of the guest that it is for, None where it does not tell."""
    formats: frozenset[str]
    places: frozenset[Place]
    """All that it has opened, and what is opened with it as an image."""
    doubtful: tuple[str, ...]
    """Texts in which a path with blanks may be that is not among them."""

    def may_open(self, path: str, place: Place) -> bool:
        """Whether it may have a path opened that leads to a place."""
        return place in self.places or any(path in text for text in self.doubtful)


async def imagery(host: Host) -> list[Imagery]:
    """Return the configurations that have disks opened that are not raw.

    Those of guests that moved away count, as they come back to life with the guest. Raises
    ToolstackError.
    """
    texts = _in_use(await host.toolstack.configs.read_all(moved=True))
    return await asyncio.to_thread(_imagery, texts)


def _imagery(texts: Mapping[str, str]) -> list[Imagery]:
    return [
        Imagery(
            file,
            named(text),
            found.formats,
            places_at([*found.paths, *with_beneath(found.images, images=True)]),
            found.doubtful,
        )
        for file, text in texts.items()
        if (found := opened(text)).formats
    ]
