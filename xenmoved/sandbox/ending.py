"""How the programs of the sandbox end: whatever ends them, nothing of theirs is left."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Final

_INTERRUPTED: Final = 130


@contextlib.contextmanager
def ends_cleanly(word: str) -> Iterator[None]:
    """Have signals end what is within like an exception; Ctrl-C with a word instead of a trace."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        yield
    except KeyboardInterrupt:
        print(f"\n{word}")
        sys.exit(_INTERRUPTED)


@contextlib.contextmanager
def undisturbed_end() -> Iterator[None]:
    """Have what is entered after this taken down to the end, whoever is impatient."""
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
