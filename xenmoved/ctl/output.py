"""Where results, notes and errors go: as text, or as JSON lines."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from protocol.schema import plain
from xenmoved.ctl.exits import CommandError
from xenmoved.ctl.text import Line, Span, Style, line, render


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

    def result(self, message: object, lines: Iterable[Line]) -> None:
        """Print what was asked for: a message of the daemon, which looks like `lines`."""
        if self.as_json:
            self.record(_type_name(message), plain(message))
        else:
            self.print(lines)

    def done(self, message: object, *lines: Line) -> None:
        """Print that an order was carried out: `lines`, unless only results are wanted."""
        if self.as_json:
            self.result(message, [])
        else:
            self.note(*lines)

    def record(self, kind: str, fields: object) -> None:
        """Print one JSON line."""
        assert isinstance(fields, Mapping)
        print(json.dumps({"type": kind, **fields}), flush=True)

    def note(self, *lines: Line) -> None:
        """Print what is good to know, unless only results are wanted."""
        if not (self.as_json or self.quiet):
            self.print(lines)

    def print(self, lines: Iterable[Line]) -> None:
        """Print text."""
        sys.stdout.write(render(lines, color=self._colored(sys.stdout.isatty())))
        sys.stdout.flush()

    def tell(self, *lines: Line) -> None:
        """Print text for a person on stderr, where it is in the way of no program."""
        sys.stderr.write(render(lines, color=self._colored(sys.stderr.isatty())))
        sys.stderr.flush()

    def fail(self, error: CommandError) -> None:
        """Report why the command ends: on stderr, or as JSON on stdout."""
        if self.as_json:
            problems = [
                {"code": code, "text": text, "hint": hint} for code, text, hint in error.problems
            ]
            fields = {"exit_code": int(error.exit_code), "problems": problems}
            self.record("failure", fields)
            return
        for _, text, hint in error.problems:
            self.tell(line(Span("xenmovectl: ", Style.BAD), text))
            if hint:
                self.tell(line("  ", hint))

    def _colored(self, terminal: bool) -> bool:
        plain_terminal = os.environ.get("TERM", "dumb") == "dumb"
        return terminal and not (self.no_color or plain_terminal)


def _type_name(message: object) -> str:
    """Return the name of a message as scripts see it: ``job_report`` for a `JobReport`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(message).__name__).lower()
