"""Kinds of values that a configuration field may have, beyond those of `protocol.schema`.

    rate: Annotated[int, Parsed(parse_size)]

declares a field that holds an integer and is written as text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from protocol.schema import Pattern, Range
from xenmoved.config.keys import parse_public_key
from xenmoved.config.units import parse_duration, parse_limit, parse_size

NEVER: Final = "never"


@dataclass(frozen=True, slots=True)
class Parsed:
    """How a field's value is made from plain data. `parse` raises ValueError with the reason."""

    parse: Callable[[object], Any]


def parse_path(written: object) -> Path:
    """Return an absolute path. Raises ValueError."""
    if not isinstance(written, str) or not written.startswith("/") or "\0" in written:
        raise ValueError(f"must be an absolute path, is {written!r}")
    return Path(written)


def parse_bridges(written: object) -> dict[str, str]:
    """Return names of bridges by other names of them. Raises ValueError."""
    if not isinstance(written, dict):
        raise ValueError(f"must be a map of names there to names here, is {written!r}")
    for name in (*written, *written.values()):
        if not isinstance(name, str) or not re.fullmatch(r"[^\s/:]{1,15}", name):
            raise ValueError(f"{name!r} is no name of a network bridge")
    return dict(written)


def parse_age(written: object) -> float | None:
    """Return a duration in seconds, None for ``never``. Raises ValueError."""
    if written is None or written == NEVER:
        return None
    try:
        return parse_duration(written)
    except ValueError as error:
        raise ValueError(f"{error}, or {NEVER!r}") from None


Size = Annotated[int, Parsed(parse_size)]
Limit = Annotated[int | None, Parsed(parse_limit)]
Age = Annotated[float | None, Parsed(parse_age)]
Duration = Annotated[float, Parsed(parse_duration)]
AbsolutePath = Annotated[Path, Parsed(parse_path)]
Port = Annotated[int, Range(1, 65535)]
BridgeNames = Annotated[Mapping[str, str], Parsed(parse_bridges)]
PublicKey = Annotated[str, Parsed(parse_public_key)]

# Names become file names and parts of `pool:volume`, so they hold neither slashes nor colons.
NAME_PATTERN = Pattern(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", "a name of letters, digits, '.', '_' and '-'"
)
ConfigName = Annotated[str, NAME_PATTERN]
HostAddress = Annotated[str, Pattern(r"[A-Za-z0-9:._%-]{1,253}", "a host name or an IP address")]
GuestPattern = Annotated[str, Pattern(r"[!-.0-~]{1,200}", "a guest's name, in which * matches all")]
