"""Tools of storage that take in or give out a stream: `zfs receive` and `zfs send`.

Methods block: they are for threads. One thread may read or write while another ends the tool. When
this process is killed its pipes close, which ends the tools.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from storage.commands import TIMEOUT, end, failure, start
from storage.errors import VolumeError

_PIPE_SIZE: Final = 1 << 20


class _Flow:
    """A running tool with one pipe to it."""

    def __init__(self, command: Sequence[str], *, writing: bool) -> None:
        self._command = command
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        self._lock = threading.Lock()
        try:
            self._process = start(
                command,
                stdin=subprocess.PIPE if writing else subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if writing else subprocess.PIPE,
                stderr=self._said.fileno(),
            )
        except BaseException:
            self._said.close()
            raise
        pipe = self._process.stdin if writing else self._process.stdout
        assert pipe is not None
        self._pipe = pipe
        with suppress(OSError):  # a user without privileges may have used up the allowance
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)

    def end(self) -> None:
        """End the tool if it still runs. Idempotent."""
        end(self._process)
        with self._lock:
            with suppress(OSError):
                self._pipe.close()
            self._said.close()

    def _check(self) -> None:
        """Wait for the end of the tool. Raises `VolumeError` unless it succeeded."""
        try:
            status = self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            end(self._process)
            raise VolumeError(
                f"{shlex.join(self._command)} did not end within {TIMEOUT:g} s"
            ) from None
        if status != 0:
            self._said.seek(0)
            raise failure(self._command, status, self._said.read())

    def _check_open(self) -> None:
        if self._pipe.closed:
            raise VolumeError(f"{shlex.join(self._command)} was ended")


class Outflow(_Flow):
    """A tool whose output is read."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start it. Raises `VolumeError`."""
        super().__init__(command, writing=False)

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer at the end and none after it.

        Raises `VolumeError` when the tool fails.
        """
        piece = bytearray()
        with self._lock:
            self._check_open()
            while len(piece) < size:
                more = os.read(self._pipe.fileno(), size - len(piece))
                if not more:
                    self._check()
                    break
                piece += more
        return bytes(piece)


class Inflow(_Flow):
    """A tool that is fed."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start it. Raises `VolumeError`."""
        super().__init__(command, writing=True)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Give it all of `data`. Raises `VolumeError`, as when it has ended."""
        view = memoryview(data)
        with self._lock:
            self._check_open()
            try:
                while view:
                    view = view[os.write(self._pipe.fileno(), view) :]
            except BrokenPipeError:
                self._check()
                raise VolumeError(
                    f"{shlex.join(self._command)} ended before its input did"
                ) from None

    def finish(self) -> None:
        """Close its input and wait until it has ended. Raises `VolumeError` when it failed."""
        with self._lock:
            self._check_open()
            self._pipe.close()
            self._check()


def end_others(is_meant: Callable[[list[str]], bool], patience: float = TIMEOUT) -> None:
    """End tools that an earlier process left running, by their command lines, and wait for them.

    They have no input any more, and end by themselves; but the kernel may take its time over it.
    Raises `VolumeError` after `patience` seconds.
    """
    deadline = time.monotonic() + patience
    while running := [pid for pid, words in _command_lines() if is_meant(words)]:
        if time.monotonic() > deadline:
            raise VolumeError(f"process {running[0]} of an earlier transfer does not end")
        for pid in running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        time.sleep(0.1)


def _command_lines() -> Iterator[tuple[int, list[str]]]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:  # it is gone
            continue
        yield int(process.name), [os.fsdecode(word) for word in words.split(b"\0")[:-1]]
