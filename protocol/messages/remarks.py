"""What an operator is told of: problems, and remarks, which stand in nobody's way."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from protocol.schema import Length, Name, Text


class Weight(StrEnum):
    """What a remark asks of an operator."""

    INFO = "info"  # nothing: it is good to know
    ACTION = "action"  # to look at it, or to do something


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that stands in the way, for an operator: what, and what to do about it."""

    code: Name
    text: Text
    hint: Text


@dataclass(frozen=True, slots=True)
class Remark:
    """Something that stands in nobody's way, for an operator: what, and what to do about it."""

    weight: Weight
    code: Name
    text: Text
    hint: Text


SomeRemarks = Annotated[tuple[Remark, ...], Length(0, 64)]
