"""The services of this host that jobs use."""

from __future__ import annotations

import asyncio
import functools
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import Protocol

import asyncssh

from protocol.messages import Problem
from storage.contracts import Pool, PoolVolume
from storage.opening import open_source
from storage.qemu.additions import GuestQemu, monitor_of
from xenmoved.config.model import Config, Peer
from xenmoved.hooks.hooks import Hooks
from xenmoved.jobs.board import JobBoard
from xenmoved.journal.database import Journal
from xenmoved.journal.records import NotedKey
from xenmoved.link.client import PeerLink, connect
from xenmoved.link.errors import NotTrusted, PeerUnreachable
from xenmoved.link.identity import parse_public
from xenmoved.migration.promises import Promises
from xenmoved.problems import Obstructed, problem
from xenmoved.sync.devices import Buffers
from xenmoved.toolstack.interface import Toolstack
from xenmoved.trust.certificate import Certificate
from xenmoved.trust.own import OwnCertificate
from xenmoved.trust.refusals import Refusal
from xenmoved.trust.roster import Roster
from xenmoved.trust.validity import warnings

log = logging.getLogger(__name__)


class Links:
    """Connections to the peers that this host sends to: one each, made when needed.

    `certificate` is what this host proves itself by, beside its key.
    """

    def __init__(self, identity: asyncssh.SSHKey) -> None:
        self._identity = identity
        self._links: dict[str, PeerLink] = {}
        self._used_up: list[PeerLink] = []
        self._locks: dict[str, asyncio.Lock] = {}
        self.certificate: Certificate | None = None

    def connected(self, peer: str) -> bool:
        """Whether there is a connection to the peer now."""
        return peer in self._links and not self._links[peer].closed

    def round_trip(self, peer: str) -> float | None:
        """Seconds to the peer and back; None where there is no connection, or nothing tells."""
        return self._links[peer].round_trip if self.connected(peer) else None

    async def get(
        self, peer: Peer, roster: Roster, *, timeout: float, keepalive: float
    ) -> PeerLink:
        """Return the connection to a peer, making it when there is none. Raises LinkError.

        When the certificate of either host expires, or this one has a new one, what goes on there
        comes to its end, and whatever begins has another connection.
        """
        async with self._locks.setdefault(peer.name, asyncio.Lock()):
            link = self._links.get(peer.name)
            if link is not None and not link.closed:
                current = link.certificate is None or roster.current(link.certificate)
                if current and link.shown == self.certificate:
                    return link
                self._used_up.append(link)
            link = await self._connect(peer, roster, timeout, keepalive)
            self._links[peer.name] = link
            return link

    async def _connect(
        self, peer: Peer, roster: Roster, timeout: float, keepalive: float
    ) -> PeerLink:
        if peer.address is None:
            text = f"nobody has said where {peer.name} is"
            hint = "name its address: in `hosts` of the fleet file, or in an entry of that peer"
            raise PeerUnreachable(text, hint)
        pinned = None
        if peer.key is not None:
            pinned = parse_public(peer.key)
            try:
                roster.peer_of_key(peer.key)
            except Refusal as refusal:
                text = f"{peer.name} is not trusted: {refusal}"
                raise NotTrusted(text, refusal.hint, refusal.flaw.value) from None
        link = await connect(
            peer.name,
            peer.address,
            peer.port,
            identity=self._identity,
            pinned=pinned,
            judge=functools.partial(roster.admit_as, peer.name),
            certificate=self.certificate,
            timeout=timeout,
            keepalive=keepalive,
        )
        if link.certificate is not None:
            if not roster.stands(link.certificate):  # the configuration was read meanwhile
                link.abort()
                raise PeerUnreachable(f"{peer.name} is not believed any more", "try again")
            roster.proven(link.certificate)
        return link

    async def to_settle(
        self, noted: NotedKey, peer: Peer | None, *, timeout: float, keepalive: float
    ) -> PeerLink:
        """Return a new connection to whoever has the key of a noted migration. Raises LinkError."""
        address, port = noted.address, noted.port
        if peer is not None and peer.address is not None:
            address, port = peer.address, peer.port
        return await connect(
            noted.peer,
            address,
            port,
            identity=self._identity,
            pinned=parse_public(noted.key),
            settling=True,
            timeout=timeout,
            keepalive=keepalive,
        )

    def drop(self, peer: str) -> None:
        """End the connections to a peer, as when its entry changed."""
        if (link := self._links.pop(peer, None)) is not None:
            link.abort()
        for link in self._used_up:
            if link.peer == peer:
                link.abort()

    def drop_revoked(self, roster: Roster) -> None:
        """End the connections to peers that are not believed to be those any more."""
        for link in [*self._links.values(), *self._used_up]:
            proven = link.certificate
            if roster.revoked(link.key) or not (proven is None or roster.stands(proven)):
                log.warning("%s is cut off: what it proved is not believed now", link.peer)
                self.drop(link.peer)

    @property
    def peers(self) -> list[str]:
        """Names of the peers to which there are connections."""
        return list(self._links)

    async def close(self) -> None:
        """End every connection."""
        links = [*self._links.values(), *self._used_up]
        self._links.clear()
        self._used_up.clear()
        for link in links:
            link.abort()
        await asyncio.gather(*(link.close() for link in links), return_exceptions=True)


