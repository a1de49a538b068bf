"""Guests' configuration files and their autostart, in the folder where the host keeps them.

The xendomains service starts whatever is in CONFIG_DIR/auto at boot. A guest that moved away must
not be among them.

The file of a guest is NAME.cfg, unless that is another domain's by what is in it; else what an
entry of `auto` leads to, CONFIG_DIR/NAME, or any other file there that has its name in it. A file
outside CONFIG_DIR is only ever read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from protocol.messages import Remark
from xenmoved.remarks import left_out, to_look_at
from xenmoved.toolstack.announced import require_announced
from xenmoved.toolstack.cfgtext import TEXT_LIMIT, adapt, describe, named
from xenmoved.toolstack.domains import check_name
from xenmoved.toolstack.durable import in_thread, sync_folder, write_file
from xenmoved.toolstack.interface import Arrival, Domain, ToolstackError

T = TypeVar("T")

_AUTO: Final = "auto"
_MOVED: Final = ".moved"
_OWN_MODE: Final = 0o600
"""Of a file that is new here: it may hold passwords, and only root's tools read it."""


def is_block_device(path: str) -> bool:
    """Tell whether a path is a block device."""
    try:
        return stat.S_ISBLK(Path(path).stat().st_mode)
    except OSError:
        return False


def _read(path: Path) -> str | None:
    """Text of a file, None without one. Not UTF-8 is taken for Latin-1."""
    try:
        with path.open("rb") as file:
            raw = file.read(TEXT_LIMIT + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ToolstackError(f"cannot read {path}: {error.strerror}.") from error
    if len(raw) > TEXT_LIMIT:
        raise ToolstackError(f"{path} is larger than {TEXT_LIMIT} bytes.")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _name_in(path: Path) -> str | None:
    """Name of the domain that a file is for, None where none is said or it cannot be read."""
    try:
        text = _read(path) if path.is_file() else None
    except ToolstackError:
        return None
    return named(text) if text is not None else None


@dataclass(frozen=True, slots=True)
class _Course:
    """What becomes of a file that comes: `text` goes to `path`, if it goes anywhere.

    `aside` is the one whose owner and mode it gets. One that is `received` is not used.
    """

    path: Path | None = None
    text: str = ""
    aside: Path | None = None
    remarks: tuple[Remark, ...] = ()
    received: bool = False


class ConfigFolder:
    """CONFIG_DIR: files of guests, and links to them in `auto`."""

    def __init__(self, folder: Path, boot_folders: tuple[str, ...]) -> None:
        self._folder = folder
        self._boot_folders = boot_folders

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        try:
            return await in_thread(function, *arguments)
        except OSError as error:
            raise ToolstackError(
                f"cannot change the configuration files in {self._folder}: {error}."
            ) from error

    def _path(self, name: str, suffix: str = "") -> Path:
        return self._folder / f"{check_name(name)}.cfg{suffix}"

    def _file(self, name: str, suffix: str = "") -> Path | None:
        """Find the file of a domain, with `suffix` one that was set aside."""
        first = self._path(name, suffix)
        if first.exists() and _name_in(first) in (None, name):
            return first
        return next((path for path in self._others(name, suffix) if _name_in(path) == name), None)

    def _others(self, name: str, suffix: str) -> Iterator[Path]:
        if not suffix:
            yield from (entry.resolve() for entry in self._entries())
        yield self._folder / f"{name}{suffix}"
        yield from sorted(self._folder.glob(f"*.cfg{suffix}"))

    def _is_ours(self, path: Path) -> bool:
        return path.parent.resolve() == self._folder.resolve()  # whatever the file itself is

    async def read(self, name: str) -> str | None:
        """Text of the domain's file, None without one. Not UTF-8 is taken for Latin-1."""
        return await self._call(self._read_file, name)

    def _read_file(self, name: str) -> str | None:
        path = self._file(name)
        return _read(path) if path is not None else None

    async def read_all(self, *, moved: bool = False) -> dict[str, str]:
        """Texts of the files here and in `auto`, by path; with `moved` of guests that left too.

        A file too large to be a guest's configuration is none.
        """
        return await self._call(self._read_all, moved)

    def _read_all(self, moved: bool) -> dict[str, str]:
        found = {}
        for folder in (self._folder, self._folder / _AUTO):
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                counts = path.is_file() and (moved or path.suffix != _MOVED)
                if counts and path.stat().st_size <= TEXT_LIMIT:
                    found[str(path)] = _read(path) or ""
        return found

    async def describe(self, name: str) -> Domain | None:
        """Describe the domain that its file would start, None without one."""
        text = await self.read(name)
        return await self.describe_text(name, text) if text is not None else None

    async def describe_text(self, name: str, text: str) -> Domain:
        """Describe the domain that a text would start. Raises ToolstackError."""
        return await in_thread(describe, text, name, self._boot_folders)

    async def check(self, text: str, arrival: Arrival) -> None:
        """See that a text is of the announced guest, and that `install` can adapt it.

        Raises NotAnnounced, or ToolstackError with all that stands in the way.
        """
        require_announced(await self.describe_text(arrival.announced_name, text), arrival)
        await in_thread(adapt, text, arrival, self._boot_folders, is_block_device)

    async def foresee(
        self, name: str, text: str, arrival: Arrival, autostart: bool
    ) -> tuple[Remark, ...]:
        """Return what `install` would remark. Changes nothing."""
        return (await self._call(self._course, name, text, arrival, autostart)).remarks

    async def install(
        self, name: str, text: str, arrival: Arrival, autostart: bool
    ) -> tuple[Remark, ...]:
        """Write the domain's file adapted to this host, and with `autostart` its link in `auto`.

        It takes the place of the one that was set aside when the domain left, with its owner and
        mode; else it is NAME.cfg, for root alone. An existing file of the domain is kept. A text
        that cannot be adapted, or that would let the other host run or open something here, is
        written as it came to NAME.cfg.received, and the guest is not started at boot. Returns what
        the operator should know of that. Idempotent.
        """
        return await self._call(self._install, name, text, arrival, autostart)

    def _install(
        self, name: str, text: str, arrival: Arrival, autostart: bool
    ) -> tuple[Remark, ...]:
        course = self._course(name, text, arrival, autostart)
        if course.path is not None:
            write_file(course.path, course.text, _OWN_MODE)
            if course.aside is not None:
                kept = course.aside.stat()
                os.chown(course.path, kept.st_uid, kept.st_gid)
                course.path.chmod(stat.S_IMODE(kept.st_mode))
        if autostart and not course.received:
            self._start_at_boot(name)
        return course.remarks

    def _course(self, name: str, text: str, arrival: Arrival, autostart: bool) -> _Course:
        """Decide what becomes of a file that comes, by what is here now."""
        if (existing := self._file(name)) is not None:
            hint = "see whether it names the disks and bridges that the guest has here"
            kept = f"{existing} is there and is kept: the configuration that came is not used"
            return _Course(remarks=(to_look_at("config-kept", kept, hint),))
        left: list[str] = []
        aside = self._file(name, _MOVED)
        path = aside.with_name(aside.name.removesuffix(_MOVED)) if aside else self._path(name)
        try:
            adapted = adapt(text, arrival, self._boot_folders, is_block_device, left)
            if path.exists():
                raise ToolstackError(f"{path} is there, of domain {_name_in(path)}")
        except ToolstackError as error:
            received = self._path(name, ".received")
            remark = self._set_aside(name, received, path, str(error), autostart=autostart)
            return _Course(received, text, remarks=(remark,), received=True)
        return _Course(path, adapted, aside, left_out(name, left))

    def _set_aside(
        self, name: str, received: Path, path: Path, why: str, *, autostart: bool
    ) -> Remark:
        said = f"the configuration of {name} goes to {received} and is not used: {why}"
        hint = f"correct it there and rename it to {path.name}"
        if autostart:
            said = f"{name} is not started at boot: {said}"
            hint += f"; then link it in {self._folder / _AUTO} to have {name} started at boot"
        return to_look_at("config-received", said, hint)

    def _start_at_boot(self, name: str) -> None:
        if not self._starters(name):
            path, auto = self._file(name) or self._path(name), self._folder / _AUTO
            auto.mkdir(exist_ok=True)
            where = Path("..") / path.name if self._is_ours(path) else path
            (auto / self._path(name).name).symlink_to(where)
            sync_folder(auto)

    def _entries(self) -> list[Path]:
        auto = self._folder / _AUTO
        return sorted(auto.iterdir()) if auto.is_dir() else []

    def _starters(self, name: str) -> list[Path]:
        """Entries of `auto` that start this domain: by what is in them, or by their names."""
        files = {self._path(name), self._file(name), self._file(name, _MOVED)} - {None}
        known = {os.path.normpath(str(path).removesuffix(_MOVED)) for path in files}

        def starts(entry: Path) -> bool:
            if (said := _name_in(entry)) is not None:
                return said == name
            # By text too: the link of a file that was renamed already leads nowhere.
            return entry.name in (name, f"{name}.cfg") or (
                entry.is_symlink() and os.path.normpath(entry.parent / entry.readlink()) in known
            )

        check_name(name)
        return [entry for entry in self._entries() if starts(entry)]

    async def autostart(self, name: str) -> bool:
        """Tell whether the host starts the domain at boot, or is only held back from it."""
        return bool(await self._call(self._starters, name)) or os.path.lexists(self._held(name))

    async def hold_autostart(self, name: str) -> None:
        """Take the domain's entry out of `auto`, to be put back. Idempotent."""
        await self._call(self._hold, name)

    def _held(self, name: str) -> Path:
        return self._folder / f"{check_name(name)}.auto.held"

    def _hold(self, name: str) -> None:
        for entry in self._starters(name):
            entry.replace(self._held(name))
            sync_folder(self._folder)
            sync_folder(entry.parent)

    async def release_autostart(self, name: str) -> None:
        """Put back into `auto` what `hold_autostart` took out. Idempotent."""
        await self._call(self._release, name)

    def _release(self, name: str) -> None:
        held = self._held(name)
        if not os.path.lexists(held):
            return
        auto = self._folder / _AUTO
        auto.mkdir(exist_ok=True)
        held.replace(auto / self._path(name).name)
        sync_folder(auto)
        sync_folder(self._folder)

    async def retire(self, name: str) -> None:
        """Take the domain's entries out of `auto`, then rename its file to FILE.moved.

        An entry that is a file of its own, or that leads out of CONFIG_DIR, is moved to
        CONFIG_DIR/NAME.auto.moved. Idempotent.
        """
        await self._call(self._retire, name)

    async def bring_back(self, name: str, *, autostart: bool) -> None:
        """Undo `retire`. Idempotent."""
        await self._call(self._bring_back, name, autostart)

    def _bring_back(self, name: str, autostart: bool) -> None:
        self._put_back(name)
        own = self._own_entry(name)
        if os.path.lexists(own):
            own.replace(self._folder / _AUTO / self._path(name).name)
            sync_folder(self._folder / _AUTO)
        elif autostart:
            self._start_at_boot(name)

    def _own_entry(self, name: str) -> Path:
        return self._folder / f"{check_name(name)}.auto{_MOVED}"

    def _retire(self, name: str) -> None:
        path, held = self._file(name), self._held(name)
        for entry in [*self._starters(name), *([held] if os.path.lexists(held) else [])]:
            where = (
                os.path.normpath(self._folder / _AUTO / entry.readlink())
                if entry.is_symlink()
                else ""
            )
            if where and self._is_ours(Path(where)):
                entry.unlink()
            else:
                entry.replace(self._own_entry(name))
            sync_folder(entry.parent)
        if path is not None and self._is_ours(path):
            path.replace(path.with_name(path.name + _MOVED))
        if self._folder.is_dir():
            sync_folder(self._folder)

    async def restore(self, name: str) -> None:
        """Forget the FILE.moved of a domain; where no file came with it, use it again."""
        await self._call(self._put_back, name)

    def _put_back(self, name: str) -> None:
        if (aside := self._file(name, _MOVED)) is None:
            return
        if self._file(name) is not None:
            aside.unlink()
        else:
            aside.replace(aside.with_name(aside.name.removesuffix(_MOVED)))
        sync_folder(self._folder)
