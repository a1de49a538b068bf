"""Guests' configuration files and their autostart, in the folder where the host keeps them.

A guest that moved away leaves FILE.moved there, and its entries of `auto` in NAME.auto.moved: they
come back into use with it, as they were if nothing about them had to change. Which file is a
guest's is found by `guest_file`. A file outside CONFIG_DIR is only ever read, and no file of an
operator's is lost (`keeping`).
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from protocol.messages import Remark
from xenmoved.toolstack.announced import require_announced
from xenmoved.toolstack.configs.boot_entries import BootEntries, starts_one
from xenmoved.toolstack.configs.compose import may_be_composed
from xenmoved.toolstack.configs.guest_file import (
    Evidence,
    GuestFile,
    created_from,
    find,
    look_at,
    read_text,
)
from xenmoved.toolstack.configs.installing import Course, Here, carry_out, decide, received_for
from xenmoved.toolstack.configs.keeping import MOVED, REPLACED, is_newer, move, place_of, same
from xenmoved.toolstack.configs.noted import Notes, is_second_name, require_own
from xenmoved.toolstack.configs.text import TEXT_LIMIT, adapt, describe, fits, own_disks, with_name
from xenmoved.toolstack.domains import check_name
from xenmoved.toolstack.durable import in_thread
from xenmoved.toolstack.interface import Arrival, Domain, ToolstackError
from xenmoved.toolstack.readable import Readable
from xenmoved.toolstack.sizes import StartedAtBoot

T = TypeVar("T")

_OUT_OF_USE: Final = (MOVED, REPLACED)
_LOOKS: Final = 8
"""How often the folder is read anew while files in it are renamed."""


def is_block_device(path: str) -> bool:
    """Tell whether a path is a block device."""
    try:
        return stat.S_ISBLK(Path(path).stat().st_mode)
    except OSError:
        return False


def _has_others(entry: Path, mine: Collection[str]) -> bool:
    """Whether an entry is certain to start a domain with other disks than these."""
    file = look_at(entry) if mine else None
    return file is not None and bool(own_disks(file.text)) and not file.writes(mine)


class ConfigFolder:
    """CONFIG_DIR: files of guests, and links to them in `auto`."""

    def __init__(self, folder: Path, boot_folders: Readable) -> None:
        self._folder = folder
        self._boot_folders = boot_folders
        self._boot = BootEntries(folder)
        self._notes = Notes(folder, self._boot)
        self._changing = threading.Lock()

    async def _change(self, function: Callable[..., T], *arguments: object) -> T:
        """Change files while nobody else does: two guests may want one place."""

        def alone() -> T:
            with self._changing:
                return function(*arguments)

        return await self._call(alone)

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        try:
            return await in_thread(function, *arguments)
        except OSError as error:
            raise ToolstackError(
                f"cannot change the configuration files in {self._folder}: {error}."
            ) from error

    # --- which file it is ---

    async def files(self, name: str, uuid: str = "") -> list[GuestFile]:
        """Return the files that are a domain's or in its place, the best first.

        Those of another domain come last (see `GuestFile.is_of`). Without a uuid what the files say
        of theirs does not count.
        """
        return await self._call(self._files, name, uuid)

    def _called(self, name: str, suffix: str = "") -> tuple[Path, Path]:
        return (
            self._folder / f"{check_name(name)}.cfg{suffix}",
            self._folder / f"{name}{suffix}",
        )

    async def kept_for_another(self, name: str, uuid: str) -> Path | None:
        """Return where a domain's file would be, if that is kept for another guest that leaves."""
        return await self._call(self._kept_for_another, name, uuid)

    def _kept_for_another(self, name: str, uuid: str) -> Path | None:
        others = self._notes.others(name)
        places = self._places(name, self._files(name, uuid), self._aside(name, uuid))
        wanted = [*self._called(name), *self._called(name, MOVED), *places]
        return next((path for path in wanted if path in others), None)

    async def unreadable(self, name: str) -> Path | None:
        """Return what is in the place of a domain's file or entry and cannot be read, if any."""
        return await self._call(self._unreadable, name)

    def _unreadable(self, name: str) -> Path | None:
        called = self._called(name)
        # A link to where its own file was leads nowhere while that is set aside.
        own = {*called, *(place_of(file.path) for file in self._aside(name))}
        empty = {os.path.realpath(path) for path in own if not os.path.lexists(path)}
        for path in (*called, *self._boot.called(name)):
            if os.path.lexists(path) and os.path.realpath(path) not in empty and not look_at(path):
                return path
        return None

    def _files(self, name: str, uuid: str = "") -> list[GuestFile]:
        called = self._called(name)
        others, mine = self._notes.others(name), self._notes.of(name)
        entries = [*self._boot.all(), *self._boot.held(name)]
        elsewhere = (entry.resolve() if entry.is_symlink() else entry for entry in entries)
        found = find(
            name,
            uuid,
            [*called, *sorted(self._folder.glob("*.cfg")), *elsewhere],
            called=called,
            at_boot={os.path.realpath(entry) for entry in entries},
            noted=mine.place if mine is not None else None,
            made=lambda: created_from(self._folder),
        )
        # One that says no name is whose its place is kept for.
        found = [file for file in found if file.name is not None or file.path not in others]
        if not (aside := self._aside(name, uuid)):
            return found
        # What only has its name in it is not what was in use before the guest left, unless it was
        # put there since; what is another guest's stays in sight.
        return [
            file
            for file in found
            if file.evidence != {Evidence.SAID}
            or file.is_of(name, uuid) is False
            or all(is_newer(file.path, left.path) for left in aside)
        ]

    def _possible(self, name: str, uuid: str = "") -> list[GuestFile]:
        files = self._files(name, uuid)
        return [file for file in files if file.is_of(name, uuid) is not False]

    def _aside(
        self, name: str, uuid: str = "", disks: Collection[str] | None = None
    ) -> list[GuestFile]:
        """Return the files that were set aside when a domain left, the best first."""
        called, others = self._called(name, MOVED), self._notes.others(name)
        led_to = {os.path.realpath(entry) for entry in self._boot.moved(name)}

        def rank(file: GuestFile) -> tuple[float, bool, bool]:
            at_boot = os.path.realpath(place_of(file.path)) in led_to
            return file.path.lstat().st_ctime, at_boot, file.path in called

        files = map(look_at, dict.fromkeys([*called, *self._folder.glob(f"*.cfg{MOVED}")]))
        mine = (
            file
            for file in files
            if file is not None
            and file.path not in others
            and (file.name == name or (file.name is None and file.path in called))
            and file.is_of(name, uuid) is not False
            and (disks is None or file.writes(disks))
        )
        return sorted(mine, key=rank, reverse=True)

    async def read_all(self, *, moved: bool = False) -> dict[str, str]:
        """Texts of the files here and in `auto`, by path; with `moved` of guests that left too.

        The file of a guest that is leaving is one here until it has left, also while it is set
        aside. A file too large to be a guest's configuration is none. Raises ToolstackError.
        """
        return await self._call(self._read_all, moved)

    def _read_all(self, moved: bool) -> dict[str, str]:
        texts: dict[str, str] = {}
        for _ in range(_LOOKS):
            listed = self._listed(moved)
            texts |= {
                str(path): read_text(path) or ""
                for path in listed
                if path.is_file() and path.stat().st_size <= TEXT_LIMIT
            }
            # What was renamed meanwhile may have been seen at neither place.
            if listed == self._listed(moved):
                break
        return texts

    def _listed(self, moved: bool) -> list[Path]:
        paths: list[Path] = []
        for pattern in ("*", "auto/*", "*.auto.held/*", *([f"*.auto{MOVED}/*"] if moved else [])):
            paths += sorted(self._folder.glob(pattern))
        in_use = [path for path in paths if moved or path.suffix not in _OUT_OF_USE]
        in_use = [path for path in in_use if not is_second_name(path)]
        return list(dict.fromkeys([*in_use, *self._leaving().values()]))

    def _leaving(self) -> dict[Path, Path]:
        """Where the files are that are set aside for now, by where they come back to."""
        return {one.place: one.aside for one in self._notes.all() if one.aside is not None}

    async def describe(self, name: str) -> Domain | None:
        """Describe the domain that its file would start, None without one."""
        files = await self._call(self._possible, name)
        return await self.describe_text(name, files[0].text) if files else None

    async def describe_text(self, name: str, text: str) -> Domain:
        """Describe the domain that a text would start. Raises ToolstackError."""
        return await in_thread(describe, text, name, self._boot_folders)

    # --- a guest that comes ---

    async def check(self, text: str, arrival: Arrival) -> None:
        """See that a text is of the announced guest, and that `install` can adapt it.

        Raises NotAnnounced, or ToolstackError with all that stands in the way.
        """
        require_announced(await self.describe_text(arrival.announced_name, text), arrival)
        await in_thread(self._adapt, text, arrival, [])

    async def foresee(
        self, name: str, text: str, arrival: Arrival, autostart: bool
    ) -> tuple[Remark, ...]:
        """Return what `install` would remark. Changes nothing."""
        return (await self._call(self._course, name, text, arrival, autostart)).remarks

    async def text_for(self, name: str, text: str, arrival: Arrival) -> str:
        """Return the text that `install` would have here in use. Changes nothing.

        Raises ToolstackError where it would use none.
        """
        course = await self._call(self._course, name, text, arrival, False)
        if course.received:
            raise ToolstackError("; ".join(remark.text for remark in course.remarks))
        return course.text

    async def received(self) -> frozenset[str]:
        """Return the names of domains of which a text that came waits for its operator."""
        return await self._call(lambda: frozenset(received_for(self._folder)))

    async def install(
        self, name: str, text: str, arrival: Arrival, autostart: bool
    ) -> tuple[Remark, ...]:
        """Have the domain's file here, adapted to this host, and with `autostart` in `auto`.

        See `installing`. Returns what the operator should know. Idempotent.
        """
        return await self._change(self._install, name, text, arrival, autostart)

    def _install(
        self, name: str, text: str, arrival: Arrival, autostart: bool
    ) -> tuple[Remark, ...]:
        course = self._course(name, text, arrival, autostart)
        carry_out(course, self._boot, name)
        return course.remarks

    def _course(self, name: str, text: str, arrival: Arrival, autostart: bool) -> Course:
        uuid, disks = arrival.uuid, arrival.own_disks
        files = self._files(name, uuid)
        aside = self._aside(name, uuid, None if arrival.returns else arrival.kept_disks)
        here = Here(
            self._folder,
            tuple(files),
            tuple(aside),
            tuple(self._boot.starters(name, uuid, self._places(name, files, aside), disks)),
            tuple(self._boot.moved(name)) if arrival.returns or aside else (),
            partial(self._notes.require_free, name),
            self._said() - {name},
        )
        return decide(here, text, partial(self._adapt, text, arrival), arrival, autostart)

    def _said(self) -> frozenset[str]:
        """Return the names that files here say of their guests, also of those that left."""
        paths = (*self._folder.glob("*.cfg"), *self._folder.glob(f"*{MOVED}"), *self._boot.all())
        names = (file.name for file in map(look_at, paths) if file is not None)
        return frozenset(name for name in names if name is not None)

    def _adapt(self, text: str, arrival: Arrival, left_out: list[str]) -> str:
        """Adapt a text, which is one that can be described: what it is was weighed by that.

        It gets the guest's name if it says none, so that nothing takes it for another guest's.
        """
        describe(text, arrival.announced_name, self._boot_folders)
        adapted = adapt(text, arrival, self._boot_folders, is_block_device, left_out)
        return with_name(adapted, arrival.name)

    def _places(self, name: str, files: list[GuestFile], aside: list[GuestFile]) -> list[Path]:
        """Return where the file of a domain is or was."""
        return [
            self._called(name)[0],
            *(file.path for file in files if file.name == name),
            *(place_of(file.path) for file in aside),
        ]

    # --- a guest that leaves, or is held ---

    def _certain(self, name: str, uuid: str) -> list[Path]:
        places = self._places(name, self._possible(name, uuid), self._aside(name, uuid))
        return self._boot.starters(name, uuid, places)

    def _starters(self, name: str, uuid: str) -> list[Path]:
        """Return what starts a domain of this host, also where only a name tells so.

        Otherwise it would be started here when it has left.
        """
        return [*self._certain(name, uuid), *self._called_alone(name, uuid)]

    async def called_alone(self, name: str, uuid: str) -> list[Path]:
        """Return the entries of `auto` that only their names make a domain's, and not its file."""
        return await self._call(self._doubtful, name, uuid)

    def _doubtful(self, name: str, uuid: str) -> list[Path]:
        mine = {os.path.realpath(file.path) for file in self._possible(name, uuid)}
        entries = self._called_alone(name, uuid)
        return [entry for entry in entries if os.path.realpath(entry) not in mine]

    def _called_alone(self, name: str, uuid: str) -> list[Path]:
        files, aside = self._possible(name, uuid), self._aside(name, uuid)
        entries = self._boot.called_alone(name, uuid, self._places(name, files, aside))
        mine = {disk for file in (*files, *aside) for disk in own_disks(file.text) or ()}
        return [entry for entry in entries if not _has_others(entry, mine)]

    async def autostart(self, name: str, uuid: str = "") -> str | None:
        """Name the entry that has the host start the domain at boot, held back or not."""
        return await self._call(self._starter, name, uuid)

    def _starter(self, name: str, uuid: str) -> str | None:
        entries = [*self._starters(name, uuid), *self._boot.held(name)]
        return entries[0].name if entries else None

    async def at_boot(self, name: str, uuid: str) -> StartedAtBoot:
        """Return what is started at boot besides a domain, or is when its guest does not leave."""
        return await self._call(self._at_boot, name, uuid)

    def _at_boot(self, name: str, uuid: str) -> StartedAtBoot:
        own = {*self._certain(name, uuid), *self._boot.held(name)}
        leaving = {os.path.realpath(place): aside for place, aside in self._leaving().items()}
        found: dict[tuple[str | None, str], int] = {}
        unweighed: list[str] = []
        # What waits beside `auto` may come back, and may be moved while this looks.
        entries = [*self._boot.waiting(), *self._boot.all(), *self._boot.waiting()]
        for entry in dict.fromkeys(entries):
            if entry in own or not starts_one(entry):
                continue
            aside = leaving.get(os.path.realpath(entry))
            # Also of what has another file in its place by now: either may be started.
            paths = [aside] if aside is not None else []
            paths += [entry] if aside is None or entry.exists() else []
            for path in paths:
                file = look_at(path)
                # What cannot be read now, or leads to what is not mounted now, may be started.
                if file is None or (memory := self._memory(file)) is None:
                    unweighed.append(entry.name)
                    continue
                # Only what says the same name is one guest.
                one = (file.name, "" if file.name is not None else str(entry))
                found[one] = max(memory, found.get(one, 0))
        return StartedAtBoot(sum(found.values()), tuple(dict.fromkeys(unweighed)))

    def _memory(self, file: GuestFile) -> int | None:
        """Return how many bytes the domain of a file takes, None where that cannot be told."""
        try:
            return describe(file.text, file.name or "", self._boot_folders).memory
        except ToolstackError:
            return None

    async def left_at_boot(self, name: str, uuid: str) -> int:
        """Return how many bytes a domain took that was started at boot until it left, else 0."""
        return await self._call(self._left_at_boot, name, uuid)

    def _left_at_boot(self, name: str, uuid: str) -> int:
        entries = self._boot.moved(name)
        places = {os.path.realpath(entry) for entry in entries}
        aside = self._aside(name, uuid)
        files = [file for file in aside if os.path.realpath(place_of(file.path)) in places]
        # A file outside CONFIG_DIR stays where it is.
        for file in files or map(look_at, entries):
            if file is not None and file.is_of(name, uuid) is not False:
                return self._memory(file) or 0
        return 0

    async def most_with(self, name: str, uuid: str, text: str) -> int | None:
        """Return the most bytes that a domain may take when a text of it is installed.

        That is what the text says, or a file here that may be used rather than one that was only
        composed. None where a file does not tell. Raises ToolstackError when the text does not.
        """
        return await self._call(self._most_with, name, uuid, text)

    def _most_with(self, name: str, uuid: str, text: str) -> int | None:
        most = describe(text, name, self._boot_folders).memory
        if not may_be_composed(text):
            return most
        own = [*self._files(name, uuid), *self._aside(name, uuid)]
        known = [memory for memory in map(self._memory, own) if memory is not None]
        return max([most, *known]) if len(known) == len(own) else None

    async def hold_autostart(self, name: str, uuid: str) -> None:
        """Take the domain's entries out of `auto`, to be put back, and note its file. Idempotent.

        What tells which file it is may be gone when the domain is.
        """
        await self._change(self._hold, name, uuid)

    def _hold(self, name: str, uuid: str) -> None:
        files = self._possible(name, uuid)
        if len(files) > 1 or (files and self._aside(name, uuid)):
            self._notes.note(name, files[0].path)
        self._boot.take_out(self._starters(name, uuid), self._boot.held_folder(name))

    async def release_autostart(self, name: str) -> None:
        """Undo `hold_autostart` and `set_aside`: put back what they took, no more. Idempotent.

        Raises ToolstackError, and all stays held, where another guest's file is in its place.
        """
        await self._change(self._release, name)

    def _release(self, name: str) -> None:
        self._notes.bring_back(name)
        self._boot.put_back(self._boot.held(name), name)
        self._notes.forget(name)

    async def set_aside(self, name: str, uuid: str) -> None:
        """Hold the domain's entries of `auto`, and rename its file FILE.moved. Idempotent.

        What is noted and held is what `release_autostart` puts back, and `retire` makes it final.
        """
        await self._change(self._set_aside, name, uuid)

    def _set_aside(self, name: str, uuid: str) -> None:
        if self._notes.of(name) is None and (files := self._possible(name, uuid)):
            self._notes.note(name, files[0].path)
        self._boot.take_out(self._starters(name, uuid), self._boot.held_folder(name))
        self._notes.set_aside(name, uuid)

    async def retire(self, name: str, uuid: str) -> None:
        """Set the domain's file and its entries of `auto`, in NAME.auto.moved, aside for good.

        Idempotent.
        """
        await self._change(self._retire, name, uuid)

    def _retire(self, name: str, uuid: str) -> None:
        self._set_aside(name, uuid)
        self._boot.take_out(self._boot.held(name), self._boot.moved_folder(name))
        self._notes.forget(name)

    async def bring_back(self, name: str, uuid: str, *, at_boot: bool) -> None:
        """Undo `retire`, and have the host start the domain at boot if asked to. Idempotent."""
        await self._change(self._bring_back, name, uuid, at_boot)

    def _bring_back(self, name: str, uuid: str, at_boot: bool) -> None:
        self._restore(name, uuid, None)
        self._boot.put_back(self._boot.moved(name), name)
        if at_boot and not self._starters(name, uuid) and (files := self._possible(name, uuid)):
            self._boot.link(f"{name}.cfg", files[0].path)

    async def restore(self, name: str, uuid: str, arrival: Arrival | None = None) -> None:
        """Use the FILE.moved of a domain again; its entries of `auto` stay out. Idempotent.

        With `arrival`, of a domain that has come: only one that is its own, and names nothing that
        it does not have here. Raises ToolstackError where one does; it stays FILE.moved.
        """
        await self._change(self._restore, name, uuid, arrival)

    def _restore(self, name: str, uuid: str, arrival: Arrival | None) -> None:
        disks = None if arrival is None or arrival.returns else arrival.kept_disks
        for file in self._aside(name, uuid, disks)[:1]:
            place = place_of(file.path)
            self._notes.require_free(name, place)
            if os.path.lexists(place):
                if same(file.path, place):
                    move(file.path, place)
                else:
                    require_own(name, place, file.path)
            elif arrival is None or fits(file.text, arrival):
                move(file.path, place)
            else:
                # What did not come may be another domain's by now.
                raise ToolstackError(
                    f"{file.path}, set aside when {name} left, has other disks or bridges than "
                    f"{name} has now"
                )
