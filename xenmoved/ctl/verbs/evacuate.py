"""`xenmovectl evacuate`: every guest away from here, and the company of it to its end."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import TYPE_CHECKING

from protocol.messages import Mode
from xenmoved.control.api import Done
from xenmoved.control.evacuation_api import (
    PlanEvacuation,
    StartEvacuation,
    StopEvacuation,
    WatchEvacuation,
)
from xenmoved.ctl.daemon import RunningDaemon
from xenmoved.ctl.exits import CommandError, Exit
from xenmoved.ctl.follow import INTERVAL, Interrupts, tell_remarks
from xenmoved.ctl.output import Output
from xenmoved.ctl.text import line
from xenmoved.ctl.views import evacuation as evacuation_views
from xenmoved.evacuation.report import Evacuation, EvacuationState, GuestFate
from xenmoved.jobs.options import TransferOptions

if TYPE_CHECKING:
    from rich.live import Live


def evacuate(
    daemon: RunningDaemon,
    output: Output,
    args: Namespace,
    mode: Mode | None,
    options: TransferOptions,
) -> Exit:
    """Plan, begin, stop or follow an evacuation, as the command line says."""
    if args.stop:
        if args.peers or args.dry_run:
            text = "--stop goes alone"
            raise CommandError(Exit.USAGE, ("usage", text, "see: xenmovectl evacuate --help"))
        answer = daemon.ask(StopEvacuation(), Done)
        output.result(answer, [line(answer.text)])
        return Exit.OK
    peers = tuple(args.peers)
    if args.dry_run and not peers:
        raise CommandError(Exit.USAGE, ("usage", "name the peers that guests may go to", ""))
    if args.dry_run:
        return _plan(daemon, output, PlanEvacuation(peers, mode, options))
    if not peers:
        return _follow(daemon, output, None)
    request = StartEvacuation(peers, mode, args.concurrency, options)
    try:
        first = daemon.ask(request, Evacuation, timeout=None, refusal=Exit.REFUSED)
    except KeyboardInterrupt:
        return _interrupted(daemon, output, begun_here=True)
    if not output.as_json:
        output.tell(*evacuation_views.left_out(first))
    if args.detach:
        begun = line(f"an evacuation has begun: {evacuation_views.tally(first)}")
        output.result(first, [begun, line("  follow it: xenmovectl evacuate")])
        return Exit.OK
    return _follow(daemon, output, first)


def _plan(daemon: RunningDaemon, output: Output, request: PlanEvacuation) -> Exit:
    answer = daemon.ask(request, Evacuation, timeout=None, refusal=Exit.REFUSED)
    output.result(answer, evacuation_views.plan(answer))
    blocked = any(guest.fate is GuestFate.BLOCKED for guest in answer.guests)
    return Exit.REFUSED if blocked else Exit.OK


class _Display:
    """Shows how an evacuation stands: on a terminal a table, else a line when something happens."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._last: Evacuation | None = None
        self._live: Live | None = None

    def show(self, report: Evacuation) -> None:
        """Show it as it is now."""
        if self._output.as_json:
            if report != self._last:
                self._output.result(report, [])
        elif self._output.live:
            self._update(report)
        elif not self._output.quiet:
            self._output.print(evacuation_views.changes(self._last, report))
        self._last = report

    def _update(self, report: Evacuation) -> None:
        from xenmoved.ctl.views import live

        if self._live is None:
            self._live = live.screen(self._output.no_color)
            self._live.start()
        blocks = evacuation_views.progress(report, time.time())
        self._live.update(live.shown(blocks, self._live.console.width), refresh=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()


def _follow(daemon: RunningDaemon, output: Output, first: Evacuation | None) -> Exit:
    """Show an evacuation to its end. `first` is its first report, if it was begun here."""
    last, display = first, _Display(output)
    try:
        with Interrupts() as interrupts:
            for report in daemon.watch(WatchEvacuation(INTERVAL), Evacuation):
                last = report
                display.show(report)
                interrupts.check()
                if report.state is EvacuationState.ENDED:
                    break
    except KeyboardInterrupt:
        display.close()
        return _interrupted(daemon, output, begun_here=first is not None)
    finally:
        display.close()
    if last is None or last.state is not EvacuationState.ENDED:
        text = "xenmoved ended the connection"
        hint = "guests that were moving are settled when it runs again; see: xenmovectl jobs"
        raise CommandError(Exit.UNREACHABLE, ("daemon-lost", text, hint))
    return _conclude(output, last)


def _conclude(output: Output, report: Evacuation) -> Exit:
    """Print what became of every guest. Raises CommandError if one is still here."""
    output.note(line(), *evacuation_views.summary(report))
    moved = [guest for guest in report.guests if guest.fate is GuestFate.MOVED]
    remarked = tell_remarks(output, [one for guest in moved for one in guest.remarks])
    if not (left := evacuation_views.unmoved(report)):
        return remarked
    doubtful = any(guest.fate is GuestFate.IN_DOUBT for guest in report.guests)
    raise CommandError(Exit.IN_DOUBT if doubtful else Exit.FAILED, *left)


def _interrupted(daemon: RunningDaemon, output: Output, *, begun_here: bool) -> Exit:
    """Stop what was begun here; leave alone what somebody else has begun."""
    if begun_here:
        output.tell(line(daemon.ask(StopEvacuation(), Done).text))
    else:
        output.tell(line("the evacuation goes on"), line("  end it: xenmovectl evacuate --stop"))
    output.tell(
        line("  follow it:       xenmovectl evacuate"),
        line("  bring one back:  xenmovectl abort GUEST"),
    )
    return Exit.INTERRUPTED
