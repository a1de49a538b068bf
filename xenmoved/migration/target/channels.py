"""Where the channels that peers open are taken in."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from protocol.errors import Code, ProtocolError
from protocol.messages import Attach
from xenmoved.link.channel import Channel, Purpose
from xenmoved.link.errors import LinkLost
from xenmoved.link.framed import Framed
from xenmoved.link.server import Visitor
from xenmoved.logs import log_context
from xenmoved.migration.target.arrivals import Arrivals
from xenmoved.migration.target.dialogue import ControlSession
from xenmoved.problems import is_expected, problems_of
from xenmoved.tasks import at_most

log = logging.getLogger(__name__)

ATTACH_PATIENCE: Final = 60.0
"""Seconds that a peer may take for the first message on a bulk channel."""
PROBE_LIMIT: Final = 2**30
"""Bytes that a peer may send to measure the link."""


class Reception:
    """Runs a task for every channel; none of them can disturb another or the daemon."""

    def __init__(self, arrivals: Arrivals, tasks: asyncio.TaskGroup) -> None:
        self._arrivals = arrivals
        self._tasks = tasks

    def serve(self, visitor: Visitor, purpose: Purpose, channel: Channel) -> None:
        """Take a channel that a peer opened."""
        self._tasks.create_task(self._guarded(visitor, purpose, channel))

    async def _guarded(self, visitor: Visitor, purpose: Purpose, channel: Channel) -> None:
        with log_context(peer=visitor.peer):
            try:
                await self._serve(visitor, purpose, channel)
            except Exception as error:
                if not is_expected(error):
                    log.exception("internal error on a channel of %s", visitor.peer)
                else:
                    log.info("%s: %s", purpose, problems_of(error)[0].text)
            finally:
                channel.close()

    async def _serve(self, visitor: Visitor, purpose: Purpose, channel: Channel) -> None:
        if purpose is Purpose.CONTROL:
            await ControlSession(self._arrivals, visitor, channel).run()
        elif visitor.settling:
            raise ProtocolError(Code.UNEXPECTED, f"{visitor.peer} may only settle doubts")
        elif purpose is Purpose.PROBE:
            await _swallow(channel)
        else:
            what = f"{visitor.peer} opened a {purpose} channel, and did not say what for"
            async with at_most(ATTACH_PATIENCE, what):
                framed = Framed(channel)
                attach = await _read_attach(framed)
            framed.messages = visitor.messages
            await self._arrivals.serve_bulk(visitor, purpose, attach, framed)


async def _read_attach(framed: Framed) -> Attach:
    message = await framed.message()
    if message is None:
        raise LinkLost(f"{framed.channel.peer} closed a channel before it said what for")
    if not isinstance(message, Attach):
        raise ProtocolError(Code.UNEXPECTED, f"{type(message).__name__} instead of Attach")
    return message


async def _swallow(channel: Channel) -> None:
    """Count bytes to the end of the channel, and answer with how many there were."""
    count = 0
    while untrusted_data := await channel.receive():
        count += len(untrusted_data)
        if count > PROBE_LIMIT:
            raise ProtocolError(Code.TOO_LARGE, "a probe above its limit")
    await channel.send(count.to_bytes(8, "big"))
    channel.finish()
