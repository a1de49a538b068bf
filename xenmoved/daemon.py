"""The daemon: puts the parts together, runs them, and takes them down in order."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import functools
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from time import monotonic
from typing import Any, Final, Self

import asyncssh

from storage.lvm.thinmetadata import release_leftovers
from storage.tracking.tracefs import TracingUnavailable, clean_up_stale, mount_tracefs
from xenmoved import logs, notify
from xenmoved.config.errors import ConfigError
from xenmoved.config.loader import load_again
from xenmoved.config.model import Config, Fleet
from xenmoved.config.pools import make_pool
from xenmoved.control.server import ControlServer
from xenmoved.evacuation.run import Evacuations
from xenmoved.handlers import Services, answer
from xenmoved.hooks.hooks import Hooks
from xenmoved.jobs.board import JobBoard
from xenmoved.jobs.report import JobState
from xenmoved.journal.database import Journal, JournalFailed
from xenmoved.link.identity import fingerprint, load_identity, public_text
from xenmoved.link.server import LinkServer
from xenmoved.migration.across_boots import put_copies_to_rest, take_up_copies
from xenmoved.migration.expiry import expire_copies
from xenmoved.migration.hooked import interfaces_here
from xenmoved.migration.host import Host, Links
from xenmoved.migration.pool_folders import expect_folders
from xenmoved.migration.qemu_leftovers import remove_leftovers
from xenmoved.migration.renamed_volumes import follow_volumes
from xenmoved.migration.restart import recover
from xenmoved.migration.source.start import Starter
from xenmoved.migration.spool_leftovers import clear_settled
from xenmoved.migration.target.arrivals import Arrivals
from xenmoved.migration.target.channels import Reception
from xenmoved.monitoring.space import StorageSpace
from xenmoved.sync.devices import Buffers
from xenmoved.tasks import Guarded, all_done, keep_doing
from xenmoved.toolstack.backends import Backends
from xenmoved.toolstack.detect import detect
from xenmoved.toolstack.policy import boot_folders
from xenmoved.trust.own import load_own
from xenmoved.trust.validity import DAY, warnings

log = logging.getLogger(__name__)

_Work = Callable[[], Coroutine[Any, Any, None]]
"""What is done for ever."""

_BUFFERS: Final = 24
"""Buffers of 2 MiB for each direction: what all volumes together may have in memory."""
_STOP_PATIENCE: Final = 60.0
_STATUS_EVERY: Final = 2.0
_LOOK_EVERY: Final = 0.2
_MEND_EVERY: Final = 2.0
"""Seconds until it is tried again to write the journal."""


class CannotStart(Exception):
    """The daemon cannot start. The message says why."""


class Daemon:
    """One daemon. `run` returns when it was told to stop."""

    def __init__(self, host: Host, identity: asyncssh.SSHKey, config_file: Path) -> None:
        self._host = host
        self._identity = identity
        self._config_file = config_file
        self._server = LinkServer(identity, host.roster, host.config.timeouts.keepalive)
        self._stopping = asyncio.Event()

    @classmethod
    async def create(cls, config: Config, config_file: Path) -> Self:
        """Make the daemon of a configuration. Raises IdentityError, ToolstackError, OSError."""
        identity = load_identity(config.state_dir / "identity")
        journal = Journal(config.state_dir / "journal.db")
        stack = config.toolstack
        toolstack = await detect(
            stack.kind.value,
            stack.command,
            config_dir=stack.config_dir,
            sysfs_net=stack.sysfs_net,
            boot_folders=boot_folders(stack.boot_folders, stack.root),
            backends=Backends(stack.sysfs_backends, stack.processes),
        )
        jobs = JobBoard(journal)
        hooks = Hooks(
            config.node,
            config.state_dir,
            jobs,
            lambda: host.config.hooks,
            lambda about: interfaces_here(host, about),
        )
        host = Host(
            config=config,
            toolstack=toolstack,
            pools={name: make_pool(pool) for name, pool in config.pools.items()},
            journal=journal,
            jobs=jobs,
            hooks=hooks,
            links=Links(identity),
            outgoing_buffers=Buffers(_BUFFERS),
            incoming_buffers=Buffers(_BUFFERS),
        )
        return cls(host, identity, config_file)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises CannotStart, alone or in an ExceptionGroup."""
        host = self._host
        with _exclusive(host.config.state_dir):
            try:
                await host.journal.open()
            except JournalFailed as error:
                raise CannotStart(f"cannot use {host.config.state_dir}: {error}") from None
            if host.journal.trouble is not None:
                log.error(
                    "%s: nothing new can begin; what was handed over is taken back",
                    host.journal.alarm,
                )
            try:
                host.spool.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                log.error("no image can be kept in %s: %s", host.spool, error)
            await self._serve()

    async def _serve(self) -> None:
        host, config = self._host, self._host.config
        self._install_signals()
        await asyncio.to_thread(_provide_tracing)
        for name in await asyncio.to_thread(clean_up_stale):
            log.info("removed the trace %s of a daemon that was killed", name)
        for name in await asyncio.to_thread(release_leftovers):
            log.info("released the metadata of %s, reserved by a daemon that was killed", name)
        try:
            async with Guarded() as tasks:
                space = StorageSpace(host, tasks)
                watching = self._watching(space)
                arrivals = Arrivals(host, tasks)
                reception = Reception(arrivals, tasks)
                await host.hooks.begin(tasks)
                await clear_settled(host)
                await expect_folders(host)
                await follow_volumes(host)
                await take_up_copies(host)
                for key, peer in await host.journal.noted_keys():
                    host.roster.may_settle(key, peer)
                self._use_certificate()
                # What an earlier daemon left comes first, so that nothing new meets it half-made.
                await recover(host, arrivals, tasks)
                port = await self._listen(reception)
                services = self._services(port, tasks, space)
                control = await self._open_control(services)
                log.info(
                    "%s listens on port %d, key %s",
                    config.node,
                    port,
                    fingerprint(self._identity),
                )
                notify.ready()
                works: tuple[_Work, ...] = (
                    self._beat,
                    self._keep_journal,
                    self._watch_certificate,
                    host.jobs.observe,
                    functools.partial(expire_copies, host),
                    functools.partial(remove_leftovers, host),
                    *watching,
                )
                for_ever = [tasks.create_task(keep_doing(work)) for work in works]
                await self._stopping.wait()
                notify.stopping("ending jobs")
                host.jobs.begin_no_more()
                services.evacuations.end()
                await self._end_jobs()
                arrivals.stop()
                await control.stop()
                await self._server.stop()
                await host.links.close()
                for task in for_ever:
                    task.cancel()
                host.hooks.end()
                # What is left is in doubt or waits for a peer: the journal has it.
                raise _Stop
        except* _Stop:
            await put_copies_to_rest(host)
            log.info("stopped")
        finally:
            try:
                await host.journal.close()
            except JournalFailed as error:
                log.error("%s", error)

    async def _listen(self, reception: Reception) -> int:
        listen = self._host.config.listen
        try:
            return await self._server.start(listen.host, listen.port, reception.serve)
        except OSError as error:
            known = error.errno is not None and error.errno > 0
            reason = os.strerror(error.errno or 0) if known else error.strerror
            raise CannotStart(
                f"cannot listen on {listen.address} port {listen.port}: {reason}; "
                f"see `listen` in {self._config_file}"
            ) from None

    def _watching(self, space: StorageSpace) -> tuple[_Work, ...]:
        """Begin to count for metrics, where they are configured; return what is done for ever."""
        if self._host.config.metrics.address is None:
            return ()
        # Only here, so that without metrics their library takes no time and no memory.
        from xenmoved.monitoring import exporter, looks, metrics

        now_and_then = looks.Looks(self._host, space)
        collector = metrics.MetricsCollector(
            self._host, now_and_then, lambda: self._server.visitors
        )
        self._host.jobs.watchers.append(collector)
        return (
            collector.measure_lag,
            now_and_then.at_doubts,
            now_and_then.at_pools,
            now_and_then.at_copies,
            functools.partial(exporter.serve, self._host, collector),
        )

    def _services(self, port: int, tasks: asyncio.TaskGroup, space: StorageSpace) -> Services:
        starter = Starter(self._host, tasks)
        return Services(
            self._host,
            server=self._server,
            identity=self._identity,
            config_file=self._config_file,
            port=port,
            reload=self._reload,
            tasks=tasks,
            starter=starter,
            space=space,
            evacuations=Evacuations(self._host, starter, tasks),
        )

    async def _open_control(self, services: Services) -> ControlServer:
        control = self._host.config.control
        server = ControlServer(control.socket, control.group, functools.partial(answer, services))
        try:
            await server.start()
        except OSError as error:
            reason = f"{error}; see `control` in {self._config_file}"
            raise CannotStart(f"cannot open the control socket: {reason}") from None
        return server

    def stop(self) -> None:
        """Have `run` come to its end."""
        self._stopping.set()

    def _install_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, lambda: loop.create_task(self._reload_by_signal()))

    async def _reload_by_signal(self) -> None:
        notify.reloading()
        try:
            await self._reload()
        except ConfigError as error:
            log.error("the configuration stays as it was: %s", error)
        notify.ready()

    async def _reload(self) -> None:
        """Read the configuration again and use what can change: peers, transfer, retain and such.

        What cannot, as pools, is told in the log, and so is a peer that stays as it was because its
        entry is wrong. Raises ConfigError; then everything stays as it was.
        """
        host, old = self._host, self._host.config
        new, wrong = await asyncio.to_thread(load_again, self._config_file, old)
        before = {name: host.roster.get(name) for name in self._connected()}
        for problem in wrong:
            log.error("a peer stays as it was: %s", problem)
        host.config = replace(
            old,
            peers=new.peers,
            transfer=new.transfer,
            timeouts=new.timeouts,
            retain=new.retain,
            fleet=_for_pools(new.fleet, host.pools),
            hooks=new.hooks,
            default_pool=new.default_pool if new.default_pool in host.pools else None,
            log_level=new.log_level,
        )
        logs.setup(new.log_level.value)
        host.roster.forget_revoked()
        self._use_certificate()
        self._server.drop_revoked()
        host.links.drop_revoked(host.roster)
        for name, peer in before.items():
            if host.roster.get(name) != peer:
                host.links.drop(name)
                self._server.drop(name)
        used = host.config
        keys = [field.name for field in fields(used)]
        later = [key for key in keys if getattr(used, key) != getattr(new, key)]
        if later:
            log.warning("change only when xenmoved is restarted: %s", ", ".join(later))
        log.info("configuration read: %d peers", len(new.peers))

    def _connected(self) -> set[str]:
        """Return the peers to or from which there are connections."""
        return {*self._host.links.peers, *(visitor.peer for visitor in self._server.visitors)}

    def _use_certificate(self) -> None:
        """Prove this host by the certificate that it has now, and say what is wrong with it."""
        host = self._host
        config, known = host.config, public_text(self._identity)
        host.own = load_own(config.state_dir, config.node, known)
        host.links.certificate = host.own.certificate
        self._server.show(host.own.certificate)
        self._warn_of_certificate()

    def _warn_of_certificate(self) -> None:
        config = self._host.config
        for _, text, hint in warnings(self._host.own, config.fleet, config.node, time.time()):
            log.warning("%s; %s", text, hint)

    async def _watch_certificate(self) -> None:
        """Say in the log, too, when the certificate of this host is about to expire."""
        while True:
            await asyncio.sleep(DAY)
            self._warn_of_certificate()

    async def _end_jobs(self) -> None:
        """Ask every job that can still be aborted to end, and wait for it, for a while."""
        # A doubt cannot be ended from here, and is taken up again at the next start.
        jobs = [job for job in self._host.jobs.live if job.state is JobState.RUNNING]
        for job in jobs:
            job.request_abort("aborted: the daemon was stopped")
        deadline = monotonic() + _STOP_PATIENCE
        while tasks := [job.task for job in jobs if job.task is not None and not job.stuck]:
            if await all_done(tasks, _LOOK_EVERY):
                break
            if monotonic() > deadline:
                break
        if self._host.jobs.live:
            left = ", ".join(f"{job.guest or 'sync'} ({job.phase})" for job in self._host.jobs.live)
            log.error(
                "stopping, though these have not ended: %s; the next start goes on",
                left,
            )

    async def _keep_journal(self) -> None:
        """Come back to a journal that could not be written, and keep space for it."""
        journal, told = self._host.journal, self._host.journal.alarm
        while True:
            await asyncio.sleep(_MEND_EVERY)
            if journal.alarm is not None:
                await journal.mend()
            if journal.alarm is None:
                await self._host.jobs.save_rest()
            if journal.alarm != told:
                told = journal.alarm
                log.error("%s", told or "the journal can be written again")

    async def _beat(self) -> None:
        """Keep systemd's watchdog content and its status line true."""
        interval = min(notify.watchdog_interval() or _STATUS_EVERY, _STATUS_EVERY)
        shown = ""
        while True:
            notify.watchdog()
            jobs = self._host.jobs.live
            status = "; ".join(f"{j.guest or 'sync'}: {j.kind} {j.phase}" for j in jobs) or "idle"
            if status != shown:
                notify.status(status)
                shown = status
            await asyncio.sleep(interval)


