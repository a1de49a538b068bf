"""What answers look like: views are pure, so nothing runs here."""

import io
import itertools
import re
from dataclasses import replace

import pytest

from protocol.messages import Action, ImageFormat, Mode, Problem, Remark, Weight
from tests.support.ctl import FINGERPRINT, GIB, HOSTILE, MIB, a_course, a_job, a_round, job_done
from xenmoved.control.api import Guests, Plan, PlannedBridge, PlannedDrive, PlannedVolume, Status
from xenmoved.control.peer_api import Identity, PeerPing, PeerRow, Peers
from xenmoved.ctl.layout import render
from xenmoved.ctl.text import Span, Style, facts, line, percent, table
from xenmoved.ctl.views import host as views
from xenmoved.ctl.views import jobs as job_views
from xenmoved.jobs.report import (
    JobKind,
    JobState,
    Phase,
    PhaseReport,
    RoundReport,
    Sample,
    Stretch,
    VolumeReport,
)
from xenmoved.migration.report import DiskRow, GuestRow

NOW = 1_700_000_060.0
PROBLEM = Problem(HOSTILE, HOSTILE, HOSTILE)
REMARK = Remark(Weight.ACTION, HOSTILE, HOSTILE, HOSTILE)


def _text(lines) -> str:
    return render(lines, color=False)


def _harmless(text: str) -> bool:
    return all(each.isprintable() for each in text.splitlines()) and "root#" in text


def test_columns_are_below_one_another_whatever_the_width_of_characters():
    rows = [("web", "1"), ("数据库", "200"), ("é", "3")]
    text = _text([table(("NAME", "N"), rows, " r")]).splitlines()
    assert text == ["NAME      N", "web       1", "数据库  200", "é         3"]
    combined = table(("NAME", "N"), [("e\u0301e", "1")])
    assert _text([combined]).splitlines()[1] == "e\u0301e    1"


def test_colors_are_only_where_they_are_wanted():
    lines = [line("a ", Span("b", Style.BAD), Span("", Style.GOOD))]
    assert render(lines, color=False) == "a b\n"
    assert render(lines, color=True) == "a \x1b[31mb\x1b[0m\n"


def test_names_of_facts_have_one_width():
    assert _text([facts([("a", "1"), ("long", Span("2"))])]) == "a     1\nlong  2\n"


def test_a_part_is_never_called_the_whole():
    assert [percent(999, 1000), percent(1000, 1000), percent(0, 0)] == ["99%", "100%", "100%"]


def test_the_summary_has_every_round_and_the_totals():
    text = _text(job_views.summary(job_done(), NOW))
    assert text.splitlines() == [
        "ROUND  SAME  DIFF  ZERO  SENT      RATE  TIME",
        "xvda, 10MiB, to images:web-root",
        "    1   104    16    40  1MiB  512KiB/s    2s",
        "    2   158     2     0  1MiB  512KiB/s    2s",
        "same, diff, zero: blocks of 64KiB",
        "",
        "memory    512MiB",
        "blackout  4.2s",
        "total     514MiB sent in 1m 12s, 7.1MiB/s",
    ]


def test_everything_of_a_job_has_its_course():
    report = job_done(
        suspended=67.0,
        phases=(PhaseReport(Phase.PREFLIGHT, 0.0), PhaseReport(Phase.PRE_COPY, 1.5)),
        blackout_parts=(Stretch("flush and build", 67.0, 4.0), Stretch("start", 71.0, 0.25)),
        samples=(Sample(10.0, 0, 0, 0), Sample(20.0, 600 * MIB, 0, 0)),
    )
    first, second = report.volumes[0].rounds
    rounds = (first, replace(second, at=67.0))
    report = replace(report, volumes=(replace(report.volumes[0], rounds=rounds),))
    text = _text(job_views.job(report, NOW))
    table = "\n".join(text.split("\n\n")[1:3])
    assert table.splitlines() == [
        "PHASE      AFTER    TIME",
        "preflight    0ms    1.5s",
        "pre-copy    1.5s  1m 10s",
        "ROUND  AFTER  TIME  EXAMINED   DIRTY  DIRTY RATE",
        "    1    0ms    2s      160B      0B  first copy",
        " last  1m 7s    2s      160B  128KiB     64KiB/s",
    ]
    assert "blackout  4.2s\n             4s  flush and build\n          250ms  start\n" in text
    assert "peak      60MiB/s" in text


