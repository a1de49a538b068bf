"""What the daemon's answers look like as text. Jobs have views of their own: `jobs`."""

from __future__ import annotations

from collections.abc import Sequence

from protocol.messages import ImageFormat, Mode, Problem
from xenmoved.control.api import Guests, Plan, PlannedDrive, PlannedVolume, Status
from xenmoved.control.peer_api import Identity, PeerPing, PeerRow, Peers
from xenmoved.ctl.arguments import Address
from xenmoved.ctl.text import (
    UNKNOWN,
    Across,
    Block,
    Cell,
    Line,
    Span,
    Style,
    duration,
    facts,
    indent,
    line,
    numbered,
    plural,
    size,
    table,
)
from xenmoved.ctl.views import jobs as job_views
from xenmoved.ctl.views.remarks import remarks
from xenmoved.migration.report import DiskRow, GuestRow


def status(answer: Status, now: float) -> list[Block]:
    """Return how the daemon is, and its jobs that have not ended."""
    head: list[Block] = [
        line(Span(answer.node, Style.BOLD), f": xenmoved {answer.version} is running"),
        *indent(
            [
                facts(
                    [
                        ("toolstack", f"{answer.toolstack}, Xen {answer.xen_version}"),
                        ("free memory", size(answer.free_memory)),
                        ("listening", answer.listening),
                        ("fingerprint", answer.fingerprint),
                        ("peers", str(answer.peers)),
                    ]
                )
            ]
        ),
    ]
    for alarm in answer.alarms:
        head += [line(), *alarm_lines(alarm)]
    if not answer.jobs:
        return [*head, line(), line("no jobs")]
    return [*head, line(), *job_views.jobs(answer.jobs, now)]


def alarm_lines(alarm: Problem) -> list[Block]:
    """Return what an operator must know of, with what to do."""
    return [line(Span(alarm.text, Style.BAD)), *indent([line(alarm.hint)])]


def guests(answer: Guests) -> list[Block]:
    """Return guests with their disks, and why those that cannot move cannot."""
    if not answer.guests:
        return [line("no guests")]
    header = ("GUEST", "ID", "KIND", "STATE", "MEMORY", "MOVABLE")
    rows: list[tuple[Cell, ...] | Across] = []
    for guest in answer.guests:
        below: list[Block] = [*_disks(guest.disks, "\n".join(guest.obstacles))]
        whys = [why.removeprefix(f"{guest.name}: ") for why in guest.obstacles]
        below += [line(Span(f"cannot move: {why}", Style.BAD)) for why in whys]
        rows += [_guest_row(guest), Across(tuple(indent(below)))]
    return [table(header, rows, " r  r")]


def plan(answer: Plan) -> list[Block]:
    """Return what a migration would do, and everything that stands in its way."""
    renamed = answer.target_name if answer.target_name != answer.guest else ""
    lines: list[Block] = [
        line(
            Span(f"{answer.guest} to {answer.peer}", Style.BOLD),
            *((" as ", Span(renamed, Style.BOLD)) if renamed else ()),
            f", mode {answer.mode}",
        ),
    ]
    rows = [*map(_planned, answer.volumes), *map(_drive, answer.drives)]
    if rows:
        header = ("VDEV", "SIZE", "FROM", "TO", "COPY")
        lines += [line(), *indent([table(header, rows, " r")])]
        lines += indent(_served(answer.volumes))
    if answer.bridges:
        rows = [(bridge.source, bridge.target) for bridge in answer.bridges]
        lines += [line(), *indent([table(("BRIDGE", "THERE"), rows)])]
    estimates = [("estimate", _about(answer.estimate))]
    if answer.mode is not Mode.COLD:  # a guest that is off has no memory, and nothing to interrupt
        estimates.insert(0, ("memory", size(answer.memory)))
        estimates.append((job_views.interruption(answer.mode), _interrupted(answer)))
    lines += [line(), *indent([facts(estimates)])]
    if answer.warnings:
        lines += [line(), *remarks(answer.warnings)]
    if not answer.problems:
        return [*lines, line(), line(Span("no problems", Style.GOOD))]
    verdict = f"{plural(len(answer.problems), 'problem')}; nothing was changed:"
    return [*lines, line(), line(Span(verdict, Style.BAD)), *indent(problems(answer.problems))]


