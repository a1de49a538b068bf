"""Hooks: which this host would run."""

from __future__ import annotations

import asyncio

from xenmoved.control.hook_api import ListHooks
from xenmoved.handlers.dispatch import Services, answers
from xenmoved.hooks.report import HookRows


@answers(ListHooks)
async def describe_hooks(services: Services, _: ListHooks) -> HookRows:
    """Describe what is in the folders of all events now."""
    return await asyncio.to_thread(services.host.hooks.rows)
