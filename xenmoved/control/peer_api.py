"""The messages of the control socket about this host's identity and its peers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from protocol.messages import Action, Processors
from protocol.schema import U16, U63, Length, Name, Text
from xenmoved.control.message_set import CONTROL
from xenmoved.jobs.report import Rate, Seconds


@CONTROL.add
@dataclass(frozen=True, slots=True)
class GetIdentity:
    """Ask for this host's key. Answered by `Identity`."""


@CONTROL.add
@dataclass(frozen=True, slots=True)
class Identity:
    """What the operator of a peer needs to add this host."""

    node: Name
    key: Text
    fingerprint: Text
    port: U16


@CONTROL.add
@dataclass(frozen=True, slots=True)
class Enroll:
    """Have this host prove itself by a certificate, the line of it. Answered by `Done`."""

    certificate: Annotated[str, Length(1, 16384)]


@CONTROL.add
@dataclass(frozen=True, slots=True)
class FetchPeerKey:
    """Ask for the key that a host shows, before it is trusted. Answered by `PeerKey`."""

    address: Name
    port: U16


@CONTROL.add
@dataclass(frozen=True, slots=True)
class PeerKey:
    """The key that a host shows."""

    key: Text
    fingerprint: Text


@dataclass(frozen=True, slots=True)
class PeerRow:
    """A peer as configured, and whether connections exist. A limit of None is none.

    Where its key is not `pinned` there is no `fingerprint`, and `groups` are those that its
    certificate had when it was proven last. `address` is "" where nobody has said it.
    """

    name: Name
    address: Text
    port: U16
    fingerprint: Text
    actions: Annotated[tuple[Action, ...], Length(0, 16)]
    pools: Annotated[tuple[Name, ...], Length(0, 256)]
    guests: Annotated[tuple[Name, ...], Length(0, 256)]
    quota: U63 | None
    memory: U63 | None
    vcpus: Processors | None
    overwrite: bool
    connected_from: bool
    connected_to: bool
    pinned: bool = True
    groups: Annotated[tuple[Name, ...], Length(0, 64)] = ()


@CONTROL.add
@dataclass(frozen=True, slots=True)
class ListPeers:
    """Ask for the peers. Answered by `Peers`."""


@CONTROL.add
@dataclass(frozen=True, slots=True)
class Peers:
    """The peers of this host."""

    peers: Annotated[tuple[PeerRow, ...], Length(0, 1000)]


@CONTROL.add
@dataclass(frozen=True, slots=True)
class AddPeer:
    """Add a peer to the configuration, or replace it. Answered by `Done`."""

    name: Name
    address: Name
    port: U16
    key: Text
    actions: Annotated[tuple[Action, ...], Length(0, 16)]
    pools: Annotated[tuple[Name, ...], Length(0, 256)]
    guests: Annotated[tuple[Name, ...], Length(0, 256)]
    quota: U63 | None
    memory: U63 | None
    vcpus: Processors | None
    overwrite: bool
    replace: bool


@CONTROL.add
@dataclass(frozen=True, slots=True)
class RemovePeer:
    """Remove a peer that was added with `AddPeer`. Answered by `Done`."""

    name: Name


@CONTROL.add
@dataclass(frozen=True, slots=True)
class PingPeer:
    """Connect to a peer and measure. Answered by `PeerPing`."""

    name: Name


@CONTROL.add
@dataclass(frozen=True, slots=True)
class PeerPing:
    """What a peer answers, and what this host may do there. `throughput` is in bytes a second.

    `protocol_version` is the newest that it speaks, `spoken_version` that of both hosts together.
    `slow_because` says why this host leaves bulk data to asyncssh, None where it does not.
    """

    peer: Name
    node: Text
    software: Text
    protocol_version: U16
    spoken_version: U16
    toolstack: Text
    xen_version: Text
    capabilities: Annotated[tuple[Name, ...], Length(0, 256)]
    round_trip: Seconds
    throughput: Rate
    slow_because: Text | None
    actions: Annotated[tuple[Name, ...], Length(0, 256)]
    pools: Annotated[tuple[Name, ...], Length(0, 256)]
    guests: Annotated[tuple[Name, ...], Length(0, 256)]
    quota: U63 | None
    quota_used: U63
    memory: U63 | None
    vcpus: Processors | None
