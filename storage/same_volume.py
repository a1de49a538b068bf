"""Whether what is about to be removed is what was meant.

A name may be another volume's by then: somebody renamed one of them, or made one anew, also while
it was waited for whoever had the volume open.
"""

from __future__ import annotations

from storage.contracts import VolumeIdentity
from storage.errors import VolumeReplaced


def require_same(volume: str, found: VolumeIdentity, meant: VolumeIdentity) -> None:
    """See that what has the name of `volume` (pool:name) is the volume that is meant.

    One without an identity is taken for what is meant only where nothing told that from others.
    To be called right before each step that takes something away. Raises `VolumeReplaced`.
    """
    if found != meant and (found or meant):
        raise VolumeReplaced(
            f"volume {volume} is another one than was to be removed: it was renamed or made anew"
        )
