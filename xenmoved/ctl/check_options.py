"""Options of `xenmovectl check`."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Final

from xenmoved.ctl import arguments

_PERCENT: Final = (("--pool-warning", 85, "warn"), ("--pool-critical", 95, "be critical"))


def add_check_options(parser: ArgumentParser) -> None:
    """Add from when on something is wrong, and what is left out."""
    for option, default, what in _PERCENT:
        parser.add_argument(
            option,
            metavar="PERCENT",
            type=arguments.percent,
            default=default,
            help=f"{what} when so much of a pool is used (default: {default})",
        )
    parser.add_argument(
        "--doubts-critical",
        metavar="AGE",
        type=arguments.age,
        default=600.0,
        help="be critical when a doubt is so old, warn before that (default: 10m)",
    )
    parser.add_argument(
        "--copies-warning",
        metavar="AGE",
        type=arguments.age_or_never,
        default=30 * 86400.0,
        help="warn when a copy is kept for so long, or never (default: 30d)",
    )
    parser.add_argument(
        "--no-reach",
        action="store_true",
        help="do not ask the peers whether they answer, and which release they are",
    )
