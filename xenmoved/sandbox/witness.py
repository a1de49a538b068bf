"""What is known of a guest outside of every host: who executes, and how far any copy of it got.

One file a guest (by uuid) in a folder that all hosts of a sandbox share. It is flock'ed while a
copy executes and holds the highest sequence number that any copy reached, through a shared
mapping, so that it is exact even after kill -9. Every start consumes a sequence number, so two
copies that ran one after the other are told apart even if neither wrote anything.
"""

from __future__ import annotations

import fcntl
import marshal
import mmap
import os
import time


class Diverged(Exception):
    """The copy must not run: another one runs, or ran after this one was taken."""


class Witness:
    """The witness file of one guest."""

    def __init__(self, folder: str | os.PathLike[str], uuid: str) -> None:
        self._folder = os.fspath(folder)
        self._uuid = uuid
        self._descriptor = os.open(
            f"{self._folder}/{uuid}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
        )
        if os.fstat(self._descriptor).st_size < mmap.PAGESIZE:
            os.ftruncate(self._descriptor, mmap.PAGESIZE)
        # One aligned 8-byte store, so a reader never sees half of a number.
        self._cell = memoryview(mmap.mmap(self._descriptor, mmap.PAGESIZE)).cast("Q")

    @property
    def sequence(self) -> int:
        """Highest sequence number that any copy of the guest reached."""
        return self._cell[0]

    def advance(self, sequence: int) -> None:
        """Tell that the executing copy, which holds the lock, reached `sequence`."""
        self._cell[0] = sequence

    def enter(self, sequence: int) -> int:
        """Begin to execute with a memory that reached `sequence`; returns the next number.

        Raises Diverged, and records it for ever, when this copy must not run.
        """
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._diverged("running twice") from None
        if self.sequence > sequence:
            text = (
                "another copy of this guest ran after this one was taken "
                f"(it reached {self.sequence}, this one {sequence})"
            )
            self.leave()
            raise self._diverged(text)
        self.advance(sequence + 1)
        if os.path.exists(self._left):
            os.unlink(self._left)  # out of date from now on
        return sequence + 1

    @property
    def _left(self) -> str:
        return f"{self._folder}/{self._uuid}.left"

    def remember(self, left: dict[str, dict[int, tuple[int, int]]]) -> None:
        """Note what is on each disk, by offset: a sequence number and a checksum."""
        with open(f"{self._left}.new", "wb") as file:
            marshal.dump(left, file)
        os.replace(f"{self._left}.new", self._left)

    def recall(self) -> dict[str, dict[int, tuple[int, int]]]:
        """Return what was noted when the guest shut down, until it runs again."""
        try:
            with open(self._left, "rb") as file:
                left: dict[str, dict[int, tuple[int, int]]] = marshal.load(file)
        except FileNotFoundError:
            return {}
        return left

    def leave(self) -> None:
        """Cease to execute."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _diverged(self, text: str) -> Diverged:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
        line = f"{stamp} process {os.getpid()}: {text}\n".encode()
        path = f"{self._folder}/{self._uuid}.failures"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)
        return Diverged(text)


def failures(folder: str | os.PathLike[str], uuid: str | None = None) -> list[str]:
    """Tell what was ever recorded against one guest, or against any."""
    found = []
    for name in sorted(os.listdir(folder)):
        whose, _, kind = name.partition(".")
        if kind == "failures" and uuid in (None, whose):
            with open(f"{os.fspath(folder)}/{name}") as file:
                found += [f"{whose}: {line}" for line in file.read().splitlines()]
    return found
