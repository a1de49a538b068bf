"""Peers: the key of this host and theirs, their entries, and whether they answer."""

from __future__ import annotations

from time import monotonic, time
from typing import Final

from protocol.messages import Ping, Pong, newest
from xenmoved.config.addresses import parse_address
from xenmoved.config.errors import ConfigError, PeerExists
from xenmoved.config.loader import peer_from
from xenmoved.config.peers import remove_peer, write_peer
from xenmoved.control.api import Done
from xenmoved.control.peer_api import (
    AddPeer,
    Enroll,
    FetchPeerKey,
    GetIdentity,
    Identity,
    ListPeers,
    PeerKey,
    PeerPing,
    Peers,
    PingPeer,
    RemovePeer,
)
from xenmoved.handlers.dispatch import Services, answers
from xenmoved.handlers.peer_rows import peer_data, peer_row
from xenmoved.link.bulk import Bulk
from xenmoved.link.client import fetch_host_key
from xenmoved.link.identity import fingerprint, public_text
from xenmoved.link.probe import measure
from xenmoved.migration.source.dialogue import open_dialogue
from xenmoved.problems import Obstructed, problem
from xenmoved.trust.own import OwnCertificate, fitting, install
from xenmoved.trust.refusals import Refusal, moment
from xenmoved.trust.validity import EXPIRES, warnings

_PROBE_SECONDS: Final = 1.0
_UNCHANGED: Final = "nothing was changed"


@answers(GetIdentity)
async def identity(services: Services, _: GetIdentity) -> Identity:
    """Tell the key of this host."""
    key = services.identity
    node = services.host.config.node
    return Identity(node, public_text(key), fingerprint(key), services.port)


@answers(FetchPeerKey)
async def fetch_key(services: Services, request: FetchPeerKey) -> PeerKey:
    """Ask another host for its key, unverified."""
    timeout = services.host.config.timeouts.connect
    try:
        parse_address(request.address)
    except ValueError as error:
        hint = "give it as a host name or an IP address"
        raise Obstructed([problem("configuration", str(error), hint)]) from None
    key = await fetch_host_key(request.address, request.port, timeout)
    return PeerKey(public_text(key), fingerprint(key))


@answers(ListPeers)
async def list_peers(services: Services, _: ListPeers) -> Peers:
    """Describe the peers that are configured."""
    host = services.host
    connected = {visitor.peer for visitor in services.server.visitors if not visitor.settling}
    return Peers(
        tuple(
            peer_row(
                peer,
                host.roster.groups(peer.name),
                connected_from=peer.name in connected,
                connected_to=host.links.connected(peer.name),
            )
            for peer in host.roster.all()[:1000]
        )
    )


@answers(AddPeer)
async def add_peer(services: Services, request: AddPeer) -> Done:
    """Write the entry of a peer."""
    if request.key.split()[:2] == public_text(services.identity).split():
        text = "that is the key of this host itself"
        raise Obstructed([problem("own-key", text, "give the address of the other host")])
    data = peer_data(request, services.host.config.peers.get(request.name))
    file = services.config_file
    try:
        peer = peer_from(request.name, data, file)
        path = write_peer(file, peer, replace=request.replace)
    except ConfigError as error:
        hint = "to change it, say --replace" if isinstance(error, PeerExists) else _UNCHANGED
        raise Obstructed([problem("configuration", str(error), hint)]) from None
    await services.reload()
    return Done(f"peer {request.name} was written to {path}")


@answers(RemovePeer)
async def forget_peer(services: Services, request: RemovePeer) -> Done:
    """Remove the entry of a peer."""
    try:
        path = remove_peer(services.config_file, request.name)
    except ConfigError as error:
        hint = "xenmovectl peer list shows the peers; " + _UNCHANGED
        raise Obstructed([problem("configuration", str(error), hint)]) from None
    await services.reload()
    return Done(f"peer {request.name} was removed: {path}")


@answers(Enroll)
async def enroll(services: Services, request: Enroll) -> Done:
    """Take a certificate for this host into use, without a restart.

    It must be one that others believe: the fleet file, which is read again first, has to say so.
    """
    host = services.host
    try:
        await services.reload()
    except ConfigError as error:
        raise Obstructed([problem("configuration", str(error), _UNCHANGED)]) from None
    config = host.config
    if config.fleet is None:
        text = f"there is no fleet file beside {services.config_file}: nobody would believe it"
        raise Obstructed([problem("no-fleet", text, "copy fleet.yaml there first; " + _UNCHANGED)])
    try:
        certificate = fitting(request.certificate, config.node, public_text(services.identity))
    except Refusal as refusal:
        text = f"that certificate is not for this host: {refusal}"
        raise Obstructed([problem(refusal.flaw.value, text, refusal.hint)]) from None
    found = warnings(OwnCertificate(certificate), config.fleet, config.node, time())
    if found and found[0][0] != EXPIRES:
        raise Obstructed([problem(*found[0])])
    path = install(config.state_dir, certificate)
    await services.reload()
    groups = ", ".join(certificate.groups)
    until = moment(certificate.valid_before)
    return Done(f"{certificate.name} is enrolled, in {groups}, until {until}: {path}")


@answers(PingPeer)
async def ping(services: Services, request: PingPeer) -> PeerPing:
    """Tell whether a peer answers, what it allows, and how fast the link to it is."""
    async with open_dialogue(services.host, request.name) as dialogue:
        began = monotonic()
        pong = await dialogue.ask(Ping(), Pong)
        await dialogue.ask(Ping(), Pong)
        round_trip = (monotonic() - began) / 2
        throughput = await measure(dialogue.link, _PROBE_SECONDS)
        return PeerPing(
            peer=request.name,
            node=dialogue.peer_hello.node,
            software=dialogue.peer_hello.software,
            protocol_version=newest(dialogue.peer_hello),
            spoken_version=dialogue.version or 0,
            toolstack=pong.toolstack,
            xen_version=pong.xen_version,
            capabilities=tuple(sorted(dialogue.capabilities)),
            round_trip=round_trip,
            throughput=throughput,
            slow_because=Bulk.refused,
            actions=pong.actions,
            pools=pong.pools,
            guests=pong.guests,
            quota=pong.quota,
            quota_used=pong.quota_used,
            memory=pong.memory,
            vcpus=pong.vcpus,
        )
