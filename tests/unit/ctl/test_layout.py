"""How lines and tables are laid out for terminals of any width."""

from collections import Counter

import pytest

from tests.support.ctl import a_job, a_round, job_done
from xenmoved.control.peer_api import PeerRow, Peers
from xenmoved.ctl.layout import lay_out, render
from xenmoved.ctl.text import Across, Span, Style, facts, indent, line, numbered, table
from xenmoved.ctl.verbs.volumes import _volumes
from xenmoved.ctl.views import host as views
from xenmoved.ctl.views import jobs as job_views
from xenmoved.migration.report import Retained, VolumeRow

NOW = 1_700_000_060.0
LONG = "/srv/xen/images/customers/a-rather-long-name/web-root.img"
PEER = PeerRow(
    *("host-b", "2001:db8:1:2:3:4:5:6", 7222, "SHA256:1JiJXAL4kJoKOLnbiyUJ8Q0TYSGLVMbuTHwvmmkJhT8"),
    *(("migrate", "sync"), ("images", "fast"), ("*",), 2**40, None, None, True, True, True),
)
VOLUME = VolumeRow(
    *("images", "web-root", LONG, 2**33, 2**30, ("guest web, which runs", "open by process 12")),
    Retained("web", "u-u-i-d", NOW - 3 * 86400, "host-b"),
)
VIEWS = {
    "jobs": job_views.jobs([a_job(a_round(1, examined=40)), job_done()], NOW),
    "show": job_views.job(job_done(), NOW),
    "peers": views.peers(Peers((PEER,))),
    "volumes": _volumes([VOLUME, VOLUME], NOW),
    "facts": [facts([("fingerprint", PEER.fingerprint), ("a", "b c " * 30)])],
    "numbered": indent([numbered([(LONG, "word " * 40), ("short", "")])]),
    "across": [table(("A", "B"), [("a" * 30, "7"), Across((line("  ", LONG * 3),))], " r")],
}


def _letters(text: str) -> Counter[str]:
    return Counter(text) - Counter({" ": 10**6, "\n": 10**6})


@pytest.mark.parametrize("width", [20, 27, 40, 60, 80, 120])
@pytest.mark.parametrize("view", VIEWS)
def test_no_line_is_too_long_and_nothing_is_left_out(view: str, width: int) -> None:
    full = render(VIEWS[view], color=False)
    shown = render(VIEWS[view], color=False, width=width)
    assert max(map(len, shown.splitlines())) <= width
    cells = _letters(full) - _letters(full.splitlines()[0])  # names of columns may be repeated
    assert not cells - _letters(shown) - Counter({"-": 99})  # nothing is known there
    if max(map(len, full.splitlines())) <= width:
        assert shown == full


def test_columns_of_words_get_narrower_and_numbers_do_not() -> None:
    rows = [("images:web-root", "1.5GiB", "guest web, which is off")]
    text = render([table(("VOLUME", "SIZE", "IN USE BY"), rows, " r")], color=False, width=40)
    assert text.splitlines() == [
        "VOLUME             SIZE  IN USE BY",
        "images:web-root  1.5GiB  guest web,",
        "                         which is off",
    ]


def test_a_row_that_does_not_fit_names_its_columns() -> None:
    header = ("JOB", "KIND", "SENT", "RATE", "TIME")
    rows = [("1a2b3c4d", "migrate", "1MiB", "512KiB/s", "2s"), ("2b", "", "1B", "-", "1m 3s")]
    text = render([table(header, rows, "  rrr")], color=False, width=30)
    assert text.splitlines() == [
        "1a2b3c4d  KIND migrate",
        "  SENT 1MiB  RATE 512KiB/s",
        "  TIME 2s",
        "2b  SENT 1B  TIME 1m 3s",
    ]


def test_long_names_are_broken_behind_their_marks() -> None:
    shown = render([line(LONG)], color=False, width=40).splitlines()
    assert shown[0].endswith("-")
    assert "".join(each.strip() for each in shown) == LONG


def test_what_is_to_be_copied_stays_whole() -> None:
    command = line("  ", Span("xenmovectl peer add " * 5, Style.BOLD, whole=True))
    assert lay_out([command], 40) == [command]


def test_wide_characters_count_twice() -> None:
    shown = render([line("数据库 " * 8)], color=False, width=20).splitlines()
    assert shown == ["数据库 数据库 数据库", *["  数据库 数据库"] * 2, "  数据库"]
