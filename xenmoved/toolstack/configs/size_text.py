"""How large a domain a text makes, and of which type.

A file is for whichever toolstack starts it one day: what two of them, or two releases of one, read
in two ways is refused, or counts as the larger.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from protocol.messages import GuestSize
from xenmoved.toolstack.interface import ToolstackError
from xenmoved.toolstack.policy import number_in
from xenmoved.toolstack.sizes import sized

_NODES: Final = "vnuma"
LISTED: Final = (_NODES,)
"""Keys of a size whose values are lists."""
_PART: Final = re.compile(r"\s*(\w+)\s*=\s*(.*?)\s*", re.DOTALL)
_SIZE: Final = re.compile(r"\d{1,12}", re.ASCII)
_SPAN: Final = re.compile(r"\s*(\d{1,9})(?:\s*-\s*(\d{1,9}))?\s*", re.ASCII)
_OFF: Final = ("", "0", "False", "false", "<default>")
_Values = Mapping[str, list[str]]


class _Nodes(NamedTuple):
    """What all virtual nodes of a domain have: xl takes it where nothing else is said."""

    memory: int
    """In MiB."""
    vcpus: int


def size_said(values: _Values) -> GuestSize:
    """Say how large a domain is to be. Raises ToolstackError for what may be read in two ways."""
    nodes = _nodes(values.get(_NODES, ()))
    of_nodes = {"maxmem": nodes.memory, "maxvcpus": nodes.vcpus}

    def number(key: str) -> int:
        said = values.get(key, [])
        if len(said) > 1 or (said and number_in(said[0]) is None):
            raise ToolstackError(f"{key} = {', '.join(said)[:80]} is no plain number")
        return max((number_in(said[0]) or 0) if said else 0, of_nodes.get(key, 0))

    return sized(number, next(iter(values.get("passthrough", ())), ""))


def _nodes(parts: Sequence[str]) -> _Nodes:
    """Add up what virtual nodes have (xl.cfg(5), `vnuma`). Raises ToolstackError."""
    memory = vcpus = 0
    for part in parts:
        match = _PART.fullmatch(part)
        if match is None:
            raise ToolstackError(f"{_NODES} has {part[:80]!r}, which is no key with a value")
        if match[1] == "size":
            if _SIZE.fullmatch(match[2]) is None:
                raise ToolstackError(f"{_NODES} has a size {match[2][:80]!r}, no plain number")
            memory += int(match[2])
        elif match[1] == "vcpus":
            vcpus += sum(map(_count, match[2].split(",")))
    return _Nodes(memory, vcpus)


def _count(span: str) -> int:
    match = _SPAN.fullmatch(span)
    if match is None:
        raise ToolstackError(f"{_NODES} has vcpus {span[:80]!r}, which are no numbers")
    return abs(int(match[2] or match[1]) - int(match[1])) + 1


def kind_said(values: _Values) -> str:
    """Return the type of a domain: xl takes the first that begins like what is said.

    Raises ToolstackError where it is one that takes more to xm, and to xl before 4.10, which know
    `builder` alone.
    """
    built = _first(values.get("builder", ()), ("hvm",))
    kind = _first(values["type"], ("hvm", "pv", "pvh")) if values.get("type") else built
    if kind == "pv" and built == "hvm":
        raise ToolstackError("type = 'pv' and builder = 'hvm' are two: leave out one of them")
    if kind == "pv" and any(said not in _OFF for said in values.get("pvh", ())):
        return "pvh"
    return kind


def _first(said: Sequence[str], kinds: Sequence[str]) -> str:
    return next((kind for one in said[:1] for kind in kinds if kind.startswith(one)), "pv")
