"""What a shell is offered while a command line is typed."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.support.ctl import (
    HOSTILE,
    KEY,
    MIB,
    ROOT,
    FakeDaemon,
    a_job,
    command,
    environment,
    failure,
    run,
)
from xenmoved.control.api import Guests, Jobs, ListGuests, ListJobs
from xenmoved.control.peer_api import ListPeers, PeerRow, Peers
from xenmoved.migration.report import DiskRow, GuestRow

pytestmark = pytest.mark.long

DISK = DiskRow("xvda", "/srv/web", "images:web-root", MIB, True, None)


@pytest.fixture
def daemon(tmp_path):
    with FakeDaemon(tmp_path / "s") as fake:
        names = ("web", "wiki", HOSTILE, "a b", "$(reboot)")
        guests = tuple(GuestRow(name, 1, "pv", MIB, "running", (DISK,), ()) for name in names)
        peer = PeerRow(
            *("host-b", "192.0.2.7", 7222, KEY, (), (), ()),
            *(None, None, None, False, False, False),
        )
        fake.answers |= {
            ListGuests: Guests(guests),
            ListPeers: Peers((peer,)),
            ListJobs: Jobs((a_job(),)),
        }
        yield fake


def _complete(typed: str, socket_path, tmp_path) -> list[str]:
    answer = tmp_path / "completions"
    answer.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "xenmoved.ctl.main"],
        env=environment(
            XENMOVED_SOCKET=str(socket_path),
            _ARGCOMPLETE="1",
            _ARGCOMPLETE_IFS="\n",
            _ARGCOMPLETE_SUPPRESS_SPACE="1",
            _ARGCOMPLETE_SHELL="fish",
            _ARGCOMPLETE_DFS="\t",
            _ARGCOMPLETE_STDOUT_FILENAME=str(answer),
            COMP_LINE=typed,
            COMP_POINT=str(len(typed)),
        ),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("", "")
    return [each.partition("\t")[0] for each in answer.read_text().splitlines()]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("xenmovectl m", ["migrate"]),
        ("xenmovectl migrate ", ["web", "wiki"]),
        ("xenmovectl migrate we", ["web"]),
        ("xenmovectl migrate web ", ["host-b"]),
        ("xenmovectl plan web ho", ["host-b"]),
        ("xenmovectl sync images", ["images:web-root"]),
        ("xenmovectl watch ", ["1a2b3c4d"]),
        ("xenmovectl show 1", ["1a2b3c4d"]),
        ("xenmovectl report 1", ["1a2b3c4d"]),
        ("xenmovectl peer remove ", ["host-b"]),
        ("xenmovectl migrate web host-b --compress z", ["zstd"]),
        ("xenmovectl migrate web host-b --keep", ["--keep-partial"]),
        ("xenmovectl migrate web host-b --pool ", ["images="]),
        ("xenmovectl plan web host-b --volume web", ["web-root="]),
        ("xenmovectl plan nobody host-b --volume ", []),
        ("xenmovectl plan web host-b --rename ", []),
        ("xenmovectl plan web host-b --cdrom e", ["eject"]),
        ("xenmovectl completion f", ["fish"]),
    ],
)
def test_names_are_completed(daemon, tmp_path, typed, offered):
    found = [word for word in _complete(typed, daemon.path, tmp_path) if word.strip()]
    assert sorted(set(found)) == offered


def test_another_socket_on_the_line_is_asked(daemon, tmp_path):
    typed = f"xenmovectl --socket {daemon.path} abort "
    assert _complete(typed, "/nonexistent", tmp_path) == ["1a2b3c4d"]


def test_failures_are_silent(daemon, tmp_path):
    for answer in (failure("x", "no"), [], [b"\xff" * 9], [5.0]):
        daemon.answers[ListGuests] = answer
        assert _complete("xenmovectl migrate ", daemon.path, tmp_path) == []
    assert _complete("xenmovectl migrate ", tmp_path / "none", tmp_path) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_set_up_of_a_shell_needs_no_daemon(tmp_path, shell):
    shown = run(tmp_path / "none", "completion", shell)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "_ARGCOMPLETE" in shown.stdout
    assert "xenmovectl" in shown.stdout
    if program := shutil.which(shell):
        check = subprocess.run([program, "-n"], input=shown.stdout, text=True, check=False)
        assert check.returncode == 0


def test_bash_itself_completes(daemon, tmp_path):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    program = tmp_path / "bin" / "xenmovectl"
    program.parent.mkdir()
    words = " ".join(command(daemon.path)[:3])
    program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(xenmovectl completion bash)"\n'
        "COMP_LINE='xenmovectl migrate we' COMP_POINT=21 COMP_TYPE=9\n"
        "COMP_WORDS=(xenmovectl migrate we) COMP_CWORD=2\n"
        "_python_argcomplete xenmovectl we migrate 2>/dev/null\n"
        'printf "[%s]" "${COMPREPLY[@]}"\n'
    )
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [bash, "--norc", "-c", script],
        env=environment(PATH=path, XENMOVED_SOCKET=str(daemon.path)),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout.replace(" ]", "]") == "[web]"


def test_shells_that_complete_everything_find_the_marker():
    start = (ROOT / "xenmoved" / "ctl" / "main.py").read_bytes()[:1024]
    assert b"PYTHON_ARGCOMPLETE_OK" in start
