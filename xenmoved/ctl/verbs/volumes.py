"""`xenmovectl volumes`: the volumes of all pools, and dropping the copies that guests left."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence

from xenmoved.control.api import Done
from xenmoved.control.volume_api import DropVolumes, ListVolumes
from xenmoved.ctl.confirm import confirm
from xenmoved.ctl.daemon import RunningDaemon
from xenmoved.ctl.exits import CommandError, Exit
from xenmoved.ctl.output import Output
from xenmoved.ctl.text import (
    UNKNOWN,
    Block,
    Cell,
    Span,
    Style,
    duration,
    indent,
    line,
    plural,
    size,
    table,
)
from xenmoved.migration.report import VolumeRow, Volumes


def run_volumes(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Show the volumes of all pools."""
    answer = daemon.ask(ListVolumes(), Volumes, timeout=None)
    lines: list[Block] = [line("no volumes")]
    if answer.volumes:
        lines = _volumes(answer.volumes, time.time())
    lines += [line(Span(found.text, Style.BAD)) for found in answer.problems]
    output.result(answer, lines)
    return Exit.FAILED if answer.problems else Exit.OK


def run_drop(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Remove retained copies, when the operator has confirmed it."""
    if (args.volume is None) == (args.guest is None):
        hint = "xenmovectl volumes lists what is kept"
        raise CommandError(Exit.USAGE, ("usage", "name a volume, or say --guest", hint))
    question = DropVolumes(args.volume, args.guest, confirmed=False)
    found = daemon.ask(question, Volumes, timeout=None, refusal=Exit.REFUSED)
    if not args.yes:
        held = sum(row.allocated or 0 for row in found.volumes)
        count = plural(len(found.volumes), "volume")
        output.tell(
            line(f"To be removed, and lost: {count}, {size(held)} allocated"),
            *indent(_volumes(found.volumes, time.time())),
        )
        word = args.guest or args.volume
        confirm(word, otherwise="nothing was dropped", instead="say --yes if it is meant")
    order = DropVolumes(args.volume, args.guest, confirmed=True)
    answer = daemon.ask(order, Done, timeout=None, refusal=Exit.REFUSED)
    output.done(answer, line(answer.text))
    return Exit.OK


def _volumes(rows: Sequence[VolumeRow], now: float) -> list[Block]:
    header = ("VOLUME", "SIZE", "ALLOCATED", "IN USE BY", "KEPT OF", "WENT TO", "AGO")
    return [table(header, [_row(row, now) for row in rows], " rr   r")]


def _row(row: VolumeRow, now: float) -> Sequence[Cell]:
    kept: Sequence[Cell] = (UNKNOWN, "", "")
    if row.retained is not None:
        since = duration(now - row.retained.since)
        kept = (Span(row.retained.guest, Style.BOLD), row.retained.place, since)
    return (
        f"{row.pool}:{row.name}",
        size(row.size),
        UNKNOWN if row.allocated is None else size(row.allocated),
        "; ".join(row.users) or UNKNOWN,
        *kept,
    )
