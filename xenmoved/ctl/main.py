# PYTHON_ARGCOMPLETE_OK
"""Entry point of `xenmovectl`: from a command line to an exit code."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from io import TextIOWrapper
from typing import TYPE_CHECKING

from xenmoved.ctl.exits import CommandError, Exit
from xenmoved.ctl.parser import build_parser

if TYPE_CHECKING:
    from xenmoved.ctl.output import Output


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # What the locale cannot show is shown as an escape, and never a reason to fail.
            stream.reconfigure(errors="backslashreplace")
    try:
        code: int = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough. Nothing may be flushed into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = Exit.FAILED
    except KeyboardInterrupt:
        print("xenmovectl: interrupted", file=sys.stderr)
        code = Exit.INTERRUPTED
    return int(code)


def _run(arguments: Sequence[str]) -> int:
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:
        from xenmoved.ctl.completion import complete

        complete(parser)
    # Until the command line is understood, what it asks for is taken as it stands there.
    args = Namespace(json="--json" in arguments, quiet=False, no_color=False)
    try:
        args = parser.parse_args(arguments)
        from xenmoved.ctl.daemon import RunningDaemon
        from xenmoved.ctl.verbs.table import VERBS

        return VERBS[args.verb](RunningDaemon(args.socket), _output(args), args)
    except CommandError as error:
        _output(args).fail(error)
        return error.exit_code


def _output(args: Namespace) -> Output:
    from xenmoved.ctl.output import Output

    no_color = args.no_color or bool(os.environ.get("NO_COLOR"))
    return Output(args.json, args.quiet, no_color)


if __name__ == "__main__":
    sys.exit(main())
