"""Every verb of the real program, against a daemon that answers what the test says."""

import os
import resource
import subprocess
import sys
from dataclasses import replace

import pytest

from protocol.messages import Action, ImageFormat, Mode, Problem
from tests.support.ctl import (
    FINGERPRINT,
    GIB,
    HOSTILE,
    KEY,
    MIB,
    ROOT,
    FakeDaemon,
    a_course,
    a_job,
    a_round,
    command,
    environment,
    failure,
    job_done,
    json_lines,
    run,
    run_on_terminal,
)
from xenmoved.control.api import (
    AbortJob,
    Done,
    Failure,
    GetJob,
    GetStatus,
    Guests,
    Jobs,
    ListGuests,
    ListJobs,
    Plan,
    PlanMigration,
    PlannedVolume,
    StartMigration,
    StartSync,
    Status,
    WatchJob,
)
from xenmoved.control.peer_api import (
    AddPeer,
    FetchPeerKey,
    GetIdentity,
    Identity,
    ListPeers,
    PeerKey,
    PeerPing,
    PeerRow,
    Peers,
    PingPeer,
    RemovePeer,
)
from xenmoved.jobs.options import TransferOptions
from xenmoved.jobs.report import JobState
from xenmoved.migration.report import DiskRow, GuestRow
from xenmoved.remarks import good_to_know

pytestmark = pytest.mark.long

DISKS = (
    DiskRow("xvda", "/srv/web-root", "images:web-root", 10 * GIB, True, None),
    DiskRow("xvdb", "/dev/nbd0", None, None, False, "is in no pool"),
)
GUESTS = Guests(
    (
        GuestRow("web", 3, "pv", 512 * MIB, "running", DISKS[:1], ()),
        GuestRow("db", 4, "hvm", GIB, "blocked", DISKS, ("disk xvdb: is in no pool",)),
    )
)
STATUS = Status(
    "host-a", "0.1.0", "xl", "4.17.2", GIB, "*:7222", FINGERPRINT, 2, (a_job(a_round()),)
)
PROBLEMS = (
    Problem("no-pool", "disk xvdb is in no pool", "add it to a pool"),
    Problem("bridge", "host-b has no bridge xenbr1", ""),
)
PLAN = Plan(
    *("web", "host-b", Mode.SAVE, (), (good_to_know("slow", "a slow link"),)),
    (
        PlannedVolume(
            "xvda", "images:web-root", "fast:web-root", 10 * GIB, True, True, ImageFormat.RAW
        ),
    ),
    *(512 * MIB, 252.0, 6.1),
)
PEER = PeerRow(
    *("host-b", "192.0.2.7", 7222, FINGERPRINT, (Action.MIGRATE,)),
    *(("images",), ("web*",), 500 * GIB, 8 * GIB, 4, False, True, False),
)
PING = PeerPing(
    *("host-b", "b", "xenmoved 0.1.0", 1, 1, "xl", "4.17", ("zstd",), 0.0004, 8.5e8),
    *(None, ("migrate",), ("images",), ("web*",), 500 * GIB, 120 * GIB, None, 4),
)
IDENTITY = Identity("host-a", KEY, FINGERPRINT, 7222)


@pytest.fixture
def daemon(tmp_path):
    with FakeDaemon(tmp_path / "s") as fake:
        yield fake


