"""Renaming an operator's files so that none is lost: what is in the way is kept.

A file is removed only where the same is left in another place.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Final

from xenmoved.toolstack.durable import sync_folder

MOVED: Final = ".moved"
"""Of what is of use again when the guest comes back."""
REPLACED: Final = ".replaced"
"""Of what something newer has taken the place of: it is the operator's."""


def place_of(path: Path) -> Path:
    """Return where a file was, or is to be again, that is set aside."""
    return path.with_name(path.name.removesuffix(MOVED))


def same(one: Path, other: Path) -> bool:
    """Whether two paths are links to the same place, or files with the same bytes."""
    if one.is_symlink() or other.is_symlink():
        return one.is_symlink() and other.is_symlink() and one.readlink() == other.readlink()
    return one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()


def kept_as(path: Path) -> Path:
    """Return the name under which `keep` keeps what is at a path: a free one, or one of the same.

    It is FILE.replaced, FILE.2.replaced and so on.
    """
    stem = place_of(path).name
    for number in itertools.count(1):
        name = f"{stem}{REPLACED}" if number == 1 else f"{stem}.{number}{REPLACED}"
        kept = path.with_name(name)
        if not os.path.lexists(kept) or same(path, kept):
            return kept
    raise AssertionError


def keep(path: Path, *, copy: bool = False) -> None:
    """Give what is at a path the name of `kept_as`; with `copy` it stays there too. Durable."""
    kept = kept_as(path)
    if os.path.lexists(kept):
        if not copy:
            path.unlink()
    elif copy:
        os.link(path, kept, follow_symlinks=False)
    else:
        path.rename(kept)
    sync_folder(path.parent)


def move(source: Path, target: Path) -> None:
    """Rename durably; what is at `target`, and is something else, is kept."""
    if os.path.lexists(target) and not same(source, target):
        keep(target)
    target.parent.mkdir(exist_ok=True)
    # Two names of one file would both stay.
    if os.path.lexists(target) and source.samefile(target) and not source.is_symlink():
        source.unlink()
    else:
        source.replace(target)
    sync_folder(target.parent)
    sync_folder(source.parent)
