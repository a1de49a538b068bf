"""Whether this host's Xen and processors can run what ran on those of the source."""

from __future__ import annotations

import re
from typing import Final

from protocol.messages import GuestOffer, Offer, Problem, Remark
from xenmoved.problems import problem
from xenmoved.remarks import to_look_at
from xenmoved.toolstack.interface import HostInfo

_RELEASE: Final = re.compile(r"(\d{1,4})\.(\d{1,4})(?!\d)")

_FEATURES: Final = {
    1: {0: "sse3", 1: "pclmulqdq", 9: "ssse3", 12: "fma", 13: "cx16", 19: "sse4.1", 20: "sse4.2"}
    | {22: "movbe", 23: "popcnt", 25: "aes", 26: "xsave", 28: "avx", 29: "f16c", 30: "rdrand"},
    2: {11: "syscall", 20: "nx", 26: "page1gb", 27: "rdtscp", 29: "lm"},
    3: {0: "lahf", 5: "abm", 6: "sse4a", 11: "xop", 16: "fma4", 21: "tbm"},
    5: {0: "fsgsbase", 3: "bmi1", 5: "avx2", 7: "smep", 8: "bmi2", 9: "erms", 16: "avx512f"}
    | {17: "avx512dq", 18: "rdseed", 19: "adx", 20: "smap", 23: "clflushopt", 24: "clwb"}
    | {28: "avx512cd", 29: "sha", 30: "avx512bw", 31: "avx512vl"},
}
"""Names of bits by words of `hw_caps`: of what guests use by themselves, if they find it.

Of Xen's xen/include/public/arch-x86/cpufeatureset.h, whose first words `xl info` prints.
"""


def hypervisor_problems(node: str, info: HostInfo, peer: str, offer: Offer) -> list[Problem]:
    """Find what keeps the guest of an offer from running on this host, called `node`, at all."""
    guest = offer.guest
    assert guest is not None
    found = []
    if info.kinds and guest.kind not in info.kinds:
        can = ", ".join(sorted(info.kinds))
        text = f"{node} runs no {guest.kind.upper()} guests: its Xen and processors can run {can}"
        hint = f"if its processors could, see the firmware's setup of {node} (SVM or VT-x)"
        found.append(problem("hypervisor", text, hint))
    here, there = _release(info.xen_version), _release(guest.hypervisor.version)
    if not offer.by_file and here is not None and there is not None and there > here:
        text = (
            f"{node} has Xen {info.xen_version}, {peer} has {guest.hypervisor.version}: Xen "
            "promises to take over the memory of a guest from an older release, not from a newer"
        )
        hint = (
            "move it with --mode restart, which shuts it down here and starts it there, or upgrade "
            f"Xen on {node}"
        )
        found.append(problem("xen-version", text, hint))
    return found


def hypervisor_remarks(node: str, info: HostInfo, peer: str, offer: Offer) -> list[Remark]:
    """Return what to know of a guest that comes running from a processor that can do more."""
    guest = offer.guest
    assert guest is not None
    if offer.by_file or not (missing := missing_features(info, guest)):
        return []
    text = (
        f"the processors of {node} have no {', '.join(missing)}, as those of {peer} have: if "
        f"{guest.name} uses that, Xen does not build it there, or it fails when it does"
    )
    hint = (
        "move it with --mode restart, which starts it anew there; or have Xen hide it from the "
        "guest (cpuid in its configuration) and start it anew first"
    )
    return [to_look_at("processor", text, hint)]


def missing_features(info: HostInfo, guest: GuestOffer) -> list[str]:
    """Return the names of what the processors of the guest's host can do, and those here cannot.

    Nothing where the words may have another order: with xend, and where there are not as many.
    """
    here, there = info.features, guest.hypervisor.features
    if info.toolstack != "xl" or len(here) != len(there):
        return []
    return [
        name
        for word, names in _FEATURES.items()
        if word < len(here)
        for bit, name in names.items()
        if (there[word] & ~here[word]) >> bit & 1
    ]


def _release(version: str) -> tuple[int, int] | None:
    found = _RELEASE.match(version)
    return (int(found[1]), int(found[2])) if found is not None else None
