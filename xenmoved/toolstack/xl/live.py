"""A running domain becomes a stream while it runs: `xl migrate`, to which we are the receiver.

`xl` copies the memory, then what the domain wrote meanwhile, at most five times; then it suspends
the domain, sends the rest, and asks for our word that all has arrived. Given it, `xl` renames the
domain to `NAME--migratedaway`, and from then on waits for the decision: it destroys the domain, or
gives it back its name and resumes it. When our end of its pipes is closed before that word, it
resumes the domain by itself; after it, it leaves the domain suspended, for no `xl` before Xen 4.20
to resume (tools/xl/xl_migrate.c). So a small process holds these pipes: see `holder`.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from storage.contracts import Backing
from xenmoved.tasks import at_most, within
from xenmoved.toolstack.durable import remove_files
from xenmoved.toolstack.interface import STALL, DomainState, DomainStatus, ToolstackError, named
from xenmoved.toolstack.lookup import Lookup
from xenmoved.toolstack.pipes import ReadEnd, readable
from xenmoved.toolstack.xl import holder as xl_holder
from xenmoved.toolstack.xl.outgoing import XlOutgoing
from xenmoved.toolstack.xl.savefile import ImageFollower

MIGRATED_AWAY: Final = "--migratedaway"

_HOLDER_TIMEOUT: Final = 120.0
_GO_TIMEOUT: Final = 60.0
_EXIT_GRACE: Final = 30.0
_POLL: Final = 0.02
_SLOW_PAUSE: Final = 0.5
_QUICK_PAUSE: Final = 0.05
_SENT_ONCE: Final = 0.9
"""Share of the memory that an image has at least: some pages are Xen's own and are not sent."""


class HolderConnection:
    """A connection to a holder. Close it in the end."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    @classmethod
    def open(cls, path: Path) -> HolderConnection | None:
        """Connect, None when no holder is there."""
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        folder = -1
        try:
            folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            connected.connect(f"/proc/self/fd/{folder}/{path.name}")  # which is never too long
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            connected.close()
            return None
        except BaseException:
            connected.close()
            raise
        finally:
            if folder >= 0:
                os.close(folder)
        return cls(connected)

    async def greeting(self) -> tuple[str, ReadEnd | None]:
        """Return the holder's state and the stream from `xl`; "" and None when it has ended."""
        await self._await_answer()
        try:
            state, descriptors, _, _ = socket.recv_fds(self._socket, xl_holder.PACKET, 1)
        except ConnectionError:
            return "", None
        return state.decode(), ReadEnd(descriptors[0]) if descriptors else None

    async def tell(self, command: str) -> str:
        """Give a command and return the state after it, "" when the holder has ended."""
        try:
            self._socket.send(command.encode())
            await self._await_answer()
            return self._socket.recv(xl_holder.PACKET).decode()
        except ConnectionError:
            return ""

    async def _await_answer(self) -> None:
        text = (
            "do not kill the process that holds the pipes of `xl migrate` (xl/holder.py), it would "
            "strand the domain, but find out what stops it: it did not answer"
        )
        async with at_most(_HOLDER_TIMEOUT, text, ToolstackError):
            await readable(self._socket.fileno())

    def close(self) -> None:
        """End the connection. Idempotent."""
        self._socket.close()


