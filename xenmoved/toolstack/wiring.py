"""What of this host the network interfaces of a guest from elsewhere may have.

A script that puts an interface into service runs as root, so what may be run is the receiving
host's to say, by the names of files in its own folder of scripts. Those of bridges take what is
said of addresses for a filter of the guest's own packets; to others an address is a route of the
host, and `gatewaydev` a network device of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import PurePosixPath
from typing import Final

Network = IPv4Network | IPv6Network

BRIDGE_SCRIPTS: Final = ("vif-bridge", "vif-openvswitch")
"""Xen's own that put an interface on a bridge, and do nothing else on the host."""
ROUTING_SCRIPTS: Final = ("vif-route", "vif-nat")
"""Xen's own that know of no bridge, though toolstacks name one all the same."""
_ANY: Final = "*"
_SCRIPT: Final = re.compile(r"(/(?:[\w.+-]+/)*xen/scripts/)?([\w.+-]+)", re.ASCII)
_ADDRESS: Final = re.compile(r"[0-9A-Fa-f.:]+(?:/\d{1,3})?", re.ASCII)


def script_name(script: str) -> str | None:
    """Return the name of a script that is in a folder of Xen's scripts, None for any other."""
    match = _SCRIPT.fullmatch(script)
    if match is None or match[2].startswith(".") or "/../" in script or "/./" in script:
        return None
    return match[2]


@dataclass(frozen=True, slots=True)
class Wiring:
    """What interfaces may have: scripts in `folder`, addresses in `networks`, and `gateways`."""

    scripts: tuple[str, ...] = BRIDGE_SCRIPTS
    networks: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    folder: str = "/etc/xen/scripts"

    def runs(self, script: str) -> bool:
        """Whether a script may be run, as far as its name says."""
        return _among(script_name(script), self.scripts)

    def here(self, script: str) -> str:
        """Return what to call a script that may be run: never by a folder of another host."""
        own = str(PurePosixPath(script).parent) == self.folder
        return script if own else script_name(script) or ""

    def routes(self, addresses: str) -> bool:
        """Whether this host may route some addresses, with blanks between them, to the guest."""
        return all(self._routes(address) for address in addresses.split())

    def _routes(self, address: str) -> bool:
        if _ANY in self.networks:
            return True
        if _ADDRESS.fullmatch(address) is None:
            return False
        try:
            wanted = ip_network(address, strict=False)
        except ValueError:
            return False
        return any(_within(wanted, ip_network(allowed)) for allowed in self.networks)

    def goes_by(self, device: str) -> bool:
        """Whether a network device of this host may be the one that packets go out by."""
        return _among(device, self.gateways)


def _within(one: Network, other: Network) -> bool:
    if isinstance(one, IPv4Network):
        return isinstance(other, IPv4Network) and one.subnet_of(other)
    return isinstance(other, IPv6Network) and one.subnet_of(other)


def _among(name: str | None, allowed: Iterable[str]) -> bool:
    return name is not None and (name in allowed or _ANY in allowed)


CAUTIOUS: Final = Wiring()
"""What a host allows that says nothing else."""
UNKNOWN: Final = Wiring((_ANY,), (_ANY,), (_ANY,))
"""What a host elsewhere may allow, of which nothing is known here."""
