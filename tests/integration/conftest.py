"""Pairs of hosts with real daemons, shared by the tests of one process and put right after each."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.support.dom0 import QUIET, RESIDENT, Dom0, image, run
from tests.support.served import Serve, server
from tests.support.volumes import attach_loop
from xenmoved.control.peer_api import ListPeers, RemovePeer
from xenmoved.sandbox.harness import wait_until

"""A guest of host-a that every test may try to move in ways that must fail."""


def mistakes(log: str) -> list[str]:
    """Return the records of a log that come with a traceback.

    Errors of threads whose results nobody waits for any more are not counted: asyncio complains
    about them whenever the garbage is collected, be it in a later test.
    """
    records = re.split(r"^(?=\d\d:\d\d:\d\d )", log, flags=re.MULTILINE)
    unread = "Future exception was never retrieved"
    return [record for record in records if "Traceback" in record and unread not in record]


class Pair:
    """host-a and host-b, which trust each other."""

    def __init__(self, root: Path, tool: str) -> None:
        self.hosts = tuple(Dom0(root, name, tool=tool) for name in ("host-a", "host-b"))
        self.a, self.b = self.hosts
        self._marks = [0, 0]

    def start(self) -> None:
        """Start both daemons and the resident guest."""
        for host in self.hosts:
            host.start()
        self.a.trust(self.b)
        self.b.trust(self.a)
        self.peers = [self._peers(host) for host in self.hosts]
        disk = image(self.a.images / f"{RESIDENT}-root", 4, data=1)
        self.a.boot(RESIDENT, [disk], extra=QUIET)

    def restore(self) -> None:
        """Undo what a test did. Raises AssertionError when a daemon met a mistake of its own."""
        for host, settings in ((host, host.initial) for host in self.hosts):
            changed = host.settings != settings
            host.write_config(**settings)
            if not host.running():
                host.start()
            elif changed:
                host.reload()
        for host, other, peers in zip(self.hosts, reversed(self.hosts), self.peers, strict=True):
            if self._peers(host) != peers:
                for name in [row[0] for row in self._peers(host) if row[0] != other.name]:
                    host.ask(RemovePeer(name))
                host.trust(other)
        self.a.clean([RESIDENT])
        self.b.clean()
        self.a.assert_runs(RESIDENT)
        for number, host in enumerate(self.hosts):
            log = host.log()
            news, self._marks[number] = log[self._marks[number] :], len(log)
            assert not mistakes(news), mistakes(news)
            assert not host.footprint()["spool"], host.footprint()

    @staticmethod
    def _peers(host: Dom0) -> list[tuple[object, ...]]:
        rows = host.ask(ListPeers()).peers
        return [
            (
                *(row.name, row.port, row.fingerprint, row.actions, row.pools, row.guests),
                *(row.quota, row.memory, row.vcpus),
            )
            for row in rows
        ]

    def close(self) -> None:
        """End everything."""
        for host in self.hosts:
            host.close()


def _running_pair(factory: pytest.TempPathFactory, tool: str) -> Iterator[Pair]:
    pair = Pair(factory.mktemp(tool), tool)
    try:
        pair.start()
        yield pair
    finally:
        pair.close()


@pytest.fixture(scope="session")
def xl_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    yield from _running_pair(tmp_path_factory, "xl")


@pytest.fixture(scope="session")
def xm_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    yield from _running_pair(tmp_path_factory, "xm")


@pytest.fixture
def serve(hosts: tuple[Dom0, Dom0], cleanup: ExitStack) -> Serve:
    """Start a guest on host-a with a disk in an image, and the QEMU that serves it."""
    return server(cleanup, hosts[0])


@pytest.fixture
def hosts(xl_pair: Pair) -> Iterator[tuple[Dom0, Dom0]]:
    """host-a with the guest `resident`, and host-b; what a test does there is undone."""
    yield xl_pair.a, xl_pair.b
    xl_pair.restore()


@pytest.fixture
def xm_hosts(xm_pair: Pair) -> Iterator[tuple[Dom0, Dom0]]:
    """Like `hosts`, with xm."""
    yield xm_pair.a, xm_pair.b
    xm_pair.restore()


@pytest.fixture
def cleanup(hosts: tuple[Dom0, Dom0]) -> Iterator[ExitStack]:
    """Run callbacks when the guests of the test are gone."""
    with ExitStack() as stack:
        yield stack
        for host in hosts:
            host.settle()
            for domain in host.emulator.domains():
                if domain.name != RESIDENT:
                    host.emulator.destroy(domain)


@pytest.fixture
def attach(cleanup: ExitStack) -> Callable[..., Path]:
    """Attach a loop device to a file, with options of losetup."""
    return partial(attach_loop, cleanup)


def unmount(target: Path) -> None:
    """Unmount, as soon as a daemon that has just failed has let go of what is there."""
    command = ("umount", target)
    wait_until(lambda: subprocess.run(command, check=False).returncode == 0, f"umount {target}")


@pytest.fixture
def mount(cleanup: ExitStack) -> Callable[..., Path]:
    """Mount something, with options of mount."""

    def mount_one(source: str | Path, target: Path, *options: str) -> Path:
        target.mkdir(exist_ok=True)
        run("mount", *options, source, target)
        cleanup.callback(unmount, target)
        return target

    return mount_one
