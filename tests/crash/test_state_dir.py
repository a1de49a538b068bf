"""A daemon that starts where it can write nothing: the guest runs all the same, and it says so."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from protocol.messages import Mode
from tests.support.crash import EXECUTES, GUEST, PATIENCE, World
from xenmoved.control.api import Failure
from xenmoved.jobs.report import JobState
from xenmoved.sandbox.harness import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world whose source has 3 MiB for what it keeps."""
    with ExitStack() as stack:
        world = World(tmp_path)
        state = world.hosts[0].folder / "state"
        state.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", state], check=True)
        stack.callback(subprocess.run, ["umount", "-l", state], check=True)
        stack.callback(world.close)
        stack.callback(world.print_logs)
        world.start()
        yield world


def remounted(state: Path, how: str) -> bool:
    """Remount it, unless a process that has not ended yet still writes there."""
    command = ["mount", "-o", f"remount,{how}", state]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def fill(state: Path) -> None:
    with suppress(OSError), (state / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("mode", "how"),
    # Of a live migration `xl` goes on, and holds its log open: nobody can remount it meanwhile.
    [(Mode.SAVE, "read-only"), (Mode.SAVE, "full"), (Mode.LIVE, "full")],
)
def test_the_guest_runs_again_and_all_heals(world: World, mode: Mode, how: str) -> None:
    source, target = world.hosts
    state = source.folder / "state"
    source.arm("kill@outgoing:suspended:after")
    source.migrate(target, mode)
    wait_until(lambda: source.dead, "the fault", PATIENCE)
    assert source.query("SELECT state FROM outbound") == [("handing-over",)]
    assert list(source.spool.iterdir()), "what cannot be removed must not matter"
    if how == "full":
        (state / "journal.db.reserve").unlink()
        fill(state)
    else:
        wait_until(lambda: remounted(state, "ro"), "an end of all writing", PATIENCE)

    source.start()
    wait_until(lambda: source.domains().get(GUEST) in EXECUTES, "the guest", PATIENCE)
    assert "journal" in source.alarms()
    assert "journal" in source.ctl("recover").stdout
    refused = source.migrate(target, mode)
    assert isinstance(refused, Failure), refused
    assert [each.code for each in refused.problems] == ["journal"]
    pid = source.pid

    if how == "full":
        (state / "ballast").unlink()
    else:
        assert remounted(state, "rw")
    wait_until(lambda: source.alarms() == [], "the end of the alarms", PATIENCE)
    world.wait_quiet()
    assert world.owner() is source
    assert source.pid == pid
    assert source.last_job().state is JobState.FAILED
    world.assert_moves()
