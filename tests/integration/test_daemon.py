"""The daemon as a service: start, reload, stop, notify, and what it costs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage.tracking.tracefs import find_tracefs
from tests.support.dom0 import MIB, RESIDENT, Dom0, image, run, the_problem, unique
from xenmoved.control.api import GetJob, ListJobs
from xenmoved.control.client import ControlClient
from xenmoved.control.peer_api import GetIdentity
from xenmoved.jobs.report import JobState
from xenmoved.sandbox.pair import launch_daemon

Hosts = tuple[Dom0, Dom0]


def xenmoved(*args: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `xenmoved`, which must end by itself."""
    command = [sys.executable, "-m", "xenmoved.main", *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=30, **options
    )


@pytest.fixture
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dom0]:
    """A host whose daemon is not started yet, and then as a user starts it."""
    host = Dom0(tmp_path_factory.mktemp("lone"), "host-l", launcher=launch_daemon)
    yield host
    host.close()


class TestConfiguration:
    def test_right(self, lone: Dom0) -> None:
        done = xenmoved("--check-config", "--config", lone.config_file)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_an_address_that_is_not_this_hosts(self, lone: Dom0) -> None:
        lone.write_config(listen={"address": "192.0.2.77", "port": lone.port})
        done = xenmoved("--check-config", "--config", lone.config_file)
        assert (done.returncode, done.stdout) == (78, "")
        assert "listen.address: this host cannot listen on 192.0.2.77: Cannot assign" in done.stderr
        lone.write_config(listen={"address": "127.0.0.1", "port": lone.port})

    @pytest.mark.thorough
    def test_everything_wrong_is_told_at_once(self, lone: Dom0) -> None:
        lone.config_file.write_text(
            "node: 'no good name'\n"
            "listen:\n"
            "  prt: 7222\n"
            "transfer:\n"
            "  rate_limit: 80 parsecs\n"
            "pools:\n"
            "  images: {kind: dri, path: /srv}\n"
            "timeouts: {stall: never}\n"
        )
        for check in (["--check-config"], []):
            done = xenmoved(*check, "--config", lone.config_file)
            assert (done.returncode, done.stdout) == (78, "")
            told = done.stderr.splitlines()
            assert [line.split(": ")[:2] for line in told] == [
                [f"{lone.config_file}:1", "node"],
                [f"{lone.config_file}:3", "listen.prt"],
                [f"{lone.config_file}:5", "transfer.rate_limit"],
                [f"{lone.config_file}:7", "pools.images.kind"],
                [f"{lone.config_file}:8", "timeouts.stall"],
            ]
            assert "perhaps 'port' is meant" in told[1]
            assert "80 parsecs" in told[2]

    @pytest.mark.sampled
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("pools: [", "not valid YAML"),
            ("node: a\nnode: b\n", "is there twice"),
            (None, "cannot be read: No such file or directory"),
        ],
    )
    def test_no_configuration_at_all(self, lone: Dom0, text: str | None, words: str) -> None:
        lone.config_file.unlink()
        if text is not None:
            lone.config_file.write_text(text)
        done = xenmoved("--config", lone.config_file)
        assert done.returncode == 78
        assert words in done.stderr
        assert done.stderr.startswith(str(lone.config_file))

    def test_usage(self) -> None:
        done = xenmoved("--confg", "x")
        assert done.returncode == 2
        assert "usage: xenmoved" in done.stderr


def failed_start(host: Dom0, status: int = 1) -> str:
    """Start a daemon that must fail with one line, and return the line."""
    done = xenmoved("--config", host.config_file)
    assert done.returncode == status, done.stderr
    lines = [line for line in done.stderr.splitlines() if " info " not in line]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("xenmoved: ")
    return lines[0]


