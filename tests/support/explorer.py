"""Explores everything that a model can do, breadth first, and tells how it came to what is wrong.

A model has moments, which are hashable, and steps between them. A step may be a fault: something
that need not happen. From every moment an end must be reachable without another fault.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, Protocol, TypeVar


class Moment(Protocol):
    """A NamedTuple: everything that there is at one moment."""

    _fields: tuple[str, ...]

    def __hash__(self) -> int: ...
    def __getitem__(self, index: int, /) -> object: ...


M = TypeVar("M", bound=Moment)


class Wrong(Exception):
    """What must never happen has happened."""


class Violation(AssertionError):
    """What is wrong, and the shortest way there."""


class Step(NamedTuple):
    """What happens, and what is then."""

    what: str
    after: Moment
    fault: bool = False


class Model(Protocol):
    """What is explored."""

    def first(self) -> Moment:
        """The moment at which all begins."""

    def steps(self, moment: Moment, /) -> Iterator[Step]:
        """Yield everything that can happen next. Raises Wrong."""

    def check(self, moment: Moment, /) -> None:
        """Raise Wrong unless all is as it must be at any moment."""

    def is_end(self, moment: Moment, /) -> bool:
        """Whether all is decided and done."""


class Explored(NamedTuple):
    """How much was seen."""

    moments: int
    ends: int


def explore(model: Model) -> Explored:
    """Go through everything. Raises Violation."""
    first = model.first()
    came: dict[Moment, tuple[Moment, str] | None] = {first: None}
    before: dict[Moment, list[Moment]] = {}
    waiting = deque([first])
    while waiting:
        moment = waiting.popleft()
        try:
            model.check(moment)
            for step in model.steps(moment):
                if step.after not in came:
                    came[step.after] = (moment, step.what)
                    waiting.append(step.after)
                if not step.fault:
                    before.setdefault(step.after, []).append(moment)
        except Wrong as wrong:
            raise Violation(f"{wrong}\n{_story(came, moment)}") from None
    ends = [moment for moment in came if model.is_end(moment)]
    hopeful = set(ends)
    back = deque(ends)
    while back:
        for moment in before.get(back.popleft(), ()):
            if moment not in hopeful:
                hopeful.add(moment)
                back.append(moment)
    # `came` is in the order of discovery: the first hopeless moment has the shortest story.
    for moment in came:
        if moment not in hopeful:
            raise Violation(f"this never ends any more\n{_story(came, moment)}")
    return Explored(len(came), len(ends))


def _story(came: dict[Moment, tuple[Moment, str] | None], moment: Moment) -> str:
    """Tell each step on the way to a moment, with what it changed."""
    lines: list[str] = []
    while (origin := came[moment]) is not None:
        earlier, what = origin
        changes = ", ".join(
            f"{field} {_word(old)} -> {_word(new)}"
            for field, old, new in zip(moment._fields, earlier, moment, strict=True)
            if old != new
        )
        lines.append(f"  {what}: {changes}")
        moment = earlier
    return "\n".join(reversed(lines))


def _word(value: object) -> str:
    if isinstance(value, tuple | frozenset):
        return f"({', '.join(map(_word, value))})"
    return str(value)
