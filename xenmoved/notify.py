"""Tells systemd how the daemon is, as sd_notify(3) does. Does nothing where nobody listens."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

from xenmoved.logs import printable


def ready(status: str = "") -> bool:
    """Say that start-up (or a reload) is complete."""
    return _notify("READY=1", f"STATUS={printable(status)}")


def status(text: str) -> bool:
    """Give the line that `systemctl status` shows."""
    return _notify(f"STATUS={printable(text)}")


def reloading() -> bool:
    """Say that the configuration is being read again; `ready` must follow."""
    microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    return _notify("RELOADING=1", f"MONOTONIC_USEC={microseconds}")


def stopping(status: str = "") -> bool:
    """Say that the daemon is about to end."""
    return _notify("STOPPING=1", f"STATUS={printable(status)}")


def watchdog() -> bool:
    """Give a sign of life, to be repeated at least every `watchdog_interval` seconds."""
    return _notify("WATCHDOG=1")


def watchdog_interval(environment: Mapping[str, str] = os.environ) -> float | None:
    """Return the seconds between signs of life: half of what systemd asks, None if it does not."""
    try:
        limit = int(environment["WATCHDOG_USEC"]) / 1_000_000
        process = int(environment.get("WATCHDOG_PID", os.getpid()))
    except (KeyError, ValueError):
        return None
    # The variables of another process may have been inherited.
    return limit / 2 if limit > 0 and process == os.getpid() else None


def _notify(*assignments: str) -> bool:
    """Send assignments; tell whether they went out. Never waits, never raises."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(assignments).encode(errors="replace"), address)
    except OSError:
        return False
    return True