@pytest.mark.parametrize(
    ("args", "request_type", "answer", "expected"),
    [
        ("", GetStatus, STATUS, ["host-a: xenmoved 0.1.0 is running", "1a2b3c4d  migrate"]),
        ("status", GetStatus, STATUS, ["listening    *:7222", FINGERPRINT]),
        ("list", ListGuests, GUESTS, ["web     3", "cannot move: disk xvdb: is in no pool"]),
        ("plan web host-b", PlanMigration, PLAN, ["new there", "about 4m 12s", "no problems"]),
        ("jobs", ListJobs, Jobs((a_job(a_round()),)), ["1a2b3c4d", "round 1: 100%"]),
        ("show web", GetJob, job_done(), ["blackout  4.2s", "state    done"]),
        ("abort 1a2b", AbortJob, Done("web runs here again"), ["web runs here again"]),
        (
            "peer",
            ListPeers,
            Peers((PEER,)),
            [
                "192.0.2.7",
                "web*; each up to 8GiB of memory and 4 vcpus; quota 500GiB",
            ],
        ),
        ("peer list", ListPeers, Peers((PEER,)), [FINGERPRINT]),
        ("peer remove host-b", RemovePeer, Done("removed"), ["removed"]),
        ("peer ping host-b", PingPeer, PING, ["0.4ms", "810.6MiB/s", "120GiB used of 500GiB"]),
        ("identity", GetIdentity, IDENTITY, [FINGERPRINT, f"--key '{KEY}'", "peer add host-a"]),
    ],
)
def test_what_is_asked_for_is_shown(daemon, args, request_type, answer, expected):
    daemon.answers[request_type] = answer
    shown = run(daemon, *args.split())
    assert (shown.returncode, shown.stderr) == (0, "")
    for part in expected:
        assert part in shown.stdout
    assert "\x1b" not in shown.stdout
    (one,) = json_lines(run(daemon, *args.split(), "--json").stdout)
    words = "".join(f"_{c.lower()}" if c.isupper() else c for c in type(answer).__name__)
    assert one.pop("type") == words[1:]
    assert one


def test_requests_carry_what_was_typed(daemon):
    daemon.answers[ListJobs] = Jobs(())
    assert run(daemon, "jobs", "--all").stdout == "no jobs\n"
    assert daemon.asked(ListJobs) == ListJobs(ended=True)
    daemon.answers[PlanMigration] = PLAN
    options = "--pool fast --rate-limit 80MiB/s --compress zstd --no-verify --keep-partial"
    run(daemon, "plan", "web", "host-b", "--mode", "save", *options.split())
    wanted = TransferOptions(80 * MIB, "zstd", False, "fast", True)
    assert daemon.asked(PlanMigration) == PlanMigration("web", "host-b", Mode.SAVE, wanted)


def test_names_there_are_carried(daemon):
    daemon.answers[PlanMigration] = PLAN
    options = (
        *("--pool", "hdd=slow", "--pool", "fast", "--pool", "ssd=nvme"),
        *("--volume", "vm-*=*-disk", "--volume", "*=x-*", "--bridge", "xenbr0=br-lan"),
        *("--rename", "shop", "--cdrom", "eject"),
    )
    run(daemon, "plan", "web", "host-b", *options)
    wanted = TransferOptions(
        pool="fast",
        pools={"hdd": "slow", "ssd": "nvme"},
        volumes={"vm-*": "*-disk", "*": "x-*"},
        bridges={"xenbr0": "br-lan"},
        rename="shop",
        cdrom="eject",
    )
    asked = daemon.asked(PlanMigration)
    assert asked.options == wanted
    assert list(asked.options.volumes) == ["vm-*", "*"], "the first that matches counts"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--pool a --pool b", "--pool is said twice: a and b"),
        ("--volume a=b --volume a=c", "--volume is said twice for a: b and c"),
        ("--volume a=*", "'*' has more * than 'a' gives it something to put there"),
        ("--bridge a", "'a' is not OLD=NEW"),
        ("--rename a/b", "no guest can be called 'a/b'"),
        ("--cdrom burn", "invalid choice: 'burn'"),
    ],
)
def test_names_that_are_none(daemon, options, words):
    shown = run(daemon, "migrate", "web", "host-b", *options.split())
    assert (shown.returncode, shown.stdout) == (2, "")
    assert words in shown.stderr


def test_a_plan_with_problems_shows_all_of_them_and_refuses(daemon):
    daemon.answers[PlanMigration] = Plan(
        "web", "host-b", Mode.SAVE, PROBLEMS, (), (), MIB, None, None
    )
    shown = run(daemon, "plan", "web", "host-b")
    assert shown.returncode == 3
    assert shown.stdout.endswith(
        "2 problems; nothing was changed:\n"
        "  1. disk xvdb is in no pool\n"
        "     add it to a pool\n"
        "  2. host-b has no bridge xenbr1\n"
    )
    assert "estimate  not known" in shown.stdout
    assert run(daemon, "plan", "web", "host-b", "--json").returncode == 3


