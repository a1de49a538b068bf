"""What remarks look like as text: those that need somebody first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from protocol.messages import Remark, Weight
from xenmoved.ctl.text import Block, Span, Style, indent, line, numbered

HEADS: Final = {Weight.ACTION: "needs your eye", Weight.INFO: "good to know"}


def by_weight(found: Sequence[Remark]) -> dict[Weight, list[Remark]]:
    """Return remarks by what they ask for, in the order in which they are to be read."""
    sorted_ = {weight: [one for one in found if one.weight is weight] for weight in HEADS}
    return {weight: some for weight, some in sorted_.items() if some}


def remarks(found: Sequence[Remark]) -> list[Block]:
    """Return remarks under what they ask for."""
    lines: list[Block] = []
    for weight, some in by_weight(found).items():
        style = Style.WARN if weight is Weight.ACTION else Style.BOLD
        lines.append(line(Span(f"{HEADS[weight]}:", style)))
        lines += indent([numbered((one.text, one.hint) for one in some)])
    return lines
