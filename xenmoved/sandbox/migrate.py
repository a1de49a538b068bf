"""Both ends of the handshake around a migration stream."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from xenmoved.sandbox import build, saving, stream
from xenmoved.sandbox.host import INCOMING, MIGRATED_AWAY, CommandFailed, Domain, Host, NameTaken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BANNER = b"xl migration receiver ready, send binary domain data.\n"
READY = b"domain received, ready to unpause\0"
GO = b"domain is yours, you are cleared to unpause\0"
REPORT = b"my copy unpause results are as follows\0"

CHILD_GRACE = 2.0  # seconds that the sender waits for its transport to end


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _expect(descriptor: int, message: bytes, what: str) -> None:
    """Read one fixed message. Raises CommandFailed when something else or nothing comes."""
    found = stream.read_exactly(descriptor, len(message), what)
    if found != message:
        raise CommandFailed(
            f"migration receiver stream contained unexpected data instead of {what}"
        )


def _write(descriptor: int, message: bytes) -> None:
    view = memoryview(message)
    while view:
        view = view[os.write(descriptor, view) :]


class Transport:
    """The command that carries the stream, run through a shell as `xl migrate` does."""

    def __init__(self, rune: str) -> None:
        self._process = subprocess.Popen(
            ["sh", "-c", rune], stdin=subprocess.PIPE, stdout=subprocess.PIPE, restore_signals=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin = self._process.stdin
        self.send = self._stdin.fileno()
        self.receive = self._process.stdout.fileno()

    def end(self) -> None:
        """Close the sending side and report how the command ended."""
        self._stdin.close()
        deadline = time.monotonic() + CHILD_GRACE
        while (status := self._process.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        pid = self._process.pid
        if status is None:
            _say(
                f"migration child [{pid}] not exiting, no longer waiting "
                "(exit status will be unreported)"
            )
        elif status > 0:
            _say(
                f"libxl: info: libxl_exec.c:118:libxl_report_child_exitstatus: migration transport"
                f" process [{pid}] exited with error status {status}"
            )
        elif status < 0:
            _say(
                f"libxl: info: libxl_exec.c:126:libxl_report_child_exitstatus: migration transport"
                f" process [{pid}] died due to fatal signal {signal.Signals(-status).name}"
            )


def send(host: Host, domain: Domain, rune: str, faults: dict[str, Any]) -> int:
    """`xl migrate`: the sending end, live."""
    transport = Transport(rune)
    output = stream.Output(transport.send, faults)
    try:
        _expect(transport.receive, BANNER, "banner")
        stream.write_header(output, domain.config, "migration stream")
    except CommandFailed as error:
        _say(str(error))
        transport.end()
        return 1
    name = domain.name
    try:
        saving.write_live(host, domain, output)
        _expect(transport.receive, READY, "ready message")
        _say("migration sender: Target has acknowledged transfer.")
        host.rename(domain, name + MIGRATED_AWAY)
    except saving.SuspendFailed as error:
        _say(f"{error}\nmigration sender: libxl_domain_suspend failed (rc=-7)")
        transport.end()
        _say("Migration failed, failed to suspend at sender.")
        return 1
    except CommandFailed as error:
        _say(str(error))
        transport.end()
        _say("Migration failed, resuming at sender.")
        build.ask(host, domain, "resume")
        return 1
    return _hand_over(host, domain, name, transport)


def _hand_over(host: Host, domain: Domain, name: str, transport: Transport) -> int:
    """Give permission to start, which cannot be taken back, and act on the outcome."""
    _say("migration sender: Giving target permission to start.")
    try:
        _write(transport.send, GO)
        _expect(transport.receive, REPORT, "success/failure report message")
        status = stream.read_exactly(transport.receive, 1, "success/failure status")[0]
        if status:
            _say(f"migration sender: Target reports startup failure (status code {status}).")
            _expect(transport.receive, GO, "permission for sender to resume")
    except (CommandFailed, OSError) as error:
        _say(
            f"{error}\n"
            "** Migration failed during final handshake **\n"
            "Domain state is now undefined !\n"
            "Please CHECK AT BOTH ENDS for running instances, before renaming and\n"
            " resuming at most one instance.  Two simultaneous instances of the domain\n"
            " would probably result in SEVERE DATA LOSS and it is now your\n"
            " responsibility to avoid that.  Sorry."
        )
        transport.end()
        return 1
    if status:
        _say("migration sender: Trying to resume at our end.")
        host.rename(domain, name)
        build.ask(host, domain, "resume")
        _say("migration sender: Resumed OK.\nMigration failed due to problems at target.")
        return 1
    _say("migration sender: Target reports successful startup.")
    host.destroy(domain)
    _say("Migration successful.")
    return 0


def receive(host: Host, faults: dict[str, Any], *, leave_paused: bool, watched: bool) -> int:
    """`xl migrate-receive`: the receiving end on stdin and stdout."""
    _say("migration target: Ready to receive domain.")
    try:
        _write(1, BANNER)
        domain = saving.read_domain(
            host, 0, "<incoming migration stream>", suffix=INCOMING, fail=faults.get("fail")
        )
    except (CommandFailed, OSError) as error:
        _say(f"{error}\nmigration target: Domain creation failed (code -3).")
        return 1
    if watched:
        build.monitor(host, domain)
    _say("migration target: Transfer complete, requesting permission to start domain.")
    try:
        _write(1, READY)
    except OSError:
        return 1  # as the real one: the copy stays behind, paused
    status = _start(host, domain, faults, leave_paused=leave_paused)
    try:
        _write(1, REPORT)
        _write(1, bytes([status]))
        if status:
            _say("migration target: Failure, destroying our copy.")
            host.destroy(domain)
            _say("migration target: Cleanup OK, granting sender permission to resume.")
            _write(1, GO)
    except OSError as error:
        _say(f"libxl: error: unable to write to migration ack stream: {error.strerror}")
        return 1
    return 0


def _start(host: Host, domain: Domain, faults: dict[str, Any], *, leave_paused: bool) -> int:
    """Wait for permission and let the domain run; returns the status to report."""
    try:
        _expect(0, GO, "GO message")
    except CommandFailed as error:
        _say(str(error))
        return 1
    _say("migration target: Got permission, starting domain.")
    if faults.get("unpause_status"):
        return int(faults["unpause_status"])
    try:
        host.rename(domain, domain.name.removesuffix(INCOMING))
        if not leave_paused:
            build.ask(host, domain, "unpause")
    except NameTaken as error:
        _say(str(error))
        return 6
    except CommandFailed as error:
        _say(str(error))
        return 3
    _say("migration target: Domain started successsfully.")
    return 0
