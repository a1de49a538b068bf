"""Which files of this host a guest from another host may be given to read.

A toolstack opens what a guest is booted from as root, and shows it to the guest. The other host
names the file, so it must be one that is no secret: a regular file, where it is looked for or where
a link from there leads within the same folders, that everybody on this host may read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Final

from xenmoved.toolstack.interface import ToolstackError

_READ: Final = "so that everybody may read it, or copy it to a folder where everybody may"


@dataclass(frozen=True, slots=True)
class Readable:
    """Folders with files for guests, as patterns that `under` takes.

    `root` is below what they are looked for; with None nothing is looked at, and any file in them
    will do. `given` has what one guest was found fit for, to be judged `again`.
    """

    folders: tuple[str, ...]
    root: Path | None = Path("/")
    given: set[tuple[str, tuple[str, ...]]] | None = field(default=None, compare=False)

    @property
    def unseen(self) -> Readable:
        """The same folders, of a host that cannot be looked at: the files are another host's."""
        return Readable(self.folders, None)

    def has(self, path: str) -> bool:
        """Whether a path is in one of the folders, wherever it leads."""
        return under(path, self.folders)

    def beside(self, *folders: str) -> Readable:
        """Return the same with more folders."""
        return replace(self, folders=(*self.folders, *folders))

    def for_one(self) -> Readable:
        """Return the same for one guest, of which nothing is known yet."""
        return replace(self, given=set())

    def again(self) -> list[str]:
        """Return what may not be given any more of what was found to be fit, and why. Blocks."""
        found = [
            (path, replace(self, folders=folders).why_not(path))
            for path, folders in sorted(self.given or ())
        ]
        return [f"{path}: {why}" for path, why in found if why is not None]

    def why_not(self, path: str) -> str | None:
        """Return why a guest may not be given a file of the folders, with what to do about it.

        None when it may, and when there is none: what is not there gives nothing away. In a folder
        that is closed to others nobody learns what there is. Blocks.
        """
        if self.root is None:
            return None
        why = self._judge(path, self.root)
        if why is None and self.given is not None:
            self.given.add((path, self.folders))
        return why

    def _judge(self, path: str, below: Path) -> str | None:
        root = os.path.realpath(below).rstrip("/")
        real = os.path.realpath(f"{root}/{path.lstrip('/')}")
        bases = [os.path.realpath(root + base) for base in _matching(path, self.folders)]
        inside = real.startswith(f"{root}/") and under(real[len(root) :], self.folders)
        if not inside and not any(real.startswith(f"{base}/") for base in bases):
            return (
                "it is a link that leads out of the folders to boot from: put the file itself "
                "there, or add the folder where it is (`boot_folders`)"
            )
        return why_unreadable(real, root if real.startswith(f"{root}/") else "")


def require_given(files: Readable, guest: str) -> None:
    """See that a guest may be given still what it was found fit for. Raises ToolstackError. Blocks.

    A file may have come, or been closed to others, since its configuration was judged.
    """
    if lost := files.again():
        raise ToolstackError(f"{guest} may not be booted here any more: {'; '.join(lost[:20])}.")


def why_unreadable(real: str, root: str = "") -> str | None:
    """Return why not everybody may read a file, with what to do; None when all may, or without it.

    `real` is its path without links, of which the part below `root` is looked at. Blocks.
    """
    folders = [str(one) for one in PurePosixPath(real).parents]
    try:
        for folder in reversed([one for one in folders if one.startswith(f"{root}/")]):
            if not Path(folder).stat().st_mode & stat.S_IXOTH:
                return (
                    "it is in a folder that is closed to others, and a guest may read only what "
                    f"everybody on this host may: open the folder (chmod o+x) {_READ}"
                )
        mode = Path(real).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return f"it cannot be looked at: {error.strerror}"
    if not stat.S_ISREG(mode):
        return "it is no regular file: name one"
    if not mode & stat.S_IROTH:
        return (
            "not everybody on this host may read it, and so no guest: if it holds nothing secret, "
            f"change its mode (chmod o+r) {_READ}"
        )
    return None


def under(path: str, folders: tuple[str, ...]) -> bool:
    """Whether a plain absolute path lies under a folder that matches one of the patterns.

    One with `..` or with characters that nobody sees, such as a tab, is not plain, nor is one with
    a comma, after which QEMU takes what follows for another file (-initrd).

    A pattern is matched as a whole folder name by name: "/usr/lib/xen*" covers /usr/lib/xen-4.17.
    """
    pure = PurePosixPath(path)
    if not pure.is_absolute() or ".." in pure.parts or path.startswith("//"):
        return False
    if "," in path or not path.isprintable():
        return False
    return any(True for _ in _matching(path, folders))


def _matching(path: str, folders: tuple[str, ...]) -> Iterator[str]:
    for parent in PurePosixPath(path).parents:
        if any(parent.match(folder) for folder in folders):
            yield str(parent)
