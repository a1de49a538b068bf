"""How large a guest is, whatever form says so, and where something is left out. Pure.

What is left out the toolstacks fill in when they build a domain, and a peer may leave out what it
likes: so every size that is read, from xl.cfg, JSON or S-expressions, or that is announced, is
completed here before it is compared with anything. 0 is as good as nothing said: so xl and libxl
take it for all but shadow memory, and of that what is usual is weighed in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from protocol.messages import GuestSize

_KIB: Final = 1 << 10
_MIB: Final = 1 << 20
KEYS: Final[Mapping[str, tuple[str, int]]] = {
    "memory": ("memory", _MIB),
    "target_memkb": ("memory", _KIB),
    "maxmem": ("maximum", _MIB),
    "max_memkb": ("maximum", _KIB),
    "shadow_memory": ("shadow", _MIB),
    "shadow_memkb": ("shadow", _KIB),
    "iommu_memkb": ("iommu", _KIB),
    "slack_memkb": ("slack", _KIB),
    "vmtrace_buf_kb": ("for each vcpu", _KIB),
    "vcpus": ("vcpus", 1),
    "maxvcpus": ("max_vcpus", 1),
    "max_vcpus": ("max_vcpus", 1),
}
"""The keys that say how large a domain is: what of it, and in which unit.

xl.cfg, libxl and xend have other names for one thing, and every reader takes all of them: none of
a form can be missing in it, and what a toolstack passes by counts as well.
"""
_FIELDS: Final = frozenset(field for field, _ in KEYS.values())
NOT_WEIGHED: Final = ("videoram", "video_memkb", "stubdomain_memory", "stubdomain_memkb")
"""Memory that is a part of the guest's own, and that of stub domains, which do not come."""
_NO_TABLES: Final = ("", "0", "default", "disabled", "share_pt", "<default>")
"""Of `passthrough`: otherwise an IOMMU may have tables for the guest (libxl_create.c)."""
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


def keys_in(unit: int) -> str:
    """Return the keys that are in some unit, 1 for counts."""
    return " ".join(key for key, (_, said_in) in KEYS.items() if said_in == unit)


def sized(number: Callable[[str], int], passthrough: str = "") -> GuestSize:
    """Return the size of a domain of which `number` tells what each key says, 0 for nothing.

    What is said in two ways counts as the larger. `passthrough` is what the key of that name says.
    """
    said = dict.fromkeys(_FIELDS, 0)
    for key, (field, unit) in KEYS.items():
        said[field] = max(said[field], number(key) * unit)
    size = complete(GuestSize(said["memory"], said["maximum"], 0, said["vcpus"], said["max_vcpus"]))
    shadow, traces = said["shadow"], said["for each vcpu"] * size.max_vcpus
    more = said["iommu"] + said["slack"] + traces
    tables = passthrough.lower() not in _NO_TABLES
    if more or tables:
        # Beside what is usual, which `weight` takes for a part of this.
        shadow = max(shadow, _usual(size))
    return replace(size, beside=shadow + more + (shadow if tables else 0))


def complete(size: GuestSize) -> GuestSize:
    """Return a size with the memory and the vcpus that are taken where none are said, or 0.

    libxl then takes all memory that the guest may be given; xm takes less, but does not say so.
    """
    memory = size.memory or size.maximum or _UNSAID
    vcpus = max(1, size.vcpus)
    return replace(
        size,
        memory=memory,
        maximum=max(memory, size.maximum),
        vcpus=vcpus,
        max_vcpus=max(vcpus, size.max_vcpus),
    )


def _usual(size: GuestSize) -> int:
    """Bytes of shadow memory that libxl and xend keep for a guest of a size by themselves."""
    return size.max_vcpus * _MIB + size.maximum // _MIB * _PER_MIB


def weight(kind: str, size: GuestSize) -> int:
    """Bytes that a guest takes of a host at once, not what it may grow to.

    A `pv` guest has its page tables in its own memory. For others libxl and xend keep shadow memory
    by what the guest may grow to, at least where none is said: nothing here tells that from 0. What
    is kept beyond that is not told apart, and counts for all.
    """
    size = complete(size)
    usual = _usual(size)
    if kind == "pv":
        return size.memory + max(0, size.beside - usual)
    return size.memory + max(size.beside, usual)
