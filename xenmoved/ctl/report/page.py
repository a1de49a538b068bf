"""The page: what happened, in the order in which one asks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from protocol.messages import Mode
from xenmoved import __version__
from xenmoved.ctl.report import plots, units
from xenmoved.ctl.report.markup import Markup, join, tag
from xenmoved.ctl.report.style import STYLE
from xenmoved.ctl.views import course
from xenmoved.ctl.views import jobs as job_views
from xenmoved.ctl.views.remarks import HEADS, by_weight
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

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_STATES: Final = {
    JobState.RUNNING: "",
    JobState.IN_DOUBT: "warn",
    JobState.DONE: "good",
    JobState.FAILED: "bad",
    JobState.ABORTED: "warn",
}
_KINDS: Final = {
    JobKind.MIGRATE: "Migration",
    JobKind.SYNC: "Sync",
    JobKind.RECEIVE: "Arrival",
}
_COLUMNS: Final = (
    *("Round", "Began after", "Took", "Examined", "Alike", "Sent", "Zeroed", "On the wire"),
    *("Dirty", "Dirty rate"),
)

_WHAT_BEGINS: Final = {
    "blackout": "the suspension of the guest",
    "outage": "the request to shut down",
}
_LONG: Final = 24
"""Letters of a name that is shown in a smaller font."""

Key = tuple[str, str]
"""A class of the style sheet, and what has its colour."""


def render(report: JobReport, node: str, now: float) -> str:
    """Return the page about a job of the host `node`, as it is at the time of day `now`."""
    span = course.length(report, now)
    title = f"{job_views.subject(report)}: {_way(report, node)}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(STYLE)),
    )
    body = tag(
        "body",
        _header(report, node),
        _problem(report, node),
        _remarks(report),
        _tiles(report, span),
        tag("main", *_sections(report, span, now)),
        tag("footer", f"xenmoved {__version__} on {node}, {_moment(now)}"),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _way(report: JobReport, node: str) -> str:
    ends = (report.peer, node) if report.kind is JobKind.RECEIVE else (node, report.peer)
    return f"{ends[0]} \N{RIGHTWARDS ARROW} {ends[1]}"


def _header(report: JobReport, node: str) -> Markup:
    about = [_KINDS[report.kind] + (f" in {report.mode} mode" if report.guest else "")]
    about += [f"job {report.job}", f"began {_moment(report.started)}"]
    state = str(report.state).replace("-", " ")
    subject = job_views.subject(report)
    size = "long" if len(subject) > _LONG else None
    return join(
        tag(
            "header",
            tag("h1", subject, " ", tag("small", _way(report, node)), class_=size),
            tag("span", state, class_=f"state {_STATES[report.state]}"),
        ),
        tag("p", " \N{MIDDLE DOT} ".join(about), class_="about"),
    )


def _problem(report: JobReport, node: str) -> Markup:
    if report.problem is None:
        return Markup()
    said = [tag("p", tag("strong", report.problem.text))]
    said += [tag("p", f"What to do: {report.problem.hint}.")] if report.problem.hint else []
    if report.state in (JobState.FAILED, JobState.ABORTED) and report.phase is not Phase.ENDED:
        text = f"The job ended in its phase {report.phase}"
        if report.kind is JobKind.MIGRATE:
            text += f"; {job_views.remains(report, f'on {node}')}"
        if left := leftover(report):
            text += f"; {left}"
        said.append(tag("p", f"{text}."))
    return tag("div", *said, class_=f"problem {_STATES[report.state] or 'warn'}")


def _remarks(report: JobReport) -> Markup:
    """Return what an operator should know of a guest that has moved."""
    said = []
    for weight, some in by_weight(report.remarks).items():
        said.append(tag("p", tag("strong", f"{HEADS[weight].capitalize()}:")))
        items = [tag("li", one.text, *([f" ({one.hint})"] if one.hint else [])) for one in some]
        said.append(tag("ul", *items))
    return tag("div", *said, class_="problem warn") if said else Markup()


def _tiles(report: JobReport, span: float) -> Markup:
    tiles = []
    if report.blackout is not None:
        allowed = job_views.allowed(report, units.duration)
        tiles.append(
            _tile(
                job_views.interruption(report.mode).capitalize(),
                units.duration(report.blackout),
                ["the guest ran nowhere,", allowed] if allowed else ["the guest ran nowhere"],
                "dark",
            )
        )
    so_far = "" if report.state in ENDED else " so far"
    ended = [] if report.ended is None else [f"until {_clock(report.ended)}"]
    tiles.append(_tile(f"Total time{so_far}", units.duration(span), ended))
    disks = sum(one.size for one in report.volumes)
    carried = [f"{units.size(disks)} of disks"] if disks else []
    carried += [f"{units.size(report.memory_total)} of memory"] if report.memory_total else []
    carried = [f"{word} {one}" for word, one in zip(("for", "and"), carried, strict=False)]
    way = "Received" if report.kind is JobKind.RECEIVE else "Sent"
    sent = units.size(report.wire_bytes)
    tiles.append(_tile(f"{way}{so_far}", sent, carried))
    if span > 0:
        peak = course.peak(report)
        most = [f"at most {units.rate(peak)}"] if peak is not None else []
        tiles.append(_tile("Throughput", units.rate(report.wire_bytes / span), most))
    return tag("dl", *tiles, class_="tiles")


def _tile(name: str, value: str, remarks: Sequence[str], class_: str | None = None) -> Markup:
    said = [tag("dt", name), tag("dd", value, class_=class_)]
    words = join(*(join(tag("span", remark), " ") for remark in remarks))
    return tag("div", *said, *([tag("dd", words)] if words else []))


def _sections(report: JobReport, span: float, now: float) -> list[Markup]:
    dark_time = job_views.interruption(report.mode)
    dark: list[Key] = [("k-dark", dark_time)] if report.blackout else []
    sent: list[Key] = [("k-disks", "disks")] if report.volumes else []
    sent += [("k-memory", "memory")] if report.memory_sent else []
    rounds: list[Key] = [("k-rest", "written since the round before"), ("k-examined", "examined")]
    still = "shut down" if report.mode is Mode.RESTART else "suspended"
    rounds += [("k-dark", f"the last one, with the guest {still}")] if report.suspended else []
    return [
        _section(
            dark_time.capitalize(),
            f"From {_WHAT_BEGINS[dark_time]} to the word of the target that it runs there.",
            plots.blackout(report),
        ),
        _section(
            "Throughput",
            "What went over the network.",
            plots.throughput(report, span),
            [*sent, ("stroke", "average"), *dark],
        ),
        _section(
            "Left to examine",
            "What the rounds that were going on had not read and compared yet. The next round "
            "takes up what was written meanwhile: everything, where nothing tracks writes.",
            plots.left(report, span),
            dark,
        ),
        _section(
            "Dirty set",
            "What each round found to be written since the one before, and how fast that came "
            "about. In the first round: what the target did not have.",
            plots.rounds(report),
            rounds,
        ),
        _section("Phases", "", plots.phases(report, span, now), dark),
        _volumes(report),
    ]


def _section(title: str, text: str, content: Markup, keys: Sequence[Key] = ()) -> Markup:
    """Return a section, nothing when there is nothing to show."""
    if not content:
        return content
    words = [tag("p", text)] if text else []
    items = [tag("li", name, class_=class_) for class_, name in keys]
    words += [tag("ul", *items, class_="keys")] if items else []
    return tag("section", tag("h2", title), *words, tag("div", content, class_="scroll"))


def _volumes(report: JobReport) -> Markup:
    if not report.volumes:
        return Markup()
    head = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in _COLUMNS)))
    place = "here" if report.kind is JobKind.RECEIVE else "there"
    bodies = [_volume(volume, place) for volume in report.volumes]
    return tag(
        "section",
        tag("h2", "Volumes"),
        tag("div", tag("table", head, *bodies), class_="scroll rows"),
    )


def _volume(volume: VolumeReport, place: str) -> Markup:
    new = f", new {place}" if volume.fresh else ""
    new += ", by zfs send" if volume.streamed else ""
    arrow = f" \N{RIGHTWARDS ARROW} {volume.target}" if volume.target != volume.name else ""
    where = f"{arrow}{new}, {units.size(volume.size)}"
    said = tag("div", volume.name, tag("span", where))
    name = tag("th", said, colspan=len(_COLUMNS), scope="rowgroup")
    rows = [tag("tr", *(tag("td", cell) for cell in _round(one))) for one in volume.rounds]
    return tag("tbody", tag("tr", name), *rows)


def _round(one: RoundReport) -> tuple[str, ...]:
    name = "verify" if one.verify else str(one.number)
    if one.examined < one.total:
        name = f"{name}, {job_views.round_percent(one)}"
    alike = max(0, one.examined - one.data_bytes - one.zero_bytes)
    return (
        name,
        units.duration(one.at),
        units.duration(one.seconds),
        *(units.size(n) for n in (one.examined, alike, one.data_bytes, one.zero_bytes)),
        units.size(one.wire_bytes),
        units.size(one.dirty) if one.dirty_rate is not None else "",
        units.rate(one.dirty_rate) if one.dirty_rate is not None else "",
    )


def _moment(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(moment))


def _clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment))
