"""What an evacuation looks like as text. Every view is made from its reports and the time alone."""

from __future__ import annotations

from collections.abc import Sequence

from protocol.messages import Problem
from xenmoved.ctl.text import (
    UNKNOWN,
    Across,
    Block,
    Cell,
    Line,
    Span,
    Style,
    duration,
    indent,
    line,
    plural,
    size,
    table,
)
from xenmoved.ctl.views import host as views
from xenmoved.ctl.views import jobs as job_views
from xenmoved.ctl.views.remarks import remarks
from xenmoved.evacuation.report import Evacuation, EvacuationState, GuestFate, GuestToMove

_STYLES = {
    GuestFate.BLOCKED: Style.BAD,
    GuestFate.WAITING: Style.DIM,
    GuestFate.MOVING: Style.BOLD,
    GuestFate.MOVED: Style.GOOD,
    GuestFate.FAILED: Style.BAD,
    GuestFate.IN_DOUBT: Style.WARN,
    GuestFate.LEFT: Style.WARN,
}


def plan(answer: Evacuation) -> list[Block]:
    """Return who would go where: first those that cannot move, with why."""
    if not answer.guests:
        return [line("no guests")]
    rows: list[tuple[Cell, ...] | Across] = []
    for guest in answer.guests:
        to = Span("cannot move", Style.BAD) if guest.peer is None else guest.peer
        rows.append((Span(guest.guest, Style.BOLD), size(guest.memory), size(guest.size), to))
        said = [*views.problems(guest.problems), *remarks(guest.remarks)]
        rows += [Across(tuple(indent(said)))] if said else []
    blocked = sum(guest.fate is GuestFate.BLOCKED for guest in answer.guests)
    count = plural(len(answer.guests) - blocked, "guest")
    last = [Span(f"{count} can move", Style.GOOD)]
    last += [Span(f", {blocked} cannot", Style.BAD)] if blocked else []
    plans = table(("GUEST", "MEMORY", "DISKS", "TO"), rows, " rr")
    return [plans, *left_out(answer), line(), line(*last)]


def left_out(answer: Evacuation) -> list[Block]:
    """Return why peers that were named take no guests, nothing where all of them could be asked."""
    if not answer.problems:
        return []
    head = line(Span("warning: ", Style.WARN), "no guest goes to a peer that could not be asked:")
    return [line(), head, *indent(views.problems(answer.problems))]


def progress(answer: Evacuation, now: float) -> list[Block]:
    """Return every guest with how far it has come."""
    rows = [_row(guest, now) for guest in answer.guests]
    ended = answer.ended if answer.ended is not None else now
    head = line(
        Span(tally(answer), Style.BOLD),
        f", {duration(ended - answer.started)}",
        "; no more are begun" if answer.state is EvacuationState.STOPPING else "",
    )
    return [table(("GUEST", "TO", "STATE", "PROGRESS", "SENT", "TIME"), rows, "    rr"), head]


def summary(answer: Evacuation) -> list[Block]:
    """Return what became of every guest, those that are still here first."""
    if not answer.guests:
        return [line("no guests: nothing to move")]
    order = sorted(answer.guests, key=lambda guest: guest.fate is GuestFate.MOVED)
    rows = [
        (
            Span(guest.guest, Style.BOLD),
            guest.peer or UNKNOWN,
            Span(guest.fate, _STYLES[guest.fate]),
            size(guest.sent) if guest.sent else UNKNOWN,
            duration(guest.seconds) if guest.seconds else UNKNOWN,
            guest.problems[0].text if guest.problems else "",
        )
        for guest in order
    ]
    header = ("GUEST", "TO", "RESULT", "SENT", "TIME", "WHY")
    return [table(header, rows, "   rr"), line(), line(Span(tally(answer), Style.BOLD))]


def tally(answer: Evacuation) -> str:
    """Return how many guests have come how far."""
    counts = [(fate, sum(guest.fate is fate for guest in answer.guests)) for fate in GuestFate]
    told = [f"{count} {fate}" for fate, count in counts if count]
    return f"{plural(len(answer.guests), 'guest')}: {', '.join(told)}" if told else "no guests"


def changes(before: Evacuation | None, now: Evacuation) -> list[Line]:
    """Return a line for each guest that has come further."""
    known = {} if before is None else {guest.guest: guest.fate for guest in before.guests}
    return [
        _change(guest)
        for guest in now.guests
        if known.get(guest.guest, GuestFate.WAITING) is not guest.fate
    ]


def unmoved(answer: Evacuation) -> Sequence[tuple[str, str, str]]:
    """Return code, text and hint for each guest that is still here."""
    left = [guest for guest in answer.guests if guest.fate is not GuestFate.MOVED]
    whys = [
        guest.problems[0] if guest.problems else Problem(str(guest.fate), _REASONS[guest.fate], "")
        for guest in left
    ]
    return [
        (why.code, f"{guest.guest}: {why.text}", why.hint)
        for guest, why in zip(left, whys, strict=True)
    ]


_REASONS = {
    **{fate: str(fate) for fate in GuestFate},
    GuestFate.LEFT: "the evacuation was stopped before its turn",
}


def _change(guest: GuestToMove) -> Line:
    to = f" to {guest.peer}" if guest.peer is not None else ""
    details = ""
    if guest.fate is GuestFate.MOVING and guest.job is not None:
        details = f" (job {guest.job})"
    elif guest.fate is GuestFate.MOVED:
        details = f" in {duration(guest.seconds)}, {size(guest.sent)} sent"
    elif guest.problems:
        details = f": {guest.problems[0].text}"
    return line(f"{guest.guest}{to}: ", Span(guest.fate, _STYLES[guest.fate]), details)


def _row(guest: GuestToMove, now: float) -> tuple[Cell, ...]:
    sent, took, where = guest.sent, guest.seconds, ""
    if (job := guest.progress) is not None:
        took, where = job_views.elapsed(job, now), job_views.where(job)
    elif guest.fate is not GuestFate.MOVED and guest.problems:
        where = guest.problems[0].text
    return (
        Span(guest.guest, Style.BOLD),
        guest.peer or UNKNOWN,
        Span(guest.fate, _STYLES[guest.fate]),
        where,
        size(sent) if sent else UNKNOWN,
        duration(took) if took else UNKNOWN,
    )
