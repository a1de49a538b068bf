"""The page about a job: scales and numbers, what it says, and that it needs nothing but itself."""

import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from protocol.messages import Mode, Problem, Remark, Weight
from tests.support.ctl import GIB, HOSTILE, MIB, a_job, a_round, job_done
from xenmoved.ctl.report import units
from xenmoved.ctl.report.charts import WIDTH, text_width
from xenmoved.ctl.report.file import write
from xenmoved.ctl.report.markup import Markup, join, tag
from xenmoved.ctl.report.page import render
from xenmoved.ctl.report.scale import Scale, log_size_ticks, size_ticks, time_ticks
from xenmoved.ctl.report.style import STYLE
from xenmoved.ctl.views import course
from xenmoved.jobs.report import (
    JobKind,
    JobReport,
    JobState,
    Phase,
    PhaseReport,
    Sample,
    Stretch,
    VolumeReport,
)

pytestmark = pytest.mark.long

NOW = 1_700_000_100.0
EMPTY = {"meta", "br"}


class Page(HTMLParser):
    """What is on a page. Fails where an element is not closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, name, attributes):
        self.tags.append((name, dict(attributes)))
        if name not in EMPTY:
            self._open.append(name)

    def handle_endtag(self, name):
        assert self._open.pop() == name

    def handle_data(self, text):
        if self._open[-1:] != ["style"]:
            self.texts.append(text)

    def all(self, name: str) -> list[dict[str, str | None]]:
        """Return the attributes of all elements of that name."""
        return [attributes for each, attributes in self.tags if each == name]

    @property
    def plots(self) -> set[str]:
        """Names of the plots."""
        return {str(one["aria-labelledby"]).split("-")[0] for one in self.all("svg")}

    @property
    def text(self) -> str:
        """All text."""
        return " ".join(self.texts)


def a_course(report: JobReport, volumes: int = 2, span: float = 72.0) -> JobReport:
    """Return a job that is done as it would be with so many volumes and so long."""
    suspended = span * 0.9
    rounds = (
        a_round(1, 160 * MIB, at=span * 0.1, seconds=span * 0.5, dirty=100 * MIB),
        a_round(2, 9 * MIB, at=span * 0.7, seconds=span * 0.1, dirty=9 * MIB, dirty_rate=1e6),
        a_round(3, MIB, at=suspended, seconds=span * 0.02, dirty=MIB, dirty_rate=1e5),
    )
    shares = (0.0, 0.05, 0.1, 0.85, 0.9, 0.95, 0.97, 0.99)
    left_out = (Phase.HOLD, Phase.MEMORY, Phase.SHUTDOWN, Phase.VERIFY, Phase.ENDED)
    phases = [phase for phase in Phase if phase not in left_out]
    moments = [number * span / 200 for number in range(201)]
    return replace(
        report,
        ended=report.started + span,
        volumes=tuple(
            VolumeReport(f"xvd{number}", 160 * MIB, f"p:{number}", True, rounds)
            for number in range(volumes)
        ),
        blackout=span * 0.07 if report.guest else None,
        suspended=suspended if report.guest else None,
        blackout_parts=(
            Stretch("last changes of the disks", suspended, span * 0.05),
            Stretch("commit and start", suspended + span * 0.05, span * 0.02),
        )
        if report.guest
        else (),
        phases=tuple(
            PhaseReport(phase, share * span) for phase, share in zip(phases, shares, strict=True)
        ),
        samples=tuple(
            Sample(at, int(at / span * report.wire_bytes), 0, int((span - at) * MIB))
            for at in moments
        ),
    )


# --- numbers and axes ---


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (units.size(0), "0 B"),
        (units.size(999), "999 B"),
        (units.size(1000), "0.98 KiB"),
        (units.size(1.5 * GIB), "1.5 GiB"),
        (units.size(2**63), "8 EiB"),
        (units.rate(20 * MIB), "20 MiB/s"),
        (units.duration(0.0), "0 ms"),
        (units.duration(0.0421), "42.1 ms"),
        (units.duration(0.9999), "1 s"),
        (units.duration(4.249), "4.25 s"),
        (units.duration(59.97), "1 min"),
        (units.duration(200), "3 min 20 s"),
        (units.duration(3599.9), "1 h"),
        (units.duration(7500), "2 h 5 min"),
    ],
)
def test_numbers_are_short(shown, expected):
    assert shown == expected


@given(st.floats(0, 2**63))
def test_no_size_is_longer_than_a_label(count):
    assert len(units.size(count)) <= len("0.98 KiB")


def _check_ticks(ticks, most):
    values = [value for value, _ in ticks]
    labels = [text for _, text in ticks]
    assert values == sorted(set(values))
    assert len(set(labels)) == len(labels)
    assert len(ticks) <= most + 1


@given(st.floats(1e-4, 1e8), st.integers(3, 12))
def test_ticks_of_time_are_even_and_within(span, most):
    ticks = time_ticks(span, most)
    _check_ticks(ticks, most)
    values = [value for value, _ in ticks]
    assert values[0] == 0
    assert values[-1] <= span * (1 + 1e-6)
    steps = [b - a for a, b in itertools.pairwise(values)]
    assert max(steps) == pytest.approx(min(steps))
    assert len(ticks) >= 2


@given(st.floats(1, 2**63), st.integers(3, 8))
def test_ticks_of_size_reach_just_beyond(high, most):
    ticks = size_ticks(high, most)
    _check_ticks(ticks, most)
    step = ticks[1][0]
    assert ticks[-1][0] >= high * (1 - 1e-6)
    assert ticks[-1][0] - step < high
    assert len({text.split()[-1] for _, text in ticks[1:]}) == 1, "all in one unit"


@given(st.floats(1, 2**62), st.floats(1, 2**20), st.integers(3, 8))
def test_ticks_of_a_logarithmic_axis_hold_everything(low, ratio, most):
    ticks = log_size_ticks(low, low * ratio, most)
    _check_ticks(ticks, most)
    assert len(ticks) >= 2
    assert ticks[0][0] <= low * (1 + 1e-6)
    assert ticks[-1][0] >= low * ratio * (1 - 1e-6)
    ratios = [b[0] / a[0] for a, b in itertools.pairwise(ticks)]
    assert max(ratios) == min(ratios)


@pytest.mark.parametrize(
    ("span", "labels"),
    [
        (0.3, ["0", "50 ms"]),
        (0.05, ["0", "10 ms"]),
        (3, ["0", "0.5 s"]),
        (40, ["0", "5 s"]),
        (100, ["0", "0:15 min"]),
        (1000, ["0", "2 min"]),
        (10000, ["0", "0:30 h"]),
        (50000, ["0", "2 h"]),
        (500000, ["0", "1 d"]),
    ],
)
def test_times_have_a_unit_that_fits(span, labels):
    assert [text for _, text in time_ticks(span, 9)][:2] == labels


@given(st.floats(0, 100), st.booleans())
def test_a_scale_keeps_the_order_and_the_ends(value, logarithmic):
    scale = Scale(1.0, 64.0, 300.0, 20.0, logarithmic)
    assert scale(1.0) == 300.0
    assert scale(64.0) == pytest.approx(20.0)
    assert 20.0 - 1e-9 <= scale(value) <= 300.0
    assert scale(value + 1) <= scale(value) + 1e-9


# --- markup ---


def test_text_is_never_markup():
    assert tag("p", "<b>", Markup("<i>"), title='"&') == '<p title="&quot;&amp;">&lt;b&gt;<i></p>'
    assert join("\x1b[2J\u202e") == "\\x1b[2J\\u202e"
    assert tag("meta", http_equiv="x") == '<meta http-equiv="x">'
    assert tag("rect", x=1.0, rx=None, class_="a") == '<rect x="1" class="a"></rect>'


# --- the course ---


def test_throughput_adds_up_to_what_was_sent():
    report = a_course(job_done())
    bins = course.throughput(report)
    total = sum((one.disks + one.memory) * one.seconds for one in bins)
    assert total == pytest.approx(report.samples[-1].disks)
    assert bins[0].at == 0.0
    assert bins[-1].at + bins[-1].seconds == pytest.approx(report.samples[-1].at)
    assert course.peak(report) == pytest.approx(max(one.disks for one in bins))
    assert course.throughput(job_done()) == []
    assert course.peak(job_done()) is None


def test_rounds_of_volumes_that_ran_together_are_one():
    lists = (
        [a_round(1, at=1.0, seconds=4.0), a_round(2, at=6.0, seconds=1.0)],
        [a_round(1, at=1.1, seconds=1.0)],
    )
    # Only the first volume was written to meanwhile; the last round has both again.
    last = [a_round(3, at=9.0, seconds=0.5), a_round(2, at=9.1, seconds=0.2)]
    volumes = tuple(
        VolumeReport(name, 10 * MIB, name, False, (*before, after))
        for name, before, after in zip("ab", lists, last, strict=True)
    )
    together = course.rounds(a_job(volumes=volumes, suspended=8.5))
    assert [(one.number, one.at, one.total, one.final) for one in together] == [
        (1, 1.0, 320, False),
        (2, 6.0, 160, False),
        (3, 9.0, 320, True),
    ]
    assert together[0].end == 5.0
    assert together[2].end == 9.5


def test_what_is_left_is_exact_where_rounds_begin_and_end():
    one = a_round(1, 1000, at=1.0, seconds=2.0)
    failed = a_round(2, 500, at=4.0, seconds=1.0, examined=200)
    samples = [(0.5, 77), (2.0, 400), (3.5, 0), (4.5, 350), (5.1, 300)]
    report = a_job(one, failed, samples=tuple(Sample(at, 0, 0, left) for at, left in samples))
    assert course.left(report) == [
        *((1.0, 0), (1.0, 1000), (2.0, 400), (3.0, 0), (3.5, 0)),
        *((4.0, 0), (4.0, 500), (4.5, 350), (5.0, 300), (5.1, 300)),
    ]


# --- the page ---


@pytest.mark.parametrize("span", [0.02, 3.0, 72.0, 3 * 3600.0])
@pytest.mark.parametrize("volumes", [0, 1, 12])
def test_a_page_has_all_plots_whatever_the_job_was_like(volumes, span):
    page = Page(render(a_course(job_done(), volumes, span), "host-a", NOW))
    always = {"blackout", "throughput", "phases"}
    assert page.plots == always | ({"rounds", "left"} if volumes else set())
    assert len(page.all("tbody")) == volumes
    for part in ("web", "host-a → host-b", "Blackout", units.duration(span), "done"):
        assert part in page.text


@pytest.mark.parametrize("span", [0.02, 3.0, 72.0, 3 * 3600.0])
def test_nothing_of_a_plot_is_outside_of_it_and_no_labels_overlap(span):
    text = render(a_course(job_done(), 12, span), "host-a", NOW)
    for drawing in re.findall(r"<svg.*?</svg>", text):
        height = float(re.search(r'viewBox="0 0 880 ([0-9.]+)"', drawing)[1])
        taken: list[tuple[float, float, float, str]] = []
        for x, y, anchor, shown in re.findall(
            r'<text x="([-0-9.]+)" y="([-0-9.]+)" [^>]*text-anchor="(\w+)">([^<]*)<', drawing
        ):
            assert 0 <= float(y) <= height
            width = text_width(shown) * 0.85  # the estimate is for a wide font
            start = float(x) - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
            assert start >= 0, shown
            assert start + width <= WIDTH, shown
            taken.append((float(y), start, start + width, shown))
        for one, other in itertools.combinations(taken, 2):
            apart = abs(one[0] - other[0]) >= 10 or one[2] <= other[1] or other[2] <= one[1]
            assert apart or not one[3] or not other[3], (one, other)
        for x, y, w, h in re.findall(
            r'<rect [^>]*x="([-0-9.]+)" y="([-0-9.]+)" width="([-0-9.]+)" height="([-0-9.]+)"',
            drawing,
        ):
            assert 0 <= float(x) <= float(x) + float(w) <= WIDTH + 2.5
            assert 0 <= float(y) <= float(y) + float(h) <= height


def test_a_page_needs_nothing_but_itself():
    text = render(a_course(job_done()), "host-a", NOW)
    page = Page(text)
    names = {name for name, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "a", "base", "use"}
    attributes = {key for _, each in page.tags for key in each}
    assert not attributes & {"src", "href", "srcset", "style"}
    assert not [key for key in attributes if key.startswith("on")]
    for external in ("http:", "https:", "//", "url(", "@import", "@font-face"):
        assert external not in text
    (policy,) = [one["content"] for one in page.all("meta") if "http-equiv" in one]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_every_plot_is_described_for_who_cannot_see_it():
    page = Page(render(a_course(job_done()), "host-a", NOW))
    ids = [each["id"] for _, each in page.tags if "id" in each]
    assert len(set(ids)) == len(ids)
    for drawing in page.all("svg"):
        assert drawing["role"] == "img"
        assert set(str(drawing["aria-labelledby"]).split()) <= set(ids)
    assert len(page.all("desc")) == len(page.all("svg"))


def test_no_name_can_become_markup():
    hostile = '"><script>alert(1)</script><b a="' + HOSTILE
    volume = VolumeReport(hostile, MIB, hostile, True, (a_round(at=1.0), a_round(2, at=4.0)))
    report = a_course(job_done(guest=hostile, peer=hostile))
    report = replace(
        report,
        volumes=(volume,),
        state=JobState.FAILED,
        problem=Problem(hostile, hostile, hostile),
        remarks=(Remark(Weight.ACTION, hostile, hostile, hostile),),
        blackout_parts=(Stretch(hostile, report.suspended or 0.0, 1.0),),
    )
    text = render(report, hostile, NOW)
    page = Page(text)
    assert "script" not in {name for name, _ in page.tags}
    assert "<script" not in text
    assert page.text.count("<script>alert(1)</script>") >= 7
    assert all(each.isprintable() for each in text.splitlines())
    plain = Page(render(replace(a_course(job_done()), volumes=(volume,)), "host-a", NOW))
    assert len(page.all("b")) == len(plain.all("b")) == 0


def test_a_job_that_failed_says_why_and_what_to_do():
    failed = job_done(
        state=JobState.FAILED,
        phase=Phase.PRE_COPY,
        blackout=None,
        problem=Problem("link-lost", "lost host-b", "check the network"),
    )
    text = Page(render(failed, "host-a", NOW)).text
    assert "lost host-b" in text
    assert "What to do: check the network." in text
    assert "The job ended in its phase pre-copy; web still runs on host-a; " in text
    assert "images:web-root stays there: another try sends what differs." in text
    assert "the guest ran nowhere" not in text
    cold = Page(render(replace(failed, mode=Mode.COLD), "host-a", NOW)).text
    assert "pre-copy; web is still on host-a; " in cold


def test_a_sync_has_neither_memory_nor_blackout():
    report = a_course(job_done(kind=JobKind.SYNC, guest="", memory_sent=0, memory_total=0))
    page = Page(render(report, "host-a", NOW))
    assert page.plots == {"throughput", "left", "rounds", "phases"}
    for word in ("memory", "Blackout", "blackout"):
        assert word not in page.text


def test_an_arrival_shows_the_way_it_came():
    page = Page(render(job_done(kind=JobKind.RECEIVE, blackout=None), "host-b", NOW))
    assert "host-b → host-b" in page.text
    assert "Received" in page.text


def test_a_job_of_an_early_release_or_that_has_just_begun_has_a_page():
    for report in (job_done(), a_job(memory_total=0), a_job(volumes=(), started=NOW)):
        assert Page(render(report, "host-a", NOW)).plots <= {"rounds", "phases", "left"}
    running = render(a_job(a_round(examined=40)), "host-a", NOW)
    assert "so far" in running


# --- the file ---


def test_a_file_is_replaced_only_if_it_may_be(tmp_path):
    path = tmp_path / "page.html"
    write(path, "first", replace=False)
    with pytest.raises(Exception, match="is there already"):
        write(path, "second", replace=False)
    assert path.read_text() == "first"
    write(path, "second", replace=True)
    assert path.read_text() == "second"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["", "missing/page.html", "file/page.html"])
def test_where_no_page_can_be_nothing_is_left(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    for replacing in (False, True):
        with pytest.raises(Exception, match=r"cannot write|is no file"):
            write(tmp_path / name, "page", replace=replacing)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@settings(deadline=None)
@given(st.integers(0, 12), st.floats(0.001, 1e7))
def test_no_length_of_a_job_is_too_odd(volumes, span):
    assume(span > 0)
    Page(render(a_course(job_done(), volumes, span), "host-a", NOW))


@pytest.mark.parametrize(
    "together",
    [
        ("disks", "memory", "blackout"),
        ("rest", "blackout"),
        ("busy", "blackout"),
        ("rest", "panel"),
    ],
)
def test_what_is_shown_together_differs_on_grey_paper(together):
    printed = STYLE.partition("@media print")[2]
    colors = dict(re.findall(r"--(\w+): #(\w{6})", printed))

    def grey(name: str) -> float:
        parts = [int(colors[name][at : at + 2], 16) / 255 for at in (0, 2, 4)]
        return sum(part * share for part, share in zip(parts, (0.299, 0.587, 0.114), strict=True))

    levels = sorted(map(grey, together))
    assert min(high - low for low, high in itertools.pairwise(levels)) > 0.15


def test_a_tile_says_one_thing_after_the_other():
    page = render(job_done(max_downtime=30.0), "host-a", NOW)
    tile = re.sub(r"<[^>]*>", "", page[page.index("Blackout") :])
    assert "the guest ran nowhere, within the 30 s allowed" in tile


def test_names_of_volumes_stay_in_sight_where_their_rows_scroll():
    report = job_done()
    page = render(report, "host-a", NOW)
    assert f'scope="rowgroup"><div>{report.volumes[0].name}<span>' in page
    narrow = page[page.index("(max-width: 790px)") :]
    rule = re.search(r"tbody th div \{([^}]*)\}", narrow)
    assert rule is not None
    assert "position: sticky" in rule[1]
    assert "100vw" in rule[1]


def test_what_is_new_on_the_host_of_the_page_is_new_here():
    volume = replace(job_done().volumes[0], fresh=True)
    for kind, place in ((JobKind.RECEIVE, "here"), (JobKind.MIGRATE, "there")):
        assert f"new {place}" in render(job_done(kind=kind, volumes=(volume,)), "host-a", NOW)
