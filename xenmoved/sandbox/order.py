"""Asks the playground for something, in its shell: `order SOCKET WORD...`, or shows its page."""

from __future__ import annotations

import shlex
import shutil
import sys
import textwrap
from pathlib import Path

from xenmoved.sandbox import control
from xenmoved.sandbox.host import CommandFailed


def main(arguments: list[str]) -> int:
    """Print the answer; returns the exit status."""
    if arguments[0] == "--page":
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(Path(arguments[1]).read_text(encoding="utf-8")))
        return 0
    try:
        answer = control.request(arguments[0], shlex.join(arguments[1:]))
    except CommandFailed as error:
        print(error, file=sys.stderr)
        return 1
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    for each in answer["text"].splitlines():
        print(textwrap.fill(each, width, subsequent_indent="  ", break_on_hyphens=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
