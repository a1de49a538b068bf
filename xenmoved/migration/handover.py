"""Walk a table of the hand-over: what is decided is on disk before it is acted upon.

Both sides walk their table of `protocol.handover` with this. Each gives how a step is written down
and how its actions are carried out; an action may bring the event that follows from it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Final, Generic

from protocol.handover import Action, Event, InvalidTransition, State, Step

log = logging.getLogger(__name__)

_KEPT_STEPS: Final = 20


@dataclass(frozen=True, slots=True)
class Instead(Generic[Event]):
    """A state was not entered, as it could not be written down.

    The walk takes `event` instead, in the state it is in; with None it stops there.
    """

    event: Event | None


class Walk(Generic[State, Event, Action]):
    """Where one migration is in one table.

    - `look_up` returns a transition of the table, or raises InvalidTransition.
    - `write_down` records a step durably before it is made. Raises what ends the walk.
    - `carry_out` does one action; returns what follows from it, if anything does.
    - `at_rest` is called whenever a walk has come to its end.
    """

    def __init__(
        self,
        look_up: Callable[[State, Event], Step[State, Action]],
        state: State,
        write_down: Callable[[Step[State, Action]], Awaitable[Instead[Event] | None]],
        carry_out: Callable[[Action], Awaitable[Event | None]],
        at_rest: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._look_up = look_up
        self._write_down = write_down
        self._carry_out = carry_out
        self._at_rest = at_rest
        self._steps: deque[str] = deque(maxlen=_KEPT_STEPS)
        self.state = state
        self.lock = asyncio.Lock()
        """Held during a walk, and by whoever needs that nothing is decided meanwhile."""

    async def take(self, event: Event, only_in: Collection[State] | None = None) -> None:
        """Take an event: next state on disk, its actions, and what follows from them.

        Events are taken one after the other. One is dropped if by its turn the state is none of
        `only_in`. Raises InvalidTransition, with the steps that led there.
        """
        async with self.lock:
            following = event if only_in is None or self.state in only_in else None
            while following is not None:
                following = await self._advance(following)
            if self._at_rest is not None:
                await self._at_rest()

    async def _advance(self, event: Event) -> Event | None:
        try:
            step = self._look_up(self.state, event)
        except InvalidTransition as error:
            raise InvalidTransition(f"{error}; {self._story()}") from None
        told = f"{event} in {self.state} -> {step.state}"
        if step.state is not self.state or step.actions:
            log.info("hand-over: %s", told)
        instead = await self._write_down(step)
        if instead is not None:
            self._steps.append(f"{told}, not written down")
            return instead.event
        self._steps.append(told)
        self.state = step.state
        following = None
        for action in step.actions:
            following = await self._carry_out(action) or following
        return following

    def _story(self) -> str:
        return f"before that: {', '.join(self._steps) or 'nothing since the daemon began'}"