class TestFailedStart:
    def test_twice_on_one_socket(self, hosts: Hosts, lone: Dom0) -> None:
        a, _ = hosts
        lone.write_config(control={"socket": str(a.socket)})
        told = failed_start(lone)
        assert f"another xenmoved listens at {a.socket}" in told
        assert a.ask(GetIdentity()).node == "host-a", "the first one is not disturbed"

    def test_twice_with_one_state(self, hosts: Hosts, lone: Dom0) -> None:
        a, _ = hosts
        lone.write_config(state_dir=a.settings["state_dir"])
        assert "another xenmoved" in failed_start(lone)
        a.assert_runs(RESIDENT)

    def test_port_in_use(self, hosts: Hosts, lone: Dom0) -> None:
        a, _ = hosts
        lone.write_config(listen={"address": "127.0.0.1", "port": a.port})
        told = failed_start(lone)
        assert f"cannot listen on 127.0.0.1 port {a.port}" in told
        assert "listen" in told
        assert not lone.socket.exists()

    def test_an_address_of_another_host(self, lone: Dom0) -> None:
        lone.write_config(listen={"address": "192.0.2.1", "port": 7222})
        assert "cannot listen on 192.0.2.1 port 7222" in failed_start(lone)

    @pytest.mark.thorough
    def test_a_key_that_others_can_read(self, lone: Dom0) -> None:
        lone.start()
        lone.stop()
        key = lone.folder / "state" / "identity"
        key.chmod(0o640)
        told = failed_start(lone, 78)
        assert f"{key}: mode 0640 lets others read the key: chmod 600 it" in told
        key.chmod(0o600)
        key.write_text("garbage")
        assert f"{key}: not a usable private key" in failed_start(lone, 78)

    @pytest.mark.thorough
    def test_a_state_folder_that_cannot_be_written(self, lone: Dom0) -> None:
        for bad in ("/proc/xenmoved", "/dev/null/state"):
            lone.write_config(state_dir=bad)
            assert bad in failed_start(lone)

    @pytest.mark.root
    def test_a_state_folder_that_is_read_only(self, lone: Dom0) -> None:
        state = lone.folder / "state"
        state.mkdir()
        run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", state)
        try:
            assert str(state) in failed_start(lone)
        finally:
            run("umount", state)

    def test_a_group_that_is_not_there(self, lone: Dom0) -> None:
        lone.write_config(control={"socket": str(lone.socket), "group": "no-such-group"})
        assert "there is no group called no-such-group" in failed_start(lone)

    def test_a_toolstack_that_is_not_there(self, lone: Dom0) -> None:
        lone.write_config(toolstack={"kind": "xl", "command": ["/no/such/xl"]})
        assert "/no/such/xl" in failed_start(lone)

    def test_a_socket_left_by_a_daemon_that_was_killed(self, lone: Dom0) -> None:
        lone.start()
        lone.stop(signal.SIGKILL)
        assert lone.socket.exists()
        lone.start()
        assert lone.ask(GetIdentity()).node == "host-l"


@pytest.mark.tracing
def test_a_trace_left_by_a_daemon_that_was_killed(lone: Dom0) -> None:
    done = subprocess.Popen(["true"])
    done.wait()
    left = find_tracefs() / "instances" / f"xenmoved-{done.pid}-1-1"
    left.mkdir()
    try:
        lone.start()
        assert not left.exists()
    finally:
        if left.exists():
            left.rmdir()


def test_a_daemon_that_is_not_running(lone: Dom0) -> None:
    done = lone.ctl("status")
    assert done.returncode == 4
    assert f"xenmoved does not answer at {lone.socket}" in done.stderr
    assert "systemctl status xenmoved" in done.stderr


def test_reload_takes_new_peers_and_keeps_the_old_when_it_is_wrong(
    hosts: Hosts, lone: Dom0
) -> None:
    a, _ = hosts
    lone.start()
    identity = lone.identity()
    peer = {"address": "127.0.0.1", "port": lone.port, "key": identity.key}
    a.write_config(peers={"host-l": peer})
    a.reload()
    assert "host-l" in {one["name"] for one in _peers(a)}
    the_problem(a.try_migrate(RESIDENT, "host-l"), "not-authorized")

    a.write_config(peers={"host-l": {**peer, "port": "many"}}, transfer={"readers": 3})
    a.reload()
    assert "a peer stays as it was" in a.log()
    assert "peers.host-l.port" in a.log()
    assert {one["port"] for one in _peers(a)} == {lone.port, hosts[1].port}

    a.write_config(peers={}, transfer={"readers": "many"})
    a.reload()
    assert "the configuration stays as it was" in a.log()
    assert "transfer.readers" in a.log()
    assert {one["name"] for one in _peers(a)} == {"host-b", "host-l"}
    a.write_config(peers={}, transfer={})
    a.reload()
    assert {one["name"] for one in _peers(a)} == {"host-b"}


def test_reload_tells_what_takes_a_restart(lone: Dom0) -> None:
    lone.start()
    lone.write_config(pools={"images": lone.settings["pools"]["images"]}, default_pool="images")
    lone.reload()
    assert "change only when xenmoved is restarted: pools" in lone.log()


def _peers(host: Dom0) -> list[dict[str, Any]]:
    from xenmoved.control.peer_api import ListPeers

    return [{"name": row.name, "port": row.port} for row in host.ask(ListPeers()).peers]


@pytest.mark.sampled
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_daemon_stops_at_once(lone: Dom0, number: signal.Signals) -> None:
    lone.start()
    with ControlClient(lone.socket, 10) as client:  # a client that stays does not hold it up
        client.ask(GetIdentity())
        began = time.monotonic()
        assert lone.stop(number) == 0
        assert time.monotonic() - began < 5
    assert not lone.socket.exists()
    assert "Traceback" not in lone.log()


