"""The command `xenmoved`: the daemon."""

from __future__ import annotations

import argparse
import logging
import socket
import sqlite3
import sys
import time
from pathlib import Path

import uvloop

import xenmoved
from xenmoved import logs
from xenmoved.config.errors import ConfigError, ConfigProblem
from xenmoved.config.loader import DEFAULT_CONFIG, load
from xenmoved.config.model import Config
from xenmoved.daemon import CannotStart, Daemon, keep_memory
from xenmoved.journal.unsettled import unsettled
from xenmoved.link import trial
from xenmoved.link.identity import IdentityError
from xenmoved.toolstack.interface import ToolstackError
from xenmoved.trust.own import seen_own
from xenmoved.trust.validity import warnings

log = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_UNSETTLED = 3
EXIT_CONFIG = 78  # EX_CONFIG of sysexits(3): starting again will not help


def main() -> None:
    """Run the daemon, or check its configuration; exits the process."""
    sys.exit(_run(_parse()))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="xenmoved",
        description="Daemon that moves running Xen guests and their local disks between hosts.",
        epilog="exit codes: 0 stopped as told, 1 failed, 2 usage, 3 the journal is needed, "
        "78 configuration is wrong. SIGHUP reads the configuration again. See xenmoved(8).",
    )
    parser.add_argument(
        "--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="default: %(default)s"
    )
    parser.add_argument(
        "--check-config",
        action="store_true",
        help="only check the configuration: exit 0 when it is right, and silent, but for a "
        "certificate of this host that needs somebody",
    )
    parser.add_argument(
        "--unsettled",
        type=Path,
        metavar="FOLDER",
        help="only say what the journal in a state_dir is still needed for: nothing, with exit 0, "
        "when it can be removed; else exit 3",
    )
    parser.add_argument("--version", action="version", version=f"xenmoved {xenmoved.__version__}")
    return parser.parse_args()


def _run(arguments: argparse.Namespace) -> int:
    if arguments.unsettled is not None:
        return _tell_unsettled(arguments.unsettled)
    file: Path = arguments.config.absolute()
    try:
        config = load(file)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    if arguments.check_config:
        _warn_of_certificate(config)
        return _check_listen(config, file)
    logs.setup(config.log_level.value)
    keep_memory()

    async def serve() -> None:
        if (reason := await trial.choose()) is not None:
            log.warning("transfers are slower than they could be: %s", reason)
        await (await Daemon.create(config, file)).run()

    status = 0
    try:
        uvloop.run(serve())
    except* IdentityError as errors:
        status = _tell(errors, EXIT_CONFIG)
    except* (CannotStart, OSError, ToolstackError) as errors:
        status = _tell(errors, EXIT_FAILED)
    return status


def _tell_unsettled(state_dir: Path) -> int:
    """Print what the journal in a folder is still needed for; returns the exit code."""
    try:
        lines = unsettled(state_dir)
    except (sqlite3.Error, OSError) as error:
        print(f"xenmoved: the journal in {state_dir} cannot be read: {error}", file=sys.stderr)
        return EXIT_FAILED
    print("".join(f"{line}\n" for line in lines), end="")
    return EXIT_UNSETTLED if lines else 0


def _warn_of_certificate(config: Config) -> None:
    """Print what needs somebody about the certificate of this host, if that can be seen."""
    try:
        own = seen_own(config.state_dir, config.node)
    except OSError:
        return
    for _, text, hint in warnings(own, config.fleet, config.node, time.time()):
        print(f"xenmoved: warning: {text}; {hint}", file=sys.stderr)


def _check_listen(config: Config, file: Path) -> int:
    """See that this host has the addresses to listen on; returns the exit code.

    Not when the daemon starts, where the attempt tells: an interface may come late at boot.
    """
    status = 0
    for key, host in (("listen", config.listen.host), ("metrics", config.metrics.address)):
        if host is not None and (reason := _why_not_here(host)) is not None:
            text = f"this host cannot listen on {host}: {reason}"
            print(ConfigProblem(file, None, f"{key}.address", text), file=sys.stderr)
            status = EXIT_CONFIG
    return status


def _why_not_here(host: str) -> str | None:
    """Return why this host cannot listen on an address, None if it can."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
    except (OSError, UnicodeError) as error:
        return error.strerror if isinstance(error, OSError) else str(error)
    return None


def _tell(errors: BaseExceptionGroup[Exception], status: int) -> int:
    for error in errors.exceptions:
        print(f"xenmoved: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
