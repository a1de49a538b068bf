"""Where hosts are: IP addresses and host names, checked as they are written.

A name is checked by its form only (RFC 1123, with underscores, which /etc/hosts allows): whether it
is known is found out when it is needed. What looks like an IPv4 address and is none is a slip, as
no top-level domain is a number.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import Final

EVERY_ADDRESS: Final = "*"

_LABEL: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_PORT: Final = re.compile(r"(?P<host>[^:]+|\[[^]]*\]):(?P<port>\d+)")
_LONGEST: Final = 253


def parse_address(written: object) -> str:
    """Return an IP address or a host name. Raises ValueError, with what would be right."""
    if not isinstance(written, str):
        raise ValueError(f"must be a host name or an IP address, is {written!r}")
    if match := _PORT.fullmatch(written):
        raise ValueError(f"{written!r} has a port in it: say `port: {match['port']}` beside it")
    if written.startswith("["):
        raise ValueError(f"{written!r}: brackets are for addresses with a port; leave them out")
    if ":" in written or "%" in written:
        return _ipv6(written)
    labels = written.removesuffix(".").split(".")
    if labels[-1].isdecimal():
        return _ipv4(written)
    _check_name(written, labels)
    return written


def parse_listen_address(written: object) -> str:
    """Return an address to listen on, `*` for all. Raises ValueError, with what would be right."""
    if written == EVERY_ADDRESS:
        return EVERY_ADDRESS
    try:
        return parse_address(written)
    except ValueError as error:
        raise ValueError(f"{error}; or '{EVERY_ADDRESS}' for all of this host's") from None


def _ipv4(written: str) -> str:
    try:
        return str(IPv4Address(written))
    except ValueError:
        raise ValueError(f"{written!r} is no IPv4 address: write it like 192.0.2.7") from None


def _ipv6(written: str) -> str:
    try:
        address = IPv6Address(written)
    except ValueError:
        raise ValueError(
            f"{written!r} is no IPv6 address: write it like 2001:db8::7 or fe80::7%eth0"
        ) from None
    if address.is_link_local and address.scope_id is None:
        raise ValueError(f"{written!r} is link-local: say on which link, as in {written}%eth0")
    return written


def _check_name(written: str, labels: list[str]) -> None:
    if not written or len(written) > _LONGEST:
        raise ValueError(f"a host name has 1 to {_LONGEST} characters, not {len(written)}")
    for label in labels:
        if _LABEL.fullmatch(label):
            continue
        if not label:
            raise ValueError(f"{written!r} is no host name: there is nothing between two dots")
        if len(label) > 63:
            raise ValueError(f"{written!r} is no host name: more than 63 characters without a dot")
        raise ValueError(
            f"{written!r} is no host name: {label!r} is not of letters, digits, - and _, with no - "
            "at its ends"
        )