def test_stopping_takes_a_guest_back(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("web")
    a.boot(name, [image(a.images / f"{name}-root", 16)])
    before = b.footprint()
    job = a.begin(name, rate_limit=8 * MIB)
    a.until_sent(job.job, 1 * MIB)
    began = time.monotonic()
    assert a.stop() == 0
    assert time.monotonic() - began < 10
    a.assert_runs(name)
    b.settle()
    assert b.footprint() == before
    a.start()
    assert a.ask(GetJob(job.job)).state is JobState.ABORTED


def test_history_survives_a_restart(hosts: Hosts) -> None:
    a, _ = hosts
    report = a.sync(image(a.images / unique("volume"), 1))
    the_problem(a.try_migrate("nobody"), "guest-unknown")
    for number in (signal.SIGTERM, signal.SIGKILL):
        a.stop(number)
        a.start()
        kept = a.ask(GetJob(report.job))
        assert kept.samples[-1].disks == report.wire_bytes
        assert replace(kept, samples=()) == report
        assert report.job in [one.job for one in a.ask(ListJobs(True)).jobs]
        assert a.ask(ListJobs(False)).jobs == ()
    assert not a.plan(RESIDENT).problems


@pytest.mark.thorough
def test_systemd_is_told(lone: Dom0, tmp_path: Path) -> None:
    address = f"@xenmoved-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + address[1:])
        listener.settimeout(20)
        told: list[str] = []

        def hear(wanted: str) -> None:
            while not any(wanted in one for one in told):
                told.extend(listener.recv(4096).decode().splitlines())

        lone.launch(NOTIFY_SOCKET=address, WATCHDOG_USEC="1000000")
        assert lone.process is not None
        hear("READY=1")
        lone.wait_ready(1)  # ready means that it answers
        hear("STATUS=idle")
        del told[:]
        began = time.monotonic()
        for _ in range(3):
            hear("WATCHDOG=1")
            told.remove("WATCHDOG=1")
        assert time.monotonic() - began < 3 * 1.0, "signs of life come within the limit"

        lone.process.send_signal(signal.SIGHUP)
        hear("RELOADING=1")
        hear("MONOTONIC_USEC=")
        hear("READY=1")
        lone.process.send_signal(signal.SIGTERM)
        hear("STOPPING=1")
        assert lone.process.wait(10) == 0


def worst_answer(host: Dom0, until: threading.Event) -> float:
    """Ask a trivial question again and again; return the longest that an answer took.

    Twice the time that this process had to wait for a processor is taken off: the daemon, too, and
    what it asks, may have had to.
    """
    worst = late = 0.0
    with ControlClient(host.socket, 30) as client:
        while not until.is_set():
            began = time.monotonic()
            client.ask(GetIdentity())
            answered = time.monotonic()
            worst = max(worst, answered - began)
            time.sleep(0.005)
            late = max(late, time.monotonic() - answered - 0.005)
    return worst - 2 * late


def test_nothing_blocks_the_event_loop(hosts: Hosts) -> None:
    """What blocks shows in each attempt; what other processes do to this one does not."""
    a, b = hosts
    worst: list[float] = []
    for attempt in range(3):
        disk = image(a.images / f"large-{attempt}", 256)
        ended = threading.Event()
        seen: dict[str, float] = {}

        def probe(host: Dom0, ended: threading.Event, seen: dict[str, float]) -> None:
            seen[host.name] = worst_answer(host, ended)

        probes = [threading.Thread(target=probe, args=(host, ended, seen)) for host in hosts]
        for one in probes:
            one.start()
        try:
            report = a.sync(disk)
        finally:
            ended.set()
            for one in probes:
                one.join()
        assert report.volumes[0].rounds[0].data_bytes == 256 * MIB
        disk.unlink()
        (b.images / disk.name).unlink()
        worst.append(max(seen.values()))
        if worst[-1] < 0.1:
            return
    pytest.fail(f"the event loop did not answer for {worst} s")


def test_a_huge_volume_that_is_almost_empty_costs_little(hosts: Hosts) -> None:
    a, b = hosts
    size = 2**40
    disk = a.pools["thin"] / "huge"
    with disk.open("wb") as file:
        file.truncate(size)
        for offset in range(0, size, 2**36):
            file.seek(offset + 12345)
            file.write(os.urandom(MIB))
    began = time.monotonic()
    first = a.sync(disk, pool="thin")
    again = a.sync(disk, pool="thin")
    assert time.monotonic() - began < 60
    copy = b.pools["thin"] / "huge"
    assert copy.stat().st_size == size
    assert copy.stat().st_blocks * 512 < 64 * MIB
    assert first.volumes[0].rounds[0].data_bytes < 32 * MIB
    assert again.volumes[0].rounds[0].data_bytes == 0
    assert again.wire_bytes < MIB
    with copy.open("rb") as one, disk.open("rb") as other:
        for offset in range(0, size, 2**36):
            for stream in (one, other):
                stream.seek(offset)
            assert one.read(2 * MIB) == other.read(2 * MIB)
    for host in hosts:
        assert peak_memory(host) < 250 * MIB


def peak_memory(host: Dom0) -> int:
    """Most memory that a daemon ever had."""
    assert host.process is not None
    status = Path(f"/proc/{host.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def test_a_volume_that_is_removed_while_nobody_looks(hosts: Hosts) -> None:
    a, b = hosts
    disk = image(a.images / unique("volume"), 1)
    a.sync(disk)
    (b.images / disk.name).unlink()
    report = a.sync(disk)
    assert report.volumes[0].fresh
    assert (b.images / disk.name).exists()
