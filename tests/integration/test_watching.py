"""What a monitoring system is told by two real daemons: metrics, and `xenmovectl check`."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.dom0 import QUIET, RESIDENT, Dom0, image, unique
from xenmoved.control.health_api import GetHealth, Health
from xenmoved.sandbox.harness import wait_until
from xenmoved.sandbox.pair import free_port

Hosts = tuple[Dom0, Dom0]
FULL = ("--pool-warning", "100", "--pool-critical", "100")
"""Thresholds that the disk of no machine with tests is beyond."""


def without_metrics(host: Dom0) -> None:
    """Leave a daemon for other tests that looks at nothing by itself."""
    host.stop()
    del host.settings["metrics"]
    host.write_config()


@pytest.fixture
def watched(hosts: Hosts) -> Iterator[Hosts]:
    """Both hosts, with metrics."""
    for host in hosts:
        host.stop()
        host.write_config(metrics={"address": "127.0.0.1", "port": free_port()})
        host.start()
    yield hosts
    for host in hosts:
        without_metrics(host)


def children_so_far(process: int) -> tuple[int, int]:
    """Return the processor time that children of a process took which have ended, in ticks."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(fields[13]), int(fields[14])  # cutime and cstime, fields 16 and 17 of proc(5)


class Metrics:
    """What a daemon answered to one scrape."""

    def __init__(self, host: Dom0) -> None:
        port = host.settings["metrics"]["port"]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        with closing(connection):
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            assert answer.status == 200
            self.text = answer.read().decode()
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.text)
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float | None:
        return self._values.get((name, frozenset(labels.items())))


def test_a_migration_is_seen_on_both_hosts(watched: Hosts) -> None:
    a, b = watched
    guest = unique("web")
    a.boot(guest, [image(a.images / f"{guest}-root", 8)], extra=QUIET)
    job = a.begin(guest, hold=True)
    held = {"kind": "migrate", "state": "running", "phase": "hold"}
    wait_until(lambda: Metrics(a)("xenmoved_jobs", **held) == 1, "a guest that is held")
    during = Metrics(a)
    sent = {"peer": "host-b", "direction": "sent"}
    assert (during("xenmoved_transfer_bytes_total", **sent) or 0) >= 8 * 2**20
    assert during("xenmoved_link_connected", peer="host-b", direction="to") == 1
    assert 0 < (during("xenmoved_link_round_trip_seconds", peer="host-b") or 0) < 5
    assert a.ctl("cutover", guest).returncode == 0
    report = a.finish(job.job)

    source, target = Metrics(a), Metrics(b)
    assert source("xenmoved_jobs", **held) == 0
    assert source("xenmoved_jobs_ended_total", kind="migrate", state="done") == 1
    assert target("xenmoved_jobs_ended_total", kind="receive", state="done") == 1
    assert source("xenmoved_transfer_bytes_total", **sent) == report.wire_bytes
    received = target("xenmoved_transfer_bytes_total", peer="host-a", direction="received")
    assert (received or 0) >= 8 * 2**20
    labels = {"mode": "save", "outcome": "moved"}
    assert source("xenmoved_blackout_seconds_count", **labels) == 1
    assert source("xenmoved_blackout_seconds_sum", **labels) == pytest.approx(report.blackout)
    assert source("xenmoved_alarms") == 0
    assert guest not in source.text + target.text
    assert f'"{RESIDENT}"' not in source.text


def test_pools_and_this_release_are_told(watched: Hosts) -> None:
    a, _ = watched
    wait_until(lambda: Metrics(a)("xenmoved_pool_up", pool="images", kind="dir") == 1, "a look")
    wait_until(lambda: Metrics(a)("xenmoved_retained_volumes", pool="images") == 0, "a look")
    found, status = Metrics(a), os.statvfs(a.images)
    size = found("xenmoved_pool_size_bytes", pool="images", kind="dir")
    assert size == status.f_blocks * status.f_frsize
    assert 'xenmoved_build_info{node="host-a"' in found.text
    assert (found("process_open_fds") or 0) > 3


def test_a_scrape_runs_no_command(watched: Hosts) -> None:
    a, _ = watched
    wait_until(lambda: Metrics(a)("xenmoved_retained_volumes", pool="images") == 0, "a look")
    assert a.process is not None
    before = children_so_far(a.process.pid)
    for _ in range(20):
        Metrics(a)
    assert children_so_far(a.process.pid) == before


