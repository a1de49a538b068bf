"""What a guest is started from on the other host one day, and what becomes of the rest here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from protocol.messages import Mode, Remark
from xenmoved.migration.host import Host
from xenmoved.remarks import good_to_know, to_look_at
from xenmoved.toolstack.configs.guest_file import GuestFile
from xenmoved.toolstack.interface import Domain, ToolstackError


async def config_of(
    host: Host, guest: Domain, peer: str, mode: Mode
) -> tuple[str | None, tuple[Remark, ...]]:
    """Return the text to start a guest from one day, and what the operator should know of it.

    Raises ToolstackError.
    """
    text, remarks = await _text_of(host, guest, peer, mode)
    return text, (*remarks, *await _about_entries(host, guest))


async def _about_entries(host: Host, guest: Domain) -> tuple[Remark, ...]:
    """Say which entries of `auto` leave with a guest though they do not say that they are its."""
    entries = await host.toolstack.configs.called_alone(guest.name, guest.uuid)
    return tuple(
        to_look_at(
            "boot-entry",
            f"{entry} does not say which guest it starts: by its name it is taken for the one of "
            f"{guest.name}, and goes out of use when {guest.name} leaves",
            f"if it starts another guest, give it that one's name in {entry.parent}",
        )
        for entry in entries
    )


async def _text_of(
    host: Host, guest: Domain, peer: str, mode: Mode
) -> tuple[str | None, tuple[Remark, ...]]:
    files = [
        file
        for file in await host.toolstack.configs.files(guest.name, guest.uuid)
        if file.is_of(guest.name, guest.uuid) is not False
    ]
    if files:
        return files[0].text, _about_files(host, guest.name, peer, files)
    if mode is Mode.COLD:
        return None, ()
    said = f"{guest.name} has no configuration file in {host.config.toolstack.config_dir}"
    hint = f"if it has one elsewhere, take that to {peer}, and do not start it from there here"
    text = None
    try:
        text = await host.toolstack.compose_config(guest.name)
        what = "none will be" if text is None else "one is written from how it runs now,"
        said = f"{said}: {what} on {peer}"
    except ToolstackError as error:
        said = f"{said}, and none can be written: {error}"
    remark = to_look_at if text is None else good_to_know
    return text, (remark("no-config-file", said, hint),)


def _about_files(
    host: Host, guest: str, peer: str, files: Sequence[GuestFile]
) -> tuple[Remark, ...]:
    """Say which of a guest's files is taken and why, and what becomes of the rest here."""
    taken, *others = files
    found = []
    if others:
        text = f"{len(files)} files name {guest}: {taken.path} moves to {peer}"
        text += f", as {taken.reason(others[0])}. These stay as they are, and start nothing at boot"
        hint = f"start {guest} from none of them when it has moved; rename what is not its file"
        paths = ", ".join(str(file.path) for file in others)
        found.append(good_to_know("config-files", f"{text}: {paths}", hint))
    folder = Path(host.config.toolstack.config_dir)
    if taken.path.parent not in (folder, folder / "auto"):
        text = f"{taken.path}, the file of {guest}, is not in {folder}: it stays as it is"
        hint = f"do not start {guest} from it when it has moved"
        found.append(to_look_at("config-elsewhere", text, hint))
    return tuple(found)