@pytest.mark.parametrize("args", ["migrate web host-b", "plan web host-b", "sync a:b host-b"])
def test_what_is_refused_beforehand_has_its_own_exit_code(daemon, args):
    for kind in (StartMigration, PlanMigration, StartSync):
        daemon.answers[kind] = Failure(PROBLEMS)
    shown = run(daemon, *args.split())
    assert (shown.returncode, shown.stdout) == (3, "")
    assert shown.stderr == (
        "xenmovectl: disk xvdb is in no pool\n"
        "  add it to a pool\n"
        "xenmovectl: host-b has no bridge xenbr1\n"
    )
    shown = run(daemon, *args.split(), "--json")
    (one,) = json_lines(shown.stdout)
    assert (shown.returncode, shown.stderr) == (3, "")
    assert (one["type"], one["exit_code"]) == ("failure", 3)
    assert one["problems"][1] == {
        "code": "bridge",
        "text": "host-b has no bridge xenbr1",
        "hint": "",
    }


def test_a_command_that_fails_says_why(daemon):
    daemon.answers[GetJob] = failure("job-unknown", "there is no job web", "see: xenmovectl jobs")
    shown = run(daemon, "show", "web")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr == "xenmovectl: there is no job web\n  see: xenmovectl jobs\n"


def test_a_page_is_written_where_it_is_wanted(daemon, tmp_path):
    daemon.answers |= {GetJob: job_done(), GetIdentity: IDENTITY}
    shown = run(daemon, "report", "web", "-o", "-")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("<!DOCTYPE html>\n")
    assert "host-a → host-b" in shown.stdout
    assert shown.stdout.endswith("</html>\n")
    for locale in ("C", "POSIX"):
        plain = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        assert "host-a → host-b" in run(daemon, "report", "web", "-o", "-", **plain).stdout
    path = tmp_path / "page.html"
    first = run(daemon, "report", "web", "-o", str(path))
    assert (first.returncode, first.stdout) == (0, f"wrote {path}\n")
    assert path.read_text().startswith("<!DOCTYPE html>\n")
    path.write_text("mine")
    again = run(daemon, "report", "web", "--output", str(path))
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == (
        f"xenmovectl: {path} is there already\n"
        "  name another file with -o, or replace it with --force\n"
    )
    assert path.read_text() == "mine"
    forced = run(daemon, "report", "web", "-o", str(path), "--force", "--json")
    assert json_lines(forced.stdout) == [{"type": "done", "text": f"wrote {path}"}]
    assert path.read_text().startswith("<!DOCTYPE html>\n")


def test_a_page_has_a_name_of_its_own(daemon, tmp_path):
    daemon.answers |= {GetJob: job_done(), GetIdentity: IDENTITY}
    subprocess.run(
        command(daemon.path, "report", "web", "--quiet"),
        cwd=tmp_path,
        env=environment(),
        timeout=30,
        check=True,
    )
    assert (tmp_path / "xenmoved-1a2b3c4d.html").exists()


def test_a_migration_is_followed_to_its_summary(daemon):
    daemon.answers[StartMigration] = a_job(phase=a_course()[0].phase)
    daemon.answers[WatchJob] = a_course()
    shown = run(daemon, "migrate", "web", "host-b", "--verify", "--rate-limit", "unlimited")
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    stages = [each.split(": ")[1] for each in lines if each.startswith("web to host-b: ")]
    assert stages == ["provision", "pre-copy", "pre-copy", "suspend"]
    assert "round 1 25% same 26 diff 4 zero 10" in lines[1]
    assert "web moved to host-b in 1m 12s" in lines
    assert lines[-1] == "total     514MiB sent in 1m 12s, 7.1MiB/s"
    asked = daemon.asked(StartMigration)
    assert asked.options == TransferOptions(rate_limit=0, verify=True)
    assert daemon.asked(WatchJob).job == "1a2b3c4d"


