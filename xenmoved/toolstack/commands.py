"""Running Xen commands.

Short commands run to their end under a timeout with bounded output (`Commands.run`). The processes
that carry a migration (save, receive, restore) are started with `Commands.spawn`. They must
outlive this daemon: killing `xl save` half way leaves a suspended guest that an older Xen cannot
resume. So they get a session of their own, a log file rather than a pipe for stderr, and ignore
SIGPIPE: `xl` then sees a closed pipe as a failed write and resumes the guest, where the signal
would have killed it first (tools/xl/xl_saverestore.c installs no handler).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xenmoved.tasks import TookTooLong, all_done, at_most, result_within
from xenmoved.toolstack.interface import MIGRATION_VARIABLE, ToolstackError
from xenmoved.toolstack.pipes import ReadEnd, readable

OUTPUT_LIMIT: Final = 16 << 20
TAIL_LIMIT: Final = 64 << 10
MESSAGE_LINES: Final = 6

_POLL: Final = 0.02
_DRAIN: Final = 2.0
_REAP: Final = 5.0

# Ignored signals stay ignored across exec, whatever the event loop does to the others in a child.
_IGNORE_PIPE: Final = ("/bin/sh", "-c", 'trap "" PIPE; exec "$@"', "xenmoved")


def last_lines(text: str, lines: int = MESSAGE_LINES) -> str:
    """Put the last non-empty lines of an output on one line, for an error message."""
    kept = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return " | ".join(kept[-lines:])[-2000:]


def printable(argv: Sequence[str]) -> str:
    """Write a command as an operator could type it."""
    return shlex.join(argv)


def describe_exit(status: int) -> str:
    """Put an exit status as subprocess reports it into words."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def command_error(argv: Sequence[str], status: int, stderr: str, advice: str) -> ToolstackError:
    """Make the error of a command that failed: what ran, how it ended, what it said, what to do."""
    said = last_lines(stderr)
    text = f"`{printable(argv)}` {describe_exit(status)}"
    text += f": {said}" if said else " and said nothing on stderr"
    return ToolstackError(f"{text}. {advice}" if advice else f"{text}.")


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished command returned. `status` is negative for a signal."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    def error(self, advice: str = "") -> ToolstackError:
        """Make the error that describes this failure."""
        return command_error(self.argv, self.status, self.stderr, advice)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and what it started, which share a session of their own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


async def wait_exit(process: subprocess.Popen[bytes], timeout: float | None = None) -> int | None:
    """Exit status, or None when the process still runs after `timeout` seconds.

    Not by the event loop's own means, which kill the process when the loop is closed.
    """
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:  # reaped already, or a kernel before 5.3
        descriptor = -1
    try:
        await result_within(_ended(process, descriptor), timeout)
        return process.poll()
    finally:
        if descriptor >= 0:
            os.close(descriptor)


async def _ended(process: subprocess.Popen[bytes], descriptor: int) -> None:
    """Wait for the end of a process, by its pidfd if there is one."""
    while process.poll() is None:
        if descriptor < 0:
            await asyncio.sleep(_POLL)
        else:
            await readable(descriptor)


class Process:
    """A started process of a migration. Dropping the object does not end the process."""

    def __init__(self, process: subprocess.Popen[bytes], argv: tuple[str, ...], log: Path) -> None:
        self._process = process
        self._log = log
        self.argv = argv

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def status(self) -> int | None:
        """Exit status, None while it runs."""
        return self._process.poll()

    async def wait(self, timeout: float) -> int | None:
        """Exit status, or None when it still runs after `timeout` seconds."""
        return await wait_exit(self._process, timeout)

    def kill(self) -> None:
        """Kill it and what it started. No error when it is gone already."""
        if self._process.poll() is None:
            _kill(self._process)

    def error(self, advice: str = "") -> ToolstackError:
        """Make the error of an unexpected end of this process."""
        status = self._process.poll()
        said = read_tail(self._log)
        if status is not None:
            return command_error(self.argv, status, said, advice)
        text = f"`{printable(self.argv)}` (process {self.pid}) closed its output but still runs"
        text += f": {last_lines(said)}" if said.strip() else ""
        return ToolstackError(f"{text}. {advice}" if advice else f"{text}.")


