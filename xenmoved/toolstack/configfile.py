"""Guests' configuration files and their autostart, in the folder where the host keeps them.

The xendomains service starts whatever is in CONFIG_DIR/auto at boot. A guest that moved away must
not be among them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from xenmoved.toolstack.cfgtext import TEXT_LIMIT, adapt, describe
from xenmoved.toolstack.domains import check_name
from xenmoved.toolstack.durable import in_thread, sync_folder, write_file
from xenmoved.toolstack.interface import Arrival, Domain, ToolstackError

T = TypeVar("T")

_AUTO: Final = "auto"
_MOVED: Final = ".moved"


def is_block_device(path: str) -> bool:
    """Tell whether a path is a block device."""
    try:
        return stat.S_ISBLK(Path(path).stat().st_mode)
    except OSError:
        return False


class ConfigFolder:
    """CONFIG_DIR: NAME.cfg files, and links to them in `auto`."""

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

    async def read(self, name: str) -> str | None:
        """Text of NAME.cfg, None without one. Not UTF-8 is taken for Latin-1."""
        return await self._call(self._read, self._path(name))

    def _read(self, path: Path) -> str | None:
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

    async def read_all(self) -> dict[str, str]:
        """Texts of the files here and in `auto`, by path, but for those of guests that moved away.

        A file too large to be a guest's configuration is none.
        """
        return await self._call(self._read_all)

    def _read_all(self) -> dict[str, str]:
        found = {}
        for folder in (self._folder, self._folder / _AUTO):
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if path.is_file() and path.suffix != _MOVED and path.stat().st_size <= TEXT_LIMIT:
                    found[str(path)] = self._read(path) or ""
        return found

    async def describe(self, name: str) -> Domain | None:
        """Describe the domain that NAME.cfg would start, None without one."""
        text = await self.read(name)
        return describe(text, name, self._boot_folders) if text is not None else None

    async def install(
        self, name: str, text: str, arrival: Arrival, autostart: bool
    ) -> tuple[str, ...]:
        """Write NAME.cfg adapted to this host, and with `autostart` its link in `auto`.

        An existing NAME.cfg is kept. A text that cannot be adapted, or that would let the other
        host run or open something here, is written as it came to NAME.cfg.received, and the
        guest is not started at boot. Returns what the operator should know of that. Idempotent.
        """
        return await self._call(self._install, name, text, arrival, autostart)

    def _install(self, name: str, text: str, arrival: Arrival, autostart: bool) -> tuple[str, ...]:
        path, received = self._path(name), self._path(name, ".received")
        try:
            remarks: tuple[str, ...] = ()
            if path.exists():
                remarks = (f"{path} exists already and was kept.",)
            else:
                adapted = adapt(text, arrival, self._boot_folders, is_block_device)
                write_file(path, adapted, 0o644)
        except ToolstackError as error:
            write_file(received, text, 0o600)
            remark = f"The configuration of {name} needs your eye before it is used: {error}. "
            remark += f"It was written to {received}; correct it and rename it to {path.name}."
            if autostart:
                remark += f" Then link it in {self._folder / _AUTO} to start {name} at boot."
            return (remark,)
        if autostart:
            self._start_at_boot(name)
        return remarks

    def _start_at_boot(self, name: str) -> None:
        if not self._starters(name):
            path, auto = self._path(name), self._folder / _AUTO
            auto.mkdir(exist_ok=True)
            (auto / path.name).symlink_to(Path("..") / path.name)
            sync_folder(auto)

    def _starters(self, name: str) -> list[Path]:
        """Entries of `auto` that start this domain: by their own name or by what they link to."""
        path = self._path(name)
        auto = self._folder / _AUTO
        if not auto.is_dir():
            return []

        def starts(entry: Path) -> bool:
            if entry.name in (name, path.name):
                return True
            if not entry.is_symlink():
                return False
            # By text too: the link of a file that was renamed already leads nowhere.
            return Path(os.path.normpath(auto / entry.readlink())) == Path(os.path.normpath(path))

        return [entry for entry in auto.iterdir() if starts(entry)]

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
        """Take the domain's entries out of `auto`, then rename NAME.cfg to NAME.cfg.moved.

        An entry that is a file of its own is moved to CONFIG_DIR/NAME.auto.moved. Idempotent.
        """
        await self._call(self._retire, name)

    async def bring_back(self, name: str, *, autostart: bool) -> None:
        """Undo `retire`. Idempotent."""
        await self._call(self._bring_back, name, autostart)

    def _bring_back(self, name: str, autostart: bool) -> None:
        self._restore(name)
        own = self._folder / f"{name}.auto.moved"
        if own.exists():
            own.replace(self._folder / _AUTO / self._path(name).name)
            sync_folder(self._folder / _AUTO)
        elif autostart:
            self._start_at_boot(name)

    def _retire(self, name: str) -> None:
        path, held = self._path(name), self._held(name)
        for entry in [*self._starters(name), *([held] if os.path.lexists(held) else [])]:
            if entry.is_symlink():
                entry.unlink()
            else:
                entry.replace(self._folder / f"{name}.auto.moved")
            sync_folder(entry.parent)
        if path.exists():
            path.replace(self._path(name, _MOVED))
        if self._folder.is_dir():
            sync_folder(self._folder)

    async def restore(self, name: str) -> None:
        """Forget NAME.cfg.moved; where no NAME.cfg came with the domain, use it again."""
        await self._call(self._restore, name)

    def _restore(self, name: str) -> None:
        path, moved = self._path(name), self._path(name, _MOVED)
        if not moved.exists():
            return
        if path.exists():
            moved.unlink()
        else:
            moved.replace(path)
        sync_folder(self._folder)
