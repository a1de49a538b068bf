"""A guest that is shut down here and started on the other host: what its configuration makes of it.

It is offered as its file has it, as that starts it there, and here again if it does not move. Its
disks must be those that it runs with, as these are what is copied; what else differs, and the
devices of this host that it has and the file does not, an operator is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from protocol.messages import Problem, Remark
from storage.places import place_at
from xenmoved.migration.host import Host
from xenmoved.migration.source.obstacles import guest_obstacles, image_hint, moving_disks
from xenmoved.migration.uncopied_disks import IMAGES
from xenmoved.problems import problem
from xenmoved.remarks import good_to_know, to_look_at
from xenmoved.toolstack.interface import Disk, Domain, DomainState, ToolstackError
from xenmoved.units import format_size

_GOES: Final = ("destroy", "coredump_destroy", "coredump-destroy")
"""What may become of a domain that powers off, so that it is gone then."""
_BY_HAND: Final = "shut it down from within, and move it with --mode cold"


async def as_configured(
    host: Host, running: Domain, text: str | None, state: DomainState
) -> tuple[Domain | None, list[Problem], tuple[Remark, ...]]:
    """Describe a guest as the text of its configuration starts it, and compare it with how it runs.

    Returns None where the text starts nothing, or has images, which are not even offered; with
    every problem, and with what to know.
    """
    name = running.name
    bare = replace(running, passthrough=(), obstacles=())
    problems = [*guest_obstacles(bare, state, asked=True), *_shutdown_problems(host, running)]
    if text is None:
        said = f"{name} has no configuration file from which it could be started"
        hint = f"write one to {host.config.toolstack.config_dir}/{name}.cfg; or {_BY_HAND}"
        return None, [*problems, problem("no-config-file", said, hint)], ()
    try:
        configured = await host.toolstack.configs.describe_text(name, text)
    except ToolstackError as error:
        said = f"the configuration file of {name} starts nothing: {error}"
        return None, [*problems, problem("guest-config", said, "correct it")], ()
    found = guest_obstacles(configured, DomainState.RUNNING, asked=True)
    problems += [one for one in found if one not in problems]
    images = list(_image_problems(configured))
    problems += [*images, *_disk_differences(running, configured)]
    offered = replace(configured, uuid=running.uuid) if not images else None
    return offered, problems, tuple(_remarks(running, configured))


def _shutdown_problems(host: Host, running: Domain) -> Iterator[Problem]:
    """Find why it would not be gone when it is asked to shut down."""
    name = running.name
    if running.on_poweroff not in _GOES:
        text = f"{name} has on_poweroff={running.on_poweroff}: it is not gone when it has shut down"
        hint = f"have its configuration say 'destroy', and start it anew; or {_BY_HAND}"
        yield problem("on-poweroff", text, hint)
    if running.kind == "hvm" and host.toolstack.name == "xm":
        text = f"{name} is HVM: xend cuts the power of one that has no drivers for Xen"
        yield problem("mode", text, _BY_HAND)


def _image_problems(configured: Domain) -> Iterator[Problem]:
    """Refuse images: what their QEMU has of them in memory is gone with it, and not copied yet."""
    for disk in moving_disks(configured):
        if disk.format in IMAGES:
            text = f"{configured.name}: disk {disk.vdev} has the format {disk.format}"
            text += ": only raw disks move with a guest that is started anew"
            yield problem("disk", text, image_hint(disk.format))


def _disk_differences(running: Domain, configured: Domain) -> list[Problem]:
    has, gets = _disks(running), _disks(configured)
    told = [f"{vdev} is not in the file" for vdev in sorted(has.keys() - gets.keys())]
    told += [f"{vdev} is only in the file" for vdev in sorted(gets.keys() - has.keys())]
    for vdev in sorted(has.keys() & gets.keys()):
        now, then = has[vdev], gets[vdev]
        if place_at(now.path) != place_at(then.path):
            told.append(f"{vdev} is {now.path}, and {then.path} in the file")
        elif now.writable != then.writable:
            told.append(f"{vdev} is {_mode(now)}, and {_mode(then)} in the file")
    if not told:
        return []
    text = f"{running.name} runs with other disks than its configuration file gives it: "
    hint = f"have the file say what it is to have, or start it anew from it; or {_BY_HAND}"
    return [problem("config-differs", text + "; ".join(told), hint)]


def _disks(domain: Domain) -> dict[str, Disk]:
    """Return its disks by vdev; what is in a CD-ROM drive may be another one at any time."""
    return {disk.vdev: disk for disk in moving_disks(domain) if not disk.cdrom}


def _mode(disk: Disk) -> str:
    return "writable" if disk.writable else "read-only"


def _remarks(running: Domain, configured: Domain) -> Iterator[Remark]:
    name = running.name
    lost = [device for device in running.passthrough if device not in configured.passthrough]
    if lost:
        text = f"{name} comes without {', '.join(lost)}, which it has here, as its file has it"
        hint = "give it one of the other host's there; it is without it here, too, if it stays"
        yield to_look_at("passthrough", text, hint)
    if told := list(_differences(running, configured)):
        text = f"{name} is started from its configuration file, which differs from how it runs: "
        hint = "this holds here, too, if it has been shut down and does not move"
        yield good_to_know("config-differs", text + "; ".join(told), hint)


def _differences(running: Domain, configured: Domain) -> Iterator[str]:
    if running.kind != configured.kind:
        yield f"type {configured.kind}, {running.kind} now"
    if (now := running.size.maximum) != (then := configured.size.maximum):
        yield f"{format_size(then)} of memory, {format_size(now)} now"
    if (has := running.size.max_vcpus) != (gets := configured.size.max_vcpus):
        yield f"{gets} vcpus, {has} now"
    ours, theirs = [nic.bridge for nic in running.nics], [nic.bridge for nic in configured.nics]
    if ours != theirs:
        yield f"interfaces on {_bridges(theirs)}, on {_bridges(ours)} now"
    known = {nic.mac.lower() for nic in running.nics if nic.mac}
    for nic in configured.nics:
        if nic.mac and nic.mac.lower() not in known:
            yield f"an interface with the address {nic.mac}, which it does not have now"
    for nic in configured.nics:
        if nic.mac is None:
            yield "an interface without an address, which gets another one at each start"


def _bridges(names: list[str | None]) -> str:
    return ", ".join(name or "none" for name in names) or "none"
