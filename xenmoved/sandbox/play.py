"""The playground: a shell on this machine with three emulated hosts, until it is left.

Needs no root. Nothing is left behind.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from xenmoved.sandbox import control
from xenmoved.sandbox.build import PACKAGE_ROOT
from xenmoved.sandbox.ending import ends_cleanly, undisturbed_end
from xenmoved.sandbox.harness import START
from xenmoved.sandbox.playground import HOSTS, Playground, Unplayable
from xenmoved.sandbox.smalldisk import step_aside

PAGE: Final = Path(PACKAGE_ROOT) / "docs" / "playground.md"
ORDERS: Final = (
    *("guests", "check", "console", "log"),
    *("pull", "plug", "kill-daemon", "start-daemon", "fill", "unfill"),
)
"""What can be asked of the playground in its shell."""
_GREETING: Final = (
    "Three hosts run here: host-a, host-b and host-c. 'guests' shows who is where.",
    "You are on host-a: try 'xenmovectl list'. 'host-b' takes you to host-b, and "
    "'host-b xenmovectl list' asks there.",
    "'help' has things to try; 'exit' ends it all.",
)


def main() -> None:
    """Run the playground; exits the process."""
    step_aside(["-m", "xenmoved.sandbox.play"])
    with ends_cleanly("The playground is gone."):
        _play()
    print("The playground is gone.")


def _play() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="play-") as name,
        undisturbed_end(),
        Playground(Path(name)) as playground,
    ):
        print("Starting three hosts with their guests ...", flush=True)
        playground.start()
        folder = Path(name)
        path = folder / "orders.sock"
        with _served(playground, path):
            shell = _write_shell(folder, path, playground)
            width = min(79, shutil.get_terminal_size().columns)
            print("", *(textwrap.fill(each, width) for each in _GREETING), "", sep="\n", flush=True)
            # The shell's business from here on; if it were ignored, it would be there too.
            signal.signal(signal.SIGINT, lambda *_: None)
            work = folder / "work"  # what is written here goes, too
            work.mkdir()
            subprocess.run(["bash", "--rcfile", str(shell), "-i"], cwd=work, check=False)


@contextlib.contextmanager
def _served(playground: Playground, path: Path) -> Iterator[None]:
    """Have the playground answer at a socket, one order at a time."""
    server = control.listen(str(path))
    thread = threading.Thread(target=_serve, args=(server, playground), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        server.close()


def _serve(server: socket.socket, playground: Playground) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection, contextlib.suppress(OSError):
            connection.sendall(_answer(playground, control.read_line(connection)))


def _answer(playground: Playground, line: bytes) -> bytes:
    try:
        answer = {"text": playground.answer(shlex.split(json.loads(line)["operation"]))}
    except Exception as error:  # whatever goes wrong is told to who asked
        told = str(error) if isinstance(error, Unplayable) else f"that went wrong: {error!r}"
        answer = {"error": told}
    return json.dumps(answer).encode() + b"\n"


def _write_shell(folder: Path, path: Path, playground: Playground) -> Path:
    """Write the commands of the shell, and what it starts with; returns the latter."""
    commands = folder / "bin"
    commands.mkdir()
    python = shlex.quote(sys.executable)
    emulator = shlex.join([sys.executable, "-S", "-c", START, PACKAGE_ROOT])
    scripts = {
        "xenmovectl": f'exec {python} -m xenmoved.ctl.main "$@"',
        "xl": f'exec {emulator} --root "$PLAY_XEN" xl "$@"',
        **{
            order: f'exec {python} -m xenmoved.sandbox.order {path} {order} "$@"'
            for order in ORDERS
        },
        "page": f"exec {python} -m xenmoved.sandbox.order --page {shlex.quote(str(PAGE))}",
    }
    for name, text in scripts.items():
        script = commands / name
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o700)
    shell = folder / "bashrc"
    shell.write_text(
        _SHELL.format(
            bin=commands,
            root=shlex.quote(PACKAGE_ROOT),
            folder=shlex.quote(str(folder)),
            hosts="\n".join(
                f'{host.name}() {{ _at {host.name} {host.socket} {host.xen.root} "$@"; }}'
                for host in playground.hosts.values()
            ),
            first=HOSTS[0],
        )
    )
    return shell


_SHELL: Final = """\
PATH={bin}:$PATH
export PYTHONPATH={root}${{PYTHONPATH:+:$PYTHONPATH}}
export PLAYGROUND={folder}
HISTFILE=
_at() {{
    local PLAY_HOST_=$1 socket=$2 xen=$3; shift 3
    if [ $# -gt 0 ]; then
        XENMOVED_SOCKET=$socket PLAY_XEN=$xen "$@"
    else
        export PLAY_HOST=$PLAY_HOST_ XENMOVED_SOCKET=$socket PLAY_XEN=$xen
        PS1="[$PLAY_HOST] \\\\$ "
    fi
}}
{hosts}
help() {{ if [ $# -gt 0 ]; then builtin help "$@"; else page; fi; }}
eval "$(xenmovectl completion bash)"
{first}
"""


if __name__ == "__main__":
    main()
