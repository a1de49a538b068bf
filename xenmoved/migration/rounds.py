"""How many pre-copy rounds, and when to stop.

A round costs what it reads; what it sends will not have to be sent while the guest is suspended.
With a tracker that knows what was written, reading and sending shrink together, and rounds pay as
long as they shrink. With the fallback every round reads the whole volume, and so does the last one
under suspension, whatever was done before: another round then pays only while what was found to
differ takes longer to send than a small part of that read.
"""

from __future__ import annotations

from collections.abc import Sequence

from xenmoved.sync.progress import RoundProgress

_SHRINKS = 0.8
_SMALL_SHARE = 0.1
SMALL_BYTES = 16 * 2**20
"""A round that sent no more than this was the last before the suspension."""


def another_round(done: Sequence[RoundProgress], max_rounds: int) -> bool:
    """Whether to run one more pre-copy round of a volume, given those that were run."""
    if not done:
        return True
    last = done[-1]
    if len(done) >= max_rounds or last.data_bytes <= SMALL_BYTES:
        return False
    if len(done) == 1:
        return True  # the first round takes long: much may have been written meanwhile
    if len(done) > 2 and last.data_bytes > _SHRINKS * done[-2].data_bytes:
        return False
    rate = sum(r.data_bytes for r in done) / max(sum(r.seconds for r in done), 1e-6)
    return last.data_bytes / max(rate, 1.0) > _SMALL_SHARE * last.seconds