def read_tail(path: Path, limit: int = TAIL_LIMIT) -> str:
    """Read the last `limit` bytes of a text file, "" when it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit))
            return file.read(limit).decode("utf-8", "replace")
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class TaggedProcess:
    """A process that carries a migration's tag in its environment.

    `stdin` is what its descriptor 0 names, "" when unknown.
    """

    pid: int
    argv: tuple[str, ...]
    stdin: str


def _scan(migration: str, proc: Path) -> list[TaggedProcess]:
    wanted = f"{MIGRATION_VARIABLE}={migration}".encode()
    found: list[TaggedProcess] = []
    own = os.getpid()
    for entry in proc.iterdir():
        if not entry.name.isdigit() or int(entry.name) == own:
            continue
        # A process may end between any two reads here, and then is not one of those looked for.
        # Zombies have an empty environment.
        with contextlib.suppress(OSError):
            if wanted not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            raw = (entry / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            stdin = ""
            with contextlib.suppress(OSError):
                stdin = str((entry / "fd" / "0").readlink())
            argv = tuple(os.fsdecode(part) for part in raw)
            found.append(TaggedProcess(int(entry.name), argv, stdin))
    return found


async def find_tagged_processes(migration: str, proc: Path = Path("/proc")) -> list[TaggedProcess]:
    """Every process on this host that carries the migration's tag, but this one."""
    return await asyncio.to_thread(_scan, migration, proc)


def running_command(processes: Sequence[TaggedProcess], command: str) -> list[TaggedProcess]:
    """Those that are executing the toolstack's `command` (such as "save"), not their offspring.

    A toolstack leaves processes behind that inherit the tag and live as long as the domain: device
    models, and the monitor that `xl` forks when it has built a domain, which keeps its command
    line but has stdin moved to /dev/null (tools/xl/xl_utils.c, do_daemonize). That of a command
    itself is always a pipe (`Commands.spawn`).
    """
    return [p for p in processes if command in p.argv and p.stdin != "/dev/null"]


async def working_on(
    migration: str, commands: Sequence[str], own: Process | None
) -> list[TaggedProcess]:
    """Find what is executing one of `commands` for a migration, `own` among it.

    One's own child counts while it runs, even in the moment when it has no environment yet because
    it is being executed; and it is reaped here when it has ended.
    """
    running = own if own is not None and own.status() is None else None
    tagged = await find_tagged_processes(migration)
    found = [process for command in commands for process in running_command(tagged, command)]
    if running is not None and running.status() is None:
        known = any(process.pid == running.pid for process in found)
        found += [] if known else [TaggedProcess(running.pid, running.argv, "")]
    return found


