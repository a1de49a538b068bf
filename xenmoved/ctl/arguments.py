"""The kinds of values that options take. Every function is a `type` for argparse."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from typing import Final, NamedTuple

DEFAULT_PORT: Final = 7222
_SHORTEST: Final = 3600.0
_LONGEST: Final = 3650 * 86400.0
"""Seconds for which a certificate may be valid."""


class Address(NamedTuple):
    """Where a host's daemon listens."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORT else f"{host}:{self.port}"


class SyncTarget(NamedTuple):
    """Where a volume is sent: a peer, and ``pool:name`` there, or None to leave that to it."""

    peer: str
    volume: str | None


def address(written: str) -> Address:
    """Parse ``host``, ``host:port``, ``[::1]``, ``[::1]:port`` or ``::1``."""
    match = re.fullmatch(r"\[([^][]+)\](?::([0-9]+))?|([^][:]+)(?::([0-9]+))?", written)
    host, port = (match[1] or match[3], match[2] or match[4]) if match else (written, None)
    if not host or set(host) & set("[]") or (":" in host and not match and host.count(":") < 2):
        raise ArgumentTypeError(
            f"{written!r} is no address: write HOST, HOST:PORT, or [2001:db8::1]:PORT"
        )
    from xenmoved.config.addresses import parse_address

    try:
        host = parse_address(host)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
    if port is not None and not 1 <= int(port) <= 65535:
        raise ArgumentTypeError(f"port {port} is not from 1 to 65535")
    return Address(host, int(port) if port else DEFAULT_PORT)


def sync_target(written: str) -> SyncTarget:
    """Parse ``PEER`` or ``PEER:POOL/NAME``."""
    peer, colon, place = written.partition(":")
    pool, slash, name = place.partition("/")
    if not peer or (colon and not (pool and slash and name and "/" not in name)):
        raise ArgumentTypeError(f"{written!r} is no target: write PEER or PEER:POOL/NAME")
    return SyncTarget(peer, f"{pool}:{name}" if colon else None)


def volume(written: str) -> str:
    """Check that it is an absolute path or ``pool:name``."""
    pool, _, name = written.partition(":")
    if written.startswith("/") or (pool and name and "/" not in written):
        return written
    raise ArgumentTypeError(f"{written!r} is no volume: write POOL:NAME or an absolute path")


class Wish(NamedTuple):
    """What something is to be called on the other host; `old` is "" where that is for all."""

    old: str
    new: str


def pool(written: str) -> Wish:
    """Parse ``POOL`` or ``OLD=NEW``."""
    return _wish(written) if "=" in written else Wish("", _name(written, written))


def bridge(written: str) -> Wish:
    """Parse ``OLD=NEW``, where Open vSwitch may have a VLAN and trunks behind a name."""
    old, _, new = written.partition("=")
    for part in (old, new):
        _name(re.sub(r"(?::\d+)+\Z", "", part, flags=re.ASCII), written)
    return Wish(old, new)


def volume_rule(written: str) -> Wish:
    """Parse ``OLD=NEW``, two patterns; there may be blanks and such in the old names."""
    from xenmoved.namemap import check_rule

    old, equals, new = written.rpartition("=")
    if not equals:
        raise ArgumentTypeError(f"{written!r} is not OLD=NEW: the name here, then the one there")
    try:
        check_rule(old, new)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
    return Wish(old, new)


def guest_name(written: str) -> str:
    """Check the name that a guest is to have on another host."""
    from xenmoved.guestnames import misnamed_there

    if (found := misnamed_there(written)) is not None:
        raise ArgumentTypeError(f"{found.text}; {found.hint}")
    return written


def _wish(written: str) -> Wish:
    old, _, new = written.partition("=")
    return Wish(_name(old, written), _name(new, written))


def _name(part: str, written: str) -> str:
    if not re.fullmatch(r"[^\s=/:]{1,200}", part):
        raise ArgumentTypeError(f"{written!r} is not OLD=NEW: the name here, then the one there")
    return part


def rate_limit(written: str) -> int:
    """Parse a rate in bytes a second; 0 for ``unlimited``."""
    from xenmoved.units import parse_limit

    try:
        return parse_limit(written) or 0
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def downtime(written: str) -> float:
    """Parse a duration in seconds; 0 for ``unlimited``."""
    from xenmoved.units import UNLIMITED, parse_duration

    if written == UNLIMITED:
        return 0.0
    try:
        return parse_duration(written)
    except ValueError as error:
        raise ArgumentTypeError(f"{error}, or {UNLIMITED!r}") from None


def limit(written: str) -> int | None:
    """Parse a size in bytes; None for ``unlimited``."""
    from xenmoved.units import parse_limit

    try:
        return parse_limit(written)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def count(written: str) -> int | None:
    """Parse a number of things; None for ``unlimited``."""
    from xenmoved.units import parse_count

    try:
        return parse_count(int(written) if written.isdecimal() else written)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def public_key(written: str) -> str:
    """Check a line ``ssh-ed25519 AAAA...``; a comment after it is dropped."""
    from xenmoved.config.keys import parse_public_key

    try:
        return parse_public_key(written)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def serial(written: str) -> int:
    """Parse the serial of a certificate."""
    if not (written.isascii() and written.isdigit() and int(written) < 2**64):
        raise ArgumentTypeError(f"{written!r} is no serial: xenmovectl ca show has them")
    return int(written)


def validity(written: str) -> float:
    """Parse for how long a certificate is valid, in seconds."""
    from xenmoved.config.fields import parse_age

    try:
        seconds = parse_age(written)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
    if seconds is None or not _SHORTEST <= seconds <= _LONGEST:
        raise ArgumentTypeError(f"{written!r} is not from 1h to 3650d")
    return seconds


def percent(written: str) -> int:
    """Parse a share of 1 to 100 percent, as ``85`` or ``85%``."""
    number = written.removesuffix("%")
    if not number.isascii() or not number.isdigit() or not 1 <= int(number) <= 100:
        raise ArgumentTypeError(f"{written!r} is not a share from 1 to 100 percent")
    return int(number)


def age_or_never(written: str) -> float | None:
    """Parse an age in seconds, with its unit; None for ``never``."""
    from xenmoved.config.fields import parse_age

    try:
        return parse_age(written)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def age(written: str) -> float:
    """Parse an age in seconds, with its unit."""
    if (found := age_or_never(written)) is None:
        raise ArgumentTypeError(f"{written!r} is no age: write it like 10m or 2h")
    return found


def concurrency(written: str) -> int:
    """Parse how many guests move at a time."""
    from xenmoved.evacuation.report import MOST_AT_ONCE

    if not written.isascii() or not written.isdigit() or not 1 <= int(written) <= MOST_AT_ONCE:
        raise ArgumentTypeError(f"{written!r} is not a number from 1 to {MOST_AT_ONCE}")
    return int(written)


def names(written: str) -> tuple[str, ...]:
    """Parse ``a,b,c``."""
    found = tuple(part.strip() for part in written.split(","))
    if not all(found):
        raise ArgumentTypeError(f"{written!r} has an empty name: write a,b,c")
    return found


def actions(written: str) -> tuple[str, ...]:
    """Parse ``migrate,sync`` or one of them."""
    found = names(written)
    if unknown := [name for name in found if name not in ("migrate", "sync")]:
        raise ArgumentTypeError(f"{unknown[0]!r} cannot be allowed: choose of migrate, sync")
    return found
