"""One hook, run for real: nothing of it is left, whatever it does."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from xenmoved.hooks import keeper
from xenmoved.hooks.events import HookEvent
from xenmoved.hooks.found import Hook
from xenmoved.hooks.running import run_hook
from xenmoved.sandbox.harness import wait_until

pytestmark = pytest.mark.long


def hook_of(folder, text, shell="/bin/sh"):
    path = folder / "hook"
    path.write_text(f"#!{shell}\n{text}\n")
    path.chmod(0o755)
    return Hook("hook", path)


async def run(folder, text, limit=20.0, told=b"{}", shell="/bin/sh"):
    return await run_hook(hook_of(folder, text, shell), HookEvent.FAILURE, told, limit)


def alive(file):
    """Whether any of the processes whose ids are in a file has not ended."""
    found = []
    for number in file.read_text().split():
        with suppress(OSError):
            state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
            found += [number] if state != "Z" else []
    return found


async def test_it_reads_what_it_is_told_and_ends(tmp_path):
    ended = await run(tmp_path, "cat; echo then >&2", told=b"much " * 100_000)
    assert ended.said.startswith("much much")
    assert ended.said.endswith("(it said more)")
    assert (ended.status, ended.failed, ended.stuck) == (0, "", False)


async def test_one_that_reads_nothing_keeps_nobody_waiting(tmp_path):
    began = time.monotonic()
    assert (await run(tmp_path, "exit 5", told=b"x" * 10_000_000)).status == 5
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("signal_", ["TERM", "KILL", "SEGV"])
async def test_killed_by_a_signal(tmp_path, signal_):
    ended = await run(tmp_path, f"echo before; kill -{signal_} $$; sleep 5")
    assert (ended.status, ended.failed) == (None, f"was killed by SIG{signal_}")
    assert ended.said == "before"


async def test_nothing_is_left_of_one_that_hangs(tmp_path):
    """Whatever sessions its children make, whoever their parents are, and what they ignore."""
    text = f"""
    note() {{ echo $$ >> {tmp_path}/pids; }}
    trap '' TERM HUP INT
    sleep 1000 & echo $! >> {tmp_path}/pids
    setsid sleep 1000 & echo $! >> {tmp_path}/pids
    (setsid sh -c '(sleep 1000 & echo $! >> {tmp_path}/pids) & exit' &)
    setsid nohup sh -c 'trap "" TERM; echo $$ >> {tmp_path}/pids; sleep 1000; sleep 1000' &
    echo $$ >> {tmp_path}/pids
    sleep 1000
    """
    ended = await run(tmp_path, text, limit=1.0)
    assert ended.failed == "did not end within 1 s, and was killed with all that it started"
    assert len((tmp_path / "pids").read_text().split()) == 5
    assert alive(tmp_path / "pids") == []


async def test_nothing_is_left_of_one_that_ends(tmp_path):
    """Nor does a child that holds its output keep anybody waiting."""
    began = time.monotonic()
    ended = await run(tmp_path, f"setsid sleep 1000 & echo $! > {tmp_path}/pids; echo done")
    assert (ended.status, ended.said) == (0, "done")
    assert time.monotonic() - began < 10
    assert alive(tmp_path / "pids") == []


async def test_one_that_forks_for_ever(tmp_path):
    text = "import os\nwhile True:\n    if os.fork():\n        os._exit(0)\n    os.setsid()"
    ended = await run(tmp_path, text, limit=2.0, shell=sys.executable)
    assert ended.status == 0, "the first has ended"
    assert not ended.stuck


async def test_one_that_is_cancelled(tmp_path):
    task = asyncio.create_task(
        run(tmp_path, f"echo $$ > {tmp_path}/p; mv {tmp_path}/p {tmp_path}/pids; sleep 1000")
    )
    await asyncio.to_thread(wait_until, (tmp_path / "pids").exists, "the hook to begin")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert alive(tmp_path / "pids") == []


async def test_a_keeper_that_is_killed(tmp_path):
    """The hook goes with it, and is not taken for one that has agreed."""
    ended = await run(tmp_path, f"echo $$ > {tmp_path}/pids; kill -9 $PPID; sleep 1000")
    assert (ended.status, ended.failed) == (None, "ended nobody knows how: its keeper was killed")
    wait_until(lambda: alive(tmp_path / "pids") == [], "the end of the hook")


@pytest.mark.parametrize(
    ("text", "mode", "failed"),
    [
        (None, 0, "is missing"),
        ("#!/no/such/shell\n", 0o755, "is missing"),
        ("\0", 0o755, "could not be started: Exec format error"),
        ("#!/bin/sh\n", 0o644, "could not be started: Permission denied"),
    ],
)
async def test_one_that_cannot_be_started(tmp_path, text, mode, failed):
    path = tmp_path / "hook"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    ended = await run_hook(Hook("hook", path), HookEvent.FAILURE, b"", 5.0)
    assert (ended.status, ended.failed) == (None, failed)


async def test_no_descriptor_is_left_here(tmp_path):
    await run(tmp_path, "exit 0")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for text in ("exit 0", "kill -9 $$", "echo x"):
        await run(tmp_path, text)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_signals_are_as_for_any_program(tmp_path):
    text = "import signal\nprint([n for n in signal.valid_signals() if signal.getsignal(n)"
    text += " not in (signal.SIG_DFL, signal.default_int_handler)])"
    text += "\nprint(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
    # An interpreter itself ignores SIGPIPE and SIGXFSZ.
    ended = await run(tmp_path, text, shell=sys.executable)
    assert ended.said == f"[{signal.SIGPIPE!r}, {signal.SIGXFSZ!r}] | []"


def test_whoever_started_the_keeper_is_gone(tmp_path):
    """Also one that was killed, and could tell it nothing."""
    hook = hook_of(tmp_path, f"echo $$ > {tmp_path}/p; mv {tmp_path}/p {tmp_path}/pids; sleep 1000")
    ours, theirs = os.pipe()
    told, tell = os.pipe()
    command = [sys.executable, "-I", "-S", keeper.__file__, "600", str(ours), str(tell)]
    with subprocess.Popen([*command, str(hook.path)], pass_fds=(ours, tell)) as process:
        wait_until((tmp_path / "pids").exists, "the hook to begin")
        os.close(theirs)
        process.wait(20)
    wait_until(lambda: alive(tmp_path / "pids") == [], "the end of the hook")
    for descriptor in (ours, told, tell):
        os.close(descriptor)


def test_children_are_found_with_and_without_a_list_of_the_kernels():
    with subprocess.Popen(["sleep", "1000"]) as process:
        assert process.pid in keeper.children_seen()
        assert process.pid in keeper.children()
        process.kill()