def test_a_round_that_only_compares_is_called_so():
    text = _text(job_views.summary(a_job(a_round(1), a_round(2, verify=True)), NOW))
    assert text.splitlines()[3].startswith("verify  ")


def test_a_volume_that_goes_by_zfs_send_is_called_so():
    job = a_job(a_round(), a_round(2, verify=True))
    volume = replace(job.volumes[0], streamed=True)
    job = replace(job, volumes=(volume,))
    shown = _text(job_views.summary(job, NOW)).splitlines()
    assert "images:web-root (zfs send)" in shown[1]
    assert shown[2].split()[:4] == ["1", "-", "-", "-"]
    assert shown[3].split()[:2] == ["verify", "104"]
    begun = replace(job, volumes=(replace(volume, rounds=volume.rounds[:1]),))
    assert "xvda round 1 100% zfs send 1MiB" in _text([job_views.progress(begun, NOW)])


def test_the_summary_of_a_sync_knows_no_memory():
    report = job_done(kind=JobKind.SYNC, guest="", memory_sent=0, memory_total=0, blackout=None)
    text = _text([job_views.outcome(report), *job_views.summary(report, NOW)])
    assert text.startswith("xvda sent to host-b in 1m 12s\n")
    assert "memory" not in text
    assert "blackout" not in text


def test_a_job_that_has_only_begun_has_a_summary():
    text = _text(job_views.job(a_job(memory_total=0), NOW))
    assert "state    running" in text
    assert "phase    pre-copy" in text
    assert "memory  not sent yet" in text
    assert "total   0B sent in 1m" in text


def test_an_unfinished_round_shows_how_far_it_is():
    assert "1: 25%" in _text(job_views.summary(a_job(a_round(examined=40)), NOW))


def test_progress_is_one_line_with_numbers():
    report = a_job(a_round(examined=80), memory_sent=MIB)
    assert _text([job_views.progress(report, NOW)]) == (
        "web to host-b: pre-copy: xvda round 1 50% same 52 diff 8 zero 20 512KiB 256KiB/s; "
        "memory 1MiB of 512MiB; sent 512KiB in 1m\n"
    )
    doubt = replace(report, state=JobState.IN_DOUBT, phase=Phase.COMMIT)
    assert ": in-doubt, commit: " in _text([job_views.progress(doubt, NOW)])


def test_a_round_that_just_began_promises_nothing():
    assert job_views.remaining(a_round(examined=0, seconds=0.0)) is None
    assert job_views.remaining(a_round(examined=40)) == 6.0
    empty = a_round(total=0, examined=0, seconds=0.0)
    assert job_views.round_percent(empty) == "100%"
    assert job_views.round_rate(empty) == "-"


def test_the_mark_changes_with_phase_and_round_and_not_with_numbers():
    marks = [job_views.mark(report) for report in a_course()]
    assert [a != b for a, b in itertools.pairwise(marks)] == [
        *(True, False, False, True, True, True)
    ]


@pytest.mark.parametrize(
    ("kind", "title"),
    [
        (JobKind.MIGRATE, "web to host-b"),
        (JobKind.SYNC, "xvda to host-b"),
        (JobKind.RECEIVE, "web from host-b"),
    ],
)
def test_jobs_say_what_goes_where(kind, title):
    report = a_job(kind=kind, guest="" if kind is JobKind.SYNC else "web")
    assert job_views.title(report) == title


def test_jobs_of_every_state_are_listed():
    reports = [
        a_job(a_round(examined=40)),
        a_job(state=JobState.IN_DOUBT, phase=Phase.COMMIT),
        a_job(a_round(examined=40), phase=Phase.SUSPEND),
        job_done(),
    ]
    text = _text(job_views.jobs(reports, NOW)).splitlines()
    assert "pre-copy, round 1: 25%" in text[1]
    assert "in-doubt  commit" in text[2]
    assert "suspend" in text[3]
    assert "514MiB sent" in text[4]
    assert _text(job_views.jobs([], NOW)) == "no jobs\n"
    assert "xenmovectl jobs --all" in _text(job_views.jobs([], NOW, ended=False))


def test_volumes_that_wait_are_counted():
    volume = a_job(a_round(examined=40)).volumes[0]
    report = a_job(volumes=(volume, replace(volume, rounds=())))
    assert "25%, 1 volume waiting" in _text(job_views.jobs([report], NOW))
    assert "-" in _text(job_views.summary(report, NOW))


