"""The QEMU of a domain, where somebody has started one with the monitor that libxl would have."""

from __future__ import annotations

import json
import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from xenmoved.sandbox.host import Host

PATIENCE = 10.0  # seconds


def stop(host: Host, domid: int, *, live: bool) -> None:
    """Have it stop, as libxl does once a domain is suspended: a `live` one gives up its disks."""
    state = {"filename": "/dev/null", "live": live}
    _tell(host, domid, ("stop", {}), ("xen-save-devices-state", state))


def go_on(host: Host, domid: int) -> None:
    """Have it go on with a domain that is resumed."""
    _tell(host, domid, ("cont", {}))


def _tell(host: Host, domid: int, *commands: tuple[str, dict[str, Any]]) -> None:
    path = f"{host.root}/run/qmp-libxl-{domid}"
    if not os.path.exists(path):  # noqa: PTH110
        return
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(PATIENCE)
        try:
            monitor.connect(path)
        except OSError:
            return  # it was killed
        with monitor.makefile("rw") as lines:
            lines.readline()  # its greeting
            for name, arguments in (("qmp_capabilities", {}), *commands):
                lines.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
                lines.flush()
                while "event" in json.loads(lines.readline() or "{}"):
                    pass
