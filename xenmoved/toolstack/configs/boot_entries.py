"""What the host starts at boot: CONFIG_DIR/auto, and the entries that were taken out of it.

xendomains starts whatever lies in `auto`, in the order of the names. So an entry leaves it as it
is, for a folder beside it where relative links lead to the same place: NAME.auto.held while it is
not decided where the guest is, NAME.auto.moved when it has moved away.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

from xenmoved.files import sync_folder
from xenmoved.toolstack.configs.guest_file import look_at
from xenmoved.toolstack.configs.keeping import MOVED, REPLACED, free, keep, move, numbered
from xenmoved.toolstack.domains import check_name

_AUTO: Final = "auto"
_HELD: Final = ".held"
_ORDER: Final = re.compile(r"\d{1,8}[-_.+]?", re.ASCII)

_NAMES: Final = 100
"""How many names are tried for an entry that nothing else is called like."""


def order_of(entry: str, name: str) -> str:
    """Return what the name of a domain's entry begins with to have it started in order, as `01-`.

    It is "" where it says no order.
    """
    match = _ORDER.match(entry) if not entry.startswith(name) else None
    return match[0] if match else ""


def is_called(entry: str, name: str) -> bool:
    """Whether the name of an entry is a domain's, with an order or without."""
    return entry.removesuffix(".cfg").removeprefix(order_of(entry, name)) == name


def is_entry_called(path: str, name: str) -> bool:
    """Whether a path is that of an entry, in `auto` or held back, that has a domain's name."""
    place = Path(path)
    among = place.parent.name
    return (among == _AUTO or among.endswith(_AUTO + _HELD)) and is_called(place.name, name)


def starts_one(entry: Path) -> bool:
    """Whether something may be started from an entry: what is hidden is passed by, and folders."""
    return entry.name[0] != "." and not entry.is_dir()


