"""Running commands and finding the processes of a migration."""

import asyncio
import os
import signal
import sys
import time

import pytest

from xenmoved.files import write_file
from xenmoved.toolstack import commands, pipes
from xenmoved.toolstack.commands import (
    Commands,
    find_tagged_processes,
    running_command,
    working_on,
)
from xenmoved.toolstack.durable import Ledger, check_migration, in_thread
from xenmoved.toolstack.interface import MIGRATION_VARIABLE, ToolstackError

pytestmark = pytest.mark.long

SHELL = Commands(("/bin/sh", "-c"))


async def gone(pid):
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        await asyncio.sleep(0.01)
    return False


async def test_output_environment_and_status(monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv(MIGRATION_VARIABLE, "other")
    text = f'echo "$LC_ALL ${MIGRATION_VARIABLE}"; echo oops >&2; exit 3'
    result = await SHELL.run(text, check=False)
    assert (result.status, result.stdout, result.stderr) == (3, "C \n", "oops\n")
    assert (await SHELL.run(text, check=False, migration="m1")).stdout == "C m1\n"


async def test_a_failure_says_everything():
    with pytest.raises(ToolstackError) as caught:
        await SHELL.run("for i in 1 2 3 4 5 6 7 8; do echo line $i >&2; done; exit 7", advice="Do.")
    text = str(caught.value)
    assert "/bin/sh -c" in text and "status 7" in text and text.endswith("line 8. Do.")
    assert "line 2" not in text.partition("status")[2]


async def test_a_command_that_is_not_there():
    with pytest.raises(ToolstackError, match=r"cannot start"):
        await Commands(("/nonexistent/xl",)).run("list")
    with pytest.raises(ToolstackError, match=r"cannot start"):
        Commands(("/nonexistent/xl",)).spawn("save", migration="m", log=commands.Path("/nope/x"))
    with pytest.raises(ValueError):
        Commands(())


async def test_timeout_kills_all_that_it_started(tmp_path):
    pid = tmp_path / "pid"
    with pytest.raises(ToolstackError, match=r"within 0\.3 s"):
        await SHELL.run(f"sleep 60 & echo $! > {pid}; wait", timeout=0.3)
    assert await gone(int(pid.read_text()))


async def test_cancelling_kills_it(tmp_path):
    pid = tmp_path / "pid"
    task = asyncio.ensure_future(SHELL.run(f"echo $$ > {pid}; exec sleep 60"))
    for _ in range(500):
        if pid.exists() and pid.read_text():
            break
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await gone(int(pid.read_text()))


async def test_something_left_behind_does_not_hold_the_answer_up(monkeypatch):
    monkeypatch.setattr(commands, "_DRAIN", 0.2)
    start = time.monotonic()
    assert (await SHELL.run("sleep 5 & echo done")).stdout == "done\n"
    assert time.monotonic() - start < 3


async def test_output_is_bounded(monkeypatch):
    monkeypatch.setattr(commands, "OUTPUT_LIMIT", 100_000)
    with pytest.raises(ToolstackError, match="more than 100000 bytes"):
        await SHELL.run("yes")
    result = await SHELL.run("yes noise | head -c 1000000 >&2; echo last >&2")
    assert len(result.stderr) <= 64 << 10
    assert result.stderr.endswith("last\n")


async def test_a_spawned_process_is_on_its_own(tmp_path):
    log = tmp_path / "log"
    process = SHELL.spawn(
        "echo hello >&2; kill -PIPE $$; sleep 0.1; exit 4", migration="m", log=log
    )
    assert os.getsid(process.pid) == process.pid
    assert await process.wait(0.0) is None
    assert await process.wait(10) == 4  # the signal was ignored
    assert "hello" in str(process.error("Look."))
    process.kill()
    sleeping = SHELL.spawn("exec sleep 60", migration="m", log=log)
    assert "still runs" in str(sleeping.error())
    sleeping.kill()
    assert await sleeping.wait(10) == -signal.SIGKILL
    assert "SIGKILL" in str(sleeping.error())


async def test_tagged_processes(tmp_path):
    code = "import time; print(1, flush=True); time.sleep(60)"
    python = Commands((sys.executable, "-S", "-c", code))
    log = tmp_path / "log"
    read, write = os.pipe()
    theirs, ours = os.pipe()
    tag = f"tag-{os.getpid()}"
    receiver = python.spawn("migrate-receive", migration=tag, log=log, stdin=theirs, stdout=write)
    null = os.open("/dev/null", os.O_RDONLY)
    monitor = python.spawn("migrate-receive", migration=tag, log=log, stdin=null, stdout=write)
    other = python.spawn("migrate-receive", migration=tag + "x", log=log, stdout=write)
    try:
        for _ in range(3):
            await asyncio.to_thread(os.read, read, 2)
        found = await find_tagged_processes(tag)
        assert {p.pid for p in found} == {receiver.pid, monitor.pid}
        assert [p.pid for p in running_command(found, "migrate-receive")] == [receiver.pid]
        assert running_command(found, "save") == []
        assert [p.pid for p in await working_on(tag, ("migrate-receive",), None)] == [receiver.pid]
        alone = await working_on("no-such-tag", ("save",), other)
        assert [p.pid for p in alone] == [other.pid]
    finally:
        for process in (receiver, monitor, other):
            process.kill()
            await process.wait(10)
        for descriptor in (read, write, theirs, ours, null):
            os.close(descriptor)
    assert await find_tagged_processes(tag) == []
    assert await working_on(tag, ("migrate-receive",), receiver) == []


async def test_pipes():
    read, write = pipes.enlarged_pipe()
    with pipes.ReadEnd(read) as reader, pipes.WriteEnd(write) as writer:
        data = os.urandom(3 << 20)

        async def send():
            await writer.write(data)
            writer.close()

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            received = await reader.read_exactly(len(data))
            assert len(await reader.read_exactly(5)) == 0
        assert received == data
        assert writer.closed


async def test_closing_wakes_whoever_waits():
    read, write = os.pipe()
    with pipes.ReadEnd(read) as reader, pipes.WriteEnd(write) as writer:
        waiting = asyncio.ensure_future(reader.read())
        filling = asyncio.ensure_future(writer.write(bytes(1 << 20)))
        await asyncio.sleep(0.05)
        assert len(await asyncio.wait_for(waiting, 1)) > 0
        waiting = asyncio.ensure_future(asyncio.sleep(0))
        await asyncio.sleep(0.05)
        writer.close()
        with pytest.raises(pipes.PipeClosed):
            await filling
        while await reader.read():
            pass
    for end in (reader, writer):
        with pytest.raises(pipes.PipeClosed):
            await (end.read() if end is reader else end.write(b"x"))


async def test_a_reader_that_is_gone():
    read, write = os.pipe()
    os.close(read)
    with pipes.WriteEnd(write) as writer, pytest.raises(pipes.PipeClosed):
        await writer.write(b"x")


async def test_ledger(tmp_path):
    ledger = Ledger(tmp_path / "m.commit")
    assert ledger.read() == ("", True)
    await ledger.write("committing")
    assert ledger.read() == ("committing", True)
    write_file(ledger.path, "committing some-other-boot\n")
    assert ledger.read() == ("committing", False)


async def test_a_cancellation_waits_for_the_thread():
    done = []
    task = asyncio.ensure_future(in_thread(lambda: (time.sleep(0.2), done.append(1))))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [1]


@pytest.mark.parametrize("bad", ["", "../x", "a/b", ".x", "-x", "x" * 129])
def test_ids(bad):
    assert check_migration("0b5aa6ff-7d87.x_1") == "0b5aa6ff-7d87.x_1"
    with pytest.raises(ToolstackError):
        check_migration(bad)