class XlLive(XlOutgoing):
    """`OutgoingImage` of `xl`, with `xl migrate`."""

    verb = "migrate"
    stopped = (DomainState.SUSPENDED,)  # not paused by somebody, who may unpause it

    def __init__(self, lookup: Lookup, migration: str, name: str, spool: Path) -> None:
        super().__init__(lookup, migration, name, spool)
        self._away = name + MIGRATED_AWAY
        self._socket = spool.absolute() / f"{migration}.holder"
        self._holder: HolderConnection | None = None
        self._memory = 0
        self._streamed = 0
        self._copied = asyncio.Event()

    @classmethod
    def was_begun(cls, migration: str, spool: Path) -> bool:
        """Whether a migration was begun in this way, maybe by an earlier process."""
        return (spool / f"{migration}.{cls.verb}.log").exists()

    async def start(self, disks: Mapping[str, Backing]) -> None:
        """Begin to copy the memory of the domain, which runs on."""
        domains = await self._lookup.all()
        domain = self._require_running(domains)
        if (obstacle := stale_copy(self._name, domains)) is not None:
            raise ToolstackError(obstacle)
        self._memory = domain.memory
        script = [sys.executable, "-I", "-S", xl_holder.__file__, str(self._socket)]
        self._process = self._lookup.commands.spawn(
            "migrate",
            "-s",
            "",
            self._name,
            f"exec {shlex.join(script)}",
            migration=self._migration,
            log=self._log,
        )
        await self._take_stream()

    async def _take_stream(self) -> None:
        """Connect to the holder, which `xl` is starting, and have it begin."""
        assert self._process is not None
        deadline = time.monotonic() + _HOLDER_TIMEOUT
        while (holder := HolderConnection.open(self._socket)) is None:
            if self._process.status() is not None:
                raise self._process.error(f"The migration of domain {self._name} did not begin.")
            if time.monotonic() > deadline:
                raise ToolstackError(
                    f"`xl migrate` of domain {self._name} (process {self._process.pid}) did not "
                    f"start what holds its pipes within {_HOLDER_TIMEOUT:g} s."
                )
            await asyncio.sleep(_POLL)
        self._holder = holder
        _, self._pipe = await holder.greeting()
        if self._pipe is None or await holder.tell(xl_holder.START) != xl_holder.STREAMING:
            await self._process.wait(_EXIT_GRACE)
            raise self._process.error(f"The migration of domain {self._name} did not begin.")
        self._pipe.enlarge()

    async def _wait_a_little(self) -> None:
        """Wait until it is worth while to look at the domain again.

        Every look is a process, and it is not suspended before its memory was sent once.
        """
        if self._copied.is_set():
            await asyncio.sleep(_QUICK_PAUSE)
            return
        await within(self._copied, _SLOW_PAUSE)

    @property
    def _may_be_suspending(self) -> bool:
        """Whether `xl` may be waiting for the guest: not before it has sent its memory once."""
        return self._copied.is_set() and not self._stands

    async def stream(self, patience: float = STALL) -> AsyncIterator[bytes]:
        """Yield the image in pieces of at most 512 KiB, to its end."""
        process, _ = self._started()
        follower = ImageFollower(self._name)
        while not follower.complete:
            if not (piece := await self._next_piece(patience)):
                await process.wait(_EXIT_GRACE)
                raise process.error(f"The image of domain {self._name} is incomplete.")
            follower.feed(piece)
            self._streamed += len(piece)
            if self._streamed >= self._memory * _SENT_ONCE:
                self._copied.set()
            yield piece
        await self._take_over()

    async def _take_over(self) -> None:
        """Have `xl` leave the domain to us: from here on it stays suspended, whoever ends."""
        process, pipe = self._started()
        assert self._holder is not None
        word = b""
        if await self._holder.tell(xl_holder.HAVE_ALL) == xl_holder.KEPT:
            text = f"`xl migrate` (process {process.pid}) did not hand over domain {self._name}"
            async with at_most(_GO_TIMEOUT, text, ToolstackError):
                word = await pipe.read_exactly(len(xl_holder.GO))
        if word != xl_holder.GO:
            await process.wait(_EXIT_GRACE)
            raise process.error(f"It did not hand over domain {self._name}.")
        self._require_stopped(await self._find())

    async def _find(self) -> DomainStatus | None:
        """Find the domain by the name that it has meanwhile, or its own."""
        domains = {domain.name: domain for domain in await self._lookup.all()}
        return domains.get(self._away) or domains.get(self._name)

    async def _take_back(self) -> None:
        """Have `xl` resume the domain, or see an end and do so by itself."""
        self._let_go()
        await self._decide(xl_holder.BACK)

    async def _give_away(self) -> None:
        """Have `xl` destroy the domain."""
        await self._decide(xl_holder.DONE)

    async def _decide(self, decision: str) -> None:
        """Tell the holder, if there is one: it outlives the process that began the migration."""
        if (holder := HolderConnection.open(self._socket)) is None:
            return
        try:
            _, pipe = await holder.greeting()
            if pipe is not None:
                pipe.close()
            await holder.tell(decision)
        finally:
            holder.close()

    def _let_go(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        if self._holder is not None:
            self._holder.close()

    async def _clean_up(self) -> None:
        self._let_go()
        await remove_files(self._socket)
        await super()._clean_up()


def stale_copy(name: str, domains: Sequence[DomainStatus]) -> str | None:
    """Say what to do about the copy that a broken migration left, None when it is not there."""
    away = name + MIGRATED_AWAY
    if named(away, domains) is None:
        return None
    return (
        f"there is a domain {away} on this host, left suspended by a migration of {name} that "
        f"broke off. Make sure that {name} is where it belongs, then run `xl destroy {away}`."
    )
