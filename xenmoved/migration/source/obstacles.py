"""Why a guest or a disk cannot move, whatever the target, and what to do about it."""

from __future__ import annotations

import shlex
from itertools import chain
from typing import Final

from protocol.messages import ImageFormat, Problem
from xenmoved.migration.uncopied_disks import IMAGES
from xenmoved.problems import problem
from xenmoved.toolstack.interface import Disk, Domain, DomainState

_MOVABLE: Final = frozenset({"phy", "tap", "qdisk", "unknown", ""})
_RAW: Final = frozenset({ImageFormat.RAW.value, "unknown", ""})
_STATE_HINTS: Final = {
    DomainState.PAUSED: "unpause it first: only a running guest can be saved",
    DomainState.SUSPENDED: "a save or migration of it is under way, or one was broken off",
    DomainState.SHUTDOWN: "it is shutting down",
    DomainState.REBOOTING: "it reboots: try again when it runs",
    DomainState.CRASHED: "look at its console; start it anew on the other host",
    DomainState.DYING: "it is being destroyed",
}


def moving_disks(domain: Domain) -> list[Disk]:
    """Return the disks that the guest needs on the other host: all but empty drives."""
    return [disk for disk in domain.disks if disk.path or not disk.cdrom]


def image_hint(image_format: str) -> str:
    """Say what can be done about an image that cannot move while its guest runs."""
    return (
        "shut the guest down and move it with --mode cold, if its configuration says "
        f"format={image_format}; or convert the disk with qemu-img"
    )


def disk_obstacle(disk: Disk, *, cold: bool, asked: bool) -> tuple[str, str] | None:
    """Why a disk cannot move and what to do about it, None when it can.

    With `asked`, the QEMU of the guest can be asked for the content of images.
    """
    plain = "only disks that dom0 serves from a file or block device move: attach it in that way"
    obstacles = (
        (disk.script, f"is attached by the script {disk.script}", plain),
        (disk.backend_domid, f"is served by domain {disk.backend_domid}, not by dom0", plain),
        (disk.backend not in _MOVABLE, f"has the backend {disk.backend}", plain),
        # Of such an image, parts are in the memory of its backend while the guest runs.
        (
            disk.format in IMAGES and not (cold or asked),
            f"has the format {disk.format}: only raw disks move while the guest runs",
            f"{image_hint(disk.format)}; or have QEMU read it for xenmoved: `toolstack.monitors` "
            "in the configuration of this host",
        ),
        (
            disk.format not in _RAW | IMAGES,
            f"has the format {disk.format}: only raw disks move",
            "convert it with qemu-img while the guest is down",
        ),
        (not disk.path.startswith("/"), f"is at {disk.path!r}, which is no absolute path", plain),
    )
    return next(
        ((f"disk {disk.vdev} {why}", hint) for stands, why, hint in obstacles if stands), None
    )


def disk_problems(guest: str, disk: Disk, *, cold: bool, asked: bool) -> list[Problem]:
    """Return the same as it is told of a guest."""
    found = disk_obstacle(disk, cold=cold, asked=asked)
    return [problem("disk", f"{guest}: {found[0]}", found[1])] if found is not None else []


def guest_obstacles(domain: Domain, state: DomainState | None, *, asked: bool) -> list[Problem]:
    """Everything about a guest that stands in the way of moving it, whatever the target.

    `state` is None for one that is to be moved while there is no domain of it. `asked`: see
    `disk_obstacle`.
    """
    blocked = {
        disk.vdev: found
        for disk in moving_disks(domain)
        if (found := disk_problems(domain.name, disk, cold=state is None, asked=asked))
    }
    found = list(chain.from_iterable(blocked.values()))
    found += [
        problem(
            "passthrough", f"{domain.name} has the host device {device}", _without(domain, device)
        )
        for device in domain.passthrough
    ]
    said = tuple(f"disk {vdev!r}" for vdev in blocked)
    hint = "change it in the guest's configuration and start the guest anew"
    if state is not None:
        hint = "change it in the guest's configuration, then move it with --mode restart"
    found += [
        problem("guest-config", f"{domain.name}: {obstacle}", hint)
        for obstacle in domain.obstacles
        if not obstacle.startswith(said)
    ]
    if state not in (None, DomainState.RUNNING):
        found.append(
            problem("guest-state", f"{domain.name} is {state}, not running", _STATE_HINTS[state])
        )
    return found


def _without(domain: Domain, device: str) -> str:
    """Say how a guest gets rid of a device of its host, which no other host has (xl(1))."""
    kind, _, which = device.partition(" ")
    name = shlex.quote(domain.name)
    anew = (
        "take the device out of its configuration and move it with --mode restart, which shuts it "
        "down here and starts it there from that"
    )
    detach = {
        "pci": f"xl pci-detach {name} {which}",
        "usb": f"xl usb-list {name}, then xl usbdev-detach {name} CONTROLLER PORT",
        "vtpm": f"xl vtpm-list {name}, then xl vtpm-detach {name} DEVICE",
    }
    return f"while it runs: {detach[kind]}; or {anew}" if kind in detach else anew
