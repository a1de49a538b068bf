"""`xenmovectl recover`: what is in doubt, and the decision of an operator about it."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence

from protocol.messages import Presence
from xenmoved.control.api import DecideDoubt, Done, ListDoubts
from xenmoved.ctl.confirm import confirm
from xenmoved.ctl.daemon import RunningDaemon
from xenmoved.ctl.exits import CommandError, Exit
from xenmoved.ctl.output import Output
from xenmoved.ctl.text import Block, Line, Span, Style, duration, facts, indent, line
from xenmoved.ctl.views.host import alarm_lines
from xenmoved.migration.report import Decision, DoubtRow, Doubts, Risk


def run_recover(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Show alarms and doubts; or say what a decision risks, and carry it out if that is meant."""
    if args.decision is None:
        if args.yes:
            text = "--yes goes with a decision"
            raise CommandError(Exit.USAGE, ("usage", text, "see: xenmovectl recover --help"))
        return _show(daemon, output, args.job)
    if args.job is None:
        text = f"--{args.decision} needs a job"
        raise CommandError(Exit.USAGE, ("usage", text, "xenmovectl recover lists them"))
    decision = Decision(args.decision)
    # The daemon also asks the peer, which may take a while.
    question = DecideDoubt(args.job, decision, confirmed=False)
    risk = daemon.ask(question, Risk, timeout=None, refusal=Exit.REFUSED)
    if not args.yes:
        output.tell(*_warning(risk))
        instead = "say --yes when all of that is made sure"
        confirm(risk.guest, otherwise="nothing was decided", instead=instead)
    order = DecideDoubt(risk.job, decision, confirmed=True)
    answer = daemon.ask(order, Done, timeout=None, refusal=Exit.REFUSED)
    output.done(answer, line(answer.text))
    return Exit.OK


def _show(daemon: RunningDaemon, output: Output, wanted: str | None) -> Exit:
    answer = daemon.ask(ListDoubts(reach=True), Doubts, timeout=None)
    rows = [row for row in answer.doubts if wanted is None or _is_meant(row, wanted)]
    if wanted is not None and not rows:
        text = f"nothing called {wanted} is in doubt"
        raise CommandError(Exit.FAILED, ("not-in-doubt", text, "xenmovectl recover lists them"))
    alarms = answer.alarms if wanted is None else ()
    lines = [each for alarm in alarms for each in (*alarm_lines(alarm), line())]
    output.result(Doubts(tuple(rows), alarms), [*lines, *_doubts(rows, time.time())])
    return Exit.OK


def _is_meant(row: DoubtRow, wanted: str) -> bool:
    return wanted == row.guest or row.job.startswith(wanted)


def _doubts(rows: Sequence[DoubtRow], now: float) -> list[Block]:
    if not rows:
        return [line("nothing is in doubt")]
    return [each for row in rows for each in (*_doubt(row, now), line())][:-1]


def _doubt(row: DoubtRow, now: float) -> list[Block]:
    way = f"to {row.peer}" if row.at_source else f"from {row.peer}"
    return [
        line(Span(f"{row.guest} {way}", Style.BOLD), ", job ", Span(row.job, Style.BOLD)),
        *indent(
            [
                facts(
                    [
                        ("state", Span(row.state, Style.WARN)),
                        ("since", f"{duration(now - row.since)}"),
                        ("domain here", row.domain),
                        (row.peer, "answers" if row.peer_answers else "does not answer"),
                        *_said(row),
                    ]
                ),
                line(row.problem.text),
                line(row.problem.hint),
                *_choices(row),
            ]
        ),
    ]


def _said(row: DoubtRow) -> list[tuple[str, str]]:
    """Return what the target has said, where it is asked for that."""
    if row.peer_says is None:
        return []
    says = [("it says", row.peer_says.word.value)]
    if row.peer_says.domain is not Presence.UNSEEN:
        says.append(("domain there", row.peer_says.domain.value))
    return says


def _choices(row: DoubtRow) -> list[Line]:
    """Return what may be decided, without what it risks: that is said before it is done."""
    choices = {
        "commit-sent": ("--keep-here resumes it here", "--give-up drops the copy here"),
        "committed": (
            "--keep-here says that it was started here",
            f"--give-up says that it was not, and {row.peer} resumes it",
        ),
    }
    return [line(f"xenmovectl recover {row.job} {choice}") for choice in choices.get(row.state, ())]


def _warning(risk: Risk) -> list[Block]:
    lines: list[Block] = [line(Span("What it risks: ", Style.BAD), risk.text)]
    if risk.look:
        lines += [line("Make sure first:"), *indent(line(f"- {look}") for look in risk.look)]
    return lines
