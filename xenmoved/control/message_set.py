"""The messages of the control socket, by name: each module of messages adds its own."""

from __future__ import annotations

from typing import Final

from protocol.codec import MessageSet

CONTROL: Final = MessageSet()
