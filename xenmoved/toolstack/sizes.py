"""How large a guest is where what says so leaves something out. Pure.

What is left out the toolstacks fill in when they build a domain, and a peer may leave out what it
likes: so every size that is read, from xl.cfg, JSON or S-expressions, or that is announced, is
completed here before it is compared with anything.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

from protocol.messages import GuestSize

_MIB: Final = 1 << 20
_UNSAID: Final = 128 * _MIB
"""xm's default. libxl's is 32 MiB; the same file may be started by either."""
_PER_MIB: Final = 2 * 4096
"""libxl and xend: a page to map each MiB, and one to shadow what uses it."""


class StartedAtBoot(NamedTuple):
    """How many bytes the domains take that a host starts at boot.

    `unweighed` are the entries of which that cannot be told.
    """

    memory: int
    unweighed: tuple[str, ...]


def complete(size: GuestSize) -> GuestSize:
    """Return a size with the memory that is taken where none is said, or 0.

    libxl then takes all that the guest may be given; xm takes less, but does not say so.
    """
    memory = size.memory or size.maximum or _UNSAID
    return replace(size, memory=memory, maximum=max(memory, size.maximum))


def weight(kind: str, size: GuestSize) -> int:
    """Bytes that a guest takes of a host at once, not what it may grow to.

    A `pv` guest has its page tables in its own memory. For others libxl and xend keep shadow memory
    by what the guest may grow to, at least where none is said: nothing here tells that from 0.
    """
    size = complete(size)
    if kind == "pv":
        return size.memory
    shadow = size.max_vcpus * _MIB + size.maximum // _MIB * _PER_MIB
    return size.memory + max(size.beside, shadow)
