"""What a guest is started from that is no disk of its own: kernel, boot loader and firmware.

A guest that comes running needs none of it before it is started anew, one that comes off needs it
at once. Only files in the folders to boot from are looked for: what else a peer names is refused
unread, and is not for it to find out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from protocol.messages import Problem, Remark
from xenmoved.migration.host import Host
from xenmoved.migration.target.at_boot import not_at_boot
from xenmoved.migration.target.expected import Expected
from xenmoved.problems import problem
from xenmoved.remarks import to_look_at
from xenmoved.toolstack import policy
from xenmoved.toolstack.configs.text import boot_files, files_named
from xenmoved.toolstack.interface import ToolstackError
from xenmoved.toolstack.policy import PYGRUB, boot_folders
from xenmoved.toolstack.readable import Readable

_PROGRAMS: Final = (
    *("usr/lib*/xen*/bin", "usr/libexec/xen*/bin", "usr/local/lib*/xen*/bin", "usr/bin"),
    *("usr/sbin", "usr/local/bin", "usr/local/sbin"),
)
"""Where toolstacks find a boot loader that is named without its folder."""


async def foresee(host: Host, come: Expected) -> tuple[Remark, ...]:
    """Return what there will be to remark on the configuration of a guest that comes.

    Raises ToolstackError, OSError.
    """
    if come.config is None:
        return ()
    missing = await _missing(host, come.config)
    node, name = host.config.node, come.name
    remarks = tuple(
        to_look_at(
            "boot-file",
            f"{node} has no {path}, which {name} has as its {key}: {name} runs, and will not start "
            "anew there",
            _hint(node),
        )
        for key, path in missing
    )
    if come.not_at_boot:
        remarks = (not_at_boot(node, come.not_at_boot), *remarks)
    return remarks + await host.toolstack.configs.foresee(
        name, come.config, come.arrival, come.autostart
    )


async def boot_problems(host: Host, name: str, config: str, *, at_once: bool) -> list[Problem]:
    """Find what stands against starting a guest from the files of this host that its text names.

    What not everybody here may read it is not given, running or not; what is not there it needs
    `at_once` only where it comes as its configuration alone.
    """
    node = host.config.node
    withheld = await asyncio.to_thread(_withheld, config, _folders(host))
    found = [
        problem("boot-file", f"{path} on {node} is not for {name}, which has it as its {key}", why)
        for key, path, why in withheld
    ]
    for key, path in await _missing(host, config) if at_once else ():
        text = f"{node} has no {path}, which {name} has as its {key}"
        found.append(problem("boot-file", text, _hint(node)))
    return found


def _hint(node: str) -> str:
    return f"install it on {node}, or have the guest's configuration name another one"


def _folders(host: Host) -> Readable:
    return boot_folders(host.config.toolstack.boot_folders, host.config.toolstack.root)


async def _missing(host: Host, config: str) -> list[tuple[str, str]]:
    root, folders = host.config.toolstack.root, _folders(host)
    return await asyncio.to_thread(lambda: list(_absent(config, folders, root)))


def _withheld(config: str, folders: Readable) -> list[tuple[str, str, str]]:
    """Return files that a guest may not be given, by the keys that name them, and why. Blocks."""
    try:
        named = files_named(config)
    except ToolstackError:  # such a text starts nothing, and is told of elsewhere
        return []
    return [
        (key, path, f"on the target: {why}")
        for key, path in named
        if policy.DOMAIN[key].allows(path, folders)
        and (why := policy.DOMAIN[key].withheld(path, folders)) is not None
    ]


def _absent(config: str, folders: Readable, root: Path) -> Iterator[tuple[str, str]]:
    try:
        files = boot_files(config)
    except ToolstackError:  # as above
        return
    for key, path in files.items():
        if not (PYGRUB.fullmatch(path) if key == "bootloader" else folders.has(path)):
            continue
        if path.startswith("/"):
            there = (root / path.lstrip("/")).exists()
        else:
            there = any(any(root.glob(f"{folder}/{path}")) for folder in _PROGRAMS)
        if not there:
            yield key, path