class _Collected:
    """What a short command puts out, within bounds: the start of stdout, the end of stderr."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.out = bytearray()
        self.err = bytearray()
        self.overflow = False

    async def _read_stdout(self, stdout: ReadEnd) -> None:
        while chunk := await stdout.read(1 << 16):
            self.out += chunk
            if len(self.out) > OUTPUT_LIMIT:
                self.overflow = True
                _kill(self._process)
                return

    async def _read_stderr(self, stderr: ReadEnd) -> None:
        while chunk := await stderr.read(1 << 16):
            self.err += chunk
            del self.err[:-TAIL_LIMIT]

    async def collect(self, stdout: ReadEnd, stderr: ReadEnd) -> None:
        """Read until the command has ended and its output with it."""
        async with asyncio.TaskGroup() as group:
            readers = (
                group.create_task(self._read_stdout(stdout)),
                group.create_task(self._read_stderr(stderr)),
            )
            await wait_exit(self._process)
            # Something that the command left behind may hold its output open for ever.
            await all_done(readers, _DRAIN)
            for reader in readers:
                reader.cancel()


class Commands:
    """Runs one toolstack's commands.

    `prefix` is the command line up to the toolstack's own command word: ("/usr/sbin/xl",).
    """

    def __init__(self, prefix: Sequence[str]) -> None:
        if not prefix:
            raise ValueError("the toolstack's command line is empty")
        self.prefix = tuple(prefix)

    def _environment(self, migration: str | None) -> dict[str, str]:
        environment = {**os.environ, "LC_ALL": "C"}
        environment.pop(MIGRATION_VARIABLE, None)
        if migration is not None:
            environment[MIGRATION_VARIABLE] = migration
        return environment

    async def run(
        self,
        *arguments: str,
        timeout: float = 60.0,
        check: bool = True,
        advice: str = "",
        migration: str | None = None,
    ) -> Result:
        """Run a command to its end. Killed when it takes over `timeout` seconds or is cancelled.

        Raises ToolstackError when it cannot be started, exceeds time or output, or, with `check`,
        when its status is not 0; `advice` ends that message.
        """
        argv = (*self.prefix, *arguments)
        (out_read, out_write), (err_read, err_write) = os.pipe(), os.pipe()
        with ReadEnd(out_read) as stdout, ReadEnd(err_read) as stderr:
            try:
                process = subprocess.Popen(  # noqa: ASYNC220 - forking takes 2 ms, and is ours
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=out_write,
                    stderr=err_write,
                    env=self._environment(migration),
                    start_new_session=True,
                )
            except OSError as error:
                raise _cannot_start(argv, error) from error
            finally:
                os.close(out_write)
                os.close(err_write)
            collected = _Collected(process)
            try:
                async with at_most(timeout, f"`{printable(argv)}` did not finish"):
                    await collected.collect(stdout, stderr)
            except TookTooLong as error:
                said = last_lines(collected.err.decode("utf-8", "replace"))
                raise ToolstackError(
                    f"{error} and was killed{': ' + said if said else ''}. {advice}".rstrip()
                ) from error
            finally:
                if process.poll() is None:
                    _kill(process)
                    await wait_exit(process, _REAP)
        if collected.overflow:
            raise ToolstackError(
                f"`{printable(argv)}` gave more than {OUTPUT_LIMIT} bytes of output."
            )
        result = Result(
            argv,
            process.returncode if process.returncode is not None else -signal.SIGKILL,
            collected.out.decode("utf-8", "replace"),
            collected.err.decode("utf-8", "replace"),
        )
        if check and result.status != 0:
            raise result.error(advice)
        return result

    def spawn(
        self,
        *arguments: str,
        migration: str,
        log: Path,
        stdin: int | None = None,
        stdout: int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
    ) -> Process:
        """Start a process of a migration, tagged with it; stderr is appended to `log`.

        `stdin` and `stdout` are descriptors; without `stdin` it reads the end of a file, from a
        pipe, by which `running_command` knows it. Raises ToolstackError when it cannot be started.
        """
        argv = (*self.prefix, *arguments)
        ended, write = os.pipe()
        os.close(write)
        try:
            with log.open("ab") as stderr:
                process = subprocess.Popen(
                    (*_IGNORE_PIPE, *argv),
                    stdin=ended if stdin is None else stdin,
                    stdout=stdout,
                    stderr=stderr,
                    pass_fds=tuple(pass_fds),
                    env=self._environment(migration),
                    start_new_session=True,
                )
        except OSError as error:
            raise _cannot_start(argv, error) from error
        finally:
            os.close(ended)
        return Process(process, argv, log)


def _cannot_start(argv: Sequence[str], error: OSError) -> ToolstackError:
    return ToolstackError(
        f"cannot start `{printable(argv)}`: {error.strerror or error}. "
        "Is the toolstack installed, and its command set rightly in the configuration?"
    )
