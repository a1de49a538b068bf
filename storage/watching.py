"""Whether anybody else opens a file or block device while it is copied, and may have written to it.

The kernel tells (inotify) of every opening and closing of the inode by a program, by whatever name.
It does not tell of backends that open a device within the kernel: `storage.usage` sees those.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from storage import usage
from storage.errors import VolumeInUse, VolumeWritten
from storage.syscalls import INOTIFY_CLOSE_WRITE, INOTIFY_OPEN, inotify_events, inotify_watch

_LEAVING_SECONDS: Final = 0.5
"""How long to wait for a program that has it open: one that is just started has all that its
starter has, for a moment."""


@dataclass(slots=True)
class Watch:
    """Watches what a descriptor has open, from construction to `close`.

    A `helper` is a process of ours that has it open for writing, too, from before that on. Where
    the kernel takes no more watches, only who has it open when it is looked at is seen.
    """

    descriptor: int
    name: str
    helper: int | None = None
    _inotify: int = -1
    _opened: bool = True
    """Whether somebody may have it open of whom it is not known what for."""

    def __post_init__(self) -> None:
        try:
            self._inotify = inotify_watch(self._path, INOTIFY_OPEN | INOTIFY_CLOSE_WRITE)
        except OSError:
            self._inotify = -1

    def require_alone(self) -> None:
        """See that nobody else has it open for writing, nor had it since this was asked before.

        Raises `VolumeInUse`, or `VolumeWritten` when it was open for writing and is not any more.
        Takes a few milliseconds, and a look at all processes if it was opened by anybody since.
        """
        happened = inotify_events(self._inotify) if self._inotify >= 0 else INOTIFY_OPEN
        if happened & INOTIFY_CLOSE_WRITE:
            raise self._written()
        who = usage.held(self._path)
        if who is None and (self._opened or happened):
            who = self._writer()
        if who is not None:
            raise VolumeInUse(f"volume {self.name} is in use, since it was to be copied: {who}")
        self._opened = False

    @contextmanager
    def helper_ending(self) -> Iterator[None]:
        """Expect that the helper closes it, within this context; nobody else may open it then.

        Raises what `require_alone` does.
        """
        self.require_alone()
        yield
        self.helper = None
        # Who opened it in these milliseconds may have written to it, and whose closing it was that
        # is told, nothing tells.
        if self._inotify >= 0 and inotify_events(self._inotify) & INOTIFY_OPEN:
            raise self._written()
        self._opened = True

    def _written(self) -> VolumeWritten:
        return VolumeWritten(
            f"volume {self.name} was open for writing in another program while it was copied"
        )

    def _writer(self) -> str | None:
        deadline = time.monotonic() + _LEAVING_SECONDS
        ours = {os.getpid(), self.helper or 0}
        while (writer := usage.writer(self._path, besides=ours)) is not None:
            if time.monotonic() > deadline:
                return f"open for writing in {writer}"
            time.sleep(0.05)
        return None

    def close(self) -> None:
        """Watch no more. Idempotent."""
        if self._inotify >= 0:
            os.close(self._inotify)
            self._inotify = -1

    @property
    def _path(self) -> str:
        return f"/proc/self/fd/{self.descriptor}"
