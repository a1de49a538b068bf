"""Verbs about this host: what it has, and how its daemon is."""

from __future__ import annotations

import json
import socket
import time
from argparse import Namespace
from typing import Final

from xenmoved.control.api import (
    GetStatus,
    Guests,
    ListGuests,
    Status,
)
from xenmoved.control.peer_api import GetIdentity, Identity
from xenmoved.ctl.daemon import RunningDaemon
from xenmoved.ctl.exits import Exit
from xenmoved.ctl.output import Output
from xenmoved.ctl.text import line
from xenmoved.ctl.views import host as views
from xenmoved.jobs.report import JobState

REFRESH: Final = 1.0
"""Seconds between looks at the daemon by `status --watch`."""


def run_status(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Show how the daemon is; again and again with --watch.

    The exit code tells a monitor whether anybody is needed.
    """
    if args.watch:
        return _watch_status(daemon, output)
    answer = daemon.ask(GetStatus(), Status)
    output.result(answer, views.status(answer, time.time()))
    if any(job.state is JobState.IN_DOUBT for job in answer.jobs):
        return Exit.IN_DOUBT
    return Exit.REMARKS if answer.alarms else Exit.OK


def run_list(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Show the guests of this host."""
    answer = daemon.ask(ListGuests(), Guests)
    output.result(answer, views.guests(answer))
    return Exit.OK


def run_identity(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Show this host's key."""
    answer = daemon.ask(GetIdentity(), Identity)
    if args.request and not output.as_json:
        print(f"{answer.key} {answer.node}")
        return Exit.OK
    output.result(answer, views.identity(answer, socket.gethostname()))
    return Exit.OK


def run_completion(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Print what makes a shell complete the command line."""
    from xenmoved.ctl.completion import shell_code

    print(shell_code(args.shell))
    return Exit.OK


def run_schema(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Print the JSON Schema of what `--json` prints."""
    from xenmoved.ctl.records import schema

    print(json.dumps(schema(), indent=2))
    return Exit.OK


def _watch_status(daemon: RunningDaemon, output: Output) -> Exit:
    """Show the status until Ctrl-C, which is the way to end it and no failure."""
    try:
        if output.live:
            _watch_live(daemon, output)
        while True:
            answer = daemon.ask(GetStatus(), Status)
            output.result(answer, [*views.status(answer, time.time()), line()])
            time.sleep(REFRESH)
    except KeyboardInterrupt:
        return Exit.OK


def _watch_live(daemon: RunningDaemon, output: Output) -> None:
    from xenmoved.ctl.views import live

    with live.screen(output.no_color) as screen:
        while True:
            blocks = views.status(daemon.ask(GetStatus(), Status), time.time())
            screen.update(live.shown(blocks, screen.console.width), refresh=True)
            time.sleep(REFRESH)
