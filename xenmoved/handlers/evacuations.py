"""Moving every guest away from this host."""

from __future__ import annotations

from collections.abc import AsyncIterator

from xenmoved.control.api import Done
from xenmoved.control.evacuation_api import (
    PlanEvacuation,
    StartEvacuation,
    StopEvacuation,
    WatchEvacuation,
)
from xenmoved.evacuation.report import Evacuation
from xenmoved.handlers.dispatch import Services, answers, streams


@answers(PlanEvacuation)
async def plan_evacuation(services: Services, request: PlanEvacuation) -> Evacuation:
    """Tell which guest would go where."""
    return await services.evacuations.plan(request.peers, request.mode, request.options)


@answers(StartEvacuation)
async def evacuate(services: Services, request: StartEvacuation) -> Evacuation:
    """Begin to move every guest away."""
    return await services.evacuations.start(
        request.peers, request.mode, request.options, concurrency=request.concurrency
    )


@answers(StopEvacuation)
async def stop_evacuation(services: Services, _: StopEvacuation) -> Done:
    """Begin no more."""
    return Done(services.evacuations.stop())


@streams(WatchEvacuation)
async def watch_evacuation(
    services: Services, request: WatchEvacuation
) -> AsyncIterator[Evacuation]:
    """Describe the evacuation over and over, to its end."""
    async for found in services.evacuations.watch(request.interval):
        yield found
