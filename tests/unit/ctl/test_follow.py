"""Following a job: how it ends, and how the operator or the daemon leaves before it does."""

import signal
import time
from contextlib import suppress

import pytest

from protocol.messages import Problem
from tests.support.ctl import (
    FakeDaemon,
    a_course,
    a_job,
    a_round,
    failure,
    job_done,
    json_lines,
    run,
    run_on_terminal,
    started,
)
from xenmoved.control.api import GetStatus, StartMigration, Status, WatchJob
from xenmoved.ctl import follow as follow_module
from xenmoved.ctl.daemon import RunningDaemon
from xenmoved.ctl.exits import CommandError, Exit
from xenmoved.ctl.output import Output
from xenmoved.jobs.report import JobKind, JobState, Phase
from xenmoved.remarks import good_to_know, to_look_at

pytestmark = pytest.mark.long

FOR_EVER = 60.0
DOUBT = a_job(a_round(), state=JobState.IN_DOUBT, phase=Phase.COMMIT)


@pytest.fixture
def daemon(tmp_path):
    with FakeDaemon(tmp_path / "s") as fake:
        fake.answers[StartMigration] = a_job()
        yield fake


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.ABORTED])
def test_a_job_that_fails_says_why_and_where_the_guest_is(daemon, state):
    problem = Problem("stall", "no progress in 60 s", "look at the network")
    daemon.answers[WatchJob] = [a_job(a_round()), a_job(a_round(), state=state, problem=problem)]
    shown = run(daemon, "migrate", "web", "host-b")
    assert shown.returncode == 1
    word = "failed" if state is JobState.FAILED else "was aborted"
    assert shown.stderr == (
        f"xenmovectl: job 1a2b3c4d (web to host-b) {word}; web still runs here; "
        "images:web-root stays there: another try sends what differs\n"
        "xenmovectl: no progress in 60 s\n"
        "  look at the network\n"
    )
    assert "total     1MiB sent" in shown.stdout or "total   1MiB sent" in shown.stdout
    shown = run(daemon, "watch", "web", "--json")
    assert shown.returncode == 1
    assert [one["type"] for one in json_lines(shown.stdout)] == [*["job_report"] * 2, "failure"]


def test_remarks_are_told_and_those_that_need_somebody_have_an_exit_code(daemon):
    fine, look = good_to_know("left-out", "web comes without x"), to_look_at("file", "odd", "look")
    daemon.answers[WatchJob] = [job_done(remarks=(fine,))]
    shown = run(daemon, "migrate", "web", "host-b")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "good to know:\n  1. web comes without x" in shown.stdout
    daemon.answers[WatchJob] = [job_done(remarks=(look, fine))]
    shown = run(daemon, "migrate", "web", "host-b")
    assert shown.returncode == 7
    assert "needs your eye:\n  1. odd\n     look" in shown.stderr
    shown = run(daemon, "watch", "web", "--quiet")
    assert (shown.returncode, shown.stdout) == (7, "")
    assert "odd" in shown.stderr
    shown = run(daemon, "watch", "web", "--json")
    assert (shown.returncode, shown.stderr) == (7, "")
    assert json_lines(shown.stdout)[-1]["remarks"][0]["weight"] == "action"
    daemon.answers[WatchJob] = [job_done(problem=Problem("copies-kept", "left", "drop them"))]
    assert run(daemon, "watch", "web").returncode == 7


def test_an_arrival_that_fails_claims_nothing_of_the_guest(daemon):
    daemon.answers[WatchJob] = [a_job(kind=JobKind.RECEIVE, state=JobState.ABORTED)]
    shown = run(daemon, "watch", "1a2b")
    assert shown.returncode == 1
    assert shown.stderr == "xenmovectl: job 1a2b3c4d (web from host-b) was aborted\n"


def test_the_end_of_a_job_is_the_end_even_if_the_connection_stays(daemon):
    daemon.answers[WatchJob] = [job_done(), FOR_EVER]
    assert run(daemon, "watch", "web").returncode == 0


def test_a_job_that_has_ended_can_be_watched(daemon):
    daemon.answers[WatchJob] = [job_done()]
    shown = run(daemon, "watch", "web")
    assert shown.returncode == 0
    assert "web moved to host-b in 1m 12s" in shown.stdout
    daemon.answers[WatchJob] = failure("job-unknown", "there is no job web")
    assert run(daemon, "watch", "web").returncode == 1


@pytest.mark.parametrize("stream", [[DOUBT], [DOUBT, b"\xff" * 10]])
def test_a_doubt_has_its_own_exit_code(daemon, stream):
    daemon.answers[WatchJob] = stream
    shown = run(daemon, "migrate", "web", "host-b")
    assert shown.returncode == 6
    assert "in doubt: host-b has not told whether it has web" in shown.stderr
    assert "xenmovectl watch 1a2b3c4d" in shown.stderr


