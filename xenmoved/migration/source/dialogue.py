"""The source's end of a control channel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from time import monotonic
from types import TracebackType
from typing import Any, Final, Self, TypeVar, overload

from protocol.conversation import Conversation
from protocol.errors import Code, ProtocolError
from protocol.messages import (
    PEER,
    Abort,
    Begin,
    Commit,
    Failed,
    Finish,
    HandOver,
    Hello,
    Inquire,
    Offer,
    Seal,
    Working,
    common_capabilities,
)
from xenmoved.link.channel import Channel, Purpose
from xenmoved.link.client import PeerLink
from xenmoved.link.errors import LinkLost, NotAuthorized, NotTrusted
from xenmoved.link.framed import Framed
from xenmoved.migration.hello import hello
from xenmoved.migration.host import Host
from xenmoved.migration.source.stalls import stalled_hint
from xenmoved.problems import JobError, Obstructed, PeerFailed, from_peer, problem
from xenmoved.tasks import TookTooLong, at_most, result_within, within

log = logging.getLogger(__name__)

PATIENCE: Final = 600.0
"""Seconds for an answer: longer than the target's own limits, so that it is the one to tell."""
_IN_STEPS: Final = (Begin,)
"""Each step has as long: to empty volumes takes hours, and nobody stands still for it."""
_ASKED_AGAIN: Final = (Commit, Abort, Inquire)
"""Given up after `stall`, at work or not: they are asked again, and there are others to decide."""
_ASKED: Final[dict[type, str]] = {
    Offer: "what it would do",
    Begin: "volumes to copy to",
    HandOver: "getting ready for the memory",
    Seal: "building the domain",
    Finish: "closing the volumes",
    Commit: "starting the guest",
    Abort: "giving it up",
    Inquire: "what became of the guest",
}

T = TypeVar("T")
U = TypeVar("U")


