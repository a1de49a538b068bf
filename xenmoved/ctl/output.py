"""Where results, notes and errors go: as text, or as JSON lines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TextIO

from protocol.schema import plain
from xenmoved.ctl.exits import CommandError
from xenmoved.ctl.layout import render
from xenmoved.ctl.text import Block, Span, Style, line

_NARROWEST: Final = 20


@dataclass(frozen=True, slots=True)
class Output:
    """Results go to stdout. `quiet` leaves out whatever is neither a result nor an error."""

    as_json: bool = False
    quiet: bool = False
    no_color: bool = False

    @property
    def live(self) -> bool:
        """Whether stdout is a terminal on which a display can be kept up to date."""
        return (
            not (self.as_json or self.quiet)
            and sys.stdout.isatty()
            and os.environ.get("TERM", "dumb") != "dumb"
        )

    def result(self, message: object, lines: Iterable[Block]) -> None:
        """Print what was asked for: a message of the daemon, which looks like `lines`."""
        if self.as_json:
            _record(message)
        else:
            self.print(lines)

    def done(self, message: object, *lines: Block) -> None:
        """Print that an order was carried out: `lines`, unless only results are wanted."""
        if self.as_json:
            self.result(message, [])
        else:
            self.note(*lines)

    def note(self, *lines: Block) -> None:
        """Print what is good to know, unless only results are wanted."""
        if not (self.as_json or self.quiet):
            self.print(lines)

    def print(self, lines: Iterable[Block]) -> None:
        """Print text."""
        self._write(sys.stdout, lines)

    def tell(self, *lines: Block) -> None:
        """Print text for a person on stderr, where it is in the way of no program."""
        self._write(sys.stderr, lines)

    def fail(self, error: CommandError) -> None:
        """Report why the command ends: on stderr, or as JSON on stdout."""
        if self.as_json:
            from xenmoved.ctl.records import CommandFailure, Reason

            reasons = tuple(Reason(*problem) for problem in error.problems)
            _record(CommandFailure(int(error.exit_code), reasons))
            return
        for _, text, hint in error.problems:
            self.tell(line(Span("xenmovectl: ", Style.BAD), text))
            if hint:
                self.tell(line("  ", hint))

    def _write(self, stream: TextIO, lines: Iterable[Block]) -> None:
        terminal = stream.isatty()
        plain_terminal = os.environ.get("TERM", "dumb") == "dumb"
        color = terminal and not (self.no_color or plain_terminal)
        stream.write(render(lines, color=color, width=columns(stream) if terminal else None))
        stream.flush()


def columns(terminal: TextIO) -> int | None:
    """Return how wide a terminal is, None where nothing tells."""
    told = os.environ.get("COLUMNS", "")
    try:
        found = int(told) if told.isdecimal() else os.get_terminal_size(terminal.fileno()).columns
    except OSError:
        return None
    return max(found, _NARROWEST) if found else None


def _record(message: object) -> None:
    """Print one JSON line."""
    from xenmoved.ctl.records import RECORDS

    fields = plain(message)
    assert isinstance(fields, dict)
    print(json.dumps({"type": RECORDS[type(message)], **fields}), flush=True)
