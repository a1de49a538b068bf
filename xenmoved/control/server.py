"""The daemon's end of the control socket."""

from __future__ import annotations

import asyncio
import grp
import logging
import os
import pwd
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from protocol.errors import ProtocolError
from protocol.frames import FrameDecoder, Kind
from xenmoved.control.api import Failure
from xenmoved.control.message_set import CONTROL
from xenmoved.problems import is_expected, problem, problems_of

log = logging.getLogger(__name__)

Answer = Callable[[object, bool], AsyncIterator[object]]
"""Yields what to answer to a request; the second is whether root asks, or the daemon's own user."""

_PEER_CREDENTIALS: Final = struct.Struct("3i")
_SO_PEERGROUPS: Final = 59  # asm-generic/socket.h
_GID: Final = struct.Struct("I")
_MAX_GROUPS: Final = 256
_READ_SIZE: Final = 64 * 1024
_MAX_CLIENTS: Final = 64


class ControlServer:
    """Listens on a Unix socket and hands requests to `answer`, which yields what to send back.

    Only root, the daemon's own user, and members of `group` get through.
    """

    def __init__(self, path: Path, group: str | None, answer: Answer) -> None:
        self._path = path
        self._group = group
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Raises OSError, also when another daemon listens there, or an unknown group."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        await _remove_stale(self._path)
        previous = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, self._path)
        finally:
            os.umask(previous)
        if self._group is not None:
            os.chown(self._path, -1, _group_id(self._group))
            self._path.chmod(0o660)

    async def stop(self) -> None:
        """Stop listening and end every client."""
        if self._server is not None:
            self._server.close()
            for client in list(self._clients):
                client.cancel()
            if self._clients:
                await asyncio.wait(self._clients)
            with suppress(FileNotFoundError):
                self._path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            if (refusal := self._refusal(writer)) is not None:
                writer.write(CONTROL.encode(refusal))
                await writer.drain()
                return
            await self._converse(reader, writer)
        except (ConnectionError, ProtocolError) as error:
            log.debug("control client: %s", error)
        except asyncio.CancelledError:
            log.debug("control client ended with the daemon")
        finally:
            self._clients.discard(task)
            writer.close()

    def _refusal(self, writer: asyncio.StreamWriter) -> Failure | None:
        if len(self._clients) > _MAX_CLIENTS:
            return Failure((problem("busy", "too many clients of the control socket"),))
        connection = writer.get_extra_info("socket")
        _, uid, gid = _credentials(connection)
        if _is_root(uid) or self._is_member(uid, {gid, *_groups(connection)}):
            return None
        log.warning("user %d was refused at the control socket", uid)
        hint = "run as root, or as a member of the group that control.group names"
        return Failure((problem("access-denied", "this user may not use xenmoved", hint),))

    def _is_member(self, uid: int, gids: set[int]) -> bool:
        if self._group is None:
            return False
        entry = grp.getgrnam(self._group)
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            return entry.gr_gid in gids
        return entry.gr_gid in gids or name in entry.gr_mem

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = FrameDecoder({Kind.MESSAGE})
        _, uid, _ = _credentials(writer.get_extra_info("socket"))
        while untrusted_data := await reader.read(_READ_SIZE):
            decoder.feed(untrusted_data)
            while (frame := decoder.next_frame()) is not None:
                request = CONTROL.decode(frame.untrusted_body)
                async for answer in self._answers(request, _is_root(uid)):
                    writer.write(CONTROL.encode(answer))
                    await writer.drain()

    async def _answers(self, request: object, by_root: bool) -> AsyncIterator[object]:
        try:
            async for answer in self._answer(request, by_root):
                yield answer
        except Exception as error:
            if not is_expected(error):
                log.exception("internal error")
            yield Failure(problems_of(error)[:512])


def _credentials(connection: socket.socket) -> tuple[int, int, int]:
    """Return pid, uid and gid of the process at the other end (unix(7), SO_PEERCRED)."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    pid, uid, gid = _PEER_CREDENTIALS.unpack(data)
    return pid, uid, gid


def _is_root(uid: int) -> bool:
    """Whether it is root, or the user as whom this daemon runs, which can do no more than he."""
    return uid in (0, os.geteuid())


def _groups(connection: socket.socket) -> list[int]:
    """Return the supplementary groups of the process at the other end, none if there are many."""
    try:
        data = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_GROUPS * _GID.size)
    except OSError:
        return []
    return [gid for (gid,) in _GID.iter_unpack(data)]


async def _remove_stale(path: Path) -> None:
    """Remove the socket of a daemon that is gone. Raises OSError when one listens there."""
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except (FileNotFoundError, ConnectionRefusedError):
        with suppress(FileNotFoundError):
            path.unlink()
        return
    writer.close()
    raise OSError(f"another xenmoved listens at {path}")


def _group_id(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise OSError(f"control.group: there is no group called {group}") from None