class Dialogue:
    """Questions to a target and its answers. Use as a context manager; made by `open_dialogue`.

    `messages` are those of the version that both sides speak.

    The channel is read all the time, so that `Failed` is noticed when it comes: `failed` is then
    set, and every question raises PeerFailed. The target says what it is at while it owes an
    answer: one that is silent for `stall` seconds hangs. To be at work is not enough either: every
    answer has a time in which it must be there.
    """

    def __init__(
        self, link: PeerLink, channel: Channel, greeting: Hello, stall: float, *, settling: bool
    ) -> None:
        self.link = link
        self.peer_hello = greeting
        self.capabilities: frozenset[str] = frozenset()
        self.messages = PEER
        self._greeting = greeting
        self._settling = settling
        self._channel = channel
        self._conversation = Conversation()
        self._answers: asyncio.Queue[Any] = asyncio.Queue(1)
        self._reader: asyncio.Task[None] | None = None
        self._error: Exception | None = None
        self._peer = channel.peer
        self._stall = stall
        self._heard = monotonic()
        self.working = Working(0, "")
        self.on_working: Callable[[str], None] = lambda _: None
        self.failed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._reader = asyncio.create_task(self._read())
        try:
            self.peer_hello = await self.ask(self._greeting, Hello)
            if not self._settling:
                self.capabilities = common_capabilities(self._greeting, self.peer_hello, self._peer)
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stop()

    @overload
    async def ask(self, question: object, kind: type[T]) -> T: ...

    @overload
    async def ask(self, question: object, kind: type[T], other: type[U]) -> T | U: ...

    async def ask(self, question: object, kind: type[T], other: type[U] | None = None) -> T | U:
        """Send a request and return its answer, of one of the kinds.

        Raises PeerFailed, LinkLost, ProtocolError, or JobError when the target hangs.
        """
        self.check()
        self._conversation.request(question)
        try:
            async with at_most(self._stall, f"{self._peer} took no question"):
                await self._channel.send(self.messages.encode(question))
        except TookTooLong as error:
            raise self._stalled(str(error), question) from None
        answer = await self._answer_to(question)
        if isinstance(answer, kind) or (other is not None and isinstance(answer, other)):
            return answer
        raise ProtocolError(Code.UNEXPECTED, f"{type(answer).__name__} is not an answer")

    async def _answer_to(self, question: object) -> object:
        """Wait for the next answer, for as long as the question may take."""
        began = self._heard = monotonic()
        steps, patience = self.working.steps, self._patience(question)
        while (answer := await result_within(self._answers.get(), self._stall / 8)) is None:
            self.check()
            now = monotonic()
            if isinstance(question, _IN_STEPS) and self.working.steps != steps:
                began, steps = now, self.working.steps
            silence, at_it = now - self._heard, now - began
            if silence > self._stall:
                raise self._stalled(f"{self._peer} has said nothing for {silence:.0f} s", question)
            if at_it > patience:
                doing = f"{at_it:.0f} s: {self.working.doing}"
                raise self._stalled(f"{self._peer} has been at it for {doing}", question)
        self.check()
        return answer

    def _patience(self, question: object) -> float:
        """Seconds that an answer, or each step to it, may take."""
        if isinstance(question, _ASKED_AGAIN):
            return self._stall
        return max(PATIENCE, self._stall)

    def _stalled(self, what: str, question: object) -> JobError:
        text = f"{what}, asked for {_ASKED.get(type(question), 'an answer')}; it is connected"
        return JobError([problem("stalled", text, stalled_hint(self._peer))])

    @property
    def version(self) -> int | None:
        """The version that both sides speak, None where they can only settle a doubt."""
        return self._conversation.version

    def check(self) -> None:
        """Raise what ended the dialogue, if anything did."""
        if self._error is not None:
            raise self._error

    async def explanation(self, patience: float = 2.0) -> Exception | None:
        """Wait a moment for the target to say why it failed; a volume channel may tell first."""
        return self._error if await within(self.failed, patience) else None

    async def _read(self) -> None:
        try:
            framed = Framed(self._channel)
            while (message := await framed.message()) is not None:
                self._conversation.reply(message)
                if (version := self._conversation.version) is not None:
                    self.messages = framed.messages = PEER.at(version)
                if isinstance(message, Failed):
                    (told,) = from_peer([message.problem])
                    text = f"{self._channel.peer}: {told.text}"[:4000]
                    raise PeerFailed([replace(told, text=text)])
                self._heard = monotonic()
                if isinstance(message, Working):
                    self.working = message
                    self.on_working(f"{self._peer}: {message.doing}"[:4000])
                else:
                    self._answers.put_nowait(message)
            raise LinkLost(f"{self._channel.peer} closed the control channel")
        except (LinkLost, ProtocolError, PeerFailed) as error:
            self._error = error
            self.failed.set()
            if self._answers.empty():
                self._answers.put_nowait(None)  # wakes who waits for one

    async def _stop(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        self._channel.close()


@asynccontextmanager
async def open_dialogue(
    host: Host, peer: str, *, settling: bool = False, migration: str = ""
) -> AsyncIterator[Dialogue]:
    """Greet a peer on a control channel of its own.

    Raises Obstructed, LinkError or ProtocolError.

    With `settling`, for what is the same in every release, its release does not matter. Of one
    `migration` it can then also be spoken where one host does not believe the other's certificate
    any more, by the keys that both had when it began.

    A connection that nobody has used for a while may have ended and nobody have noticed, as when
    the peer's daemon was started again. That is no failure of what begins now: it is made anew.
    """
    was_there = host.links.connected(peer)
    async with AsyncExitStack() as stack:
        try:
            dialogue = await stack.enter_async_context(await _dialogue(host, peer, settling))
        except LinkLost:
            if not was_there or host.links.connected(peer):
                raise
            dialogue = await stack.enter_async_context(await _dialogue(host, peer, settling))
        except (NotTrusted, NotAuthorized, Obstructed) as refused:
            link = await _link_to_settle(host, migration, refused)
            stack.callback(link.abort)
            dialogue = await stack.enter_async_context(await _on_link(host, link, settling=True))
        yield dialogue


async def _link_to_settle(host: Host, migration: str, refused: Exception) -> PeerLink:
    """Return a connection on which no more than a migration is settled, or raise `refused`."""
    link = None
    try:
        link = await host.link_to_settle(migration) if migration else None
    except NotAuthorized as error:
        log.debug("it is not settled by the noted key: %s", error)
    if link is None:
        raise refused
    return link


async def _dialogue(host: Host, peer: str, settling: bool) -> Dialogue:
    return await _on_link(host, await host.link(peer), settling)


async def _on_link(host: Host, link: PeerLink, settling: bool) -> Dialogue:
    channel = await link.open(Purpose.CONTROL)
    greeting, stall = hello(host.config.node), host.config.timeouts.stall
    return Dialogue(link, channel, greeting, stall, settling=settling)
