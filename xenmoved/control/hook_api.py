"""The messages of the control socket about hooks."""

from __future__ import annotations

from dataclasses import dataclass

from xenmoved.control.message_set import CONTROL
from xenmoved.hooks.report import HookRows

CONTROL.add(HookRows)


@CONTROL.add
@dataclass(frozen=True, slots=True)
class ListHooks:
    """Ask which hooks this host would run, and which it would not. Answered by `HookRows`."""
