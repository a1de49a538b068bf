"""Runs one hook by way of a keeper, with nothing in it that its host or a peer could add.

No shell is involved. The environment is this module's own, what is said of the guest comes on
standard input only, and what the hook says is read to its end but kept only up to a bound, so that
it neither waits for us nor fills our memory.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Final

from xenmoved.hooks import keeper
from xenmoved.hooks.events import HookEvent
from xenmoved.hooks.found import Hook
from xenmoved.logs import printable
from xenmoved.tasks import TookTooLong, all_done, at_most, wait_through
from xenmoved.toolstack.pipes import ReadEnd

log = logging.getLogger(__name__)

KEPT: Final = 2000
"""Bytes that are kept of what a hook says, of its output and its errors together."""
_SHOWN: Final = 3000
"""Characters that are shown of it: some bytes take four."""
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_GRACE: Final = 15.0
"""Seconds beyond the limit of a hook in which its keeper has killed it and said so."""
_DRAIN: Final = 2.0
_LONGEST_WORD: Final = 64
_MISSING: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


@dataclass(frozen=True, slots=True)
class HookRun:
    """How a hook ended. `said` is on one line, and nothing in it moves a cursor.

    `status` is that with which it ended by itself, None for one that did not. `failed` says in
    words how it ended if that was not with 0, "" else. `stuck`: something of it cannot be killed.
    """

    hook: Hook
    said: str
    status: int | None
    failed: str
    stuck: bool = False


async def run_hook(hook: Hook, event: HookEvent, told: bytes, limit: float) -> HookRun:
    """Run a hook; it and all that it started has ended when this returns, or is cancelled.

    `told` is what it reads, `limit` the seconds that it may take.
    """
    (said, said_end), (word, word_end), (alive, life) = os.pipe(), os.pipe(), os.pipe()
    # When `living` is closed, by this process or by its end, the keeper ends it all.
    with ReadEnd(said) as output, ReadEnd(word) as verdict, os.fdopen(life, "wb") as living:
        try:
            starting = asyncio.to_thread(
                _start, hook, event, told, limit, (said_end, word_end, alive)
            )
            process = await wait_through(starting)
        except OSError as error:
            return HookRun(hook, "", None, f"could not be started: {error.strerror}")
        finally:
            for descriptor in (said_end, word_end, alive):
                os.close(descriptor)
        said_so_far = _Said()
        reading = asyncio.create_task(said_so_far.read(output))
        words = b""
        try:
            async with at_most(limit + _GRACE, f"the keeper of {hook.name} said nothing"):
                words = await verdict.read_exactly(_LONGEST_WORD)
            await all_done([reading], _DRAIN)
        except TookTooLong as error:
            log.error("%s", error)
        finally:
            reading.cancel()
            living.close()
            await wait_through(asyncio.to_thread(_reap, process))
    return _result(hook, said_so_far.text, words.decode("ascii", "replace").split(), limit)


def _start(
    hook: Hook, event: HookEvent, told: bytes, limit: float, ends: tuple[int, int, int]
) -> subprocess.Popen[bytes]:
    """Start the keeper of a hook, and give it our ends of pipes. Raises OSError."""
    output, word, alive = ends
    # A file in memory: whoever never reads it keeps nobody waiting.
    with os.fdopen(os.memfd_create("xenmoved-hook"), "wb", buffering=0) as standard_input:
        standard_input.write(told)
        standard_input.seek(0)
        return subprocess.Popen(
            (
                *(sys.executable, "-I", "-S", keeper.__file__),
                *(f"{limit:g}", str(alive), str(word), str(hook.path)),
            ),
            stdin=standard_input,
            stdout=output,
            stderr=output,
            pass_fds=(alive, word),
            cwd="/",
            env={
                "PATH": _PATH,
                "LANG": "C.UTF-8",
                "HOME": "/",
                "XENMOVED_EVENT": event.value,
                "XENMOVED_HOOK": hook.name,
            },
            umask=0o022,
            start_new_session=True,
        )


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a keeper; one that does not end is killed."""
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class _Said:
    """The start of what a hook says."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._more = False

    async def read(self, output: ReadEnd) -> None:
        """Read to the end, keeping as much as is kept."""
        while piece := await output.read(1 << 16):
            room = KEPT - len(self._kept)
            self._kept += piece[:room]
            self._more |= len(piece) > room

    @property
    def text(self) -> str:
        """What it said, on one line."""
        text = self._kept.decode("utf-8", "replace").replace("\r", "\n")
        lines = [printable(line.strip()) for line in text.splitlines() if line.strip()]
        joined = " | ".join(lines)
        more = self._more or len(joined) > _SHOWN
        return f"{joined[:_SHOWN]} ... (it said more)" if more else joined


def _result(hook: Hook, said: str, words: list[str], limit: float) -> HookRun:
    stuck = "stuck" in words
    match words[:2]:
        case ["exit", status]:
            number = int(status)
            if number < 0:
                return HookRun(hook, said, None, f"was killed by {_signal(-number)}", stuck)
            return HookRun(hook, said, number, f"ended with {number}" if number else "", stuck)
        case ["late", *_]:
            failed = f"did not end within {limit:g} s, and was killed with all that it started"
            return HookRun(hook, said, None, failed, stuck)
        case ["gone", number]:
            why = os.strerror(int(number))
            failed = "is missing" if int(number) in _MISSING else f"could not be started: {why}"
            return HookRun(hook, said, None, failed, stuck)
    return HookRun(hook, said, None, "ended nobody knows how: its keeper was killed", stuck)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
