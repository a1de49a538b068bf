"""Whether what is about to be removed is what was meant.

A name may be another volume's by then: somebody renamed one of them, or made one anew, also while
it was waited for whoever had the volume open.
"""

from __future__ import annotations

from storage.contracts import VolumeIdentity
from storage.errors import VolumeReplaced


def is_same(found: VolumeIdentity, meant: VolumeIdentity) -> bool:
    """Whether a name has the volume that is meant, as far as that can be told.

    One without an identity is taken for what is meant only where nothing told that from others.
    """
    return found == meant or not (found or meant)


def require_same(volume: str, found: VolumeIdentity, meant: VolumeIdentity) -> None:
    """See that what has the name of `volume` (pool:name) is the volume that is meant.

    To be called right before each step that takes something away. Raises `VolumeReplaced`.
    """
    if not is_same(found, meant):
        raise VolumeReplaced(
            f"volume {volume} is another one than was to be removed: it was renamed or made anew"
        )
