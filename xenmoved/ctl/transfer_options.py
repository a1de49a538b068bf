"""Options of every verb that sends something: where to, how fast, and under which names."""

from __future__ import annotations

from argparse import ArgumentParser, BooleanOptionalAction
from typing import Final

from xenmoved.ctl import arguments, completion

COMPRESSIONS: Final = ("off", "zstd", "auto")
CDROM_CHOICES: Final = ("eject", "require")


def add_transfer_options(parser: ArgumentParser) -> None:
    """Add what says where volumes go, and how."""
    pool = parser.add_argument(
        "--pool",
        metavar="POOL",
        action="append",
        type=arguments.pool,
        default=[],
        help="pool of the peer for new volumes; OLD=POOL: for those that are in pool OLD here",
    )
    completion.offer(pool, completion.pools_of_guest)
    parser.add_argument(
        "--rate-limit",
        metavar="RATE",
        type=arguments.rate_limit,
        help="most bytes a second, such as 80MiB, or unlimited",
    )
    parser.add_argument("--compress", choices=COMPRESSIONS, help="compress what is sent")
    parser.add_argument(
        "--verify",
        action=BooleanOptionalAction,
        help="read everything again on the peer and compare, or do not",
    )
    parser.add_argument(
        "--keep-partial",
        action="store_true",
        help="keep new volumes there if it fails, so that another attempt sends less",
    )


def add_names(parser: ArgumentParser) -> None:
    """Add what says how things are called on the other host."""
    rules = (
        (
            *("volume", arguments.volume_rule, completion.volumes_of_guest),
            "call volumes like OLD there like NEW: 'vm-*=*-disk'",
        ),
        (
            *("bridge", arguments.bridge, completion.nothing),
            "have bridge NEW there for what is on bridge OLD here",
        ),
    )
    for option, kind, completer, text in rules:
        rule = parser.add_argument(
            f"--{option}",
            metavar="OLD=NEW",
            dest=f"{option}_names",  # 'sync' has a volume of its own
            action="append",
            type=kind,
            default=[],
            help=text,
        )
        completion.offer(rule, completer)
    name = parser.add_argument(
        "--rename", metavar="NAME", type=arguments.guest_name, help="call the guest NAME there"
    )
    completion.offer(name, completion.nothing)
    parser.add_argument(
        "--cdrom",
        choices=CDROM_CHOICES,
        help="a CD-ROM in its drive: leave the drive empty there, or take the same one there",
    )
