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
from xenmoved.toolstack.configs.text import boot_files
from xenmoved.toolstack.domains import under
from xenmoved.toolstack.interface import ToolstackError
from xenmoved.toolstack.policy import BOOT_FOLDERS, PYGRUB

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


async def boot_problems(host: Host, name: str, config: str) -> list[Problem]:
    """Find what a guest cannot be started without that comes as its configuration alone."""
    node = host.config.node
    return [
        problem("boot-file", f"{node} has no {path}, which {name} has as its {key}", _hint(node))
        for key, path in await _missing(host, config)
    ]


def _hint(node: str) -> str:
    return f"install it on {node}, or have the guest's configuration name another one"


async def _missing(host: Host, config: str) -> list[tuple[str, str]]:
    toolstack = host.config.toolstack
    folders = (*BOOT_FOLDERS, *map(str, toolstack.boot_folders))
    return await asyncio.to_thread(lambda: list(_absent(config, folders, toolstack.root)))


def _absent(config: str, folders: tuple[str, ...], root: Path) -> Iterator[tuple[str, str]]:
    try:
        files = boot_files(config)
    except ToolstackError:  # such a text starts nothing, and is told of elsewhere
        return
    for key, path in files.items():
        if not (PYGRUB.fullmatch(path) if key == "bootloader" else under(path, folders)):
            continue
        if path.startswith("/"):
            there = (root / path.lstrip("/")).exists()
        else:
            there = any(any(root.glob(f"{folder}/{path}")) for folder in _PROGRAMS)
        if not there:
            yield key, path
