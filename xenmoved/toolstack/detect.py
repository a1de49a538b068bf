"""Choosing the driver for this host."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from xenmoved.toolstack.backends import Backends
from xenmoved.toolstack.commands import printable
from xenmoved.toolstack.interface import Toolstack, ToolstackError
from xenmoved.toolstack.policy import BOOT_FOLDERS
from xenmoved.toolstack.readable import Readable
from xenmoved.toolstack.xl.driver import XlToolstack
from xenmoved.toolstack.xm.driver import XmToolstack

Kind = Literal["auto", "xl", "xm"]

_PATH: Final = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin:/usr/local/bin"


async def detect(
    kind: Kind = "auto",
    command: Sequence[str] = (),
    *,
    config_dir: Path = Path("/etc/xen"),
    sysfs_net: Path = Path("/sys/class/net"),
    boot_folders: Readable = BOOT_FOLDERS,
    backends: Backends = Backends(),  # noqa: B008 - it cannot be changed
) -> Toolstack:
    """Make the driver for this host, and see that it answers.

    With `auto` the command's last word decides when one is given, otherwise `xl` is tried before
    `xm`: where both are installed, `xm` is the one that is on its way out. An empty `command`
    looks the tool up in the usual folders. Raises ToolstackError when none answers.
    """
    kinds = [kind] if kind != "auto" else ["xl", "xm"]
    if kind == "auto" and command and Path(command[-1]).name in kinds:
        kinds = [Path(command[-1]).name]
    refusals: list[str] = []
    for candidate in kinds:
        prefix = tuple(command) or (shutil.which(candidate, path=_PATH) or candidate,)
        make = XlToolstack if candidate == "xl" else XmToolstack
        toolstack: Toolstack = make(prefix, config_dir, sysfs_net, boot_folders, backends)
        try:
            await toolstack.host()
        except ToolstackError as error:
            refusals.append(f"`{printable(prefix)}`: {error}")
        else:
            return toolstack
    raise ToolstackError(f"no Xen toolstack answers on this host. {' '.join(refusals)}")
