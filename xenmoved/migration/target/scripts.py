"""The scripts for a guest's network interfaces: whether they may be run, and are here."""

from __future__ import annotations

import asyncio
from pathlib import Path

from protocol.messages import GuestOffer, Problem
from xenmoved.config.model import Peer
from xenmoved.migration.host import Host
from xenmoved.problems import problem
from xenmoved.toolstack.wiring import Wiring, script_name


def wiring_for(host: Host, peer: Peer) -> Wiring:
    """Return what interfaces of guests that a peer brings may have of this host."""
    allow = peer.allow
    return Wiring(allow.scripts, allow.ip, allow.gatewaydev, str(_folder(host)))


def denied_scripts(host: Host, peer: Peer, guest: GuestOffer) -> list[Problem]:
    """Find the scripts that a peer may not have run here."""
    wiring, node = wiring_for(host, peer), host.config.node
    known = ", ".join(wiring.scripts) or "none"
    hint = f"on {node}, see `scripts` in `allow` of peer {peer.name}; it has: {known}"
    return [
        problem("script", f"{node} runs no script {script} for an interface of {guest.name}", hint)
        for script in _scripts(guest)
        if not wiring.runs(script)
    ]


async def missing_scripts(host: Host, guest: GuestOffer) -> list[Problem]:
    """Find the scripts that are not here, of those that may be run."""
    paths = [_folder(host) / name for name in map(script_name, _scripts(guest)) if name is not None]
    there = await asyncio.to_thread(lambda: [path.is_file() for path in paths])
    hint = "put it there, for root to execute, or have the guest use another one"
    return [
        problem("script", f"{host.config.node} has no {path}, which {guest.name} needs", hint)
        for path, is_there in zip(paths, there, strict=True)
        if not is_there
    ]


def _folder(host: Host) -> Path:
    return host.config.toolstack.config_dir / "scripts"


def _scripts(guest: GuestOffer) -> list[str]:
    return list(dict.fromkeys(nic.script for nic in guest.nics if nic.script))