def test_peers_and_what_they_may_do():
    row = PeerRow("b", "::1", 7222, FINGERPRINT, (), (), (), None, None, None, *[False] * 3)
    may = replace(
        row, actions=tuple(Action), pools=("p",), quota=GIB, connected_to=True, connected_from=True
    )
    may = replace(may, overwrite=True)
    text = _text(views.peers(Peers((row, may))))
    assert "[::1]    no           nothing" in text
    assert "to and from  migrate sync; pools p; guests none; quota 1GiB; overwrite" in text
    assert "peer add" in _text(views.peers(Peers(())))


def test_nothing_to_show_is_said():
    assert _text(views.guests(Guests(()))) == "no guests\n"
    status = Status("a", "1", "xl", "4.17", GIB, "*:7222", FINGERPRINT, 0, ())
    assert "no jobs" in _text(views.status(status, NOW))


def test_a_plan_shows_everything_from_here_to_there():
    plan = Plan(
        *("web", "host-b", Mode.LIVE, (), ()),
        (
            PlannedVolume(
                *("xvda", "/dev/vg/web", "images:shop", GIB, True, True, ImageFormat.RAW),
                *("blkback", "tracefs", "later rounds read only what was written"),
            ),
        ),
        *(MIB, 1.0, 1.0),
        target_name="shop",
        drives=(
            PlannedDrive("xvdb", "/nfs/a", "/srv/nfs/a", False),
            PlannedDrive("hdc", "/x.iso", "/srv/x.iso", True),
            PlannedDrive("hdd", "/y.iso", "", True),
        ),
        bridges=(PlannedBridge("xenbr0", "br-lan"),),
    )
    shown = [" ".join(each.split()) for each in _text(views.plan(plan)).splitlines()]
    for expected in (
        "web to host-b as shop, mode live",
        "xvda 1GiB /dev/vg/web images:shop new there",
        "xvda: served by blkback; later rounds read only what was written",
        "xvdb /nfs/a /srv/nfs/a shared: not copied",
        "hdc /x.iso /srv/x.iso CD-ROM that is there too",
        "hdd /y.iso empty CD-ROM: its drive is empty there",
        "xenbr0 br-lan",
    ):
        assert expected in shown


def test_both_names_of_a_guest_are_shown():
    report = a_job(other_name="shop")
    assert job_views.title(report) == "web to host-b as shop"
    assert _text([job_views.outcome(report)]).startswith("web moved to host-b as shop in ")
    arrived = a_job(kind=JobKind.RECEIVE, guest="shop", other_name="web")
    assert job_views.title(arrived) == "shop from host-b, where it was web"


def _hostile_job():
    volume = VolumeReport(HOSTILE, MIB, HOSTILE, True, (a_round(),))
    return a_job(
        guest=HOSTILE,
        peer=HOSTILE,
        volumes=(volume,),
        problem=PROBLEM,
        other_name=HOSTILE,
        remarks=(REMARK,),
    )


def _hostile_views():
    report = _hostile_job()
    disk = DiskRow(HOSTILE, HOSTILE, HOSTILE, 1, True, HOSTILE)
    guest = GuestRow(HOSTILE, 1, HOSTILE, MIB, HOSTILE, (disk,), (HOSTILE,))
    planned = PlannedVolume(HOSTILE, HOSTILE, HOSTILE, 1, True, True, ImageFormat.QCOW2)
    names = (HOSTILE,)
    peer = PeerRow(
        HOSTILE, HOSTILE, 1, HOSTILE, tuple(Action), names, names, None, 1, None, *[True] * 3
    )
    identity = Identity(HOSTILE, HOSTILE, HOSTILE, 1)
    ping = PeerPing(
        *(HOSTILE, HOSTILE, HOSTILE, 1, 2, HOSTILE, HOSTILE),
        *(names, 0.001, 1e9, HOSTILE, names, names, names, None, 0, None, 1),
    )
    status = Status(HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1, HOSTILE, HOSTILE, 1, (report,))
    plan = Plan(
        *(HOSTILE, HOSTILE, Mode.SAVE, (PROBLEM,), (REMARK,), (planned,), 1, None, 1.0),
        target_name=f"{HOSTILE}2",
        drives=(PlannedDrive(HOSTILE, HOSTILE, HOSTILE, True),),
        bridges=(PlannedBridge(HOSTILE, HOSTILE),),
    )
    return {
        "progress": [job_views.progress(report, NOW)],
        "outcome": [job_views.outcome(report)],
        "jobs": job_views.jobs([report], NOW),
        "job": job_views.job(report, NOW),
        "guests": views.guests(Guests((guest,))),
        "plan": views.plan(plan),
        "peers": views.peers(Peers((peer,))),
        "identity": views.identity(identity, HOSTILE),
        "other side": views.other_side(HOSTILE, identity, HOSTILE),
        "ping": views.ping(ping),
        "status": views.status(status, NOW),
    }


