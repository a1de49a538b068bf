"""Metrics over HTTP: who asks too much or too slowly harms nobody, and a busy daemon says so."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from xenmoved.config.model import Metrics
from xenmoved.monitoring import exporter
from xenmoved.sandbox.pair import free_port


class Collected:
    """Collects one metric, and notes in which thread."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.busy = 0.0

    def collect(self) -> list[Metric]:
        self.threads.append(threading.current_thread())
        time.sleep(self.busy)
        return [GaugeMetricFamily("xenmoved_alarms", "Alarms.", 3)]


@pytest.fixture
def host() -> Any:
    metrics = Metrics("127.0.0.1", free_port())
    return SimpleNamespace(config=SimpleNamespace(metrics=metrics), alarms={})


@pytest.fixture
async def collected(host: Any) -> AsyncIterator[Collected]:
    collector: Any = Collected()
    serving = asyncio.create_task(exporter.serve(host, collector))
    await until_open(host)
    yield collector
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


async def until_open(host: Any) -> None:
    for _ in range(200):
        try:
            with socket.create_connection(("127.0.0.1", host.config.metrics.port), 1):
                return
        except OSError:
            await asyncio.sleep(0.05)
    raise AssertionError("nobody listens")


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come")


def request(host: Any, method: str = "GET", path: str = "/metrics") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", host.config.metrics.port, timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


async def test_all_is_collected_in_the_thread_of_the_event_loop(
    host: Any, collected: Collected
) -> None:
    status, text = await asyncio.to_thread(request, host)
    assert status == 200
    assert "xenmoved_alarms 3.0\n" in text
    assert "process_resident_memory_bytes" in text
    assert collected.threads == [threading.current_thread()]


async def test_only_some_can_be_asked_for_and_nothing_be_sent(
    host: Any, collected: Collected
) -> None:
    _, text = await asyncio.to_thread(request, host, "GET", "/metrics?name[]=process_open_fds")
    assert "process_open_fds" in text
    assert "process_resident" not in text
    assert (await asyncio.to_thread(request, host, "POST"))[0] == 405
    assert (await asyncio.to_thread(request, host, "BREW"))[0] in (405, 501)


async def test_a_daemon_that_does_not_come_to_it_says_so(
    host: Any, collected: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "_LOOP_PATIENCE", 0.2)
    collected.busy = 1.0
    found = await asyncio.to_thread(request, host)
    assert found == (503, "xenmoved is too busy\n")


@contextlib.contextmanager
def silent_clients(host: Any, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        address = ("127.0.0.1", host.config.metrics.port)
        yield [
            stack.enter_context(contextlib.closing(socket.create_connection(address, 5)))
            for _ in range(count)
        ]


async def test_clients_that_say_nothing_are_bounded_and_given_up(
    host: Any, collected: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter._Handler, "timeout", 0.5)
    before = threading.active_count()
    with silent_clients(host, 3 * exporter._MOST_CLIENTS) as clients:
        await asyncio.sleep(0.2)
        assert threading.active_count() - before <= exporter._MOST_CLIENTS
        ended = await asyncio.to_thread(lambda: [client.recv(1) for client in clients])
        assert set(ended) == {b""}
        assert (await asyncio.to_thread(request, host))[0] == 200


async def test_a_port_that_is_taken_is_an_alarm_until_it_is_free(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "_AGAIN_AFTER", 0.05)
    with socket.create_server(("127.0.0.1", host.config.metrics.port)):
        collector: Any = Collected()
        serving = asyncio.create_task(exporter.serve(host, collector))
        await until(lambda: bool(host.alarms))
        (alarm,) = host.alarms.values()
        assert "127.0.0.1 port" in alarm.text
        assert "Address already in use" in alarm.text
        assert "`metrics`" in alarm.hint
    await until(lambda: not host.alarms)
    assert (await asyncio.to_thread(request, host))[0] == 200
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    with pytest.raises(ConnectionError):
        await asyncio.to_thread(request, host)


async def test_it_listens_at_ipv6_too(host: Any) -> None:
    if not socket.has_ipv6:
        pytest.skip("there is no IPv6 here")
    host.config.metrics = Metrics("::1", free_port())
    collector: Any = Collected()
    serving = asyncio.create_task(exporter.serve(host, collector))
    try:
        for _ in range(100):
            if host.alarms:
                pytest.skip("this host has no ::1")
            try:
                socket.create_connection(("::1", host.config.metrics.port), 1).close()
                break
            except OSError:
                await asyncio.sleep(0.05)
        else:
            raise AssertionError("nobody listens")
    finally:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
