"""The daemon of a target that lies: it is at work for ever, or says again and again what it likes.

What it lies about is in the file that XENMOVED_LIES names, and may change at any time; where that
is empty, it is honest.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from protocol.handover import TargetEvent, Word
from protocol.messages import Fate, Inquire, Placement, Presence, Seal, Working
from xenmoved.main import main
from xenmoved.migration.target.arrivals import Arrivals
from xenmoved.migration.target.memory import IncomingMemory
from xenmoved.migration.target.migration import InboundMigration
from xenmoved.migration.target.volumes import Landing

VARIABLE: Final = "XENMOVED_LIES"

LOOKING: Final = "looking"
BUILDING: Final = "building"
STARTING: Final = "starting"
DROPS: Final = "drops"
THERE: Final = "there"
HUGE: Final = "huge"
HUSHED: Final = "hushed"
"""It does what it is told and does not say so; of what it is asked it leaves out the first."""

_LOOK_EVERY: Final = 0.05
_DROP_EVERY: Final = 0.06

_steps = itertools.count(1)
_questions = itertools.count(1)


def _lie() -> str:
    file = Path(os.environ[VARIABLE])
    return file.read_text() if file.exists() else ""


async def _until_honest(lie: str) -> None:
    while _lie() == lie:  # noqa: ASYNC110 - it is in a file
        await asyncio.sleep(_LOOK_EVERY)


def _wrong_fate() -> Fate | None:
    if (lie := _lie()) == THERE:
        return Fate(Word.UNKNOWN, Presence.THERE, "a domain of that uuid is here")
    return Fate(Word(lie), Presence.UNSEEN, "so it is") if lie in set(Word) else None


def install() -> None:
    """Put the lies into the target's side."""
    assess, decide, inquire = Arrivals.assess, Arrivals.decide, Arrivals.inquire
    doing, seal, serve = Arrivals.doing, InboundMigration.seal, IncomingMemory.serve
    provision = Landing.provision

    async def slow_assess(self: Arrivals, *args: Any) -> Any:
        await _until_honest(LOOKING)
        return await assess(self, *args)

    def busy(self: Arrivals, migration: str) -> Working:
        return Working(next(_steps), "coming on") if _lie() else doing(self, migration)

    async def huge_volumes(self: Landing, *args: Any) -> tuple[Placement, ...]:
        places = await provision(self, *args)
        return tuple(replace(one, size=1 << 45) for one in places) if _lie() == HUGE else places

    async def never_built(self: InboundMigration, message: Seal) -> None:
        await _until_honest(BUILDING)
        await seal(self, message)

    async def never_decided(self: Arrivals, peer: str, migration: str, event: TargetEvent) -> Fate:
        await _until_honest(STARTING)
        if event is TargetEvent.COMMIT and (fate := _wrong_fate()) is not None:
            return fate
        done = await decide(self, peer, migration, event)
        await _until_honest(HUSHED)
        return done

    async def never_known(self: Arrivals, peer: str, question: Inquire) -> Fate:
        await _until_honest(STARTING)
        if _lie() == HUSHED and next(_questions) == 1:
            await _until_honest(HUSHED)
        return _wrong_fate() or await inquire(self, peer, question)

    async def drop_by_drop(self: IncomingMemory, framed: Any) -> None:
        frame = framed.frame

        async def later(kinds: Any) -> Any:
            if _lie() == DROPS:
                await asyncio.sleep(_DROP_EVERY)
            return await frame(kinds)

        framed.frame = later
        await serve(self, framed)

    Arrivals.assess = slow_assess  # type: ignore[method-assign]
    Landing.provision = huge_volumes  # type: ignore[method-assign]
    Arrivals.doing = busy  # type: ignore[method-assign]
    Arrivals.decide = never_decided  # type: ignore[method-assign]
    Arrivals.inquire = never_known  # type: ignore[method-assign]
    InboundMigration.seal = never_built  # type: ignore[method-assign]
    IncomingMemory.serve = drop_by_drop  # type: ignore[method-assign]


if __name__ == "__main__":
    install()
    main()
