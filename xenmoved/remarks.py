"""Remarks: what stands in nobody's way, and an operator should know all the same."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from protocol.messages import Problem, Remark, Weight
from xenmoved.codes import code_of_peer
from xenmoved.logs import printable

MOST: Final = 64
"""Remarks that are kept of one guest; those that need somebody come first."""
MOST_BYTES: Final = 4096
"""What they may take in a journal, beside the first."""
MOST_LEFT_OUT: Final = 8
"""Things that are named which one guest comes without."""
_LIMIT: Final = 4000


def good_to_know(code: str, text: str, hint: str = "") -> Remark:
    """Return a remark after which nothing has to be done."""
    return Remark(Weight.INFO, code, text[:_LIMIT], hint[:_LIMIT])


def to_look_at(code: str, text: str, hint: str) -> Remark:
    """Return a remark after which somebody has to do something; `hint` says what."""
    return Remark(Weight.ACTION, code, text[:_LIMIT], hint[:_LIMIT])


_MORE: Final = good_to_know(
    "more", "there is more to remark on it than is kept", "compare its configuration on both hosts"
)


def from_problem(found: Problem) -> Remark:
    """Return a problem that is left after all went well as a remark that somebody must look at."""
    return to_look_at(found.code, found.text, found.hint)


def left_out(name: str, what: Iterable[str]) -> tuple[Remark, ...]:
    """Return that the guest `name` comes without something; the values are in no remark."""
    hint = "it runs without; if it needs that there, put it into its configuration file by hand"
    named = list(dict.fromkeys(what))
    if (more := len(named) - MOST_LEFT_OUT) > 0:
        named[MOST_LEFT_OUT:] = [f"{more} more settings that may not come from another host"]
    return tuple(good_to_know("left-out", f"{name} comes without {one}", hint) for one in named)


def together(*groups: Iterable[Remark]) -> tuple[Remark, ...]:
    """Return each remark once, those that need somebody first, as many as are kept.

    The last says so if there were more.
    """
    found = dict.fromkeys(one for group in groups for one in group)
    more = _MORE in found
    found.pop(_MORE, None)
    kept: list[Remark] = []
    room = MOST_BYTES
    for one in sorted(found, key=lambda one: one.weight is not Weight.ACTION):
        if len(kept) == MOST - 1 or (kept and _bytes(one) > room):
            return (*kept, _MORE)
        room -= _bytes(one) if kept else 0
        kept.append(one)
    return (*kept, _MORE) if more else tuple(kept)


def _bytes(one: Remark) -> int:
    return len(json.dumps([one.weight.value, one.code, one.text, one.hint]))


def from_peer(untrusted_remarks: Iterable[Remark]) -> tuple[Remark, ...]:
    """Return what a peer remarks with nothing in it that could move a cursor or start a line.

    No code of it is one that this host acts upon.
    """
    return tuple(
        Remark(
            one.weight,
            code_of_peer(printable(one.code)[:200]),
            printable(one.text)[:_LIMIT],
            printable(one.hint)[:_LIMIT],
        )
        for one in untrusted_remarks
    )