@pytest.mark.parametrize("view", sorted(_hostile_views()))
def test_no_text_can_move_the_cursor(view):
    assert _harmless(_text(_hostile_views()[view]))


def _on_screen(report, width=110, color=False) -> str:
    from rich.console import Console

    from xenmoved.ctl.views import live

    console = Console(
        file=io.StringIO(), force_terminal=color, width=width, markup=False, highlight=False
    )
    console.print(live.display(report, NOW, width))
    return console.file.getvalue()


def test_a_live_display_has_all_numbers():
    first, second = a_job(a_round(examined=40), memory_sent=128 * MIB), job_done()
    lines = _on_screen(first).splitlines()
    assert lines[0] == "web to host-b  pre-copy (3 of 9)  1m  256KiB sent"
    for part in ("xvda", "round 1", "25%", "128KiB/s", "same 26 diff 4 zero 10", "6s left"):
        assert part in lines[1]
    for part in ("memory", "25%", "128MiB  of 512MiB"):
        assert part in lines[2]
    assert "job 1a2b3c4d; Ctrl-C leaves it running" in lines[3]
    assert "done" in _on_screen(second)
    assert "still asking" in _on_screen(a_job(state=JobState.IN_DOUBT, phase=Phase.COMMIT))
    assert "waiting  10MiB" in _on_screen(a_job(memory_total=0))


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_live_display_fits_the_terminal(width):
    lines = _on_screen(a_job(a_round(examined=40)), width).splitlines()
    assert max(map(len, lines)) <= width
    assert {"xvda", "same", "zero", "25%"} <= set(" ".join(lines).split())


def test_a_live_display_takes_no_text_for_markup_or_control():
    text = _on_screen(_hostile_job(), width=400)
    assert _harmless(text)
    assert "[bold]x[/bold]" in text


def test_a_sync_has_no_row_for_memory():
    assert "memory" not in _on_screen(a_job(kind=JobKind.SYNC, guest=""))


def test_huge_counts_are_no_reason_to_fail():
    most = 2**63 - 1
    one = RoundReport(65535, most, most, most, most, most, most, most, most, 1e9)
    report = a_job(one, wire_bytes=most, memory_sent=most, memory_total=1)
    for lines in (job_views.summary(report, NOW), job_views.jobs([report], NOW)):
        assert "TiB" in _text(lines) or "100%" in _text(lines)
    assert "xvda" in _on_screen(report, width=400)


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 140])
def test_two_disks_are_never_shown_with_one_name(width):
    names = [f"/srv/xen/{one}/customers/of-the-north/web-root-{'x' * 40}" for one in "ab"]
    volumes = tuple(VolumeReport(name, MIB, "p:v", True, (a_round(),)) for name in names)
    shown = _on_screen(a_job(volumes=volumes), width).splitlines()
    assert max(map(len, shown)) <= width
    if width < 72:
        for name in names:
            assert name in "".join(each.strip() for each in shown)
    else:
        rows = [each.split("round")[0].strip() for each in shown if " round 1 " in each]
        assert len(set(rows)) == 2
        assert all(row.endswith("x" * 10) for row in rows)


def test_names_are_shortened_at_their_beginning():
    from xenmoved.ctl.views import live

    assert live.short_names(["abcdef/1", "abcdef/2"], 5) == ["\u2026ef/1", "\u2026ef/2"]
    assert live.short_names(["a/same", "b/same", "c"], 5) == ["1 \u2026me", "2 \u2026me", "3 c"]
    assert live.short_names(["a", "b"], 5) == ["a", "b"]


