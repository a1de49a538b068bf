"""Turning a domain into a stream, and a stream into a domain, for every verb that does so."""

from __future__ import annotations

import sys
import time

from xenmoved.sandbox import build, device_model, stream
from xenmoved.sandbox.host import CommandFailed, Domain, Host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenmoved.sandbox.ram import Ram

MAX_ITERATIONS = 5
FEW_PAGES = 50


DEVICE_MODEL_SECONDS = 0.05


class SuspendFailed(CommandFailed):
    """The guest did not suspend; nothing happened to it."""


def suspend(host: Host, domain: Domain, *, live: bool) -> None:
    """Suspend the guest, then have its device model stop, as libxl does. Raises SuspendFailed.

    The domain shows as suspended while the device model finishes what it has under way. PV and PVH
    domains have none that takes part.
    """
    try:
        build.ask(host, domain, "suspend")
    except CommandFailed as error:
        raise SuspendFailed(
            "libxl: error: libxl_dom_suspend.c:358:suspend_common_wait_guest_timeout: "
            f"Domain {domain.domid}:{error}"
        ) from error
    if kind_of(domain) == "hvm":
        seconds = host.faults("device-model").get("delay", DEVICE_MODEL_SECONDS)
        time.sleep(float(seconds))
        while host.faults("device-model").get("held"):
            time.sleep(0.02)
        build.ask(host, domain, "stop")
        device_model.stop(host, domain.domid, live=live)


def write_suspended(host: Host, domain: Domain, output: stream.Output, *, inner: bool) -> None:
    """Suspend the guest and write its whole memory. `inner` leaves libxl's framing out."""
    memory = build.memory_of(host, domain)
    if not inner:
        stream.write_libxl_start(output)
    suspend(host, domain, live=False)
    _note(domain)
    stream.write_libxc_start(output, kind_of(domain))
    _write_progress(output, memory, range(memory.pages))
    output.write(stream.END if inner else stream.END + stream.END)


def write_live(host: Host, domain: Domain, output: stream.Output) -> None:
    """Write the memory while the guest runs, then suspend it and write the rest."""
    memory = build.memory_of(host, domain)
    stream.write_libxl_start(output)
    _note(domain)
    stream.write_libxc_start(output, kind_of(domain))
    numbers = list(range(memory.pages))
    for iteration in range(MAX_ITERATIONS):
        print(f"xc: info: iteration {iteration}: {len(numbers)} pages", file=sys.stderr)
        stream.write_pages(output, memory, numbers)
        numbers = memory.dirty()
        if len(numbers) <= FEW_PAGES:
            break
    suspend(host, domain, live=True)
    stream.write_pages(output, memory, memory.dirty())
    output.write(stream.END + stream.END)


def _note(domain: Domain) -> None:
    print(
        f"xc: info: Saving domain {domain.domid}, type x86 {kind_of(domain).upper()}",
        file=sys.stderr,
    )


def _write_progress(output: stream.Output, memory: Ram, numbers: range) -> None:
    for first in range(0, len(numbers), 1024):
        part = numbers[first : first + 1024]
        stream.write_pages(output, memory, part)
        done = part[-1] + 1
        print(
            f"\rxc: Frames: {done}/{memory.pages} {done * 100 // memory.pages:4d}%",
            end="",
            file=sys.stderr,
            flush=True,
        )
    print(file=sys.stderr)


def kind_of(domain: Domain) -> str:
    """Type of the domain: pv, pvh or hvm."""
    return str(domain.config["c_info"].get("type", "pv"))


def read_domain(
    host: Host, descriptor: int, source: str, *, suffix: str = "", fail: str | None = None
) -> Domain:
    """Build a paused domain from a stream. `fail` is an error to show when it has ended."""
    config = stream.read_header(descriptor, source)
    try:
        config["c_info"]["name"] += suffix
        int(config["b_info"]["target_memkb"])
        str(config["c_info"]["uuid"])
    except (KeyError, TypeError) as error:
        raise CommandFailed(f"libxl: error: incomplete configuration: {error}") from error

    def fill(memory: Ram) -> None:
        stream.read_libxl_start(descriptor)
        stream.read_libxc(descriptor, memory)
        stream.read_libxl_end(descriptor)
        if fail is not None:
            raise CommandFailed(f"libxl: error: {fail}")

    return build.restore(host, config, fill)
