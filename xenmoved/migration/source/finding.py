"""The guest that is to leave this host: how it is here, what starts it, and why it cannot go."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

from protocol.messages import Mode, Problem, Remark
from storage.places import place_at, places_at
from xenmoved.migration.host import Host
from xenmoved.migration.source.anew import as_configured
from xenmoved.migration.source.guest_text import config_of
from xenmoved.migration.source.obstacles import guest_obstacles, moving_disks
from xenmoved.migration.volume_notes import known_holding
from xenmoved.problems import problem
from xenmoved.toolstack.interface import (
    Domain,
    DomainState,
    DomainStatus,
    ToolstackError,
    guests_among,
    named,
)

_UNKNOWN_HINT = "xenmovectl list shows the guests of this host"


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of a guest, with every problem.

    `domain` is how it is here, None when there is none, and `offered` how it is offered: as its
    configuration has it, for one that is to be started anew. `config` is the text to start it from.
    """

    problems: tuple[Problem, ...]
    domain: Domain | None = None
    offered: Domain | None = None
    config: str | None = None
    remarks: tuple[Remark, ...] = ()


async def find_guest(host: Host, guest: str, peer: str, mode: Mode) -> Found:
    """Describe a guest, and find what stands in the way of moving it in this mode.

    Raises ToolstackError.
    """
    domain, problems = await _find(host, guest, mode)
    if domain is None:
        return Found(tuple(problems))
    if (busy := host.jobs.busy_with(guest)) is not None:
        hint = f"to follow it: xenmovectl watch {busy.job}"
        problems.append(problem("busy", f"job {busy.job} is busy with {guest} already", hint))
    problems += await _twins(host, domain)
    config, remarks = await config_of(host, domain, peer, mode)
    offered: Domain | None = domain
    if mode is Mode.RESTART:
        state = await guest_state(host, guest) or DomainState.SHUTDOWN
        offered, found, more = await as_configured(host, domain, config, state)
        problems += found
        remarks = (*remarks, *more)
    return Found(tuple(problems), domain, offered, config, remarks)


async def guest_state(host: Host, name: str) -> DomainState | None:
    """Return the state of a local guest, None when there is none of that name."""
    domain = named(name, await host.toolstack.domains())
    return domain.state if domain is not None else None


async def choose_mode(host: Host, guest: str) -> Mode:
    """Return the best mode that a guest can be moved in."""
    domains = await host.toolstack.domains()
    if (status := named(guest, domains)) is None:
        return Mode.COLD
    domain = await host.toolstack.describe(status)
    return Mode.LIVE if await _live_obstacle(host, domain, domains) is None else Mode.SAVE


async def _live_obstacle(host: Host, domain: Domain, domains: Sequence[DomainStatus]) -> str | None:
    """Say why the memory of a guest cannot be copied while it runs, None if it can."""
    if (obstacle := host.toolstack.live_obstacle(domain.name, domains)) is not None:
        return obstacle
    if domain.kind == "pv" and not (await host.toolstack.host()).shadow:
        return "it is PV, and the Xen of this host cannot follow its memory (no shadow paging)"
    return None


async def _twins(host: Host, guest: Domain) -> list[Problem]:
    """See that no peer is sending a guest with its uuid: the two could not be told apart."""
    coming = await host.journal.arriving_as(guest.uuid)
    text = f"a guest with the uuid of {guest.name} is on its way here"
    hint = "see xenmovectl jobs; start it again when that has ended"
    return [problem("busy", f"{text} from {one.peer}", hint) for one in coming]


async def _find(host: Host, guest: str, mode: Mode) -> tuple[Domain | None, list[Problem]]:
    """Describe a guest, and find what stands in the way of moving it in this mode."""
    if mode is Mode.COLD:
        return await _find_stopped(host, guest, await guest_state(host, guest))
    domains = await host.toolstack.domains()
    if (status := named(guest, domains)) is None:
        text, hint = f"no guest called {guest} runs on this host", _UNKNOWN_HINT
        if mode is Mode.RESTART:
            hint = f"one that is off moves with --mode cold; {hint}"
        return None, [problem("guest-unknown", text, hint)]
    domain = await host.toolstack.describe(status)
    if mode is Mode.RESTART:
        return domain, []
    asked = host.qemu_of(domain.domid) is not None
    problems = guest_obstacles(domain, status.state, asked=asked)
    obstacle = await _live_obstacle(host, domain, domains) if mode is Mode.LIVE else None
    if obstacle is not None:
        hint = "move it with --mode save, which suspends it for the time its memory takes"
        problems.append(problem("mode", f"{guest} cannot be moved live: {obstacle}", hint))
    return domain, problems


async def _find_stopped(
    host: Host, guest: str, state: DomainState | None
) -> tuple[Domain | None, list[Problem]]:
    if state is not None:
        text = f"{guest} is {state}: only a guest that does not run moves cold"
        return None, [problem("guest-state", text, "shut it down, or move it without --mode cold")]
    if (domain := await host.toolstack.configs.describe(guest)) is None:
        text = f"no guest called {guest} runs on this host, and there is no configuration of it"
        return None, [problem("guest-unknown", text, _UNKNOWN_HINT)]
    problems = guest_obstacles(domain, None, asked=False)
    moving = {disk.path for disk in moving_disks(domain)}
    problems += await users_of(host, guest, moving)
    return replace(domain, uuid=domain.uuid or await _known_uuid(host, moving)), problems


async def users_of(
    host: Host, guest: str, paths: Collection[str], *, runs: bool = False
) -> list[Problem]:
    """Find the domains that have disks of a guest, by whatever path they do.

    One that `runs` has them itself. Raises ToolstackError.
    """
    wanted = places_at(paths)
    found = []
    for status, other in guests_among(await host.toolstack.describe_all()):
        if isinstance(other, ToolstackError):
            raise other
        for disk in () if runs and status.name == guest else other.disks:
            if disk.path and place_at(disk.path) in wanted:
                text = f"{disk.path}, a disk of {guest}, is in use by {status.name}"
                found.append(problem("volume-in-use", text, f"shut {status.name} down first"))
    return found


async def _known_uuid(host: Host, disks: Collection[str]) -> str:
    """Return the uuid that the guest of these disks had when it was last moved, or a new one."""
    for path in disks:
        if (located := host.pool_of(path)) is not None:
            holding = await known_holding(host, located[0].name, located[1])
            if holding is not None and _is_uuid(holding.owner):
                return holding.owner
    return str(uuid4())


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
