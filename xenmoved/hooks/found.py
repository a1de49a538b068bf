"""Which programs of a folder are hooks, in which order, and why others are not run.

Names are those of run-parts(8), and their order that of their bytes. Hooks run as root: what
somebody else could change, or have lead elsewhere, is not run.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xenmoved.hooks.events import HookEvent
from xenmoved.logs import printable

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
_MOST_LINKS: Final = 40


@dataclass(frozen=True, slots=True)
class Hook:
    """A program that is run. It may have gone when it is to be."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class SkippedHook:
    """What is in the folder and not run. With `unsafe`, root had better look at once."""

    name: str
    why: str
    hint: str
    unsafe: bool = False


@dataclass(frozen=True, slots=True)
class FoundHooks:
    """What a folder has, in the order in which it is run."""

    hooks: tuple[Hook, ...] = ()
    skipped: tuple[SkippedHook, ...] = ()


def find(hooks_folder: Path, event: HookEvent) -> FoundHooks:
    """Look what is to be run at an event. Raises OSError for a folder that cannot be read."""
    folder = hooks_folder / event.folder
    try:
        names = sorted(os.listdir(folder), key=os.fsencode)  # noqa: PTH208 - as bytes sort
    except FileNotFoundError:
        return FoundHooks()
    hooks: list[Hook] = []
    skipped: list[SkippedHook] = []
    for name in names:
        path = folder / name
        if (why := _skipped(name, path)) is None:
            hooks.append(Hook(name, path))
        else:
            skipped.append(why)
    return FoundHooks(tuple(hooks), tuple(skipped))


def any_there(hooks_folder: Path) -> bool:
    """Whether there is anything at all that may be a hook, now or later in a job."""
    try:
        return any((hooks_folder / event.folder).is_dir() for event in HookEvent)
    except OSError:
        return True  # told when they are to be run


def _skipped(name: str, path: Path) -> SkippedHook | None:
    if not _NAME.fullmatch(name):
        why = "its name has other characters than letters, digits, '-' and '_'"
        return SkippedHook(name, why, "rename it if it is to be run, or move it elsewhere")
    try:
        found = _unsafe(path)
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None  # that it is gone is told when it is to be run
    except OSError as error:
        return SkippedHook(name, f"it cannot be looked at: {error.strerror}", "see ls -l", True)
    if found is not None:
        return SkippedHook(name, *found, unsafe=True)
    if stat.S_ISREG(mode) and mode & 0o111:
        return None
    hint = "chmod +x it if it is to be run, else move it elsewhere"
    return SkippedHook(name, "it is no executable file", hint)


def _unsafe(path: Path) -> tuple[str, str] | None:
    """Say who else than root could have something else run in its place, and what to do.

    Raises OSError.
    """
    trusted = {0, os.geteuid()}
    for place, status in _steps(path):
        step = printable(str(place))  # others may have named what is on the way
        if status.st_uid not in trusted:
            why = f"{step} belongs to the user {status.st_uid}, and not to root"
            return why, f"look at what is in it, then: chown -h root {step}"
        is_link, is_folder = stat.S_ISLNK(status.st_mode), stat.S_ISDIR(status.st_mode)
        sticky = is_folder and bool(status.st_mode & stat.S_ISVTX)
        if status.st_mode & 0o022 and not (is_link or sticky):
            why = f"{step} can be written by others than root"
            return why, f"look at what is in it, then: chmod go-w {step}"
    return None


def _steps(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield every folder, link and file by which the kernel comes to a path. Raises OSError."""
    here, links = Path("/"), 0
    yield here, here.lstat()
    waiting = list(reversed(path.absolute().parts[1:]))
    while waiting:
        part = waiting.pop()
        if part == "..":
            here = here.parent
            continue
        step = here / part
        status = step.lstat()
        yield step, status
        if not stat.S_ISLNK(status.st_mode):
            here = step
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = step.readlink()
        if target.is_absolute():
            here = Path("/")
        waiting += reversed([part for part in target.parts if part != "/"])
