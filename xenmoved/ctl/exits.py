"""Exit codes, and the error that carries one."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final


class Exit(IntEnum):
    """How `xenmovectl` ends. Part of its interface: scripts rely on the numbers."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4
    DENIED = 5
    IN_DOUBT = 6
    REMARKS = 7
    INTERRUPTED = 130


class CheckState(IntEnum):
    """How `xenmovectl check` ends: what monitoring systems know."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


MEANINGS: Final[Mapping[IntEnum, str]] = {
    Exit.OK: "done",
    Exit.FAILED: "the job failed or was aborted, and the guest still runs here; or another command "
    "failed",
    Exit.USAGE: "the command line is wrong",
    Exit.REFUSED: "problems were found beforehand: nothing was changed",
    Exit.UNREACHABLE: "the daemon is not running, or went away",
    Exit.DENIED: "no permission to use the daemon",
    Exit.IN_DOUBT: "in doubt: the target's word is not known; nothing runs here, nothing is lost, "
    "and the daemon keeps asking",
    Exit.REMARKS: "done, and something needs your eye: see the remarks, or the alarms of status",
    Exit.INTERRUPTED: "interrupted while following: the job goes on",
}

STATE_MEANINGS: Final[Mapping[IntEnum, str]] = {
    CheckState.OK: "nothing is wrong",
    CheckState.WARNING: "something needs somebody, not at once",
    CheckState.CRITICAL: "a guest is in doubt for long, the daemon does not answer, its journal "
    "cannot be written, or a pool is nearly full or away",
    CheckState.UNKNOWN: "it cannot be told: no permission, volumes that cannot be listed, or the "
    "command line is wrong",
}


class CommandError(Exception):
    """Ends the command. `problems` are a code, a text and a hint each; the hint may be empty.

    The exit code is an `Exit`, but for `check`, which has codes of its own.
    """

    def __init__(self, exit_code: IntEnum, *problems: tuple[str, str, str]) -> None:
        self.exit_code = exit_code
        self.problems = problems
        super().__init__("; ".join(text for _, text, _ in problems))
