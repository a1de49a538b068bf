"""Asks at the terminal whether something is meant."""

from __future__ import annotations

import sys

from xenmoved.ctl.exits import CommandError, Exit


def confirm(word: str, *, otherwise: str, instead: str) -> None:
    """Have the operator type a word. Raises CommandError, which says `otherwise`.

    Where there is no terminal to ask at, it says what to do `instead`.
    """
    if not sys.stdin.isatty():
        text = "there is no terminal to ask whether this is meant"
        raise CommandError(Exit.USAGE, ("usage", text, instead))
    sys.stderr.write(f"Type {word} to go on: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip() != word:
        raise CommandError(Exit.FAILED, ("not-confirmed", otherwise, ""))
