"""`xenmovectl recover`: it says what a decision risks, and takes none that is not meant."""

import json

import pytest

from protocol.messages import Problem
from tests.support.ctl import FakeDaemon, failure, run, run_on_terminal
from xenmoved.control.api import DecideDoubt, Done, ListDoubts
from xenmoved.migration.report import Decision, DoubtRow, Doubts, Risk

pytestmark = pytest.mark.long

ROW = DoubtRow(
    job="12345678",
    guest="web",
    peer="host-b",
    at_source=True,
    state="commit-sent",
    since=1.0,
    domain="paused",
    peer_answers=False,
    problem=Problem("commit-sent", "whether it did is not known", "bring it back"),
)
RISK = Risk("12345678", "web", "host-b", "It may run twice.", ("that host-b is off",))
DECIDED = DecideDoubt("12345678", Decision.KEEP_HERE, confirmed=True)


@pytest.fixture
def daemon(tmp_path):
    with FakeDaemon(tmp_path / "s") as fake:
        fake.answers[ListDoubts] = Doubts((ROW,))
        fake.answers[DecideDoubt] = lambda asked: Done("web is kept") if asked.confirmed else RISK
        yield fake


def test_what_is_in_doubt_is_listed_with_what_may_be_decided(daemon):
    shown = run(daemon.path, "recover")
    assert shown.returncode == 0
    for words in ("web to host-b", "paused", "does not answer", "bring it back", "--give-up"):
        assert words in shown.stdout
    assert json.loads(run(daemon.path, "recover", "--json").stdout)["doubts"][0]["guest"] == "web"
    assert run(daemon.path, "recover", "1234").returncode == 0
    assert run(daemon.path, "recover", "other").returncode == 1


def test_nothing_in_doubt(daemon):
    daemon.answers[ListDoubts] = Doubts(())
    assert run(daemon.path, "recover").stdout == "nothing is in doubt\n"


@pytest.mark.parametrize("doubts", [(), (ROW,)])
def test_what_is_tried_again_is_shown_too(daemon, doubts):
    alarm = Problem("unfinished", "web is not running again: busy", "remove the cause")
    daemon.answers[ListDoubts] = Doubts(doubts, (alarm,))
    shown = run(daemon.path, "recover").stdout
    assert shown.startswith("web is not running again: busy\n  remove the cause\n\n")
    assert ("whether it did" in shown) == bool(doubts)
    said = json.loads(run(daemon.path, "recover", "--json").stdout)
    assert said["alarms"][0]["code"] == "unfinished"


def test_without_a_terminal_it_wants_to_be_told(daemon):
    shown = run(daemon.path, "recover", "web", "--keep-here")
    assert shown.returncode == 2
    assert "It may run twice." in shown.stderr
    assert "that host-b is off" in shown.stderr
    assert DECIDED not in daemon.requests


def test_told_so_it_decides(daemon):
    shown = run(daemon.path, "recover", "web", "--keep-here", "--yes")
    assert (shown.returncode, shown.stdout) == (0, "web is kept\n")
    assert daemon.requests[-1] == DECIDED


@pytest.mark.parametrize(
    ("typed", "code", "decided"), [("web\n", 0, True), ("yes\n", 1, False), ("\n", 1, False)]
)
def test_on_a_terminal_the_name_of_the_guest_has_to_be_typed(daemon, typed, code, decided):
    ended, shown = run_on_terminal(
        daemon,
        ["recover", "web", "--keep-here"],
        react=lambda text: typed if "to go on:" in text else None,
    )
    assert ended == code
    assert "It may run twice." in shown
    assert (DECIDED in daemon.requests) is decided


def test_a_refusal_comes_before_the_question(daemon):
    daemon.answers[DecideDoubt] = failure("peer-answers", "host-b answers", "wait")
    shown = run(daemon.path, "recover", "web", "--give-up")
    assert shown.returncode == 3
    assert "host-b answers" in shown.stderr


@pytest.mark.parametrize(
    "words",
    [("--keep-here",), ("web", "--yes"), ("web", "--keep-here", "--give-up"), ("--yes",)],
)
def test_what_makes_no_sense_is_refused(daemon, words):
    assert run(daemon.path, "recover", *words).returncode == 2
    assert daemon.requests == []
