"""What is in doubt on this host, and what an operator decides about it."""

from __future__ import annotations

from xenmoved.control.api import DecideDoubt, Done, ListDoubts
from xenmoved.handlers.dispatch import Services, answers
from xenmoved.migration.doubts import decide, list_doubts, weigh
from xenmoved.migration.report import Doubts, Risk


@answers(ListDoubts)
async def describe_doubts(services: Services, request: ListDoubts) -> Doubts:
    """Describe everything that is in doubt, and what is tried again until it is done."""
    return await list_doubts(services.host, reach=request.reach)


@answers(DecideDoubt)
async def decide_doubt(services: Services, request: DecideDoubt) -> Done | Risk:
    """Decide about a doubt; not confirmed, tell what that risks."""
    if not request.confirmed:
        return await weigh(services.host, request.job, request.decision)
    return Done(await decide(services.host, request.job, request.decision))
