"""How argparse is used here: help that fits a terminal, and mistakes that are errors of ours."""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from enum import IntEnum
from typing import Any, NoReturn

from xenmoved.ctl.exits import CommandError, Exit
from xenmoved.ctl.help import help_width, narrow_usage


class Parser(ArgumentParser):
    """Raises `CommandError` where argparse would exit."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False, **options)
        self.refusal: IntEnum = Exit.USAGE
        """The exit code when the command line is wrong."""

    def format_help(self) -> str:
        """Return the help text, with a usage that fits a narrow terminal."""
        usage, end, rest = super().format_help().partition("\n\n")
        if max(map(len, usage.splitlines())) > help_width():
            usage = narrow_usage(usage)
        return usage + end + rest

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; refuse here what is not known if that has an exit code of its own here."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown and self.refusal is not Exit.USAGE:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise CommandError(self.refusal, ("usage", message, f"see: {self.prog} --help"))
