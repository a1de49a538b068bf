"""Tools that stream."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.errors import VolumeError
from storage.pipes import Inflow, Outflow, end_others

MIB = 1 << 20


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Inflow]:
    flow = Inflow(
        python(f"import sys; open({str(tmp_path / 'out')!r}, 'wb').write(sys.stdin.buffer.read())")
    )
    yield flow
    flow.end()


@contextmanager
def ending(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def reading(code: str) -> Outflow:
    return Outflow(python(code))


def test_all_that_a_tool_gives_is_read_in_whole_pieces() -> None:
    flow = reading(f"import sys; sys.stdout.buffer.write(bytes(range(256)) * {3 * MIB // 256 + 1})")
    pieces = []
    while piece := flow.read(MIB):
        pieces.append(piece)
    flow.end()
    assert [len(piece) for piece in pieces] == [MIB, MIB, MIB, 256]
    assert b"".join(pieces) == bytes(range(256)) * (3 * MIB // 256 + 1)


def test_a_tool_that_fails_says_why() -> None:
    flow = reading("import sys; print('some'); sys.exit('no such snapshot')")
    with pytest.raises(VolumeError, match="status 1: no such snapshot"):
        flow.read(MIB)
    flow.end()


def test_all_that_is_written_arrives(writer: Inflow, tmp_path: Path) -> None:
    data = os.urandom(3 * MIB)
    writer.write(data[:MIB])
    writer.write(memoryview(data)[MIB:])
    writer.finish()
    assert (tmp_path / "out").read_bytes() == data


def test_a_tool_that_ends_too_early_says_why() -> None:
    flow = Inflow(python("import sys; sys.exit('dataset is busy')"))
    with pytest.raises(VolumeError, match="dataset is busy"):
        for _ in range(100):
            flow.write(bytes(MIB))
    flow.end()
    flow = Inflow(python("import os; os.close(0)"))
    with pytest.raises(VolumeError, match="before its input did"):
        for _ in range(100):
            flow.write(bytes(MIB))
    flow.end()


def test_a_failure_at_the_end_is_told() -> None:
    flow = Inflow(python("import sys; sys.stdin.read(); sys.exit('incomplete stream')"))
    flow.write(b"x")
    with pytest.raises(VolumeError, match="incomplete stream"):
        flow.finish()
    flow.end()


def test_a_thread_that_waits_is_let_go_when_the_tool_is_ended() -> None:
    flow = reading("import time; time.sleep(1000)")
    failed: list[BaseException] = []

    def read() -> None:
        try:
            flow.read(MIB)
        except VolumeError as error:
            failed.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.2)
    flow.end()
    flow.end()
    thread.join(10)
    assert not thread.is_alive()
    assert "killed by signal 15" in str(failed[0])
    with pytest.raises(VolumeError, match="was ended"):
        flow.read(1)


def test_a_tool_that_is_not_installed_is_named() -> None:
    with pytest.raises(VolumeError, match="no-such-tool is not installed"):
        Outflow(["no-such-tool"])


def test_what_another_process_left_is_ended() -> None:
    mark = f"left-{os.getpid()}"
    command = python("import time; time.sleep(1000)")
    with ending(subprocess.Popen([*command, mark])) as left:
        reaper = threading.Thread(target=left.wait)
        reaper.start()
        end_others(lambda words: words[-1:] == [mark], 10)
        reaper.join(10)
        assert left.returncode == -15
        end_others(lambda words: words[-1:] == [mark], 0)


def test_what_does_not_end_is_told() -> None:
    mark = f"stays-{os.getpid()}"
    code = "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); signal.pause()"
    with ending(subprocess.Popen([*python(code), mark], stdout=subprocess.PIPE)) as left:
        assert left.stdout is not None
        left.stdout.read(1)
        with pytest.raises(VolumeError, match=f"process {left.pid} .* does not end"):
            end_others(lambda words: words[-1:] == [mark], 0.3)
