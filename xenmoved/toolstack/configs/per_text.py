"""What was found in a text is not looked for again while the text is the same.

Every look at this host reads all configuration files that are here, several times, and a text from
another host may be as slow to take apart as one of its length can be.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import Final, TypeVar

T = TypeVar("T")

_MOST_CHARACTERS: Final = 16 << 20
"""Length of all texts together of which is kept what a function found."""

_OVERHEAD: Final = 1024
"""What a text counts beside its length: what is found in an empty one takes space, too."""


def per_text(function: Callable[[str], T]) -> Callable[[str], T]:
    """Have a function remember what it found in the texts that it was asked for last.

    What it returns must not be changed by anybody. May be called in any thread. What it raises is
    not remembered.
    """
    known: OrderedDict[bytes, tuple[T, int]] = OrderedDict()
    lock = threading.Lock()
    total = 0

    @functools.wraps(function)
    def remembered(text: str) -> T:
        nonlocal total
        key = blake2b(text.encode("utf-8", "surrogatepass")).digest()
        with lock:
            if (entry := known.get(key)) is not None:
                known.move_to_end(key)
                return entry[0]
        found = function(text)
        with lock:
            if key not in known:
                weight = len(text) + _OVERHEAD
                known[key] = found, weight
                total += weight
            while total > _MOST_CHARACTERS:
                total -= known.popitem(last=False)[1][1]
        return found

    return remembered
