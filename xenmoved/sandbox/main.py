"""`xenmoved-sandbox --root DIR [--witness DIR] xl|xm|check|stop …`."""

from __future__ import annotations

import contextlib
import os
import sys
import time

from xenmoved.sandbox.host import CommandFailed, Host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

USAGE = """\
usage: xenmoved-sandbox --root DIR [--witness DIR] COMMAND
  xl ARGS…      the xl command line on the emulated host in DIR
  xm ARGS…      the xm command line
  check [NAME]  make guests verify every block that they ever wrote; prints JSON, status 0 or 1
  stop          destroy every guest of the host
The witness folder (default: DIR/../witness) is shared by all hosts of one sandbox.\
"""


class _Said:
    """Standard error as C has it: what cannot be written is lost, and the work goes on.

    It is a log on the file system of a daemon's state, which may be full or read-only.
    """

    def write(self, text: str) -> int:
        """Write now, or never."""
        with contextlib.suppress(OSError):
            os.write(2, text.encode())
        return len(text)

    def flush(self) -> None:
        """Do nothing: nothing waits to be written."""


def main(argv: list[str] | None = None) -> int:
    """Entry point, of a process of its own without arguments; returns the exit status."""
    if argv is None:
        sys.stderr = _Said()
    args = list(sys.argv[1:] if argv is None else argv)
    folders: dict[str, str] = {}
    while len(args) >= 2 and args[0] in ("--root", "--witness"):
        folders[args[0]] = os.path.abspath(args[1])
        del args[:2]
    if "--root" not in folders or not args:
        print(USAGE, file=sys.stderr)
        return 2
    root = folders["--root"]
    try:
        host = Host(root, folders.get("--witness", f"{os.path.dirname(root)}/witness"))
        return _run(host, args[0], args[1:])
    except CommandFailed as error:
        print(error, file=sys.stderr)
        return error.status
    except BrokenPipeError:
        return 1


def _run(host: Host, command: str, args: list[str]) -> int:
    match command:
        case "xl" | "xm":
            _show_faults(host, args)
            if command == "xl":
                from xenmoved.sandbox import xl as toolstack
            else:
                from xenmoved.sandbox import xm as toolstack  # type: ignore[no-redef]
            return toolstack.run(host, args)
        case "check":
            return _check(host, args)
        case "stop":
            for domain in host.domains():
                host.destroy(domain)
            return 0
        case _:
            print(USAGE, file=sys.stderr)
            return 2


def _show_faults(host: Host, args: list[str]) -> None:
    """Delay or fail a verb that a test wants delayed or failed.

    `migrate-receive` fails by itself, when it has received everything.
    """
    verb = args[0] if args else ""
    faults = host.faults(verb)
    if "delay" in faults:
        time.sleep(faults["delay"])
    if "fail" in faults and verb != "migrate-receive":
        raise CommandFailed(f"libxl: error: {faults['fail']}")


def _check(host: Host, names: list[str]) -> int:
    import json

    from xenmoved.sandbox import witness

    if names:
        answer = verdict(host, names[0])
    else:
        answers = {domain.name: verdict(host, domain.name) for domain in host.domains()}
        recorded = witness.failures(host.witness)
        ok = not recorded and all(one["ok"] for one in answers.values())
        answer = {"ok": ok, "domains": answers, "failures": recorded}
    print(json.dumps(answer))
    return 0 if answer["ok"] else 1


def verdict(host: Host, name: str) -> dict[str, Any]:
    """Make a guest verify everything that it wrote; returns what it says, or why it cannot."""
    from xenmoved.sandbox import build, witness

    domain = host.find(name)
    try:
        if domain is None:
            raise CommandFailed(f"there is no domain {name}")
        return build.ask(host, domain, "check")
    except CommandFailed as error:
        known = witness.failures(host.witness, domain.uuid) if domain else []
        return {"ok": False, "blocks": 0, "sequence": 0, "failures": [str(error), *known]}
