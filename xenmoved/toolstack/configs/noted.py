"""Which file is a guest's that is leaving, and the place in the folder that is kept for it.

NAME.auto.held/.file says where the file belongs until it is decided where the guest is, and .aside
is a second name of the file itself: what is set aside is known by that, and not by what is called
FILE.moved. Until the guest is decided no file of another guest goes to either place.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xenmoved.files import sync_folder
from xenmoved.toolstack.configs.boot_entries import BootEntries
from xenmoved.toolstack.configs.guest_file import look_at
from xenmoved.toolstack.configs.keeping import MOVED, move, numbered
from xenmoved.toolstack.interface import ToolstackError

_PLACE: Final = ".file"
_ITSELF: Final = ".aside"


@dataclass(frozen=True, slots=True)
class Noted:
    """Where the file of a guest belongs that is leaving, and where it is while it is set aside."""

    guest: str
    place: Path
    aside: Path | None

    @property
    def kept(self) -> set[Path]:
        """The paths that nobody else's file may have."""
        moved = self.place.with_name(self.place.name + MOVED)
        return {self.place, moved, *([self.aside] if self.aside is not None else [])}


class Notes:
    """The notes of all guests that are leaving."""

    def __init__(self, folder: Path, boot: BootEntries) -> None:
        self._folder = folder
        self._boot = boot

    def all(self) -> list[Noted]:
        """Every note there is."""
        found: list[Noted] = []
        for name in self._boot.held_names():
            with contextlib.suppress(ToolstackError):  # it is no guest's
                found += [noted] if (noted := self.of(name)) is not None else []
        return found

    def of(self, name: str) -> Noted | None:
        """Return what was noted of a guest, None without a note."""
        held = self._boot.held_folder(name)
        try:
            place = (held / _PLACE).readlink()
        except OSError:
            return None
        return Noted(name, place, self._aside(name, place))

    def _aside(self, name: str, place: Path) -> Path | None:
        first = place.with_name(place.name + MOVED)
        try:
            itself = (self._boot.held_folder(name) / _ITSELF).lstat()
        except FileNotFoundError:
            # Earlier releases noted the place alone, also of what was not set aside.
            told = os.path.lexists(first) and not os.path.lexists(place)
            file = look_at(first) if told else None
            return first if told and (file is None or file.name in (None, name)) else None
        for path in (first, *sorted(self._folder.glob(f"*{MOVED}"))):
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(path.lstat(), itself):
                    return path
        return None

    def others(self, name: str) -> dict[Path, str]:
        """Return the paths that are kept for other guests than `name`, with these."""
        return {path: one.guest for one in self.all() if one.guest != name for path in one.kept}

    def require_free(self, name: str, path: Path) -> None:
        """See that a path is not kept for another guest. Raises ToolstackError."""
        if (other := self.others(name).get(path)) is not None:
            raise ToolstackError(
                f"{path} is kept for the configuration of {other}, which is leaving; see "
                "xenmovectl recover, and do this when that is decided"
            )

    def note(self, name: str, file: Path) -> None:
        """Note which file is a guest's, unless that was noted. Durable."""
        folder = self._boot.held_folder(name)
        self._boot.held(name)
        folder.mkdir(exist_ok=True)
        if not (folder / _PLACE).is_symlink():
            (folder / _ITSELF).unlink(missing_ok=True)
            self._name_itself(folder, file)
            (folder / _PLACE).symlink_to(file)
        sync_folder(folder)
        sync_folder(self._folder)

    def _name_itself(self, folder: Path, file: Path) -> None:
        """Give a file of this folder its second name: whatever it is, a link is the folder's."""
        if file.parent == self._folder and os.path.lexists(file):
            os.link(file, folder / _ITSELF, follow_symlinks=False)

    def set_aside(self, name: str, uuid: str) -> None:
        """Rename the file that was noted, if it is in its place, FILE.moved. Durable, idempotent.

        What is there and is another guest's by now stays. Where that name is kept for another
        guest that is leaving, it is called FILE.2.cfg.moved and so on.
        """
        noted = self.of(name)
        if noted is None or noted.place.parent != self._folder or not os.path.lexists(noted.place):
            return
        there = look_at(noted.place)
        if there is not None and there.is_of(name, uuid) is False:
            return
        if noted.aside is not None and not _is_own(name, noted.place):
            return
        folder = self._boot.held_folder(name)
        (folder / _ITSELF).unlink(missing_ok=True)
        self._name_itself(folder, noted.place)
        sync_folder(folder)
        move(noted.place, self._name_aside(name, noted.place))

    def _name_aside(self, name: str, file: Path) -> Path:
        wish = file.with_name(file.name + MOVED)
        others = self.others(name)
        if wish not in others:
            return wish
        places = map(file.with_name, numbered(file.name.removesuffix(".cfg"), ".cfg"))
        pairs = ((place, place.with_name(place.name + MOVED)) for place in places)
        return next(
            aside
            for place, aside in pairs
            if not ({place, aside} & others.keys())
            and not os.path.lexists(place)
            and not os.path.lexists(aside)
        )

    def bring_back(self, name: str) -> None:
        """Put the file that was set aside, and no other, back into its place. Idempotent.

        Raises ToolstackError when something is there that does not say that it is this guest's.
        """
        noted = self.of(name)
        if noted is None or noted.aside is None:
            return
        if not os.path.lexists(noted.place):
            move(noted.aside, noted.place)
        else:
            require_own(name, noted.place, noted.aside)

    def forget(self, name: str) -> None:
        """Remove the note, when no entry is held any more. Durable."""
        folder = self._boot.held_folder(name)
        (folder / _PLACE).unlink(missing_ok=True)
        (folder / _ITSELF).unlink(missing_ok=True)
        self._boot.tidy(name)


def is_second_name(path: Path) -> bool:
    """Whether a path is only the second name of a file that was noted."""
    return path.name == _ITSELF


def _is_own(name: str, place: Path) -> bool:
    """Whether what is in the place of a file that was set aside is the guest's, too.

    It says so, or says nothing and is called like it.
    """
    there = look_at(place)
    if there is None:
        return False
    return there.name == name or (there.name is None and place.name in (name, f"{name}.cfg"))


def require_own(name: str, place: Path, aside: Path) -> None:
    """See that what is in the place of a file that was set aside is the same guest's.

    Raises ToolstackError.
    """
    if not _is_own(name, place):
        raise ToolstackError(
            f"{place} is not of {name}, and is where {aside} belongs, its configuration: rename "
            f"{place}, with the entries of auto that lead to it, or name {name} in it if it is to "
            "be used instead"
        )