def test_nothing_is_said_of_the_memory_of_a_guest_that_is_off():
    cold = job_done(mode=Mode.COLD, memory_sent=0, memory_total=0, blackout=None)
    running = replace(cold, state=JobState.RUNNING, phase=Phase.PRE_COPY, ended=None)
    shown = [_text(job_views.job(cold, NOW)), _on_screen(running, 80), _on_screen(running, 40)]
    plan = Plan("web", "host-b", Mode.COLD, (), (), (), 0, 1.0, None)
    shown.append(_text(views.plan(plan)))
    assert not any("memory" in each or "blackout" in each for each in shown)
    assert "memory" in _text(job_views.job(job_done(), NOW))


def test_phases_are_counted_with_the_rare_ones_that_were_gone_through():
    phases = tuple(PhaseReport(one, 0.0) for one in (Phase.PRE_COPY, Phase.MEMORY))
    first, then = (
        _on_screen(a_job(phase=phase, phases=phases)).splitlines()[0]
        for phase in (Phase.MEMORY, Phase.FINAL_DELTA)
    )
    numbers = [re.search(r"\((\d+) of (\d+)\)", each).groups() for each in (first, then)]
    assert int(numbers[1][0]) > int(numbers[0][0])
    assert numbers[0][1] == numbers[1][1]


def test_a_narrow_live_display_breaks_names_behind_their_marks():
    name = "/srv/xen/images/customers-of-the-north/web-server-root.img"
    volume = VolumeReport(name, MIB, "p:v", True, (a_round(examined=40),))
    shown = _on_screen(a_job(guest="customer-of-the-north-web-server", volumes=(volume,)), 40)
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 40
    at = next(i for i, each in enumerate(lines) if each.startswith("/srv"))
    assert lines[at][-1] in "/-"
    assert lines[at + 1].startswith("  ")
    assert "  customer" not in shown
    assert lines[-1].startswith("    ")


def test_a_guest_that_is_held_is_shown_with_how_it_is_let_go():
    held = a_job(a_round(), phase=Phase.HOLD, left=3 * MIB)
    for width in (40, 80, 110):
        shown = " ".join(_on_screen(held, width).split())
        assert "held, 3MiB behind; goes at 'xenmovectl cutover 1a2b3c4d'" in shown
    assert "cutover" not in _on_screen(a_job(a_round()))


def test_memory_that_was_sent_again_is_no_share_of_all():
    report = a_job(a_round(), memory_sent=640 * MIB)
    for width in (40, 80):
        shown = _on_screen(report, width)
        assert "125%" not in shown
        assert "640MiB for 512MiB" in " ".join(shown.split())
    assert "memory  640MiB for 512MiB" in _text(job_views.summary(report, NOW))


def test_why_a_disk_cannot_move_is_said_once():
    why, other = "disk xvda is shared", "it is a driver domain"
    disk = DiskRow("xvda", "/srv/a", "p:a", MIB, True, why)
    guest = GuestRow("web", 1, "pv", MIB, "running", (disk,), (f"web: {why}", f"web: {other}"))
    shown = _text(views.guests(Guests((guest,))))
    assert shown.count(why) == 1
    assert f"  cannot move: {why}\n  cannot move: {other}\n" in shown
    alone = replace(guest, obstacles=(f"web: {other}",))
    assert shown.count(why) == _text(views.guests(Guests((alone,)))).count(why)


def test_disks_that_are_served_alike_are_named_together():
    cost = "every round reads all of it"
    one = PlannedVolume(
        *("xvda", "/a", "p:a", MIB, True, True, ImageFormat.RAW, "QEMU", "none", cost)
    )
    volumes = (one, replace(one, vdev="xvdb"), replace(one, vdev="xvdc", served_by="blkback"))
    shown = _text(views.plan(Plan("web", "b", Mode.LIVE, (), (), volumes, MIB, 1.0, 1.0)))
    assert f"  xvda, xvdb: served by QEMU; {cost}\n  xvdc: served by blkback; {cost}\n" in shown


def test_what_is_to_be_typed_elsewhere_stays_on_one_line():
    shown = render(
        views.identity(Identity("a", "ssh-ed25519 A", "f", 1), "a"), color=False, width=40
    )
    assert "\n  --allow migrate,sync --pools POOL --guests '*'\n" in shown


def test_a_volume_that_arrives_is_named_once():
    volume = VolumeReport("images:web-root", MIB, "images:web-root", True, (a_round(),))
    report = a_job(kind=JobKind.RECEIVE, volumes=(volume,))
    assert _text(job_views.summary(report, NOW)).splitlines()[1] == "images:web-root, 1MiB (new)"
