"""Exit codes, and the error that carries one."""

from __future__ import annotations

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


MEANINGS: Final = {
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


class CommandError(Exception):
    """Ends the command. `problems` are a code, a text and a hint each; the hint may be empty."""

    def __init__(self, exit_code: Exit, *problems: tuple[str, str, str]) -> None:
        self.exit_code = exit_code
        self.problems = problems
        super().__init__("; ".join(text for _, text, _ in problems))
