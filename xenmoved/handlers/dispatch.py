"""From a request to its handler. A handler belongs to its request by a decorator.

A handler is given the services of the daemon and the request. It raises what `xenmoved.problems`
knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncssh

from xenmoved.evacuation.run import Evacuations
from xenmoved.link.server import LinkServer
from xenmoved.migration.host import Host
from xenmoved.migration.source.start import Starter
from xenmoved.monitoring.space import StorageSpace
from xenmoved.problems import Obstructed, problem


@dataclass(frozen=True, slots=True)
class Services:
    """What handlers use. `port` is the one listened on; `reload` reads the configuration anew.

    `by_root` is whether root asks, or the daemon's own user, and not a member of `control.group`.
    """

    host: Host
    server: LinkServer
    identity: asyncssh.SSHKey
    config_file: Path
    port: int
    reload: Callable[[], Awaitable[None]]
    tasks: asyncio.TaskGroup
    starter: Starter
    space: StorageSpace
    evacuations: Evacuations
    by_root: bool = False


Request = TypeVar("Request")
Answer = TypeVar("Answer")
Handler = Callable[[Services, Request], Awaitable[Answer]]
Stream = Callable[[Services, Request], AsyncIterator[Answer]]

_HANDLERS: Final[dict[type, Handler[Any, Any]]] = {}
_STREAMS: Final[dict[type, Stream[Any, Any]]] = {}


def answers(
    request: type[Request],
) -> Callable[[Handler[Request, Answer]], Handler[Request, Answer]]:
    """Have a function answer requests of a type."""

    def register(handler: Handler[Request, Answer]) -> Handler[Request, Answer]:
        _HANDLERS[request] = handler
        return handler

    return register


def streams(request: type[Request]) -> Callable[[Stream[Request, Answer]], Stream[Request, Answer]]:
    """Have a function yield answer after answer to requests of a type."""

    def register(handler: Stream[Request, Answer]) -> Stream[Request, Answer]:
        _STREAMS[request] = handler
        return handler

    return register


async def answer(services: Services, request: object, by_root: bool) -> AsyncIterator[object]:
    """Yield the answers to one request. Raises what `xenmoved.problems` knows."""
    if (stream := _STREAMS.get(type(request))) is not None:
        async for found in stream(replace(services, by_root=by_root), request):
            yield found
    elif (handler := _HANDLERS.get(type(request))) is not None:
        yield await handler(replace(services, by_root=by_root), request)
    else:
        raise Obstructed([problem("usage", f"{type(request).__name__} is not a request")])
