"""The verb about hooks."""

from __future__ import annotations

from argparse import Namespace

from xenmoved.control.hook_api import ListHooks
from xenmoved.ctl.daemon import RunningDaemon
from xenmoved.ctl.exits import Exit
from xenmoved.ctl.output import Output
from xenmoved.ctl.views import hooks as views
from xenmoved.hooks.report import HookRows


def run_hooks(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Show what this host would run at each event, and what it would not."""
    answer = daemon.ask(ListHooks(), HookRows)
    output.result(answer, views.hooks(answer))
    unsafe = any(one.unsafe for one in answer.skipped)
    return Exit.REMARKS if unsafe or answer.problems else Exit.OK
