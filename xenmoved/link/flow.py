"""Back-pressure of a whole connection, which asyncssh leaves to the windows of its channels.

Those are the other side's to open: whoever opens them wide and reads nothing would have us keep all
that we send. Nor does asyncssh wait with what it sends by itself: answers to requests, whatever
they are, and window adjustments. While keys are renewed, which the other side may begin and never
end, it keeps all of that, and what the channels send, outside of the transport.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

log = logging.getLogger(__name__)

MOST_ANSWERS: Final = 8 * 1024 * 1024
"""Bytes that asyncssh may send by itself, with what each packet takes, while nothing is read."""

_PACKET: Final = 128
_KEY: Final = "xenmoved-flow"
_NO_ANSWERS: Final = frozenset({2, 94, 95})
"""What is not sent at all (see `bulk`), and what channels send, who heed this (RFC 4254, 5.2)."""

Heed = Callable[[], None]


class Flow:
    """Tells the channels of a connection when its transport is full, or keys are being renewed.

    The connection is dropped when too many answers wait meanwhile: the other side asks, and does
    not hear. To read no more from it would not do, as two hosts may be full towards each other.
    """

    def __init__(self) -> None:
        self.full = False
        self._unsent = False
        self._held = False
        self._answers = 0
        self._channels: set[Heed] = set()

    @classmethod
    def watch(cls, connection: Any, who: Callable[[], str]) -> None:
        """Begin to heed what the transport of an asyncssh connection says, and what it is given.

        `who` names the other side, for the log.
        """
        flow = cls()
        connection.set_extra_info(**{_KEY: flow})
        connection.pause_writing = lambda: flow._change(True, flow._held)
        connection.resume_writing = lambda: flow._change(False, flow._held)
        send_packet = connection.send_packet

        def send_counted(pkttype: int, *args: bytes, **options: Any) -> None:
            send_packet(pkttype, *args, **options)
            held = bool(connection._deferred_packets)
            if held is not flow._held:
                flow._change(flow._unsent, held)
            if flow.full and pkttype not in _NO_ANSWERS and flow._is_too_much(sum(map(len, args))):
                log.warning("%s does not read what it is answered: it is disconnected", who())
                connection.abort()

        connection.send_packet = send_counted

    @classmethod
    def of(cls, connection: Any) -> Flow:
        """Return that of a connection; one that is never full if it is not watched."""
        found = connection.get_extra_info(_KEY)
        return found if isinstance(found, cls) else cls()

    def join(self, heed: Heed) -> None:
        """Have `heed` called whenever `full` changes."""
        self._channels.add(heed)

    def leave(self, heed: Heed) -> None:
        """Have it called no more. Idempotent."""
        self._channels.discard(heed)

    def _change(self, unsent: bool, held: bool) -> None:
        self._unsent, self._held = unsent, held
        if self.full is (full := unsent or held):
            return
        self.full, self._answers = full, 0
        for heed in list(self._channels):
            heed()

    def _is_too_much(self, size: int) -> bool:
        """Count an answer that waits; tell when it is the first one too many."""
        before = self._answers
        self._answers += size + _PACKET
        return before <= MOST_ANSWERS < self._answers