def _for_pools(fleet: Fleet | None, pools: Mapping[str, object]) -> Fleet | None:
    """Return a fleet with the pools that the daemon has: what is configured may come later."""
    return replace(fleet, pools=frozenset(pools)) if fleet is not None else None


@contextlib.contextmanager
def _exclusive(state_dir: Path) -> Iterator[None]:
    """Keep others from this state: two daemons on one journal would undo each other's work.

    Raises CannotStart.
    """
    try:
        descriptor = _open_lock(state_dir)
    except OSError as error:
        raise CannotStart(f"cannot use {state_dir}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotStart(f"another xenmoved uses {state_dir}") from None
        yield
    finally:
        os.close(descriptor)


def _open_lock(state_dir: Path) -> int:
    """Open what is locked: a file, or the folder itself where that can only be read."""
    try:
        return os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        lock = state_dir / "lock"
        return os.open(lock if lock.exists() else state_dir, os.O_RDONLY | os.O_CLOEXEC)


def _provide_tracing() -> None:
    """Have the kernel able to tell what guests write: `storage.tracking.tracefs`. Only root can."""
    if os.geteuid() != 0:
        return
    try:
        if (place := mount_tracefs()) is not None:
            log.info("mounted tracefs at %s, to follow what guests write", place)
    except TracingUnavailable as error:
        log.warning("what guests write cannot be followed, their disks are read in full: %s", error)


class _Stop(Exception):
    """Ends the task group of a daemon that was told to stop."""


def keep_memory() -> None:
    """Have glibc keep large freed blocks: giving back and faulting in each packet costs half.

    Without effect where there is no glibc.
    """
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 64 * 2**20)
        libc.mallopt(trim_threshold, 128 * 2**20)
        libc.mallopt(top_pad, 16 * 2**20)