def test_a_doubt_is_followed_for_a_while(daemon, monkeypatch, capsys):
    daemon.answers[WatchJob] = [DOUBT, 0.2, DOUBT, a_job(a_round()), DOUBT, job_done()]
    assert follow_module.follow(RunningDaemon(daemon.path), Output(), "web") is Exit.OK
    monkeypatch.setattr(follow_module, "DOUBT_PATIENCE", 0.1)
    with pytest.raises(CommandError) as ended:
        follow_module.follow(RunningDaemon(daemon.path), Output(), "web")
    assert ended.value.exit_code is Exit.IN_DOUBT
    capsys.readouterr()


@pytest.mark.parametrize("cut", [[], [b"\x01\x00\x00"], [b"\xff" * 10]])
def test_a_daemon_that_goes_away_leaves_instructions(daemon, cut):
    daemon.answers[WatchJob] = [a_job(a_round()), *cut]
    shown = run(daemon, "migrate", "web", "host-b")
    assert shown.returncode == 4
    assert shown.stderr.startswith("xenmovectl: lost sight of job 1a2b3c4d (web to host-b): ")
    assert "to go on watching: xenmovectl watch 1a2b3c4d" in shown.stderr
    shown = run(daemon, "migrate", "web", "host-b", "--json")
    assert json_lines(shown.stdout)[-1]["problems"][0]["code"] == "daemon-lost"


def test_a_stream_without_a_report_is_no_success(daemon):
    daemon.answers[WatchJob] = []
    shown = run(daemon, "watch", "web")
    assert shown.returncode == 4
    assert "xenmovectl watch web" in shown.stderr


@pytest.mark.parametrize("options", [[], ["--json"], ["--quiet"]])
def test_ctrl_c_leaves_the_job_alone(daemon, options):
    daemon.answers[WatchJob] = [a_job(a_round(examined=40)), FOR_EVER]
    with started(daemon, "migrate", "web", "host-b", *options) as process:
        _until(lambda: WatchJob in map(type, daemon.requests))
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert err == (
        "job 1a2b3c4d (web to host-b) goes on\n"
        "  watch it: xenmovectl watch 1a2b3c4d\n"
        "  end it:   xenmovectl abort 1a2b3c4d\n"
    )
    assert ("25%" in out) == (options == [])
    assert {type(request) for request in daemon.requests} == {StartMigration, WatchJob}


def test_ctrl_c_before_there_is_a_job_says_where_to_look(daemon):
    daemon.answers[StartMigration] = [FOR_EVER]
    with started(daemon, "migrate", "web", "host-b") as process:
        _until(lambda: daemon.requests)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "may have begun" in err
    assert "xenmovectl jobs" in err


def test_on_a_terminal_there_is_a_live_display_and_then_the_summary(daemon):
    daemon.answers[WatchJob] = [part for each in a_course() for part in (each, 0.05)]
    status, shown = run_on_terminal(daemon, ["migrate", "web", "host-b"])
    assert status == 0
    assert "(3 of 9)" in shown
    assert "━" in shown
    assert "100MiB  of 512MiB" in shown
    assert "web moved to host-b" in shown.rpartition("\x1b[?25h")[2]
    assert "\x1b[?25h" in shown


def test_a_dumb_terminal_gets_lines(daemon):
    daemon.answers[WatchJob] = a_course()
    status, shown = run_on_terminal(daemon, ["migrate", "web", "host-b"], TERM="dumb")
    assert status == 0
    assert "\x1b" not in shown
    assert "web to host-b: pre-copy: xvda round 1 25%" in shown


def test_ctrl_c_on_a_terminal_leaves_it_in_order(daemon):
    # A signal that comes just before the client waits is noticed with the next report.
    daemon.answers[WatchJob] = [a_job(a_round(examined=40)), 0.5] * 20
    status, shown = run_on_terminal(daemon, ["watch", "web"], interrupt_on="━")
    assert status == 130
    end = shown.rpartition("\x1b[?25h")[2]
    assert "round 1 25% same 26 diff 4 zero 10" in end
    assert "xenmovectl abort 1a2b3c4d" in end
    assert "Traceback" not in shown


def test_ctrl_c_counts_even_if_the_exception_is_dropped():
    with follow_module.Interrupts() as interrupts:
        interrupts.check()
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_lines_are_rare_while_nothing_new_begins(capsys):
    now = 0.0
    display = follow_module.PlainDisplay(Output(), clock=lambda: now)
    for _ in range(120):
        display.show(a_job(a_round(examined=40)))
        now += 0.5
    assert len(capsys.readouterr().out.splitlines()) == 12


def test_the_status_is_watched_until_ctrl_c(daemon):
    status = Status("host-a", "1", "xl", "4.17", 1, "*:7222", "SHA256:x", 0, (a_job(a_round()),))
    daemon.answers[GetStatus] = status
    code, shown = run_on_terminal(daemon, ["status", "-w"], interrupt_on="1a2b3c4d")
    assert code == 0
    assert "Traceback" not in shown
    with started(daemon, "status", "--watch", "--json") as process:
        lines = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert [one["node"] for one in json_lines("".join(lines))] == ["host-a"] * 2
    assert (process.returncode, err) == (0, "")


def _until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
