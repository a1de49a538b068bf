"""Watches a job to its end, or until the operator or the daemon goes away; never touches it."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Final, Self

from protocol.messages import Remark, Weight
from xenmoved.control.api import WatchJob
from xenmoved.ctl.daemon import RunningDaemon, fields_of
from xenmoved.ctl.exits import CommandError, Exit
from xenmoved.ctl.output import Output
from xenmoved.ctl.text import indent, line
from xenmoved.ctl.views import jobs as job_views
from xenmoved.ctl.views.remarks import by_weight, remarks
from xenmoved.jobs.leftover import leftover
from xenmoved.jobs.report import ENDED, JobKind, JobReport, JobState

if TYPE_CHECKING:
    from rich.live import Live

INTERVAL: Final = 0.5
"""Seconds between reports."""
PLAIN_INTERVAL: Final = 5.0
"""Most seconds without a line where stdout is no terminal."""
DOUBT_PATIENCE: Final = 20.0
"""Seconds for which a job is followed that is in doubt: most doubts end with a reconnect."""


class Display:
    """Takes report after report. This one shows nothing; those below it do."""

    def __enter__(self) -> Self:
        return self

    def show(self, report: JobReport) -> None:
        """Show how a job stands now."""

    def close(self) -> None:
        """Leave the terminal as it was."""

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class JsonDisplay(Display):
    """Prints each report as a JSON line."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def show(self, report: JobReport) -> None:
        """Print the report."""
        self._output.result(report, [])


class PlainDisplay(Display):
    """Prints a line when the phase or a round changes, and now and then in between."""

    def __init__(self, output: Output, clock: Callable[[], float] = time.monotonic) -> None:
        self._output = output
        self._clock = clock
        self._mark: tuple[object, ...] = ()
        self._printed = 0.0

    def show(self, report: JobReport) -> None:
        """Print a line if it is time to; none for a job that is done, as its summary follows."""
        if report.state is JobState.DONE:
            return
        mark = job_views.mark(report)
        if mark != self._mark or self._clock() - self._printed >= PLAIN_INTERVAL:
            self._mark, self._printed = mark, self._clock()
            self._output.print([job_views.progress(report, time.time())])


class LiveDisplay(Display):
    """Keeps a display on the terminal up to date, and removes it in the end."""

    def __init__(self, output: Output) -> None:
        self._no_color = output.no_color
        self._stack = ExitStack()
        self._live: Live | None = None

    def show(self, report: JobReport) -> None:
        """Show the report in place of the one before."""
        from xenmoved.ctl.views import live

        if self._live is None:
            self._live = self._stack.enter_context(live.screen(self._no_color))
        width = self._live.console.width
        self._live.update(live.display(report, time.time(), width), refresh=True)

    def close(self) -> None:
        """Remove the display."""
        self._stack.close()


