"""What is wrapped of help texts: no wider than the terminal, nor than is read well."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from enum import IntEnum
from textwrap import fill, wrap
from typing import Final

from xenmoved.ctl.exits import MEANINGS

_JOINED: Final = "\0"
"""Stands for a blank at which no line is broken."""


def narrow_usage(usage: str) -> str:
    """Return a usage with each option and its value on one line, little to the right."""
    words = re.sub(r"(?<=[^|]) (?=[^][|]*\])", _JOINED, " ".join(usage.split()))
    lines = wrap(
        *(words, help_width()),
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace(_JOINED, " ")


def help_width() -> int:
    """Return how wide help texts are: no wider than the terminal, nor than is read well."""
    return max(20, min(79, shutil.get_terminal_size().columns - 2))


def exit_codes(meanings: Mapping[IntEnum, str] = MEANINGS) -> str:
    """Return exit codes as part of a help text."""
    wrapped = (
        fill(text, help_width(), initial_indent=f"  {code:<4}", subsequent_indent=" " * 6)
        for code, text in meanings.items()
    )
    return "\n".join(("exit codes:", *wrapped))