def test_a_migration_as_json_is_a_stream_of_reports(daemon):
    daemon.answers[StartMigration] = a_job()
    daemon.answers[WatchJob] = a_course()
    shown = run(daemon, "--json", "migrate", "web", "host-b")
    reports = json_lines(shown.stdout)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert {report["type"] for report in reports} == {"job_report"}
    assert len(reports) == 1 + len(a_course())
    assert reports[-1]["state"] == "done"
    assert reports[-1]["volumes"][0]["rounds"][0]["diff"] == 16


def test_quiet_says_nothing_when_all_is_well(daemon):
    daemon.answers[StartMigration] = a_job()
    daemon.answers[WatchJob] = a_course()
    shown = run(daemon, "migrate", "web", "host-b", "--quiet")
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "", "")


def test_a_detached_job_is_not_followed(daemon):
    daemon.answers[StartMigration] = a_job()
    shown = run(daemon, "migrate", "web", "host-b", "--detach")
    assert shown.returncode == 0
    assert "job 1a2b3c4d has begun: web to host-b" in shown.stdout
    assert "xenmovectl watch 1a2b3c4d" in shown.stdout
    assert run(daemon, "migrate", "web", "host-b", "--detach", "-q" + "uiet").returncode == 2
    assert run(daemon, "migrate", "web", "host-b", "--detach", "--quiet").stdout == "1a2b3c4d\n"
    (one,) = json_lines(run(daemon, "migrate", "web", "host-b", "--detach", "--json").stdout)
    assert one["job"] == "1a2b3c4d"


@pytest.mark.parametrize(
    ("written", "peer", "target"),
    [("host-b", "host-b", None), ("host-b:fast/root", "host-b", "fast:root")],
)
def test_a_volume_is_sent(daemon, written, peer, target):
    daemon.answers[StartSync] = a_job(guest="")
    daemon.answers[WatchJob] = [job_done(guest="")]
    assert run(daemon, "sync", "/dev/vg0/root", written).returncode == 0
    asked = daemon.asked(StartSync)
    assert (asked.volume, asked.peer, asked.target) == ("/dev/vg0/root", peer, target)


@pytest.mark.parametrize(
    "args",
    [
        "nonsense",
        "migrate web",
        "migrate web host-b --mode fast",
        "migrate web host-b --rate-limit fast",
        "migrate web host-b --rate 5",
        "sync relative/path host-b",
        "sync a:b host-b:",
        "sync a:b host-b:pool",
        "sync a:b host-b:pool/name --pool other",
        "peer add b 1:2:3:x",
        "peer add b host:70000",
        "peer add b host --key ssh-rsa",
        "peer add b host --yes --allow everything",
        "peer add b host --pools a,,b",
        "peer add b host --quota 0",
        "peer add b host --memory much",
        "peer add b host --vcpus 0",
        "peer add b host --vcpus many",
        "completion tcsh",
    ],
)
def test_a_wrong_command_line_is_refused(daemon, args):
    shown = run(daemon, *args.split())
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr.startswith("xenmovectl: ")
    assert daemon.requests == []
    if "bad/name" in args:
        (one,) = json_lines(run(daemon, *args.split(), "--json").stdout)
        assert one["problems"][0]["code"] == "usage"


def test_a_daemon_that_does_not_run(tmp_path):
    shown = run(tmp_path / "none", "list")
    assert (shown.returncode, shown.stdout) == (4, "")
    assert "is it running?" in shown.stderr
    (one,) = json_lines(run(tmp_path / "none", "list", "--json").stdout)
    assert one["problems"][0]["code"] == "daemon-unreachable"


def test_a_daemon_that_hangs_up_or_talks_nonsense(daemon):
    for answer in ([], [b"\xff" * 10], Done("?")):
        daemon.answers[ListGuests] = answer
        shown = run(daemon, "list")
        assert (shown.returncode, shown.stdout) == (4, "")
        assert shown.stderr.startswith("xenmovectl: ")


