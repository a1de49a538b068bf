"""How the lab starts what must not outlive it."""

from __future__ import annotations

from typing import Final

WITH_PARENT: Final = ("setpriv", "--pdeathsig", "KILL", "--")
"""What to put before a command that the kernel is to kill when the thread that started it ends.

A test run that is killed ends nothing by itself, and nobody would find what it left behind.
"""