class BootEntries:
    """Entries of `auto`, in it and beside it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.auto = folder / _AUTO

    def held_folder(self, name: str) -> Path:
        """Where the entries of a guest wait until it is decided where it is."""
        return self._beside(name, _HELD)

    def moved_folder(self, name: str) -> Path:
        """Where the entries of a guest are that has moved away."""
        return self._beside(name, MOVED)

    def _beside(self, name: str, suffix: str) -> Path:
        return self._folder / f"{check_name(name)}.{_AUTO}{suffix}"

    def all(self) -> list[Path]:
        """Every entry of `auto`, in the order in which they are started."""
        return sorted(self.auto.iterdir()) if self.auto.is_dir() else []

    def waiting(self) -> list[Path]:
        """Entries of all guests that are held back, and may be put back at any time."""
        return [entry for folder in self._held_folders() for entry in _entries(folder)]

    def _held_folders(self) -> list[Path]:
        return sorted(self._folder.glob(f"*.{_AUTO}{_HELD}"))

    def held_names(self) -> list[str]:
        """Names of all guests of which something is held back, or noted."""
        return [folder.name.removesuffix(f".{_AUTO}{_HELD}") for folder in self._held_folders()]

    def called(self, name: str) -> list[Path]:
        """Entries of `auto` that have a guest's name (see `is_called`)."""
        return [entry for entry in self.all() if is_called(entry.name, name)]

    def held(self, name: str) -> list[Path]:
        """Entries of a guest that are held back."""
        return self._taken_out(name, self.held_folder(name))

    def moved(self, name: str) -> list[Path]:
        """Entries of a guest that has moved away."""
        return self._taken_out(name, self.moved_folder(name))

    def _taken_out(self, name: str, folder: Path) -> list[Path]:
        # Earlier releases renamed the entry itself. A crash may have come between these steps.
        entry = folder.with_name(f"{folder.name}.entry")
        if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
            move(folder, entry)
        if os.path.lexists(entry):
            move(entry, folder / f"{name}.cfg")
        return _entries(folder)

    def starters(
        self,
        name: str,
        uuid: str,
        files: Collection[Path],
        disks: Collection[str] | None = None,
    ) -> list[Path]:
        """Entries of `auto` that start a guest, by what is in them and where they lead.

        `files` are where its file is or was: a link may lead to one that is not there now. Those
        that start another guest are not among them (see `GuestFile.is_of`), nor those that only
        their names make its own (`called_alone`).
        """
        return [entry for entry, told in self._of(name, uuid, files, disks) if told]

    def called_alone(self, name: str, uuid: str, files: Collection[Path]) -> list[Path]:
        """Entries that have a guest's name, and do not say whose they are.

        A peer may call a guest as it likes: such an entry is not one's who comes.
        """
        return [entry for entry, told in self._of(name, uuid, files, None) if not told]

    def _of(
        self, name: str, uuid: str, files: Collection[Path], disks: Collection[str] | None
    ) -> Iterator[tuple[Path, bool]]:
        """Find entries that are a guest's or have its name, each with whether it says so."""
        known = {os.path.realpath(path) for path in files}
        for entry in self.all():
            file = look_at(entry)
            whose = file.is_of(name, uuid, disks) if file is not None else None
            if whose is False:
                continue
            called = is_called(entry.name, name)
            # A uuid or a disk tells whose it is, of what is called so.
            told = file is not None and (
                file.name is not None or (called and (whose or disks is not None))
            )
            if told or os.path.realpath(entry) in known:
                yield entry, True
            elif called:
                yield entry, False

    def take_out(self, entries: Iterable[Path], folder: Path) -> None:
        """Move entries into a folder under the names that they have. Durable."""
        for entry in entries:
            move(entry, folder / entry.name)

    def put_back(self, entries: Iterable[Path], name: str) -> None:
        """Move entries of a guest into `auto`, each to its `place`. Durable."""
        for entry in entries:
            move(entry, self.place(entry))
        self.tidy(name)

    def place(self, entry: Path) -> Path:
        """Return where an entry can be in `auto`: at its name, or the first that nobody has.

        Whatever has its name there stays: it is another guest's, or the operator's.
        """
        return free(entry, self.auto, _names(entry.name))

    def tidy(self, name: str) -> None:
        """Remove the folders of a guest's entries that are empty. Durable."""
        for folder in (self.held_folder(name), self.moved_folder(name)):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
                sync_folder(self._folder)

    def set_out_of_use(self, entries: Iterable[Path], name: str) -> None:
        """Keep entries from which the guest is not started any more beside `auto`. Durable."""
        for entry in entries:
            # At once under its last name: the one that it has may be that of an entry there.
            keep(entry, self.moved_folder(name))

    def new_name(self, name: str, order: str, others: Collection[str]) -> str:
        """Return how to call a new entry of a domain: with its order where that name is free.

        It is not one that is taken for the entry of one of `others`, names of guests.
        """
        wishes = (f"{order}{name}.cfg", *itertools.islice(_names(f"{name}.cfg"), _NAMES))
        return next(
            (
                wish
                for wish in wishes
                if not os.path.lexists(self.auto / wish)
                and not any(is_called(wish, other) for other in others)
            ),
            f"{name}.cfg",
        )

    def link(self, entry: str, path: Path) -> None:
        """Have the host start what is at `path`, under the first free name. Durable."""
        self.auto.mkdir(exist_ok=True)
        inside = path.parent.resolve() == self._folder.resolve()
        for name in _names(entry):
            with contextlib.suppress(FileExistsError):
                (self.auto / name).symlink_to(Path("..") / path.name if inside else path)
                break
        sync_folder(self.auto)


def _names(entry: str) -> Iterator[str]:
    """Return what an entry can be called: as it is, else with a number, which keeps its order."""
    wish = Path(entry)
    return numbered(wish.stem, wish.suffix)


def _entries(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.name[0] != "." and path.suffix != REPLACED
    )
