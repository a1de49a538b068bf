"""Answers to what `xenmovectl` asks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any, Final

import asyncssh

import xenmoved
from protocol.messages import Mode, Ping, Placement, Pong
from storage.errors import StorageError
from storage.tracking import TrackingKind, tracking_method
from xenmoved.config.addresses import parse_address
from xenmoved.config.errors import ConfigError, PeerExists
from xenmoved.config.loader import peer_from
from xenmoved.config.peers import remove_peer, write_peer
from xenmoved.control.api import (
    AbortJob,
    DecideDoubt,
    Done,
    Doubts,
    GetJob,
    GetStatus,
    Guests,
    Jobs,
    ListDoubts,
    ListGuests,
    ListJobs,
    Plan,
    PlanMigration,
    PlannedBridge,
    PlannedDrive,
    PlannedVolume,
    Risk,
    SetJob,
    StartMigration,
    StartSync,
    Status,
    WatchJob,
)
from xenmoved.control.evacuation_api import (
    Evacuation,
    PlanEvacuation,
    StartEvacuation,
    StopEvacuation,
    WatchEvacuation,
)
from xenmoved.control.leftover import leftover
from xenmoved.control.peer_api import (
    AddPeer,
    FetchPeerKey,
    GetIdentity,
    Identity,
    ListPeers,
    PeerKey,
    PeerPing,
    Peers,
    PingPeer,
    RemovePeer,
)
from xenmoved.control.reports import ENDED, JobKind, JobReport, JobState
from xenmoved.control.volume_api import DropVolumes, ListVolumes, Volumes
from xenmoved.evacuation import Evacuations
from xenmoved.jobs import Job
from xenmoved.link.channel import Purpose
from xenmoved.link.client import PeerLink, fetch_host_key
from xenmoved.link.errors import LinkError
from xenmoved.link.identity import fingerprint, public_text
from xenmoved.link.server import LinkServer
from xenmoved.migration.deciding import alarms, decide, list_doubts, weigh
from xenmoved.migration.dialogue import open_dialogue
from xenmoved.migration.estimate import (
    PROBE_SECONDS,
    Content,
    Estimate,
    Rates,
    estimate,
    look,
)
from xenmoved.migration.host import Host
from xenmoved.migration.offers import Sending, make_sync_offer
from xenmoved.migration.outbound import Preflight, preflight
from xenmoved.migration.retained import drop_chosen, list_volumes
from xenmoved.migration.rows import guest_rows, stopped_rows
from xenmoved.migration.starting import Starter
from xenmoved.migration.syncing import OutboundSync, check_sync
from xenmoved.migration.warning import warnings
from xenmoved.peer_rows import peer_data, peer_row
from xenmoved.problems import Refused, problem
from xenmoved.steering import Steering
from xenmoved.tasks import within

log = logging.getLogger(__name__)

_PROBE_SECONDS: Final = 1.0
_PROBE_PIECE: Final = bytes(256 * 1024)
_PROBE_MOST: Final = 512 * 2**20
_UNCHANGED: Final = "nothing was changed"


class Requests:
    """Answers requests of the control socket."""

    def __init__(
        self,
        host: Host,
        *,
        server: LinkServer,
        identity: asyncssh.SSHKey,
        config_file: Path,
        port: int,
        reload: Callable[[], Awaitable[None]],
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._host = host
        self._server = server
        self._identity = identity
        self._config_file = config_file
        self._port = port
        self._reload = reload
        self._tasks = tasks
        self._starter = Starter(host, tasks)
        self.evacuations = Evacuations(host, self._starter, tasks)

    async def answer(self, request: Any) -> AsyncIterator[object]:
        """Yield the answers to one request. Raises what `xenmoved.problems` knows."""
        if isinstance(request, WatchJob):
            async for report in self._watch(request):
                yield report
            return
        if isinstance(request, WatchEvacuation):
            async for evacuation in self.evacuations.watch(request):
                yield evacuation
            return
        handler = self._handlers.get(type(request))
        if handler is None:
            raise Refused([problem("usage", f"{type(request).__name__} is not a request")])
        yield await handler(self, request)

    async def _status(self, _: GetStatus) -> Status:
        info = await self._host.toolstack.host()
        return Status(
            node=self._host.config.node,
            version=xenmoved.__version__,
            toolstack=info.toolstack,
            xen_version=info.xen_version,
            free_memory=info.free_memory,
            listening=f"{self._host.config.listen.address} port {self._port}",
            fingerprint=fingerprint(self._identity),
            peers=len(self._host.config.peers),
            jobs=tuple(job.report() for job in self._host.jobs.live)[:1000],
            alarms=(await alarms(self._host))[:1000],
        )

    async def _guests(self, _: ListGuests) -> Guests:
        rows = await guest_rows(self._host)
        rows += await stopped_rows(self._host, {row.name for row in rows})
        return Guests(tuple(rows)[:4096])

    async def _plan(self, request: PlanMigration) -> Plan:
        job = await self._starter.new_job(request)
        found = await preflight(self._host, request.guest, request.peer, job, request.options)
        guess = None
        if not found.problems and found.sending is not None:
            guess = await self._estimate(job, found.sending, found.placements)
        return _plan_of(job, found, guess)

    async def _estimate(
        self, job: Job, sending: Sending, placements: Sequence[Placement]
    ) -> Estimate | None:
        """Guess how long it would take; None when the link or a disk cannot be measured."""
        limit = job.steering.limiter.rate
        try:
            link = await self._host.link(job.peer)
            sent = await _measure(link, PROBE_SECONDS)
            data, read = await asyncio.to_thread(look, sending.paths, self._host.open_source)
        except (LinkError, StorageError) as error:
            log.info("no estimate of a migration to %s: %s", job.peer, error)
            return None
        disks = [
            Content(size, placement.zeroed, tracking_method(path).kind is TrackingKind.TRACEFS)
            for size, placement, path in zip(data, placements, sending.paths, strict=False)
        ]
        rates = Rates(min(sent, limit or sent), read)
        return estimate(disks, sending.memory, rates, job.mode)

    async def _migrate(self, request: StartMigration) -> JobReport:
        return (await self._starter.migrate(request)).report()

    async def _sync(self, request: StartSync) -> JobReport:
        peer, options = request.peer, request.options
        await self._host.journal.require()
        sending = await make_sync_offer(self._host, request.volume, request.target, options)
        await check_sync(self._host, sending, peer)
        steering = Steering.of(options, self._host.config.transfer)
        job = Job(JobKind.SYNC, "", peer, Mode.SAVE, steering=steering)
        await self._host.jobs.add(job)
        job.task = self._tasks.create_task(OutboundSync(self._host, job, sending, options).run())
        return job.report()

    async def _list_jobs(self, request: ListJobs) -> Jobs:
        reports = await self._host.jobs.reports()
        wanted = [r for r in reports if request.ended or r.state not in ENDED]
        return Jobs(tuple(_brief(r) if r.state in ENDED else r for r in wanted[:1000]))

    async def _job(self, request: GetJob) -> JobReport:
        return await self._host.jobs.with_samples(await self._find(request.job))

    async def _watch(self, request: WatchJob) -> AsyncIterator[JobReport]:
        first = await self._find(request.job)
        live = self._host.jobs.find_live(first.job)
        while live is not None and not live.finished.is_set():
            yield live.report()
            await within(live.finished, request.interval)
        yield live.report() if live is not None else first

    async def _set(self, request: SetJob) -> Done:
        live = await self._find_ours(request.job)
        if live.kind is not JobKind.MIGRATE and (request.hold or request.max_downtime):
            text = f"job {live.job} moves no guest: only its rate limit can be set"
            raise Refused([problem("usage", text)])
        if request.hold is not None and live.suspending:
            text = f"job {live.job} is in phase {live.phase}: {live.guest} is being moved already"
            raise Refused([problem("too-late", text)])
        live.steering.change(request)
        if request.hold is False:
            limit = live.steering.max_downtime
            unless = "" if limit is None else f", unless it would stand still for over {limit:g} s"
            text = f"job {live.job}: {live.guest} moves as soon as its disks are close{unless}"
            return Done(text)
        return Done(f"job {live.job} was changed")

    async def _abort(self, request: AbortJob) -> Done:
        live = await self._find_ours(request.job)
        if live.state is JobState.IN_DOUBT:
            text = f"job {live.job} is in doubt: {live.guest} may run on {live.peer} already"
            hint = "it is decided as soon as the peer can be reached; see: xenmovectl recover"
            raise Refused([problem("in-doubt", text, hint)])
        live.request_abort("aborted by the operator")
        if not await live.over():
            return Done(f"job {live.job} is given up; not finished yet: {live.doing}"[:4000])
        if live.state is JobState.DONE:
            text = f"job {live.job} could not be aborted any more: it is done"
            raise Refused([problem("too-late", text)])
        stays = f": {live.guest} stays here" if live.guest else ""
        return Done(f"job {live.job} is {live.state}{stays}; {leftover(live.report())}")

    async def _find_ours(self, wanted: str) -> Job:
        """Return a job that was begun here and has not ended."""
        report = await self._find(wanted)
        live = self._host.jobs.find_live(report.job)
        if live is None:
            raise Refused([problem("ended", f"job {report.job} has ended: it is {report.state}")])
        if live.kind is JobKind.RECEIVE:
            text = f"job {live.job} is {live.peer}'s"
            raise Refused([problem("not-ours", text, f"say it on {live.peer}")])
        return live

    async def _list_doubts(self, request: ListDoubts) -> Doubts:
        return await list_doubts(self._host, reach=request.reach)

    async def _decide(self, request: DecideDoubt) -> Done | Risk:
        carry_out = decide if request.confirmed else weigh
        return await carry_out(self._host, request.job, request.decision)

    async def _find(self, wanted: str) -> JobReport:
        if (report := await self._host.jobs.find(wanted)) is None:
            hint = "xenmovectl jobs --all shows them"
            raise Refused([problem("job-unknown", f"no job is called {wanted}", hint)])
        return report

    async def _list_volumes(self, _: ListVolumes) -> Volumes:
        return await list_volumes(self._host)

    async def _drop_volumes(self, request: DropVolumes) -> Volumes | Done:
        return await drop_chosen(self._host, request)

    async def _plan_evacuation(self, request: PlanEvacuation) -> Evacuation:
        return await self.evacuations.plan(request)

    async def _evacuate(self, request: StartEvacuation) -> Evacuation:
        return await self.evacuations.start(request)

    async def _stop_evacuation(self, _: StopEvacuation) -> Done:
        return self.evacuations.stop()

    async def _identity_answer(self, _: GetIdentity) -> Identity:
        key = self._identity
        return Identity(self._host.config.node, public_text(key), fingerprint(key), self._port)

    async def _fetch_key(self, request: FetchPeerKey) -> PeerKey:
        timeout = self._host.config.timeouts.connect
        try:
            parse_address(request.address)
        except ValueError as error:
            hint = "give it as a host name or an IP address"
            raise Refused([problem("configuration", str(error), hint)]) from None
        key = await fetch_host_key(request.address, request.port, timeout)
        return PeerKey(public_text(key), fingerprint(key))

    async def _list_peers(self, _: ListPeers) -> Peers:
        connected = {visitor.peer for visitor in self._server.visitors}
        peers = sorted(self._host.config.peers.values(), key=lambda peer: peer.name)
        return Peers(
            tuple(
                peer_row(peer, peer.name in connected, self._host.links.connected(peer.name))
                for peer in peers
            )
        )

    async def _add_peer(self, request: AddPeer) -> Done:
        if request.key.split()[:2] == public_text(self._identity).split():
            text = "that is the key of this host itself"
            raise Refused([problem("own-key", text, "give the address of the other host")])
        data = peer_data(request, self._host.config.peers.get(request.name))
        try:
            peer = peer_from(request.name, data, self._config_file)
            path = write_peer(self._config_file, peer, replace=request.replace)
        except ConfigError as error:
            hint = "to change it, say --replace" if isinstance(error, PeerExists) else _UNCHANGED
            raise Refused([problem("configuration", str(error), hint)]) from None
        await self._reload()
        return Done(f"peer {request.name} was written to {path}")

    async def _remove_peer(self, request: RemovePeer) -> Done:
        try:
            path = remove_peer(self._config_file, request.name)
        except ConfigError as error:
            hint = "xenmovectl peer list shows the peers; " + _UNCHANGED
            raise Refused([problem("configuration", str(error), hint)]) from None
        await self._reload()
        return Done(f"peer {request.name} was removed: {path}")

    async def _ping(self, request: PingPeer) -> PeerPing:
        async with open_dialogue(self._host, request.name) as dialogue:
            began = monotonic()
            pong = await dialogue.ask(Ping(), Pong)
            await dialogue.ask(Ping(), Pong)
            round_trip = (monotonic() - began) / 2
            throughput = await _measure(dialogue.link, _PROBE_SECONDS)
            return PeerPing(
                peer=request.name,
                node=dialogue.peer_hello.node,
                software=dialogue.peer_hello.software,
                protocol_version=dialogue.peer_hello.version,
                toolstack=pong.toolstack,
                xen_version=pong.xen_version,
                capabilities=tuple(sorted(dialogue.capabilities)),
                round_trip=round_trip,
                throughput=throughput,
                actions=pong.actions,
                pools=pong.pools,
                guests=pong.guests,
                quota=pong.quota,
                quota_used=pong.quota_used,
                memory=pong.memory,
                vcpus=pong.vcpus,
            )

    _handlers: Final[dict[type, Callable[[Requests, Any], Awaitable[object]]]] = {
        GetStatus: _status,
        ListGuests: _guests,
        PlanMigration: _plan,
        StartMigration: _migrate,
        StartSync: _sync,
        ListJobs: _list_jobs,
        GetJob: _job,
        AbortJob: _abort,
        SetJob: _set,
        ListDoubts: _list_doubts,
        DecideDoubt: _decide,
        ListVolumes: _list_volumes,
        DropVolumes: _drop_volumes,
        PlanEvacuation: _plan_evacuation,
        StartEvacuation: _evacuate,
        StopEvacuation: _stop_evacuation,
        GetIdentity: _identity_answer,
        FetchPeerKey: _fetch_key,
        ListPeers: _list_peers,
        AddPeer: _add_peer,
        RemovePeer: _remove_peer,
        PingPeer: _ping,
    }


def _brief(report: JobReport) -> JobReport:
    """Leave out the course of a job, so that one message holds all jobs that are kept."""
    volumes = tuple(replace(volume, rounds=()) for volume in report.volumes)
    return replace(report, volumes=volumes, phases=(), blackout_parts=())


def _plan_of(job: Job, found: Preflight, guess: Estimate | None) -> Plan:
    volumes: list[PlannedVolume] = []
    memory = 0
    if found.sending is not None:
        offer = found.sending.offer
        memory = found.sending.memory
        for offered, path, placement in zip(
            offer.volumes, found.sending.paths, found.placements, strict=False
        ):
            volumes.append(
                PlannedVolume(
                    vdev=offered.vdev or "",
                    source=path,
                    target=f"{placement.pool}:{placement.name}",
                    size=offered.size,
                    fresh=placement.fresh,
                    zeroed=placement.zeroed,
                    format=offered.format,
                )
            )
    return Plan(
        guest=job.guest,
        peer=job.peer,
        mode=job.mode,
        problems=found.problems[:512],
        warnings=warnings(found, job),
        volumes=tuple(volumes),
        memory=memory,
        target_name=job.other_name or job.guest,
        drives=_planned_drives(found),
        bridges=tuple(PlannedBridge(*names) for names in sorted(found.findings.bridges.items())),
        estimate=guess.total if guess is not None else None,
        blackout=guess.blackout if guess is not None else None,
    )


def _planned_drives(found: Preflight) -> tuple[PlannedDrive, ...]:
    sending = found.sending
    if sending is None or sending.offer.guest is None or found.problems:
        return ()
    shared = zip(sending.offer.guest.shared, found.findings.shared, strict=False)
    return (
        *(PlannedDrive(one.vdev, one.path, path, one.cdrom) for one, path in shared),
        *(PlannedDrive(disk.vdev, disk.path, "", True) for disk in sending.ejected),
    )


async def _measure(link: PeerLink, seconds: float) -> float:
    """Return bytes a second that the link carried, having tried it for about so many seconds."""
    channel = await link.open(Purpose.PROBE)
    try:
        began, sent = monotonic(), 0
        while monotonic() - began < seconds and sent < _PROBE_MOST:
            await channel.send(_PROBE_PIECE)
            sent += len(_PROBE_PIECE)
        channel.finish()
        while await channel.receive():
            pass
        return sent / (monotonic() - began)
    finally:
        channel.close()
