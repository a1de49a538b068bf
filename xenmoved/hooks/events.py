"""At what hooks are run."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class HookEvent(StrEnum):
    """What hooks are run at, on the host that it is about.

    What ends differently than by zero in one that is before something stands in its way. `failure`
    is when the guest stays where it was, `doubt` when nobody can tell which host has it.
    """

    BEFORE_DEPARTURE = "before-departure"
    BEFORE_ARRIVAL = "before-arrival"
    CUTOVER = "cutover"
    AFTER_DEPARTURE = "after-departure"
    AFTER_ARRIVAL = "after-arrival"
    FAILURE = "failure"
    DOUBT = "doubt"

    @property
    def folder(self) -> str:
        """Name of the folder that its hooks are in."""
        return f"{self.value}.d"


BEFORE: Final = frozenset({HookEvent.BEFORE_DEPARTURE, HookEvent.BEFORE_ARRIVAL})
"""Events whose hooks have a veto."""
AFTERWARDS: Final = frozenset(
    {HookEvent.AFTER_DEPARTURE, HookEvent.AFTER_ARRIVAL, HookEvent.FAILURE}
)
"""Events whose hooks are run at least once, whatever crashes."""
