"""Running the tools of storage: `lvs`, `dmsetup`, `zfs` and the like.

Nothing else in this package runs commands, but for `storage.pipes`. No shell is involved, the tools
speak English, and neither the time that they take nor the memory for what they say is unbounded.
"""

from __future__ import annotations

import os
import selectors
import shlex
import shutil
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Final

from storage.errors import VolumeError, reason

TIMEOUT: Final = 120.0
"""Seconds that a tool may take. Busy hosts with many volumes do need tens of them."""
OUTPUT_LIMIT: Final = 64 << 20

_PACKAGES: Final = {  # of Debian, by the beginnings of the tools' names
    "lv": "lvm2",
    "vg": "lvm2",
    "pv": "lvm2",
    "dmsetup": "dmsetup",
    "thin_": "thin-provisioning-tools",
    "zfs": "zfsutils-linux",
    "zpool": "zfsutils-linux",
    "qemu-": "qemu-utils",
}
_SAID_LIMIT: Final = 4000  # characters of a complaint that are shown, the last ones
_LINE_LIMIT: Final = 1 << 16
_PIECE: Final = 1 << 16
_LAST_WORDS: Final = 5.0  # seconds from asking a tool to end to killing it
_SYSTEM_FOLDERS: Final = "/usr/sbin:/sbin"


def run(command: Sequence[str], *, timeout: float = TIMEOUT, limit: int = OUTPUT_LIMIT) -> str:
    """Run a command to its end and return what it printed.

    `timeout` is in seconds, `limit` in bytes. Raises `VolumeError` when the command is not
    installed, fails, takes longer or prints more; it is ended then.
    """
    printed = bytearray()
    with closing(_pieces(command, timeout)) as pieces:
        for piece in pieces:
            printed += piece
            if len(printed) > limit:
                raise VolumeError(f"{shlex.join(command)} printed more than {limit} bytes")
    return printed.decode(errors="replace")


def lines(command: Sequence[str], *, timeout: float = TIMEOUT) -> Generator[str, None, None]:
    """Run a command and yield its lines as it prints them, without their ends.

    Closing the iterator ends the command. Raises as `run` does, and for a line of over 64 KiB: so
    what was yielded is complete only when the iterator has ended without an error.
    """
    rest = b""
    with closing(_pieces(command, timeout)) as pieces:
        for piece in pieces:
            *complete, rest = (rest + piece).split(b"\n")
            for line in complete:
                yield line.decode(errors="replace")
            if len(rest) > _LINE_LIMIT:
                raise VolumeError(f"{shlex.join(command)} printed a line that is too long")
    if rest:
        yield rest.decode(errors="replace")


def _pieces(command: Sequence[str], timeout: float) -> Generator[bytes, None, None]:
    """Yield what the command prints, then check how it ended."""
    deadline = time.monotonic() + timeout
    process = start(command)
    complaint = b""
    assert process.stdout is not None
    assert process.stderr is not None
    with process, selectors.DefaultSelector() as selector:
        try:
            for pipe in (process.stdout, process.stderr):
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(max(0, deadline - time.monotonic()))
                if time.monotonic() > deadline:
                    raise _too_long(command, timeout)
                for key, _ in ready:
                    piece = os.read(key.fd, _PIECE)
                    if not piece:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is process.stdout:
                        yield piece
                    else:
                        complaint = (complaint + piece)[-_SAID_LIMIT:]
            status = process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise _too_long(command, timeout) from None
        finally:
            end(process)
    if status != 0:
        raise failure(command, status, complaint)


def failure(command: Sequence[str], status: int, complaint: bytes) -> VolumeError:
    """Make the error of a tool that failed, with the end of what it said."""
    how = f"failed with status {status}" if status > 0 else f"was killed by signal {-status}"
    said = complaint[-_SAID_LIMIT:].decode(errors="replace").strip() or "it did not say why"
    return VolumeError(f"{shlex.join(command)} {how}: {said}")


def start(
    command: Sequence[str],
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    """Start a tool in the way of all here. Raises `VolumeError` when it cannot be run."""
    path = f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_FOLDERS}"
    try:
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, "PATH": path, "LC_ALL": "C"},
            bufsize=0,
        )
    except (FileNotFoundError, PermissionError) as error:
        tool = command[0]
        # A folder of PATH that may not be entered hides that the tool is in none.
        there = "/" in tool or shutil.which(tool, path=path) is not None
        if isinstance(error, PermissionError) and there:
            raise VolumeError(f"{tool} cannot be run: {reason(error)}") from error
        package = next((name for start, name in _PACKAGES.items() if tool.startswith(start)), tool)
        raise VolumeError(f"{tool} is not installed: install {package}") from None
    except OSError as error:
        raise VolumeError(f"{command[0]} cannot be run: {reason(error)}") from error


def end(process: subprocess.Popen[bytes]) -> None:
    """End a tool that still runs, and wait for it."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_LAST_WORDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _too_long(command: Sequence[str], timeout: float) -> VolumeError:
    return VolumeError(f"{shlex.join(command)} did not end within {timeout:g} s")
