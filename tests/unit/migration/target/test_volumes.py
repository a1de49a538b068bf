"""The volumes of an arriving guest."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from xenmoved.migration.target.volumes import Landing


async def test_volumes_are_closed_even_if_whoever_closes_them_is_cancelled():
    """While no thread is free yet, so that a cancellation could take the closing back."""
    closed = []
    volumes = [
        SimpleNamespace(close=lambda number=number: closed.append(number)) for number in (1, 2)
    ]
    busy = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        asyncio.get_running_loop().set_default_executor(threads)
        threads.submit(busy.wait)
        landing = Landing(SimpleNamespace(), "host-a", "m" * 32)
        landing._volumes = list(volumes)
        stopping = asyncio.create_task(landing.stop())
        await asyncio.sleep(0.01)
        stopping.cancel()
        await asyncio.sleep(0.01)
        busy.set()
        with pytest.raises(asyncio.CancelledError):
            await stopping
    assert closed == [1, 2]