class Interrupts:
    """Ctrl-C, noticed even where Python drops the exception: in callbacks while it imports."""

    def __init__(self) -> None:
        self._pressed = False
        self._replaced = False

    def __enter__(self) -> Self:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._note)
            self._replaced = True
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._replaced:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed."""
        if self._pressed:
            raise KeyboardInterrupt

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._pressed = True
        raise KeyboardInterrupt


def display_for(output: Output) -> Display:
    """Return the display that fits the options and where stdout goes."""
    if output.as_json:
        return JsonDisplay(output)
    if output.quiet:
        return Display()
    return LiveDisplay(output) if output.live else PlainDisplay(output)


def follow(
    daemon: RunningDaemon,
    output: Output,
    job: str,
    first: JobReport | None = None,
    *,
    cutover: bool = False,
) -> Exit:
    """Show a job until it has ended, then its summary; return how the command ends.

    `first` is a report that is there already. With `cutover` it is also over when the guest is held
    on. Raises `CommandError`, also when the job fails.
    """
    last = first
    doubtful_since: float | None = None
    try:
        with Interrupts() as interrupts, display_for(output) as display:
            if first is not None:
                display.show(first)
            for report in daemon.watch(WatchJob(job, INTERVAL), JobReport):
                last = report
                display.show(report)
                interrupts.check()
                if report.state in ENDED or (cutover and report.remark is not None):
                    break
                if report.state is not JobState.IN_DOUBT:
                    doubtful_since = None
                elif doubtful_since is None:
                    doubtful_since = time.monotonic()
                elif time.monotonic() - doubtful_since > DOUBT_PATIENCE:
                    break
    except KeyboardInterrupt:
        return _left(output, last)
    except CommandError as error:
        if last is None or error.exit_code is not Exit.UNREACHABLE:
            raise
        raise _lost(last, error.problems[0][1]) from None
    if last is None:
        text = f"xenmoved told nothing about job {job}"
        raise CommandError(Exit.UNREACHABLE, ("daemon-lost", text, _resume(job)))
    if cutover and last.state is JobState.RUNNING and last.remark is not None:
        raise CommandError(Exit.REFUSED, fields_of(last.remark))
    return conclude(output, last)


def conclude(output: Output, report: JobReport) -> Exit:
    """Print how a job ended, and return OK. Raises `CommandError` if it did not end well."""
    if report.state is JobState.RUNNING:
        raise _lost(report, "xenmoved ended the connection")
    if report.state is JobState.DONE:
        output.note(line(), job_views.outcome(report), line())
        output.note(*job_views.summary(report, time.time()))
        if report.problem is not None and not output.as_json:
            output.tell(line(report.problem.text), *indent([line(report.problem.hint)]))
        ends = tell_remarks(output, report.remarks)
        return ends if report.problem is None else Exit.REMARKS
    if any(volume.rounds for volume in report.volumes):
        output.note(line(), *job_views.summary(report, time.time()), line())
    if report.state is JobState.IN_DOUBT:
        raise _doubt(report)
    raise CommandError(Exit.FAILED, *_failure(report))


def tell_remarks(output: Output, found: Sequence[Remark]) -> Exit:
    """Print remarks, on stderr what needs somebody; return how the command ends."""
    some = by_weight(found)
    if Weight.INFO in some:
        output.note(line(), *remarks(some[Weight.INFO]))
    if Weight.ACTION not in some:
        return Exit.OK
    if not output.as_json:
        output.tell(line(), *remarks(some[Weight.ACTION]))
    return Exit.REMARKS


def _failure(report: JobReport) -> list[tuple[str, str, str]]:
    ended = "was aborted" if report.state is JobState.ABORTED else "failed"
    text = f"job {report.job} ({job_views.title(report)}) {ended}"
    if report.kind is JobKind.MIGRATE:
        text += f"; {job_views.remains(report, 'here')}"
    if left := leftover(report):
        text += f"; {left}"
    found = [(f"job-{report.state}", text, "")]
    return found if report.problem is None else [*found, fields_of(report.problem)]


def _doubt(report: JobReport) -> CommandError:
    subject = job_views.subject(report)
    text = (
        f"job {report.job} is in doubt: {report.peer} has not told whether it has {subject}; "
        "nothing runs here, nothing is lost, and xenmoved keeps asking"
    )
    found = [("in-doubt", text, f"check {report.peer} and the network; {_resume(report.job)}")]
    if report.problem is not None:
        found.append(fields_of(report.problem))
    return CommandError(Exit.IN_DOUBT, *found)


def _lost(report: JobReport, reason: str) -> CommandError:
    if report.state is JobState.IN_DOUBT:
        return _doubt(report)
    text = f"lost sight of job {report.job} ({job_views.title(report)}): {reason}"
    hint = f"see whether xenmoved runs again: systemctl status xenmoved; {_resume(report.job)}"
    return CommandError(Exit.UNREACHABLE, ("daemon-lost", text, hint))


def _left(output: Output, report: JobReport | None) -> Exit:
    if report is None:
        raise KeyboardInterrupt
    if output.live:
        output.print([job_views.progress(report, time.time())])
    else:
        sys.stdout.flush()
    title = job_views.title(report)
    output.tell(
        line(f"job {report.job} ({title}) goes on"),
        line(f"  watch it: xenmovectl watch {report.job}"),
        line(f"  end it:   xenmovectl abort {report.job}"),
    )
    return Exit.INTERRUPTED


def _resume(job: str) -> str:
    return f"to go on watching: xenmovectl watch {job}"
