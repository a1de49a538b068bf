"""How help texts fit a terminal."""

import re
from argparse import _SubParsersAction
from collections.abc import Iterator

import pytest

from xenmoved.ctl.command_line import Parser
from xenmoved.ctl.parser import build_parser


def _parsers(parser: Parser) -> Iterator[Parser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            for one in action.choices.values():
                yield from _parsers(one)


@pytest.mark.parametrize("width", [32, 40, 60, 80, 120])
def test_help_fits_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for parser in _parsers(build_parser()):
        text = parser.format_help()
        explained = text.partition("\nexamples:\n")[0]
        longest = max(explained.splitlines(), key=len)
        assert len(longest) <= width, longest
        if width >= 80:  # what is to be copied is never broken, and fits a usual terminal
            assert max(map(len, text.splitlines())) <= width
        usage = text.partition("\n\n")[0]
        for option in re.findall(r"\[[^]|]*\](?!\])", " ".join(usage.split())):
            assert width < 40 or any(option in line for line in usage.splitlines()), option
