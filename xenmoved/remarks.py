"""Remarks: what stands in nobody's way, and an operator should know all the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from protocol.messages import Problem, Remark, Weight
from xenmoved.codes import code_of_peer
from xenmoved.logs import printable

MOST: Final = 64
"""Remarks that are kept of one guest; those that need somebody come first."""
_LIMIT: Final = 4000


def good_to_know(code: str, text: str, hint: str = "") -> Remark:
    """Return a remark after which nothing has to be done."""
    return Remark(Weight.INFO, code, text[:_LIMIT], hint[:_LIMIT])


def to_look_at(code: str, text: str, hint: str) -> Remark:
    """Return a remark after which somebody has to do something; `hint` says what."""
    return Remark(Weight.ACTION, code, text[:_LIMIT], hint[:_LIMIT])


def from_problem(found: Problem) -> Remark:
    """Return a problem that is left after all went well as a remark that somebody must look at."""
    return to_look_at(found.code, found.text, found.hint)


def left_out(name: str, what: Iterable[str]) -> tuple[Remark, ...]:
    """Return that the guest `name` comes without something; the values are in no remark."""
    hint = "it runs without; if it needs that there, put it into its configuration file by hand"
    return tuple(
        good_to_know("left-out", f"{name} comes without {one}", hint) for one in dict.fromkeys(what)
    )


def together(*groups: Iterable[Remark]) -> tuple[Remark, ...]:
    """Return each remark once, those that need somebody first, as many as are kept."""
    found = dict.fromkeys(one for group in groups for one in group)
    return tuple(sorted(found, key=lambda one: one.weight is not Weight.ACTION))[:MOST]


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