def test_without_metrics_their_library_is_not_there() -> None:
    code = (
        "import sys, xenmoved.main, xenmoved.daemon, xenmoved.handlers\n"
        "assert 'xenmoved.monitoring.space' in sys.modules\n"
        "sys.exit(any(name.startswith('prometheus_client') for name in sys.modules))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_port_of_somebody_else_keeps_no_guest_from_moving(hosts: Hosts) -> None:
    a, _ = hosts
    guest = unique("web")
    a.boot(guest, [image(a.images / f"{guest}-root", 1)], extra=QUIET)
    with socket.create_server(("127.0.0.1", 0)) as other:
        a.stop()
        a.write_config(metrics={"address": "127.0.0.1", "port": other.getsockname()[1]})
        a.start()
        a.migrate(guest)
        shown = a.ctl("check", *FULL)
        assert shown.returncode == 1
        assert "metrics cannot be served at 127.0.0.1 port" in shown.stdout
    without_metrics(a)


def test_all_is_well(hosts: Hosts) -> None:
    a, _ = hosts
    shown = a.ctl("check", *FULL)
    assert shown.returncode == 0, shown.stdout
    (first,) = shown.stdout.splitlines()
    text, _, data = first.partition(" | ")
    assert text == "XENMOVED OK - host-a: 0 jobs, 1 peer answers"
    assert "peers_unreachable=0;;;0;1" in data
    assert "'pool images'=" in data
    record = json.loads(a.ctl("check", *FULL, "--no-reach", "--json").stdout)
    assert (record["state"], record["findings"], record["health"]["peers"]) == ("ok", [], None)


def test_a_peer_that_is_away_and_a_pool_without_space(hosts: Hosts) -> None:
    a, b = hosts
    b.stop()
    shown = a.ctl("check", *FULL)
    assert shown.returncode == 1
    assert "XENMOVED WARNING - host-a: cannot connect to host-b" in shown.stdout
    assert "peers_unreachable=1;;;0;1" in shown.stdout
    assert a.ctl("check", *FULL, "--no-reach").returncode == 0
    full = a.ctl("check", "--pool-warning", "1", "--pool-critical", "1", "--no-reach")
    assert full.returncode == 2
    assert "XENMOVED CRITICAL - host-a: pool " in full.stdout
    b.start()


@pytest.mark.thorough  # what is seen of a pool may be half a minute old
def test_a_pool_that_is_away(hosts: Hosts) -> None:
    a, _ = hosts
    small = a.pools["small"]
    aside = small.with_name("aside")
    small.rename(aside)
    try:
        wait_until(lambda: a.ctl("check", *FULL, "--no-reach").returncode == 2, "a look", 60)
        shown = a.ctl("check", *FULL, "--no-reach").stdout
        assert "CRITICAL: " in shown
        assert str(small) in shown
        assert "'pool images'=" in shown
        assert "'pool small'=" not in shown
    finally:
        aside.rename(small)


def test_copies_that_are_kept_are_told(hosts: Hosts) -> None:
    a, _ = hosts
    guest = unique("web")
    a.boot(guest, [image(a.images / f"{guest}-root", 1)], extra=QUIET)
    a.stop()  # what was seen before is forgotten
    a.start()
    a.migrate(guest)
    found = health(a)
    assert found.unseen is None
    (copy,) = found.copies
    assert (copy.pool, copy.name) == ("images", f"{guest}-root")
    assert (copy.guest, copy.place) == (guest, "host-b")
    assert copy.size >= 2**20


def health(host: Dom0, reach: bool = False) -> Health:
    answer: Any = host.ask(GetHealth(reach))
    assert isinstance(answer, Health), answer
    return answer


def test_peers_are_told_with_their_release(hosts: Hosts) -> None:
    a, b = hosts
    (peer,) = health(a, reach=True).peers or ()
    assert (peer.name, peer.problem) == ("host-b", None)
    assert peer.software == f"xenmoved {health(b).version}"


def test_a_daemon_that_does_not_run(hosts: Hosts) -> None:
    a, _ = hosts
    a.stop()
    shown = a.ctl("check")
    assert shown.returncode == 2
    assert shown.stdout.startswith("XENMOVED CRITICAL - xenmoved does not answer at ")
    assert "|" not in shown.stdout
    record = json.loads(a.ctl("check", "--json").stdout)
    assert (record["state"], record["health"]) == ("critical", None)
