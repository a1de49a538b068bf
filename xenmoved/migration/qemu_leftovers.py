"""What this daemon, or one that was killed, has left in the QEMUs of guests."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from storage.qemu.additions import clean_up_stale
from storage.qemu.image import end_stale
from xenmoved.migration.host import Host

log = logging.getLogger(__name__)

_EVERY: Final = 600.0
"""Seconds until it is looked for again: a QEMU may not have answered when it was to be removed."""


async def remove_leftovers(host: Host) -> None:
    """Remove now and then what is nobody's any more. Has no end."""
    while True:
        await asyncio.to_thread(_remove, host)
        await asyncio.sleep(_EVERY)


def _remove(host: Host) -> None:
    folder = host.qemu_sockets
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in end_stale(folder):
        log.info("ended %s, which served an image to a daemon that was killed", name)
    if (monitors := host.config.toolstack.monitors) is None:
        return
    for name in clean_up_stale(monitors, folder):
        log.info("removed %s, left in the QEMU of a guest", name)
