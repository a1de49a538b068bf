"""The target's end of a control channel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from functools import partial

from protocol.conversation import Conversation
from protocol.errors import Code, ProtocolError
from protocol.handover import TargetEvent
from protocol.messages import (
    PEER,
    Abort,
    Accepted,
    Action,
    Begin,
    Commit,
    Failed,
    Findings,
    Finish,
    Finished,
    HandOver,
    Hello,
    Inquire,
    Offer,
    Ping,
    Placement,
    Pong,
    Ready,
    Recall,
    Receiving,
    Refused,
    Room,
    Seal,
)
from storage.errors import StorageError
from xenmoved.codes import LINK_LOST
from xenmoved.link.channel import Channel
from xenmoved.link.errors import LinkLost
from xenmoved.link.framed import Framed
from xenmoved.link.server import Visitor
from xenmoved.migration.hello import hello
from xenmoved.migration.host import Host
from xenmoved.migration.target.arrivals import Arrivals
from xenmoved.migration.target.migration import InboundMigration
from xenmoved.migration.target.space import free_space, quota_used
from xenmoved.problems import Obstructed, is_expected, problem, problems_of
from xenmoved.remarks import together
from xenmoved.tasks import alongside, at_most, wait_through
from xenmoved.trust.refusals import Flaw

log = logging.getLogger(__name__)

_HELLO_PATIENCE = 60.0
"""Seconds that a peer may take for its first message: one that is very busy is not gone."""
_TELL_EVERY = 1.0


class ControlSession:
    """Answers the questions of one source on one channel."""

    def __init__(self, arrivals: Arrivals, visitor: Visitor, channel: Channel) -> None:
        self._arrivals = arrivals
        self._visitor = visitor
        self._channel = channel
        self._conversation = Conversation()
        self._messages = PEER
        self._guest: InboundMigration | None = None
        self._sync: str | None = None
        self._migration = ""
        self._failed = asyncio.Event()
        self._failure: BaseException | None = None

    async def run(self) -> None:
        """Answer until the source ends the channel. What it began ends with it."""
        try:
            await alongside(self._converse(), self._watch_volumes())
        except Exception as error:
            if not is_expected(error):
                log.exception("internal error")
            # A guest that is ready survives the loss of its link, and nobody is there to be told.
            if problems_of(error)[0].code != LINK_LOST:
                await self._say_failed(error)
        finally:
            if self._sync is not None:
                await self._arrivals.end_sync(self._sync)
            if self._guest is not None and not self._guest.handover.ended.is_set():
                await self._arrivals.link_lost(self._guest)

    def _volume_failed(self, error: BaseException) -> None:
        """Take note that a bulk channel of what was begun here failed."""
        self._failure = self._failure or error
        self._failed.set()

    async def _converse(self) -> None:
        requests = self._requests()
        what = f"{self._visitor.peer} opened a control channel, and did not greet"
        async with at_most(_HELLO_PATIENCE, what):
            greeting = await anext(requests, None)
        if greeting is None:
            return
        await self._reply(greeting)
        async for message in requests:
            await self._reply(message)

    async def _requests(self) -> AsyncIterator[object]:
        framed = Framed(self._channel)
        while (message := await framed.message()) is not None:
            self._conversation.request(message)
            yield message
            framed.messages = self._messages

    async def _watch_volumes(self) -> None:
        await self._failed.wait()
        assert self._failure is not None
        raise self._failure

    async def _reply(self, message: object) -> None:
        if isinstance(message, Hello):
            await self._send(await self._answer(message))
            self._agree()
        else:
            await self._send(await alongside(self._answer(message), self._tell_meanwhile()))

    def _agree(self) -> None:
        """Go on in the version of the two greetings, here and on the channels of volumes."""
        if (version := self._conversation.version) is not None:
            self._messages = self._visitor.messages = PEER.at(version)

    async def _tell_meanwhile(self) -> None:
        """Say what is done here while the source waits for an answer, for ever."""
        while True:
            await asyncio.sleep(_TELL_EVERY)
            await self._send(self._arrivals.doing(self._migration))

    async def _send(self, message: object) -> None:
        self._conversation.reply(message)
        await self._channel.send(self._messages.encode(message))

    async def _say_failed(self, error: Exception) -> None:
        found = problems_of(error)[0]
        log.warning("%s: %s", self._visitor.peer, found.text)
        if self._guest is None:
            await self._tell(Failed(found))
            return
        # To remove what has come may take long, and the source has a guest to resume meanwhile.
        failed = self._guest.handover.fail(TargetEvent.FAILED, found.text)
        await asyncio.gather(self._tell(Failed(found)), failed)

    async def _tell(self, message: Failed) -> None:
        try:
            await self._channel.send(PEER.encode(message))
        except LinkLost:
            log.debug("%s is gone already", self._visitor.peer)

    async def _answer(self, message: object) -> object:  # noqa: PLR0911 - one line a message
        peer = await self._asking(message)
        match message:
            case Hello():
                return hello(self._arrivals.host.config.node)
            case Ping():
                async with self._arrivals.looking(peer):
                    return await self._pong()
            case Offer():
                found = await self._arrivals.foresee(peer, message)
                return Findings(
                    *(found.problems[:256], found.placements, found.shared, found.bridges),
                    together(found.remarks),
                )
            case Recall(migration):
                return await self._arrivals.recall(peer, migration)
            case Begin():
                # Whatever it makes must be known here, to be undone, even if this is cancelled.
                hurry = partial(self._arrivals.give_up, message.migration)
                return await wait_through(self._begin(message), hurry)
            case Inquire(migration) if self._visitor.settling:
                return await self._arrivals.fate(peer, migration)
            case Inquire():
                return await self._arrivals.inquire(peer, message)
            case Commit(migration):
                return await self._arrivals.decide(peer, migration, TargetEvent.COMMIT)
            case Abort(migration, untrusted_reason):
                log.info("%s aborts: %s", peer, untrusted_reason)
                return await self._arrivals.decide(peer, migration, TargetEvent.ABORT)
            case HandOver() | Seal():
                return await self._receive_memory(message)
            case Finish() if self._sync is not None:
                await self._finish_sync(self._sync)
                return Finished()
        raise ProtocolError(Code.UNEXPECTED, f"{type(message).__name__} is out of turn")

    async def _asking(self, message: object) -> str:
        """Return the peer whose question it is. Raises Obstructed unless it may be asked.

        Whoever has no more than the key with which a migration began may only settle that one; with
        a certificate that has expired meanwhile nothing new begins.
        """
        visitor, host = self._visitor, self._arrivals.host
        if not visitor.settling:
            proven = visitor.certificate
            if isinstance(message, Ping | Offer | Begin) and not (
                proven is None or host.roster.current(proven)
            ):
                text = (
                    f"the certificate of {visitor.peer} has expired meanwhile: nothing new begins"
                )
                hint = f"xenmovectl ca renew {visitor.peer}; then there: xenmovectl enroll"
                raise Obstructed([problem(Flaw.EXPIRED.value, text, hint)])
            return visitor.peer
        if isinstance(message, Hello):
            return visitor.peer
        if isinstance(message, Inquire | Commit | Abort):
            noted = await host.journal.noted_key(message.migration)
            if noted is not None and noted.key == visitor.key:
                return noted.peer
        text = f"{host.config.node} lets this host only settle what it began with its key"
        hint = "it has no certificate that is believed there: see the log of xenmoved there"
        raise Obstructed([problem("only-settling", text, hint)])

    async def _finish_sync(self, migration: str) -> None:
        landing = self._arrivals.landing(self._visitor, migration)
        await landing.seal()
        await landing.require_untouched()
        await landing.note_filled()
        await landing.until_others_are_told()
        await landing.release()

    async def _begin(self, begin: Begin) -> object:
        self._migration = begin.migration
        try:
            placements = await self._place(begin)
        except Obstructed as error:
            return Refused(error.problems[:256])
        return Accepted(placements)

    async def _place(self, begin: Begin) -> tuple[Placement, ...]:
        arrivals, visitor = self._arrivals, self._visitor
        if begin.offer.action is Action.SYNC:
            async with arrivals.looking(visitor.peer):
                _, placements = await arrivals.begin_sync(visitor, begin, self._volume_failed)
            self._sync = begin.migration
        else:
            self._guest, placements = await arrivals.begin_guest(
                visitor, begin, self._volume_failed
            )
        return placements

    async def _receive_memory(self, message: HandOver | Seal) -> object:
        if self._guest is None:
            raise ProtocolError(Code.UNEXPECTED, "a sync has no memory")
        if isinstance(message, HandOver):
            await self._arrivals.hand_over(self._guest, message.size)
            return Receiving()
        await self._guest.seal(message)
        return Ready()

    async def _pong(self) -> Pong:
        host = self._arrivals.host
        allow = host.peer(self._visitor.peer).allow
        info = await host.toolstack.host()
        promised = host.promises.memory(await host.toolstack.domains())
        pools = tuple(pool for pool in allow.pools if pool in host.pools)
        return Pong(
            toolstack=info.toolstack,
            xen_version=info.xen_version,
            actions=tuple(action.value for action in allow.actions),
            pools=pools,
            guests=allow.guests,
            memory=allow.memory,
            vcpus=allow.vcpus,
            quota=allow.quota,
            quota_used=await quota_used(host, self._visitor.peer),
            free_memory=max(0, info.free_memory - promised),
            room=await _room(host, pools),
        )


async def _room(host: Host, pools: Iterable[str]) -> tuple[Room, ...]:
    """Tell how much fits; pools in which no volumes are made, or that are not there, are left out.

    A pool that cannot be looked at is told of when a guest is offered.
    """
    found = []
    for name in pools:
        with suppress(StorageError):
            if (capacity := await asyncio.to_thread(host.pools[name].capacity)) is not None:
                found.append(Room(name, await free_space(host, name, capacity)))
    return tuple(found)
