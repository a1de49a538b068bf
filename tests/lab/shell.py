"""`make lab-shell`: the pair of hosts with a guest, left to whoever wants to try things."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.lab import cable, guests, image
from tests.lab.errors import LabError
from tests.lab.pair import RUNNING, Pair, booted, say

_README: Final = """
Two Xen hosts run in QEMU, and on host-a a guest named `small` that writes to its two disks all the
time and checks what it reads. Everything is slow here, as the processors are emulated. Try:

    host-a xenmovectl list
    host-a xenmovectl plan small host-b
    host-a xenmovectl migrate small host-b --overwrite
    host-b tail -f /var/log/xen/console/guest-small--incoming.log
    host-b xenmovectl migrate small host-a          # only the difference travels

    host-a                      a shell on host-a
    cut, heal                   break the network between the hosts; make it work again
    slow 8mbit 20ms             make it slow: what each host sends, and how late it arrives
    unslow                      make it fast again
    make lab PYTEST_ARGS='-k ping'   run tests on these hosts
    cat {folder}/*.console           what Xen and dom0 wrote

The volume group is vg0 (thin pool: vg0/thin), the ZFS pool is tank, image files are in
/srv/xen/images. `exit` ends both hosts and removes their files.
"""


def _write_commands(pair: Pair) -> Path:
    """Make the commands that the text above names."""
    folder = pair.folder / "bin"
    folder.mkdir()
    python = f"cd {shlex.quote(str(image.ROOT))} && exec {shlex.quote(sys.executable)}"
    each = "for host in host-a host-b; do $host {command}; done"
    scripts = {
        host.name: f'exec ssh -t -F {host.ssh.config} {host.name} "$@"' for host in pair.hosts
    }
    for verb in ("cut", "heal"):
        scripts[verb] = f"{python} -m tests.lab.cable {pair.folder} {verb}"
    slowing = cable.slowing('"${1:?rate, such as 8mbit}"', '"${2:-0ms}"')
    scripts["slow"] = each.format(command=slowing)
    scripts["unslow"] = each.format(command=shlex.quote(cable.UNSLOWED))
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return folder


def main() -> None:
    """Boot, start a guest, give a prompt, tear down."""
    with booted(image.make()) as pair:
        guests.small(pair.a).create(pair.a)
        say("the guest runs on host-a")
        commands = _write_commands(pair)
        readme = pair.folder / "README"
        readme.write_text(_README.format(folder=pair.folder))
        print(readme.read_text())
        path = f"{commands}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PS1": "lab> ", RUNNING: str(pair.folder)}
        subprocess.run(["bash", "--norc", "-i"], env=environment, cwd=image.ROOT, check=False)


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.exit(f"lab: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
