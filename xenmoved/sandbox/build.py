"""Making and unmaking domains: what `create`, `restore` and `migrate-receive` have in common."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time

from xenmoved.sandbox import control, ram
from xenmoved.sandbox.host import (
    CRASHED,
    POWERED_OFF,
    REBOOTED,
    CommandFailed,
    Domain,
    Host,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

TEARDOWN = 0.4
"""Seconds for which a domain that has shut down is seen: its devices are taken from it then."""
REBUILDS_AFTER = 2.0
"""Seconds that `xl` waits before it builds a domain that reboots."""

PACKAGE_ROOT = os.path.realpath(f"{__file__}/../../..")


def create(host: Host, config: dict[str, Any]) -> Domain:
    """Boot a new domain and leave it paused. On failure nothing is left of it."""
    return _construct(host, config, "boot", lambda _memory: None)


def restore(host: Host, config: dict[str, Any], fill: Callable[[ram.Ram], None]) -> Domain:
    """Build a domain whose memory `fill` provides, and leave it paused.

    Its disks must exist at the start but are opened only after `fill` returns. On failure nothing
    is left of it; if this process is killed, a domain that can only be destroyed stays behind.
    """
    return _construct(host, config, "restore", fill)


def _construct(
    host: Host, config: dict[str, Any], mode: str, fill: Callable[[ram.Ram], None]
) -> Domain:
    domain = host.add(config)
    try:
        _require_disks(domain)
        memory = ram.allocate(domain.memory)
        fill(ram.Ram(memory))
        start_guest(host, domain, memory, mode)
        os.close(memory)
    except BaseException:
        host.destroy(domain)
        raise
    return domain


def _require_disks(domain: Domain) -> None:
    """Fail as libxl does when the path behind a disk does not exist."""
    for number, disk in enumerate(domain.config.get("disks", [])):
        if disk["format"] == "empty" or disk.get("script"):
            continue
        try:
            os.stat(disk["pdev_path"])
        except OSError as error:
            raise CommandFailed(
                "libxl: error: libxl_device.c:437:libxl__device_disk_set_backend: "
                f"Disk vdev={disk['vdev']} failed to stat: {disk['pdev_path']}: {error.strerror}\n"
                "libxl: error: libxl_create.c:1316:initiate_domain_create: "
                f"Domain {domain.domid}:Unable to set disk defaults for disk {number}"
            ) from error


def start_guest(host: Host, domain: Domain, memory: int, mode: str) -> None:
    """Start the guest process, paused; returns when its disks are open.

    The process is nobody's child and inherits neither descriptors nor environment: it must survive
    the command, and must not look like a part of the migration that brought it.
    """
    ready_read, ready_write = os.pipe()
    console = os.open(
        host.console(domain.name), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644
    )
    child = os.fork()
    if child == 0:
        _become_guest(host, domain, mode, (console, memory, ready_write))
    os.close(ready_write)
    os.close(console)
    os.waitpid(child, 0)
    answer = b""
    while part := os.read(ready_read, 65536):
        answer += part
    os.close(ready_read)
    if answer != b"ok":
        reason = answer.decode(errors="replace") or "the guest process ended"
        raise CommandFailed(
            "libxl: error: libxl_create.c:1670:domcreate_launch_dm: "
            f"Domain {domain.domid}:unable to add disk devices: {reason}"
        )


def _become_guest(host: Host, domain: Domain, mode: str, descriptors: tuple[int, int, int]) -> None:
    """Turn this forked process into the guest. Never returns."""
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        # Move everything out of the way first: the numbers wanted may be in use.
        null = os.open("/dev/null", os.O_RDONLY)
        console, memory, ready = descriptors
        sources = (null, console, console, memory, ready)
        spare = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 16) for descriptor in sources]
        for wanted, descriptor in enumerate(spare):
            os.dup2(descriptor, wanted)
        os.closerange(5, 4096)
        os.chdir("/")
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        environment = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": PACKAGE_ROOT}
        # It serves its disks itself, and is known as device models are.
        arguments = [str(host.root), str(host.witness), "-xen-domid", str(domain.domid), mode]
        # -S: only the standard library is needed, and `site` is half of the start-up time.
        command = [sys.executable, "-S", "-m", "xenmoved.sandbox.guest", *arguments]
        os.execve(sys.executable, command, environment)
    finally:
        os._exit(127)


def monitor(host: Host, domain: Domain) -> None:
    """Leave a process behind that does what is configured for the domain's end.

    It destroys a domain that powered off, and builds one that reboots again.

    The real `xl` does the same, and its process keeps command line and environment of the command
    that built the domain, so whoever searches /proc must expect to find it.
    """
    if os.fork():
        return
    try:
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR)
        for descriptor in range(3):
            os.dup2(null, descriptor)
        os.closerange(3, 4096)
        os.chdir("/")
        left: Domain | None = domain
        while left is not None:
            left = _after_end(host, left)
    finally:
        os._exit(0)


def _after_end(host: Host, domain: Domain) -> Domain | None:
    """Wait for the end of a domain; return what was built in its place, None when it is over."""
    control.wait_for_end(host.path(domain.domid, "sock"))
    config, (_, reason) = domain.config, host.flags(domain.domid)
    if (now := host.load(domain.domid)) is not None:
        config = now.config
    actions = {
        POWERED_OFF: config.get("on_poweroff", "destroy"),
        REBOOTED: config.get("on_reboot", "restart"),
        CRASHED: "preserve",
    }
    action = actions.get(reason, "preserve")
    if action == "preserve":
        return None
    time.sleep(TEARDOWN)
    host.destroy(domain)
    if action != "restart":
        return None
    time.sleep(REBUILDS_AFTER)
    anew = create(host, config)
    ask(host, anew, "unpause")
    return anew


def ask(host: Host, domain: Domain, operation: str) -> dict[str, Any]:
    """Ask the domain's guest, which a half-built domain does not have."""
    if host.process(domain.domid) is None:
        raise CommandFailed(
            f"libxl: error: Domain {domain.domid}:the domain has no running guest (half built?)"
        )
    return control.request(
        host.path(domain.domid, "sock"), operation, None if operation == "check" else 120.0
    )


def memory_of(host: Host, domain: Domain) -> ram.Ram:
    """Map the memory of a domain that has a guest."""
    pid = host.process(domain.domid)
    if pid is None:
        raise CommandFailed(f"xc: error: no memory of domain {domain.domid} to map")
    descriptor = os.open(f"/proc/{pid}/fd/3", os.O_RDWR | os.O_CLOEXEC)
    try:
        return ram.Ram(descriptor)
    finally:
        os.close(descriptor)
