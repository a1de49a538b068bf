"""`xenmovectl check`: a plug-in for monitoring systems."""

from __future__ import annotations

import time
from argparse import Namespace

from xenmoved.control.health_api import GetHealth, Health
from xenmoved.ctl.checks import Check, Limits, Severity, checked, lines, unanswered
from xenmoved.ctl.daemon import RunningDaemon
from xenmoved.ctl.exits import CheckState, CommandError, Exit
from xenmoved.ctl.output import Output
from xenmoved.ctl.text import line


def run_check(daemon: RunningDaemon, output: Output, args: Namespace) -> CheckState:
    """Tell whether anything is wrong with this host, as monitoring systems want to be told."""
    limits = Limits(
        args.pool_warning, args.pool_critical, args.doubts_critical, args.copies_warning
    )
    if limits.pool_critical < limits.pool_warning:
        text = f"{limits.pool_critical}% is critical, and only {limits.pool_warning}% a warning"
        hint = "--pool-critical is the larger one"
        raise CommandError(CheckState.UNKNOWN, ("usage", text, hint))
    found = _ask(daemon, limits, reach=not args.no_reach)
    output.result(found, map(line, lines(found, limits)))
    return CheckState[found.state.name]


def _ask(daemon: RunningDaemon, limits: Limits, *, reach: bool) -> Check:
    try:
        return checked(daemon.ask(GetHealth(reach), Health), limits, time.time())
    except CommandError as error:
        _, text, hint = error.problems[0]
        denied = error.exit_code is Exit.DENIED
        return unanswered(Severity.UNKNOWN if denied else Severity.CRITICAL, text, hint)
