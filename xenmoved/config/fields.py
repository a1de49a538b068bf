"""Kinds of values that a configuration field may have, beyond those of `protocol.schema`.

    rate: Annotated[int, Parsed(parse_size)]

declares a field that holds an integer and is written as text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from os.path import normpath
from pathlib import Path
from typing import Annotated, Any, Final

from protocol.schema import Pattern, Range
from xenmoved.config.addresses import parse_address, parse_listen_address
from xenmoved.config.keys import parse_public_key
from xenmoved.namemap import check_rule
from xenmoved.units import parse_count, parse_duration, parse_limit, parse_size

NEVER: Final = "never"
NAME_IN_ADDRESS: Final = "{name}"
"""What stands for the name of a host in an address."""
MOST_SERIAL: Final = 2**64 - 1
"""The largest serial of a certificate of OpenSSH."""

_FINGERPRINT: Final = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")


@dataclass(frozen=True, slots=True)
class Parsed:
    """How a field's value is made from plain data. `parse` raises ValueError with the reason."""

    parse: Callable[[object], Any]


def parse_path(written: object) -> Path:
    """Return an absolute path. Raises ValueError."""
    if not isinstance(written, str) or not written.startswith("/") or "\0" in written:
        raise ValueError(f"must be an absolute path, is {written!r}")
    return Path(written)


_BRIDGE: Final = r"(?:[^\s/:]{1,15}|[^\s/:.]{1,15}\.\d{1,4})(?::\d{1,4})*"
"""With the VLAN and the trunks that Open vSwitch has behind a name."""


def parse_bridges(written: object) -> dict[str, str]:
    """Return names of bridges by other names of them. Raises ValueError."""
    return _names(written, "names there to names here", _BRIDGE, "a network bridge")


def parse_age(written: object) -> float | None:
    """Return a duration in seconds, None for ``never``. Raises ValueError."""
    if written is None or written == NEVER:
        return None
    if not isinstance(written, str) or written.strip().replace(".", "", 1).isdecimal():
        # Of ages, days are thought of as well as seconds.
        raise ValueError(f"{written!r} has no unit: write it like 30d or 12h, or {NEVER!r}")
    try:
        return parse_duration(written)
    except ValueError as error:
        raise ValueError(f"{error}, or {NEVER!r}") from None


def parse_pool_names(written: object) -> dict[str, str]:
    """Return names of pools here by those of pools there. Raises ValueError."""
    return _names(written, "pools there to pools here", NAME_PATTERN.regex, "a pool")


def parse_volume_names(written: object) -> dict[str, str]:
    """Return what names of volumes become, by patterns. Raises ValueError."""
    if not isinstance(written, dict):
        raise ValueError(f"must be a map of patterns there to patterns here, is {written!r}")
    for old, new in written.items():
        if not isinstance(old, str) or not isinstance(new, str):
            raise ValueError(f"{old!r}: {new!r} are no patterns: put both in quotes")
        check_rule(old, new)
    return dict(written)


def parse_networks(written: object) -> tuple[str, ...]:
    """Return networks, or addresses, of either kind of IP. Raises ValueError."""
    if not isinstance(written, list):
        raise ValueError(f"must be a list of networks such as 192.0.2.0/24, is {written!r}")
    for network in written:
        if not isinstance(network, str):
            raise ValueError(f"{network!r} is no network such as 192.0.2.0/24")
        try:
            ip_network(network)
        except ValueError as error:
            raise ValueError(f"{network!r} is no network such as 192.0.2.0/24: {error}") from None
    return tuple(written)


def parse_shared(written: object) -> tuple[str, ...]:
    """Return pools, and patterns of absolute paths. Raises ValueError."""
    if not isinstance(written, list):
        raise ValueError(f"must be a list of pools and absolute paths, is {written!r}")
    for place in written:
        if not isinstance(place, str) or not (
            re.fullmatch(NAME_PATTERN.regex, place)
            or (place.startswith("/") and normpath(place) == place and "**" not in place)
        ):
            raise ValueError(f"{place!r} is neither a pool nor an absolute path, in which * may be")
    return tuple(written)


def parse_revoked(written: object) -> str:
    """Return the serial of a certificate, or the fingerprint of a key. Raises ValueError."""
    if isinstance(written, int) and not isinstance(written, bool) and 0 <= written <= MOST_SERIAL:
        return str(written)
    if isinstance(written, str) and _FINGERPRINT.fullmatch(written):
        return written
    raise ValueError(
        f"{written!r} is neither the serial of a certificate nor the fingerprint of a key, as in "
        "SHA256:..."
    )


def parse_unlisted(written: object) -> str:
    """Return an address in which {name} stands for the name of a host. Raises ValueError."""
    if not isinstance(written, str) or written.count(NAME_IN_ADDRESS) != 1:
        raise ValueError(
            f"must have {NAME_IN_ADDRESS} in it once, as in {NAME_IN_ADDRESS}.example.net, is "
            f"{written!r}"
        )
    parse_address(written.replace(NAME_IN_ADDRESS, "host"))
    return written


Size = Annotated[int, Parsed(parse_size)]
Limit = Annotated[int | None, Parsed(parse_limit)]
Count = Annotated[int | None, Parsed(parse_count)]
Age = Annotated[float | None, Parsed(parse_age)]
Duration = Annotated[float, Parsed(parse_duration)]
AbsolutePath = Annotated[Path, Parsed(parse_path)]
Port = Annotated[int, Range(1, 65535)]
BridgeNames = Annotated[Mapping[str, str], Parsed(parse_bridges)]
PoolNames = Annotated[Mapping[str, str], Parsed(parse_pool_names)]
VolumeNames = Annotated[Mapping[str, str], Parsed(parse_volume_names)]
SharedPlaces = Annotated[tuple[str, ...], Parsed(parse_shared)]
Networks = Annotated[tuple[str, ...], Parsed(parse_networks)]
Revoked = Annotated[str, Parsed(parse_revoked)]
PublicKey = Annotated[str, Parsed(parse_public_key)]

# Names become file names and parts of `pool:volume`, so they hold neither slashes nor colons.
NAME_PATTERN = Pattern(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", "a name of letters, digits, '.', '_' and '-'"
)
ConfigName = Annotated[str, NAME_PATTERN]
HostAddress = Annotated[str, Parsed(parse_address)]
AddressByName = Annotated[str, Parsed(parse_unlisted)]
ListenAddress = Annotated[str, Parsed(parse_listen_address)]
ScriptName = Annotated[
    str, Pattern(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}", "the name of a script, without its folder")
]
DeviceName = Annotated[
    str, Pattern(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]{0,14}", "the name of a network device")
]
GuestPattern = Annotated[str, Pattern(r"[!-.0-~]{1,200}", "a guest's name, in which * matches all")]


def _names(written: object, meaning: str, pattern: str, kind: str) -> dict[str, str]:
    if not isinstance(written, dict):
        raise ValueError(f"must be a map of {meaning}, is {written!r}")
    for name in (*written, *written.values()):
        if not isinstance(name, str) or not re.fullmatch(pattern, name):
            raise ValueError(f"{name!r} is no name of {kind}")
    return dict(written)