def problems(found: Sequence[Problem]) -> list[Block]:
    """Return problems, numbered, with what to do about each below it."""
    return [numbered((problem.text, problem.hint) for problem in found)] if found else []


def peers(answer: Peers) -> list[Block]:
    """Return the peers, and what each may do on this host."""
    if not answer.peers:
        return [line("no peers: see xenmovectl peer add --help")]
    header = ("PEER", "ADDRESS", "CONNECTED", "MAY DO HERE")
    rows: list[tuple[Cell, ...] | Across] = []
    for peer in answer.peers:
        may = permissions(peer.actions, peer.pools, peer.guests, _more(peer))
        address = str(Address(peer.address, peer.port)) if peer.address else UNKNOWN
        rows.append((Span(peer.name, Style.BOLD), address, _connected(peer), may))
        rows.append(Across((line("  ", Span(_proof(peer), Style.DIM)),)))
    return [table(header, rows)]


def _proof(peer: PeerRow) -> str:
    """Return by what a peer is known."""
    if peer.pinned:
        return peer.fingerprint
    groups = ", ".join(peer.groups)
    return f"by its certificate: {groups}" if groups else "by its certificate, not seen yet"


def _more(peer: PeerRow) -> list[str]:
    more = _largest(peer)
    more += [] if peer.quota is None else [f"quota {size(peer.quota)}"]
    return [*more, "overwrite"] if peer.overwrite else more


def _largest(limited: PeerRow | PeerPing) -> list[str]:
    """Return how large a guest may be that a host brings."""
    parts = [f"{size(limited.memory)} of memory"] if limited.memory is not None else []
    parts += [f"{limited.vcpus} vcpus"] if limited.vcpus is not None else []
    return [f"each up to {' and '.join(parts)}"] if parts else []


def permissions(
    actions: Sequence[str], pools: Sequence[str], guests: Sequence[str], more: Sequence[str]
) -> str:
    """Return what a host may do on another."""
    if not actions:
        return "nothing"
    parts = [
        " ".join(actions),
        f"pools {','.join(pools) or 'none'}",
        f"guests {','.join(guests) or 'none'}",
    ]
    return "; ".join([*parts, *more])


def _link(slow_because: str | None) -> str:
    """Return whether this host sends and receives as fast as it can."""
    return "fast" if slow_because is None else f"slower than it could be: {slow_because}"


def ping(answer: PeerPing) -> list[Block]:
    """Return what a peer answers."""
    milliseconds = f"{answer.round_trip * 1000:.3g}ms"
    may = permissions(answer.actions, answer.pools, answer.guests, _largest(answer))
    used = size(answer.quota_used)
    quota = "unlimited" if answer.quota is None else size(answer.quota)
    capabilities = " ".join(answer.capabilities)
    differs = answer.spoken_version != answer.protocol_version
    spoken = f", spoken with it: {answer.spoken_version}" if differs else ""
    return [
        line(Span(answer.peer, Style.BOLD), Span(" answers", Style.GOOD)),
        *indent(
            [
                facts(
                    [
                        ("node", answer.node),
                        (
                            "software",
                            f"{answer.software}, protocol {answer.protocol_version}{spoken}",
                        ),
                        ("toolstack", f"{answer.toolstack}, Xen {answer.xen_version}"),
                        ("capabilities", capabilities),
                        ("round trip", milliseconds),
                        ("throughput", f"{size(round(answer.throughput))}/s"),
                        ("link", _link(answer.slow_because)),
                        ("may do there", may),
                        ("quota there", f"{used} used of {quota}"),
                    ]
                )
            ]
        ),
    ]


def add_command(identity: Identity, host: str) -> str:
    """Return the command that adds this host as a peer on another, which reaches it at `host`."""
    where = Address(host, identity.port)
    return f"xenmovectl peer add {identity.node} {where} --key '{identity.key}'"


