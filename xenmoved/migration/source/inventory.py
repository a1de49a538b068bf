"""What a guest has at one moment, and how that differs from another moment.

Taken when a migration is planned, and again before the guest is suspended and while it stands
still, before its memory is sealed. In between, every look at what was written sees that each disk
still is what was opened (`storage.backing`). What was looked at once is not trusted later: an
operator may enlarge or exchange a disk, or start the guest anew, at any time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, fields, replace
from typing import Final

from protocol.messages import Problem, Remark
from storage.backing import backing_of
from storage.contracts import Backing
from storage.errors import StorageError
from xenmoved.migration.host import Host
from xenmoved.migration.uncopied_disks import IMAGES
from xenmoved.problems import Obstructed, problem, problems_of
from xenmoved.remarks import good_to_know
from xenmoved.toolstack.backends import OpenByBackends
from xenmoved.toolstack.interface import Disk, Domain, DomainState, DomainStatus, Nic

_AGAIN: Final = "it runs on here; migrate it again, as it is now"


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """A disk of a guest. `backing` is what its path leads to, None for an empty drive."""

    disk: Disk
    backing: Backing | None


@dataclass(frozen=True, slots=True)
class GuestFacts:
    """A guest, its disks and its interfaces. `domid` is that of its domain, if it runs."""

    name: str
    uuid: str
    domid: int
    disks: dict[str, DiskFacts]
    nics: tuple[Nic, ...]

    @property
    def runs(self) -> bool:
        """Whether there is a domain of it."""
        return self.domid > 0

    @property
    def backings(self) -> dict[str, Backing]:
        """What the disks are, by path."""
        return {facts.disk.path: facts.backing for facts in self.disks.values() if facts.backing}


@dataclass(frozen=True, slots=True)
class Look:
    """What was found of a guest: `missing` is of disks at whose paths nothing is.

    `warnings` say what cannot be told.
    """

    facts: GuestFacts
    opened: OpenByBackends | None
    missing: tuple[Problem, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[Remark, ...]


async def take(host: Host, domain: Domain) -> Look:
    """Look at all that a guest has. Raises StorageError or ToolstackError.

    A disk whose backend has something else open than its path leads to is a problem: what would be
    copied is not what the guest has.
    """
    opened = await host.toolstack.opened(domain) if domain.domid > 0 else None
    return await asyncio.to_thread(_take, domain, opened)


def _take(domain: Domain, opened: OpenByBackends | None) -> Look:
    missing: list[Problem] = []
    problems: list[Problem] = []
    warnings: list[Remark] = []
    disks: dict[str, DiskFacts] = {}
    for disk in domain.disks:
        backing = None
        try:
            backing = backing_of(disk.path) if disk.path.startswith("/") else None
            if backing is not None and disk.format in IMAGES and domain.domid > 0:
                backing = replace(backing, size=0)  # its guest may have an image grow
        except StorageError as error:
            missing += problems_of(error)
        disks[disk.vdev] = DiskFacts(disk, backing)
        if opened is None or backing is None:
            continue
        has = opened.has(disk.vdev, backing)
        if has is None:
            text = f"nothing tells what the backend of disk {disk.vdev} of {domain.name} has open"
            hint = f"see that it is {disk.path}, and not a file or device that was there before"
            warnings.append(good_to_know("backend-unknown", text, hint))
        elif not has:
            problems.append(_replaced(domain.name, disk, backing, opened.shown(disk.vdev)))
    facts = GuestFacts(domain.name, domain.uuid, domain.domid, disks, domain.nics)
    return Look(facts, opened, tuple(missing), tuple(problems), tuple(warnings))


def _replaced(guest: str, disk: Disk, there: Backing, had: str) -> Problem:
    text = (
        f"disk {disk.vdev} of {guest} is not what {disk.path} leads to, {there.what}: the guest "
        f"has {had}"
    )
    hint = (
        "put back what was renamed or replaced, or shut the guest down and start it again with the "
        "disk that it is to have"
    )
    return problem("disk-replaced", text, hint)


def require_running(before: GuestFacts, status: DomainStatus | None) -> DomainStatus:
    """See that a guest runs as the domain that it was; `status` is what it is now, if anything.

    A domain that is just being built for a guest that was started again is paused: which domain it
    is counts before what it does. Raises Obstructed.
    """
    if status is not None and status.domid != before.domid:
        text = f"{before.name} was shut down and started again while its disks were copied"
        text += f": it was domain {before.domid}, and is {status.domid}"
        raise Obstructed([problem("guest-restarted", text, _AGAIN)])
    if status is not None and status.state is DomainState.RUNNING:
        return status
    name = before.name
    hint = "nothing was lost: move it with --mode cold as long as it is off, or start it again"
    if status is not None and status.state is DomainState.PAUSED:
        text = f"{name} was paused while its disks were copied"
        hint = "nothing was lost; let it run again (xl unpause, xm unpause), then migrate it again"
    else:
        how = f"is {status.state} now" if status is not None else "has ended"
        text = f"{name} {how}: it was shut down while its disks were copied"
    raise Obstructed([problem("guest-gone", text, hint)])


async def require_unchanged(host: Host, before: GuestFacts, status: DomainStatus) -> Domain:
    """See that a guest has what it had; `status` is its domain now. Returns how it is now.

    Its memory may be more or less than it was. Raises Obstructed.
    """
    now = await host.toolstack.describe(status)
    require_same(before, await take(host, now))
    return now


def require_same(before: GuestFacts, now: Look) -> None:
    """See that a guest has what it had. Raises Obstructed with everything that differs.

    A disk at whose path nothing is any more was removed or renamed: the guest goes on with it.
    """
    found = [*now.problems, *differences(before, now.facts)]
    for vdev, facts in now.facts.disks.items():
        had = before.disks[vdev].backing if vdev in before.disks else None
        if now.opened is None or had is None or facts.backing is not None:
            continue
        if now.opened.has(vdev, had) is False:
            found.append(_replaced(before.name, facts.disk, had, now.opened.shown(vdev)))
    if found:
        raise Obstructed(found)


def differences(before: GuestFacts, now: GuestFacts) -> list[Problem]:
    """Return all in which a guest has not what it had, each with what happened."""
    found: list[Problem] = []
    if before.runs and before.uuid != now.uuid:
        text = f"{before.name} is another guest now: its uuid was {before.uuid}, and is {now.uuid}"
        found.append(problem("guest-restarted", text, _AGAIN))
    for vdev in before.disks.keys() - now.disks.keys():
        text = f"disk {vdev} was detached from {before.name} while its disks were copied"
        found.append(problem("disk-removed", text, _AGAIN))
    for vdev in now.disks.keys() - before.disks.keys():
        text = f"disk {vdev} was attached to {before.name} while its disks were copied"
        found.append(problem("disk-added", text, _AGAIN))
    found += _nic_differences(before, now)
    for vdev in before.disks.keys() & now.disks.keys():
        found += _disk_differences(before.name, before.disks[vdev], now.disks[vdev])
    return found


def _nic_differences(before: GuestFacts, now: GuestFacts) -> list[Problem]:
    had, has = Counter(before.nics), Counter(now.nics)
    changes = [("detached from", nic) for nic in (had - has).elements()]
    changes += [("attached to", nic) for nic in (has - had).elements()]
    found = []
    for what, nic in changes:
        which = f"{nic.mac or 'without an address'}, bridge {nic.bridge or 'none'},"
        text = f"the interface {which} was {what} {before.name} while its disks were copied"
        found.append(problem("interface-changed", text, _AGAIN))
    return found


def _disk_differences(guest: str, before: DiskFacts, now: DiskFacts) -> list[Problem]:
    vdev = before.disk.vdev
    told = [
        f"{field.name} {getattr(before.disk, field.name)} then, {getattr(now.disk, field.name)} now"
        for field in fields(Disk)
        if getattr(before.disk, field.name) != getattr(now.disk, field.name)
    ]
    if told:
        text = f"disk {vdev} of {guest} was exchanged while its disks were copied: "
        return [problem("disk-exchanged", text + "; ".join(told), _AGAIN)]
    if before.backing is None or now.backing is None or before.backing == now.backing:
        return []
    if now.backing.is_resized(before.backing):
        text = f"{before.disk.path}, disk {vdev} of {guest}, had {before.backing.size} bytes"
        return [problem("disk-resized", f"{text}, and has {now.backing.size} now", _AGAIN)]
    if before.backing.what != now.backing.what:
        text = f"{before.disk.path}, disk {vdev} of {guest}, led to {before.backing.what}, and"
        return [problem("disk-replaced", f"{text} leads to {now.backing.what} now", _AGAIN)]
    text = f"{before.disk.path}, disk {vdev} of {guest}, has other sectors than it had"
    return [problem("disk-exchanged", text, _AGAIN)]
