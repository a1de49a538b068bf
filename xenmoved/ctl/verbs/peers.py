"""What `xenmovectl peer` does: one function for each verb, which returns the exit code."""

from __future__ import annotations

import ipaddress
import socket
import sys
from argparse import Namespace

from protocol.messages import Action
from xenmoved.control.api import Done
from xenmoved.control.peer_api import (
    AddPeer,
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
from xenmoved.ctl.arguments import Address
from xenmoved.ctl.daemon import RunningDaemon
from xenmoved.ctl.exits import CommandError, Exit
from xenmoved.ctl.output import Output
from xenmoved.ctl.text import Span, Style, line
from xenmoved.ctl.views import host as views


def run_list(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Show the peers."""
    answer = daemon.ask(ListPeers(), Peers)
    output.result(answer, views.peers(answer))
    return Exit.OK


def run_add(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Add a peer, with the key that was given or the one that its host shows."""
    address: Address = args.address
    key = args.key
    if key is None:
        if not args.yes and not sys.stdin.isatty():
            text = "there is no terminal to ask whether the key is right"
            hint = "give the key with --key, or take whatever key the host shows with --yes"
            raise CommandError(Exit.USAGE, ("usage", text, hint))
        key = _fetch_key(daemon, output, args)
    request = AddPeer(
        name=args.name,
        address=address.host,
        port=address.port,
        key=key,
        actions=tuple(map(Action, args.allow)),
        pools=args.pools,
        guests=args.guests,
        quota=args.quota,
        memory=args.memory,
        vcpus=args.vcpus,
        overwrite=args.overwrite,
        replace=args.replace,
    )
    answer = daemon.ask(request, Done)
    output.done(answer, views.peer_added(answer.text, args.allow))
    if output.as_json:
        return Exit.OK
    for option, given in (("--pools", args.pools), ("--guests", args.guests)):
        if args.allow and not given:
            what = option.removeprefix("--")
            warning = f"no {what} are allowed to it, so nothing can be sent here: add {option}"
            output.tell(line(Span("warning: ", Style.WARN), warning))
    here = daemon.ask(GetIdentity(), Identity)
    output.note(*views.other_side(args.name, here, _own_address(address.host)))
    return Exit.OK


def run_remove(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Remove a peer."""
    answer = daemon.ask(RemovePeer(args.name), Done)
    output.done(answer, line(answer.text))
    return Exit.OK


def run_ping(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Show what a peer answers."""
    answer = daemon.ask(PingPeer(args.name), PeerPing, timeout=None)
    output.result(answer, views.ping(answer))
    return Exit.OK


def _fetch_key(daemon: RunningDaemon, output: Output, args: Namespace) -> str:
    """Return the key that a host shows, if the operator finds that it is the right one."""
    address: Address = args.address
    shown = daemon.ask(FetchPeerKey(address.host, address.port), PeerKey, timeout=None)
    fingerprint = Span(shown.fingerprint, Style.BOLD)
    output.tell(line(f"{address} shows the key ", fingerprint))
    if args.yes:
        return shown.key
    output.tell(
        line(f"Compare it with what this prints on {args.name} itself: xenmovectl identity")
    )
    sys.stderr.write("Are they the same (yes/no)? ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() != "yes":
        text = f"{args.name} was not added: its key was not confirmed"
        raise CommandError(Exit.FAILED, ("not-confirmed", text, ""))
    return shown.key


def _own_address(peer: str) -> str:
    """Return where a peer probably reaches this host: its address towards the peer, or its name.

    Nothing is sent: connecting a datagram socket only chooses a route.
    """
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(peer).version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((peer, 9))
            return str(probe.getsockname()[0])
    except (OSError, ValueError):
        return socket.gethostname()
