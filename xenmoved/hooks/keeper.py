"""Runs one hook and leaves nothing of it behind, whatever it does, and whoever is killed.

A script that imports nothing of the program, so that it starts at once:

    keeper.py SECONDS ALIVE TOLD PATH

runs PATH without arguments, with the standard input, output and environment that this process has.
What the hook starts is this process's to adopt (prctl(2), PR_SET_CHILD_SUBREAPER), so none of it
can be lost from sight by a session of its own or by its parent's end. All of it is killed when the
hook has ended, after so many SECONDS, and when the descriptor ALIVE comes to its end: then whoever
wanted it run is gone. Then one line is written to the descriptor TOLD:

    exit STATUS      it ended so, negative for a signal
    late             it was killed after SECONDS
    gone ERRNO       it could not be started
    ... stuck        behind either: something of it cannot be killed
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from pathlib import Path

_PDEATHSIG, _SUBREAPER = 1, 36  # linux/prctl.h
_PATIENCE = 5.0  # seconds until what was killed must have ended
_HURRY = 2.0
_CANNOT_START = 127


def main() -> None:
    """Run a hook to its end."""
    limit, alive, told, path = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    for descriptor in (alive, told):
        os.set_inheritable(descriptor, False)
    libc = ctypes.CDLL(None)
    libc.prctl(_SUBREAPER, 1, 0, 0, 0)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    why, failed = os.pipe()  # closed by the start of the hook
    hook = os.fork()
    if hook == 0:
        _become(libc, path, failed)
    os.close(failed)
    errno = os.read(why, 16)
    # Whoever reads what the hook says must see its end when nothing of it is left.
    _let_go()
    status = _wait(hook, alive, woken, time.monotonic() + limit)
    word = "late" if status is None else f"exit {status}"
    if errno:
        word = f"gone {errno.decode()}"
    stuck = "" if _kill_all() else " stuck"
    with contextlib.suppress(OSError):
        os.write(told, f"{word}{stuck}\n".encode())


def _become(libc: ctypes.CDLL, path: str, failed: int) -> None:
    """Become the hook. Does not return."""
    try:
        libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        os.execv(path, [path])
    except OSError as error:
        os.write(failed, str(error.errno).encode())
    finally:
        os._exit(_CANNOT_START)


def _let_go() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)


def _wait(hook: int, alive: int, woken: int, deadline: float) -> int | None:
    """Return the status with which the hook ended, None where nobody waits for it any more."""
    while True:
        left = deadline - time.monotonic()
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == hook:
                    return os.waitstatus_to_exitcode(ended[1])
        if left <= 0:
            return None
        ready, _, _ = select.select([alive, woken], [], [], left)
        if alive in ready:
            return None
        if woken in ready:
            os.read(woken, 4096)


def _kill_all() -> bool:
    """Kill everything below this process; return whether all of it has ended.

    What is killed leaves its children to this process, which finds them in the next turn. No time
    is lost between finding and killing one, as it may be about to fork and to end.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return True
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        if left < _PATIENCE - _HURRY:
            time.sleep(0.01)  # what is left hangs in the kernel
        for pid in children() or children_seen():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def children() -> list[int]:
    """Return the children of this process, nothing where the kernel does not list them."""
    with contextlib.suppress(OSError):
        listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
        return [int(pid) for pid in listed.split()]
    return []


def children_seen() -> list[int]:
    """Return the children of this process, by a look at all processes."""
    found, own = [], os.getpid()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # The name of the program is in parentheses, and may have any characters.
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                found += [int(entry.name)] if int(fields[1]) == own else []
    return found


if __name__ == "__main__":
    main()
