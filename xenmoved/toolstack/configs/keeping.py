"""Renaming an operator's files so that none is lost: what is in the way is kept.

A file is removed only where the same is left in another place.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from xenmoved.files import sync_folder

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


def numbered(stem: str, suffix: str) -> Iterator[str]:
    """Return STEM.SUFFIX, STEM.2.SUFFIX and so on, without end; `suffix` has its dot."""
    yield f"{stem}{suffix}"
    for number in itertools.count(2):
        yield f"{stem}.{number}{suffix}"


def kept_as(path: Path, folder: Path | None = None) -> Path:
    """Return the name under which `keep` keeps what is at a path: a free one, or one of the same.

    It is FILE.replaced, FILE.2.replaced and so on, where it is or in `folder`.
    """
    names = numbered(place_of(path).name, REPLACED)
    return free(path, (path.parent if folder is None else folder), names)


def free(path: Path, folder: Path, names: Iterable[str]) -> Path:
    """Return the first of `names` in a folder at which nothing is, or the same as at `path`."""
    places = map(folder.joinpath, names)
    return next(one for one in places if not os.path.lexists(one) or same(path, one))


def keep(path: Path, folder: Path | None = None, *, copy: bool = False) -> None:
    """Give what is at a path the name of `kept_as`; with `copy` it stays there too. Durable."""
    kept = kept_as(path, folder)
    if not copy:
        move(path, kept)
    elif not os.path.lexists(kept):
        os.link(path, kept, follow_symlinks=False)
        sync_folder(kept.parent)


def move(source: Path, target: Path) -> None:
    """Rename durably; what is at `target`, and is something else, is kept."""
    if source == target:
        return
    if not (there := os.path.lexists(target)) and not target.parent.is_dir():
        target.parent.mkdir(exist_ok=True)
        sync_folder(target.parent.parent)
    elif there and not same(source, target):
        keep(target)
    # Two names of one file, which a link can have too, would both stay.
    if os.path.lexists(target) and os.path.samestat(source.lstat(), target.lstat()):
        source.unlink()
    else:
        source.replace(target)
    sync_folder(target.parent)
    sync_folder(source.parent)


def is_newer(file: str | os.PathLike[str], left: str | os.PathLike[str]) -> bool:
    """Whether a file was put in its place after another was set aside, as far as is known."""
    try:
        return Path(file).lstat().st_ctime > Path(left).lstat().st_ctime
    except OSError:
        return False