class Doubt(Protocol):
    """A migration that is in doubt, at its source or its target."""

    async def keep(self) -> None:
        """Take an operator's decision that the guest is this host's."""

    async def give_up(self) -> None:
        """Take an operator's decision that the guest is the peer's."""


@dataclass(slots=True)
class Host:
    """Services of this host: configuration, toolstack, pools and what all jobs share.

    Buffers are separate for the two directions: two hosts that send to each other at the same time
    would otherwise be able to wait for each other's buffers in a circle.
    """

    config: Config
    toolstack: Toolstack
    pools: Mapping[str, Pool]
    journal: Journal
    jobs: JobBoard
    hooks: Hooks
    links: Links
    outgoing_buffers: Buffers
    incoming_buffers: Buffers
    doubts: dict[str, Doubt] = field(default_factory=dict)
    """Migrations of which nobody here can tell whose the guest is, by their jobs."""
    alarms: dict[str, Problem] = field(default_factory=dict)
    """What is tried again and again because it fails, by the jobs whose it is."""
    promises: Promises = field(default_factory=Promises)
    """What peers may take of this host, and have not yet."""
    making: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Has one at a time look whether a volume is there, and make or remove it.

    Of two that mean the same name, the later one would else overwrite, or drop, the note of the
    other.
    """
    own: OwnCertificate = field(default_factory=OwnCertificate)
    """What this host proves itself by, beside its key."""
    roster: Roster = field(init=False)
    """Who the peers are."""

    def __post_init__(self) -> None:
        self.roster = Roster(lambda: self.config)

    @property
    def spool(self) -> Path:
        """Folder for saved images and tables of fingerprints."""
        return self.config.state_dir / "spool"

    @property
    def qemu_sockets(self) -> Path:
        """Folder for sockets at which QEMU serves this daemon."""
        return self.config.state_dir / "qemu"

    def qemu_of(self, domid: int) -> GuestQemu | None:
        """Return the QEMU of a running domain, None where nobody can ask it."""
        if (folder := self.config.toolstack.monitors) is None:
            return None
        monitor = monitor_of(folder, domid)
        return GuestQemu(monitor, self.qemu_sockets) if monitor is not None else None

    def spool_of(self, migration: str) -> Path:
        """Folder for the image of one migration; the toolstack makes it when it needs it."""
        return self.spool / migration

    def clear_spool(self, migration: str) -> None:
        """Remove what is left of a migration, before it is written down as settled."""
        shutil.rmtree(self.spool / migration, ignore_errors=True)

    def peer(self, name: str) -> Peer:
        """Return a configured peer. Raises Obstructed."""
        if (peer := self.roster.get(name)) is None:
            known = ", ".join(one.name for one in self.roster.all()) or "none"
            raise Obstructed(
                [problem("peer-unknown", f"no peer is called {name}", f"known peers: {known}")]
            )
        return peer

    async def link(self, name: str) -> PeerLink:
        """Return the connection to a peer. Raises Obstructed or LinkError."""
        timeouts = self.config.timeouts
        return await self.links.get(
            self.peer(name), self.roster, timeout=timeouts.connect, keepalive=timeouts.keepalive
        )

    async def note_key(self, migration: str, link: PeerLink) -> None:
        """Note the key of a peer to which a migration begins, if its certificate vouches for it.

        Raises JournalFailed.
        """
        if link.certificate is not None and (peer := self.roster.get(link.peer)) is not None:
            key = link.certificate.key
            noted = NotedKey(migration, peer.name, key, peer.address or "", peer.port)
            await self.journal.note_key(noted)

    async def link_to_settle(self, migration: str) -> PeerLink | None:
        """Return a new connection on which a migration can be settled, and nothing else be done.

        It needs no certificate: None where no key was noted of it. Raises LinkError.
        """
        if (noted := await self.journal.noted_key(migration)) is None:
            return None
        timeouts = self.config.timeouts
        return await self.links.to_settle(
            noted,
            self.roster.get(noted.peer),
            timeout=timeouts.connect,
            keepalive=timeouts.keepalive,
        )

    def certificate_alarms(self) -> list[Problem]:
        """Return what an operator must know of the certificate of this host."""
        config = self.config
        return [problem(*one) for one in warnings(self.own, config.fleet, config.node, time())]

    def pool_of(self, path: str) -> tuple[Pool, str] | None:
        """Return the pool and the name that a disk path denotes, None when no pool has it."""
        for pool in self.pools.values():
            if (name := pool.locate(path)) is not None:
                return pool, name
        return None

    def open_source(self, path: str, *, exclusive: bool = False) -> PoolVolume:
        """Open a guest's disk for reading, as its pool does if one has it; else by its path.

        See `storage.open_source` for `exclusive` and errors. Blocks.
        """
        if (located := self.pool_of(path)) is None:
            return open_source(path, exclusive=exclusive)
        pool, name = located
        return pool.open(name, writable=exclusive)
