"""What both ends of a volume that goes as streams need."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from storage.pipes import Inflow, Outflow
from xenmoved.sync.devices import wait_through

F = TypeVar("F", Inflow, Outflow)

MOST_PASSED: Final = 8
"""Snapshots of earlier rounds that may gather: a guest that is held goes through any number."""


@asynccontextmanager
async def running(flow: F) -> AsyncIterator[F]:
    """Have a tool that streams ended when the context is left, and waited for."""
    try:
        yield flow
    finally:
        await wait_through(asyncio.to_thread(flow.end))


def guid_text(guid: int) -> str:
    """Return the guid of a snapshot as messages have it."""
    return f"{guid:016x}"
