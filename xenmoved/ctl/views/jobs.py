"""What jobs look like as text. Every view is made from reports and the time of day alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from protocol.messages import BLOCK_SIZE, Mode
from xenmoved.ctl.text import (
    Across,
    Block,
    Cell,
    Line,
    Span,
    Style,
    duration,
    facts,
    indent,
    line,
    percent,
    plural,
    rate,
    size,
    table,
)
from xenmoved.ctl.views import course
from xenmoved.ctl.views.remarks import remarks
from xenmoved.jobs.leftover import leftover
from xenmoved.jobs.report import (
    ENDED,
    JobKind,
    JobReport,
    JobState,
    Phase,
    RoundReport,
    VolumeReport,
)

STATE_STYLES = {
    JobState.RUNNING: Style.BOLD,
    JobState.IN_DOUBT: Style.WARN,
    JobState.DONE: Style.GOOD,
    JobState.FAILED: Style.BAD,
    JobState.ABORTED: Style.WARN,
}


def subject(report: JobReport) -> str:
    """Return what is moved: the guest, or the volumes of a sync."""
    if report.guest:
        return report.guest
    return ", ".join(volume.name for volume in report.volumes[:3]) or "a volume"


def title(report: JobReport) -> str:
    """Return what is moved, and between which hosts."""
    way = "from" if report.kind is JobKind.RECEIVE else "to"
    return f"{subject(report)} {way} {report.peer}{_renamed(report)}"


def _renamed(report: JobReport) -> str:
    """Return what the guest is called on the other host, where that is something else."""
    if not report.other_name:
        return ""
    if report.kind is JobKind.RECEIVE:
        return f", where it was {report.other_name}"
    return f" as {report.other_name}"


def remains(report: JobReport, where: str) -> str:
    """Return what is so of the guest of a migration that failed; `where` is this host."""
    how = {Mode.COLD: "is still", Mode.RESTART: "runs"}.get(report.mode, "still runs")
    return f"{report.guest} {how} {where}"


def elapsed(report: JobReport, now: float) -> float:
    """Return for how many seconds the job has been running, or was."""
    return course.length(report, now)


def mark(report: JobReport) -> tuple[object, ...]:
    """Return a value that differs when the phase, the state or any round does."""
    rounds = tuple(len(volume.rounds) for volume in report.volumes)
    return report.state, report.phase, report.doing, rounds, report.memory_sent > 0


def progress(report: JobReport, now: float) -> Line:
    """Return one line with everything that changes while a job runs."""
    stage = str(report.phase)
    if report.state is not JobState.RUNNING:
        stage = f"{report.state}, {report.phase}" if report.state not in ENDED else report.state
    parts = [_volume_progress(volume) for volume in report.volumes if volume.rounds]
    if report.memory_sent:
        parts.append(f"memory {_memory(report)}")
    if report.doing:
        parts.append(report.doing)
    if report.phase is Phase.HOLD:
        parts.append(f"{size(report.left)} behind, goes at 'xenmovectl cutover {report.job}'")
    parts.append(f"sent {size(report.wire_bytes)} in {duration(elapsed(report, now))}")
    style = STATE_STYLES[report.state]
    return line(f"{title(report)}: ", Span(stage, style), ": ", "; ".join(parts))


def jobs(reports: Sequence[JobReport], now: float, *, ended: bool = True) -> list[Block]:
    """Return jobs in a table; `ended` is whether those that have ended are among them."""
    if not reports:
        return [line("no jobs" if ended else "no jobs under way: see xenmovectl jobs --all")]
    header = ("JOB", "KIND", "WHAT", "PEER", "STATE", "PROGRESS", "STARTED", "TIME")
    rows: list[tuple[Cell, ...]] = [
        (
            Span(report.job, Style.BOLD),
            report.kind,
            subject(report),
            report.peer,
            Span(report.state, STATE_STYLES[report.state]),
            where(report),
            _moment(report.started),
            duration(elapsed(report, now)),
        )
        for report in reports
    ]
    return [table(header, rows, "       r")]


def job(report: JobReport, now: float) -> list[Block]:
    """Return everything that is known of a job."""
    state = Span(report.state, STATE_STYLES[report.state])
    pairs: list[tuple[str, Cell]] = [
        ("job", Span(report.job, Style.BOLD)),
        ("what", f"{report.kind} {title(report)}"),
        ("state", state),
    ]
    if report.kind is not JobKind.SYNC and report.guest:
        pairs.insert(2, ("mode", report.mode))
    if report.state not in ENDED:
        pairs.append(("phase", f"{report.phase}, {report.doing}" if report.doing else report.phase))
        pairs += _wishes(report)
    pairs.append(("started", _moment(report.started)))
    if report.ended is not None:
        pairs.append(("ended", _moment(report.ended)))
    lines: list[Block] = [facts(pairs), line(), *_phases(report, now), *_dirty(report)]
    lines += summary(report, now)
    if report.remark is not None and report.state not in ENDED:
        lines += [line(), line(Span("held on: ", Style.WARN), report.remark.text)]
        lines += indent([line(report.remark.hint)])
    if report.problem is not None:
        lines += [line(), line(Span("problem: ", Style.BAD), report.problem.text)]
        lines += indent([line(report.problem.hint)]) if report.problem.hint else []
    if left := leftover(report):
        lines.append(line(f"  {left}"))
    if report.remarks:
        lines += [line(), *remarks(report.remarks)]
    return lines


def outcome(report: JobReport) -> Line:
    """Return one line on how a job that is done went."""
    verb = {
        JobKind.MIGRATE: "moved to",
        JobKind.SYNC: "sent to",
        JobKind.RECEIVE: "arrived from",
    }[report.kind]
    took = duration(elapsed(report, report.started))
    moved = f"{subject(report)} {verb} {report.peer}{_renamed(report)}"
    return line(Span(moved, Style.GOOD), f" in {took}")


def summary(report: JobReport, now: float) -> list[Block]:
    """Return what was sent: each round of each volume, the memory, the blackout, the totals."""
    lines: list[Block] = []
    rows = [row for volume in report.volumes for row in _rounds(volume)]
    if rows:
        header = ("ROUND", "SAME", "DIFF", "ZERO", "SENT", "RATE", "TIME")
        lines += [table(header, rows, "rrrrrrr")]
        lines += [line(Span(f"same, diff, zero: blocks of {size(BLOCK_SIZE)}", Style.DIM)), line()]
    seconds = elapsed(report, now)
    pairs: list[tuple[str, Cell]] = []
    if has_memory(report):
        pairs.append(("memory", _memory(report) if report.memory_total else "not sent yet"))
    if report.blackout is not None:
        pairs.append((interruption(report.mode), Span(duration(report.blackout), Style.BOLD)))
        pairs += [("", said)] if (said := allowed(report)) else []
        pairs += _parts(report)
    if (peak := course.peak(report)) is not None:
        pairs.append(("peak", rate(round(peak), 1.0)))
    average = rate(report.wire_bytes, seconds)
    pairs.append(("total", f"{size(report.wire_bytes)} sent in {duration(seconds)}, {average}"))
    return [*lines, facts(pairs)]


def has_memory(report: JobReport) -> bool:
    """Whether memory travels: with a guest that runs."""
    return bool(report.guest) and report.mode not in (Mode.COLD, Mode.RESTART)


def interruption(mode: Mode) -> str:
    """Return what the time is called in which the guest does not run: it may have been off."""
    return "outage" if mode is Mode.RESTART else "blackout"


def allowed(report: JobReport, told: Callable[[float], str] = duration) -> str:
    """Return how a blackout compares to what was allowed, "" without a limit."""
    limit = report.max_downtime
    if limit is None or report.blackout is None:
        return ""
    return f"{'over' if report.blackout > limit else 'within'} the {told(limit)} allowed"


def round_percent(one: RoundReport) -> str:
    """Return how far a round has come."""
    return percent(one.examined, one.total)


def compared(volume: VolumeReport, one: RoundReport) -> str:
    """Return how the blocks of a round compared, if they were."""
    if volume.streamed and not one.verify:
        return "zfs send"
    return f"same {one.same} diff {one.diff} zero {one.zero}"


def round_rate(one: RoundReport) -> str:
    """Return the rate at which a round sends, on average."""
    return rate(one.wire_bytes, one.seconds)


def remaining(one: RoundReport) -> float | None:
    """Return in how many seconds the round ends if it goes on like this; None: not known."""
    if one.examined == 0 or one.seconds <= 0:
        return None
    return (one.total - one.examined) * one.seconds / one.examined


def _volume_progress(volume: VolumeReport) -> str:
    one = volume.rounds[-1]
    return (
        f"{volume.name} round {one.number} {round_percent(one)} {compared(volume, one)} "
        f"{size(one.wire_bytes)} {round_rate(one)}"
    )


def _rounds(volume: VolumeReport) -> list[tuple[Cell, ...] | Across]:
    remarks = ["new"] * volume.fresh + ["zfs send"] * volume.streamed
    to = f", to {volume.target}" if volume.target != volume.name else ""
    how = f" ({', '.join(remarks)})" if remarks else ""
    head = line(Span(volume.name, Style.BOLD), f", {size(volume.size)}{to}{how}")
    return [
        Across((head,)),
        *(
            (
                _round_name(one),
                *_counts(volume, one),
                size(one.wire_bytes),
                round_rate(one),
                duration(one.seconds),
            )
            for one in volume.rounds
        ),
    ]


def _counts(volume: VolumeReport, one: RoundReport) -> tuple[str, str, str]:
    if volume.streamed and not one.verify:
        return "-", "-", "-"
    return f"{one.same:,}", f"{one.diff:,}", f"{one.zero:,}"


def _wishes(report: JobReport) -> list[tuple[str, Cell]]:
    """Return what 'set' can change, where it is not the default."""
    pairs: list[tuple[str, Cell]] = []
    if report.rate_limit is not None:
        pairs.append(("rate limit", f"{size(report.rate_limit)}/s"))
    if report.max_downtime is not None:
        pairs.append(("max. downtime", duration(report.max_downtime)))
    if report.hold:
        pairs.append(("held", f"until 'xenmovectl cutover {report.job}'"))
    return pairs


def _round_name(one: RoundReport) -> str:
    name = "verify" if one.verify else str(one.number)
    return name if one.examined == one.total else f"{name}: {round_percent(one)}"


def _phases(report: JobReport, now: float) -> list[Block]:
    rows = [
        (str(one.phase), duration(one.at), duration(one.seconds))
        for one in course.phases(report, now)
    ]
    return [table(("PHASE", "AFTER", "TIME"), rows, " rr"), line()] if rows else []


def _dirty(report: JobReport) -> list[Block]:
    """Return what was found to be written by each round of all volumes together."""
    rows = [
        (
            "last" if one.final else str(one.number),
            duration(one.at),
            duration(one.seconds),
            size(one.examined),
            size(one.dirty),
            "first copy" if one.dirty_rate is None else rate(round(one.dirty_rate), 1.0),
        )
        for one in course.rounds(report)
    ]
    header = ("ROUND", "AFTER", "TIME", "EXAMINED", "DIRTY", "DIRTY RATE")
    return [table(header, rows, "rrrrrr"), line()] if rows else []


def _parts(report: JobReport) -> list[tuple[str, Cell]]:
    times = [duration(part.seconds) for part in report.blackout_parts]
    width = max(map(len, times), default=0)
    parts = zip(times, report.blackout_parts, strict=True)
    return [("", f"{time_.rjust(width)}  {part.what}") for time_, part in parts]


def _memory(report: JobReport) -> str:
    if report.memory_sent == report.memory_total:
        return size(report.memory_sent)
    return f"{size(report.memory_sent)} {memory_part(report)}"


def memory_part(report: JobReport) -> str:
    """Return of what the memory that was sent is a part; pages written meanwhile go again."""
    word = "of" if report.memory_sent <= report.memory_total else "for"
    return f"{word} {size(report.memory_total)}"


def where(report: JobReport) -> str:
    """Return the phase of a job, with the share of its copies that is done."""
    if report.state in ENDED:
        return f"{size(report.wire_bytes)} sent"
    current = [volume.rounds[-1] for volume in report.volumes if volume.rounds]
    if not current or report.phase not in (Phase.PRE_COPY, Phase.FINAL_DELTA, Phase.VERIFY):
        return report.phase
    share = percent(sum(one.examined for one in current), sum(one.total for one in current))
    number = max(one.number for one in current)
    behind = len(report.volumes) - len(current)
    waiting = f", {plural(behind, 'volume')} waiting" if behind else ""
    return f"{report.phase}, round {number}: {share}{waiting}"


def _moment(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
