"""What is found wrong with a host, and how bad that is: for `xenmovectl check`.

The output is that of the Monitoring Plugins Development Guidelines: a line with the state and,
after a ``|``, the performance data; then the details, one a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

from protocol.schema import Length, Text
from xenmoved.control.health_api import Health
from xenmoved.ctl.text import duration, plural, size
from xenmoved.logs import printable
from xenmoved.migration.report import DoubtRow


class Severity(StrEnum):
    """How bad something is."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"


_WORSE: Final = (Severity.OK, Severity.WARNING, Severity.UNKNOWN, Severity.CRITICAL)
_UNDECIDED: Final = ("commit-sent", "committed")
"""States of what is in doubt, and may yet be settled by itself (docs/handover.md)."""
_DECIDED: Final = ("kept", "given-up")
"""States of what an operator has decided, and the peer has not confirmed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """From when on something is wrong: pools in percent, times in seconds. None is never."""

    pool_warning: int
    pool_critical: int
    doubts_critical: float
    copies_warning: float | None


@dataclass(frozen=True, slots=True)
class CheckFinding:
    """Something that is wrong, and what to do about it; `hint` may be empty."""

    state: Severity
    text: Text
    hint: Text = ""


@dataclass(frozen=True, slots=True)
class Check:
    """How a host is, and what is found wrong with it, the worst first.

    `summary` is the first line without its performance data. `health` is None where the daemon did
    not tell.
    """

    state: Severity
    summary: Text
    findings: Annotated[tuple[CheckFinding, ...], Length(0, 10_000)]
    health: Health | None


def checked(health: Health, limits: Limits, now: float) -> Check:
    """Return what is wrong with a host at the moment `now`, in seconds since 1970."""
    found = [
        *_journal_and_alarms(health),
        *_doubts(health, limits, now),
        *_trackers(health),
        *_pools(health, limits),
        *_copies(health, limits),
        *_peers(health),
    ]
    found.sort(key=lambda one: _WORSE.index(one.state), reverse=True)
    state = found[0].state if found else Severity.OK
    return Check(state, _summary(health, found), tuple(found), health)


def unanswered(state: Severity, text: str, hint: str) -> Check:
    """Return what it means that the daemon did not tell."""
    return Check(state, text, (CheckFinding(state, text, hint),), None)


def lines(check: Check, limits: Limits) -> Iterator[str]:
    """Yield the output, in which what peers and guests are called can do no harm."""
    data = "" if check.health is None else f" | {' '.join(_performance(check.health, limits))}"
    yield f"XENMOVED {check.state.name} - {_shown(check.summary)}{data}"
    for one in check.findings:
        hint = f" ({one.hint})" if one.hint else ""
        yield _shown(f"{one.state.name}: {one.text}{hint}")


def _shown(text: str) -> str:
    # What comes after a | is read as performance data.
    return printable(text).replace("|", "/")


def _summary(health: Health, found: list[CheckFinding]) -> str:
    if not found:
        jobs = f"{health.node}: {plural(health.jobs, 'job')}"
        if health.peers is None:
            return jobs
        answer = "answers" if len(health.peers) == 1 else "answer"
        return f"{jobs}, {plural(len(health.peers), 'peer')} {answer}"
    more = f"; and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{health.node}: {found[0].text}{more}"


def _journal_and_alarms(health: Health) -> Iterator[CheckFinding]:
    for alarm in health.alarms:
        bad = Severity.CRITICAL if alarm.code == "journal" else Severity.WARNING
        yield CheckFinding(bad, alarm.text, alarm.hint)


def _doubts(health: Health, limits: Limits, now: float) -> Iterator[CheckFinding]:
    for row in health.doubts:
        text = f"{_title(row)} for {duration(now - row.since)}: {row.problem.text}"
        yield CheckFinding(_how_bad(row, limits, now), text, row.problem.hint)


def _title(row: DoubtRow) -> str:
    way = f"{row.guest} {'to' if row.at_source else 'from'} {row.peer}"
    return f"{way} is in doubt" if row.state in _UNDECIDED else f"{way} is {row.state}"


def _how_bad(row: DoubtRow, limits: Limits, now: float) -> Severity:
    if row.state in _DECIDED:
        return Severity.WARNING
    waits = row.state in _UNDECIDED and now - row.since < limits.doubts_critical
    return Severity.WARNING if waits else Severity.CRITICAL


def _trackers(health: Health) -> Iterator[CheckFinding]:
    for one in health.trackers:
        times = plural(one.fallbacks, "time")
        text = f"job {one.job} ({one.guest}): {times} it was not known what the guest had written"
        yield CheckFinding(
            Severity.WARNING, text, "all of that disk is read again; the log says why"
        )


def _pools(health: Health, limits: Limits) -> Iterator[CheckFinding]:
    for pool in health.pools:
        if pool.problem is not None:
            yield CheckFinding(Severity.CRITICAL, pool.problem.text, pool.problem.hint)
            continue
        used = (pool.total - pool.free) * 100 / pool.total if pool.total else 100.0
        text = f"pool {pool.name} is {used:.0f}% full: {size(pool.free)} are free"
        hint = "xenmovectl volumes shows what is kept of guests that went away"
        if used >= limits.pool_critical:
            yield CheckFinding(Severity.CRITICAL, text, hint)
        elif used >= limits.pool_warning:
            yield CheckFinding(Severity.WARNING, text, hint)


def _copies(health: Health, limits: Limits) -> Iterator[CheckFinding]:
    if health.unseen is not None:
        text = f"it is not known which copies are kept: {health.unseen.text}"
        yield CheckFinding(Severity.UNKNOWN, text, health.unseen.hint)
    if (most := limits.copies_warning) is None:
        return
    for one in health.copies:
        if one.kept >= most:
            text = f"{one.pool}:{one.name}, the copy of {one.guest} that went to {one.place}"
            kept = f"is kept for {duration(one.kept)}: {size(one.size)}"
            hint = f"if nobody needs it: xenmovectl volumes drop {one.pool}:{one.name}"
            yield CheckFinding(Severity.WARNING, f"{text}, {kept}", hint)


def _peers(health: Health) -> Iterator[CheckFinding]:
    ours = f"xenmoved {health.version}"
    for peer in health.peers or ():
        if peer.problem is not None:
            yield CheckFinding(Severity.WARNING, peer.problem.text, peer.problem.hint)
        elif peer.software != ours:
            text = f"{peer.name} has {peer.software}, and this host {ours}"
            yield CheckFinding(Severity.WARNING, text, "upgrade the older one: docs/install.md")


def _performance(health: Health, limits: Limits) -> Iterator[str]:
    """Yield ``'label'=value[unit];warning;critical;least;most`` of everything that is a number."""
    yield f"jobs={health.jobs};;;0"
    yield f"alarms={len(health.alarms)};;;0"
    yield f"doubts={len(health.doubts)};;;0"
    for pool in health.pools:
        if pool.problem is None:
            bounds = (pool.total * share // 100 for share in _shares(limits))
            used = pool.total - pool.free
            yield f"'pool {pool.name}'={used}B;{';'.join(map(str, bounds))};0;{pool.total}"
    if health.unseen is None:
        yield f"copies={sum(one.size for one in health.copies)}B;;;0"
        oldest = max((one.kept for one in health.copies), default=0.0)
        most = "" if limits.copies_warning is None else f"{limits.copies_warning:.0f}"
        yield f"oldest_copy={oldest:.0f}s;{most};;0"
    if health.peers is not None:
        silent = sum(peer.problem is not None for peer in health.peers)
        yield f"peers_unreachable={silent};;;0;{len(health.peers)}"


def _shares(limits: Limits) -> tuple[int, int]:
    return limits.pool_warning, limits.pool_critical