def identity(answer: Identity, host: str) -> list[Block]:
    """Return this host's key, and the command that makes it known to another host."""
    return [
        facts([("node", Span(answer.node, Style.BOLD)), ("fingerprint", answer.fingerprint)]),
        line(),
        line("To make this host a peer of another, run there:"),
        line("  ", Span(add_command(answer, host), Style.BOLD, whole=True)),
        *_permission_note(answer.node),
    ]


def peer_added(text: str, actions: Sequence[str]) -> Line:
    """Return one line on a peer that was added."""
    may = f"it may {' and '.join(actions)} here" if actions else "it may do nothing here"
    return line(Span(text, Style.GOOD), f"; {may}")


def other_side(peer: str, here: Identity, host: str) -> list[Line]:
    """Return what is to be done on a peer that was added."""
    return [
        line(f"{peer} must know this host too. Run there:"),
        line("  ", Span(add_command(here, host), Style.BOLD, whole=True)),
        *_permission_note(here.node),
        line(f"Then check with: xenmovectl peer ping {peer}"),
    ]


def _permission_note(node: str) -> list[Line]:
    options = "--allow migrate,sync --pools POOL --guests '*'"
    return [
        line(f"To let {node} send guests there, add:"),
        line("  ", Span(options, Style.BOLD, whole=True)),
    ]


def _guest_row(guest: GuestRow) -> tuple[Cell, ...]:
    movable = Span("no", Style.BAD) if guest.obstacles else Span("yes", Style.GOOD)
    return (
        Span(guest.name, Style.BOLD),
        str(guest.domid) if guest.domid else UNKNOWN,
        guest.kind,
        guest.state,
        size(guest.memory),
        movable,
    )


def _disks(disks: Sequence[DiskRow], said: str) -> list[Block]:
    """Return disks, with why they cannot move unless that is `said` of the guest."""
    if not disks:
        return []
    rows: list[list[Cell]] = [
        [
            disk.vdev,
            UNKNOWN if disk.size is None else size(disk.size),
            disk.volume or Span("in no pool", Style.DIM),
            disk.path,
            "" if disk.writable else "read-only",
            Span("" if why in said else why, Style.BAD),
        ]
        for disk in disks
        for why in [disk.obstacle or ""]
    ]
    return [table((), rows, " r")]


def _planned(volume: PlannedVolume) -> tuple[Cell, ...]:
    how = "emptied first, and sent in full" if volume.zeroed else "differences only"
    copy = "new there" if volume.fresh else f"exists there: {how}"
    if volume.format is not ImageFormat.RAW:
        copy = f"{volume.format} image, {copy}"
    return volume.vdev, size(volume.size), volume.source, volume.target or UNKNOWN, copy


def _served(volumes: Sequence[PlannedVolume]) -> list[Line]:
    """Return who serves disks, and what it costs to follow the writes to them."""
    disks: dict[str, list[str]] = {}
    for volume in volumes:
        if volume.tracking:
            by = f"served by {volume.served_by}; " if volume.served_by else ""
            disks.setdefault(f"{by}{volume.tracking_cost}", []).append(volume.vdev)
    return [line(Span(f"{', '.join(vdevs)}: {how}", Style.DIM)) for how, vdevs in disks.items()]


def _drive(drive: PlannedDrive) -> tuple[Cell, ...]:
    what = "shared: not copied"
    if drive.cdrom:
        what = "CD-ROM that is there too" if drive.target else "CD-ROM: its drive is empty there"
    return drive.vdev, "", drive.source, drive.target or Span("empty", Style.DIM), what


def _interrupted(answer: Plan) -> str:
    own = ", and what it takes to shut down and to start" if answer.mode is Mode.RESTART else ""
    return f"{_about(answer.blackout)}{own}"


def _about(seconds: float | None) -> str:
    return "not known" if seconds is None else f"about {duration(seconds)}"


def _connected(peer: PeerRow) -> Cell:
    ways = [
        name for name, there in (("to", peer.connected_to), ("from", peer.connected_from)) if there
    ]
    return Span(" and ".join(ways), Style.GOOD) if ways else Span("no", Style.DIM)
