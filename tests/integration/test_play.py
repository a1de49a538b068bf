"""The playground, driven through its shell on a terminal as somebody would."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.ctl import ROOT, environment

pytestmark = pytest.mark.thorough

_PROMPT = re.compile(r"\[host-[abc]\] [$#] $")


class Player:
    """Types at the playground's terminal."""

    def __init__(self, terminal: int, process: subprocess.Popen[bytes]) -> None:
        self.terminal = terminal
        self.process = process

    def read(self, until: re.Pattern[str]) -> str:
        """Return what is shown up to something, or to the end."""
        shown, deadline = "", time.monotonic() + 60
        while not until.search(shown):
            assert time.monotonic() < deadline, shown
            try:
                data = os.read(self.terminal, 65536)
            except OSError:
                break
            shown += re.sub(r"\x1b\[\?2004[hl]\r?", "", data.decode(errors="replace"))
        return shown

    def say(self, text: str) -> str:
        """Type a line; return what it shows up to the next prompt."""
        os.write(self.terminal, text.encode() + b"\n")
        return self.read(_PROMPT)

    def leave(self, keys: bytes) -> int:
        """Press keys, and return how the playground ends."""
        os.write(self.terminal, keys)
        self.read(re.compile("The playground is gone"))
        return self.process.wait(30)


@contextmanager
def playground(folder: Path) -> Iterator[Player]:
    """Start the playground with all that it makes in a folder."""
    terminal, its_end = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", sys.executable, "-m", "xenmoved.sandbox.play"],
        env=environment(TERM="xterm", COLUMNS="100", TMPDIR=str(folder)),
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        cwd=ROOT,
    )
    os.close(its_end)
    try:
        yield Player(terminal, process)
    finally:
        process.terminate()
        process.wait(30)
        os.close(terminal)


def left(folder: Path) -> list[str]:
    """Return what is left of a playground: files, and processes that know of them."""
    found = [str(path) for path in folder.iterdir()]
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if os.fsencode(folder) in words:
            found.append(words.decode())
    return found


def test_guests_are_moved_and_hosts_broken_and_mended(tmp_path: Path) -> None:
    with playground(tmp_path) as player:
        player.read(_PROMPT)
        shown = player.say("guests")
        for name in ("web1", "db1", "win1", "mail1"):
            assert re.search(rf"{name} +\w+ +[-rb]+", shown), shown
        shown = player.say("xenmovectl list; host-b xenmovectl list")
        assert re.search(r"old1.* off ", shown)
        assert re.search(r"fw1.*no", shown)

        assert "no problems" in player.say("xenmovectl plan web1 host-b")
        if "frees" in player.say("fill host-b"):
            assert "are needed" in player.say("xenmovectl plan web1 host-b")
            player.say("unfill host-b")
        player.say("xenmovectl migrate web1 host-b")
        assert "web1 on host-b: all" in player.say("check web1")

        os.write(player.terminal, b"xenmovectl status --watch\n")
        player.read(re.compile("no jobs"))
        os.write(player.terminal, b"\x03")  # is for what runs in the shell, and not for the rest
        player.read(_PROMPT)

        player.say("pull host-c; kill-daemon host-b")
        shown = player.say("guests")
        assert "CABLE PULLED" in shown
        assert "NO DAEMON" in shown
        assert "4" in player.say("xenmovectl peer ping host-c; host-b xenmovectl; echo $?")
        player.say("plug host-c; start-daemon host-b")
        assert "answers" in player.say("xenmovectl peer ping host-c")

        hooks = "$PLAYGROUND/host-b/etc/hooks/before-arrival.d"
        no = "'#!/bin/sh\\necho no room\\nexit 1\\n'"
        player.say(f"install -d {hooks}; printf {no} > {hooks}/10-no; chmod 755 {hooks}/10-no")
        assert "objects: no room" in player.say("xenmovectl plan old1 host-b")
        player.say(f"rm {hooks}/10-no")

        assert "[host-c]" in player.say("host-c")
        assert "no guest called x runs" in player.say("check x")
        assert "say: pull HOST" in player.say("pull")
        assert "Things to try" in player.say("help")
        assert player.leave(b"\x04") == 0
    assert left(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_can_be_ended_while_it_starts(tmp_path: Path, number: signal.Signals) -> None:
    with playground(tmp_path) as player:
        player.read(re.compile("Starting"))
        time.sleep(1)
        player.process.send_signal(number)
        shown = player.read(re.compile("gone"))
        assert "Traceback" not in shown
        assert player.process.wait(30) == 128 + number
    assert left(tmp_path) == []


_BUSY_DISK = """
import os, sys, threading
from pathlib import Path
from xenmoved.sandbox.smalldisk import SmallDisk, step_aside

step_aside(sys.argv)
folder = Path(sys.argv[1])
disk = SmallDisk(folder, 256 << 20)
filled = threading.Event()

def write():
    with (folder / "guest").open("wb", buffering=0) as file:
        while not filled.wait(0.0005):
            try:
                file.write(bytes(64 << 10))
            except OSError:  # full
                pass

writer = threading.Thread(target=write)
writer.start()
try:
    print(disk.fill())
finally:
    filled.set()
    writer.join()
print(os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize)
disk.close()
"""


def test_a_disk_is_filled_while_others_write_to_it(tmp_path: Path) -> None:
    script = tmp_path / "busy.py"
    script.write_text(_BUSY_DISK)
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [sys.executable, script, disk]
    done = subprocess.run(
        command, env=environment(), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    taken, free = done.stdout.split()
    if taken == "None":
        pytest.skip("the kernel gives users no file system of their own")
    assert int(taken) > 100 << 20
    assert int(free) <= 1 << 20