def test_the_socket_is_found_by_its_variable(daemon):
    daemon.answers[ListJobs] = Jobs(())
    shown = subprocess.run(
        [sys.executable, "-m", "xenmoved.ctl.main", "jobs"],
        env=environment(XENMOVED_SOCKET=str(daemon.path)),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (shown.returncode, shown.stdout) == (
        0,
        "no jobs under way: see xenmovectl jobs --all\n",
    )


def test_who_may_not_use_the_socket_is_told_so(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir()
    with FakeDaemon(closed / "s") as fake:
        closed.chmod(0)
        try:
            shown = subprocess.run(
                [sys.executable, "-c", _AS_NOBODY, *command(fake.path, "list")[3:]],
                env=environment(),
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
        finally:
            closed.chmod(0o700)
    assert (shown.returncode, shown.stdout) == (5, "")
    assert shown.stderr.startswith("xenmovectl: no permission to use ")
    assert "run as root" in shown.stderr


def test_whom_the_daemon_turns_away_is_told_so(daemon):
    daemon.answers[StartMigration] = failure("access-denied", "this user may not use xenmoved")
    shown = run(daemon, "migrate", "web", "host-b")
    assert (shown.returncode, shown.stdout) == (5, "")
    assert shown.stderr == "xenmovectl: this user may not use xenmoved\n"


# It runs once beforehand, to import everything: nobody may be unable to read the program.
_AS_NOBODY = """
import contextlib, io, os, sys
from xenmoved.ctl.main import main
with contextlib.redirect_stderr(io.StringIO()):
    main(["--socket", "/nonexistent", "list"])
os.geteuid() or os.setresuid(65534, 65534, 65534)
sys.exit(main())
"""


def test_a_peer_is_added_with_its_key(daemon):
    daemon.answers |= {AddPeer: Done("peer host-b was added"), GetIdentity: IDENTITY}
    options = "--allow migrate,sync --pools a,b --guests web*,db1 --quota 500GiB"
    options += " --memory 8GiB --vcpus 4 --overwrite --replace"
    shown = run(
        daemon, "peer", "add", "host-b", "[::1]:7333", "--key", f"{KEY} me", *options.split()
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert daemon.asked(AddPeer) == AddPeer(
        *("host-b", "::1", 7333, KEY, (Action.MIGRATE, Action.SYNC)),
        *(("a", "b"), ("web*", "db1"), 500 * GIB, 8 * GIB, 4, True, True),
    )
    assert f"xenmovectl peer add host-a [::1] --key '{KEY}'" in shown.stdout
    assert "xenmovectl peer ping host-b" in shown.stdout


def test_permissions_that_permit_nothing_are_pointed_out(daemon):
    daemon.answers |= {AddPeer: Done("added"), GetIdentity: IDENTITY}
    shown = run(daemon, "peer", "add", "b", "host", "--key", KEY, "--allow", "sync")
    assert shown.returncode == 0
    assert "no pools are allowed" in shown.stderr
    assert "no guests are allowed" in shown.stderr


def test_a_key_is_not_taken_unseen(daemon):
    shown = run(daemon, "peer", "add", "host-b", "192.0.2.7", stdin="yes\n")
    assert (shown.returncode, daemon.requests) == (2, [])
    assert "--key" in shown.stderr
    daemon.answers |= {
        FetchPeerKey: PeerKey(KEY, FINGERPRINT),
        AddPeer: Done("added"),
        GetIdentity: IDENTITY,
    }
    shown = run(daemon, "peer", "add", "host-b", "192.0.2.7:7000", "--yes", "--json")
    assert shown.returncode == 0
    assert FINGERPRINT in shown.stderr
    assert json_lines(shown.stdout) == [{"type": "done", "text": "added"}]
    assert daemon.asked(FetchPeerKey) == FetchPeerKey("192.0.2.7", 7000)
    assert daemon.asked(AddPeer).key == KEY


@pytest.mark.parametrize(("typed", "code"), [("yes\r", 0), ("y\r", 1), ("\x04", 1)])
def test_a_key_is_compared_by_the_operator(daemon, typed, code):
    daemon.answers |= {
        FetchPeerKey: PeerKey(KEY, FINGERPRINT),
        AddPeer: Done("peer host-b was added"),
        GetIdentity: IDENTITY,
    }
    status, shown = run_on_terminal(
        daemon,
        ["peer", "add", "host-b", "192.0.2.7"],
        react=lambda text: typed if "(yes/no)?" in text else None,
    )
    assert status == code
    assert "xenmovectl identity" in shown
    assert FINGERPRINT in shown
    assert (AddPeer in map(type, daemon.requests)) == (code == 0)


def test_hostile_text_cannot_move_the_cursor(daemon):
    daemon.answers |= {
        GetJob: failure(HOSTILE, HOSTILE, HOSTILE),
        ListGuests: Guests((GuestRow(HOSTILE, 1, "pv", 1, "running", (), (HOSTILE,)),)),
    }
    for args in (["show", "web"], ["list"], ["list", "--json"]):
        shown = run(daemon, *args)
        for text in (shown.stdout, shown.stderr):
            assert all(each.isprintable() for each in text.splitlines())
            assert "\r" not in text
    _, text = run_on_terminal(daemon, ["show", "web"])
    assert "\x1b[2J" not in text
    assert "\x1b]0;" not in text
    assert "\\x1b[2J" in text


def test_colors_are_for_terminals_that_want_them(daemon):
    daemon.answers[GetStatus] = STATUS
    assert "\x1b[1mhost-a\x1b[0m" in run_on_terminal(daemon, ["status"])[1]
    assert "\x1b" not in run_on_terminal(daemon, ["status", "--no-color"])[1]
    assert "\x1b" not in run_on_terminal(daemon, ["status"], NO_COLOR="1")[1]


def test_a_locale_without_the_characters_is_no_reason_to_fail(daemon):
    daemon.answers[GetJob] = failure("x", "gäste", "")
    shown = run(daemon, "show", "web", LC_ALL="C", PYTHONIOENCODING="ascii")
    assert (shown.returncode, shown.stderr) == (1, "xenmovectl: g\\xe4ste\n")


def test_a_reader_that_stops_reading_is_no_error(daemon):
    daemon.answers[ListGuests] = GUESTS
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        shown = subprocess.run(
            command(daemon.path, "list"),
            env=environment(),
            stdout=closed,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    assert (shown.returncode, shown.stderr) == (1, b"")


def test_the_program_starts_fast_and_loads_little():
    script = (
        "import sys, xenmoved.ctl.main, xenmoved.ctl.verbs.table, xenmoved.ctl.completion\n"
        "print(*sys.modules, sep='\\n')"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout.split()
    heavy = {
        "html",
        "xenmoved.ctl.report",
        "asyncio",
        "asyncssh",
        "uvloop",
        "blake3",
        "zstandard",
        "rich",
        "yaml",
        "argcomplete",
    }
    assert heavy & set(loaded) == set()


def test_the_version_needs_no_daemon_and_little_time():
    best = 10.0
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        shown = subprocess.run(
            [sys.executable, "-m", "xenmoved.ctl.main", "--version"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert shown.stdout.startswith("xenmovectl ")
    # 45 ms on a quiet machine; what processes share of a processor makes each of them slower.
    assert best < 0.5


@pytest.mark.parametrize(
    ("state", "alarms", "code"),
    [
        (JobState.RUNNING, (), 0),
        (JobState.IN_DOUBT, (), 6),
        (JobState.IN_DOUBT, PROBLEMS, 6),
        (JobState.RUNNING, PROBLEMS, 7),
    ],
)
def test_the_exit_code_of_status_is_for_monitors(daemon, state, alarms, code):
    jobs = (a_job(), a_job(state=state))
    daemon.answers[GetStatus] = replace(STATUS, jobs=jobs, alarms=alarms)
    for args in ((), ("status",), ("status", "--json"), ("status", "--quiet")):
        done = run(daemon, *args)
        assert (done.returncode, done.stderr) == (code, "")
        assert done.stdout
