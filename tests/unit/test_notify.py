"""Messages to systemd, over real datagram sockets."""

import os
import socket
import time
import uuid
from collections.abc import Iterator

import pytest

from xenmoved import notify


@pytest.fixture(params=["path", "abstract"])
def systemd(request, tmp_path, monkeypatch) -> Iterator[socket.socket]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name.replace("@", "\0"))
        receiver.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield receiver


def test_what_systemd_is_told(systemd):
    assert notify.ready("listening")
    assert systemd.recv(4096) == b"READY=1\nSTATUS=listening"
    assert notify.status("moving web: 40%\nREADY=1")
    assert systemd.recv(4096) == b"STATUS=moving web: 40%\\nREADY=1"
    assert notify.watchdog()
    assert systemd.recv(4096) == b"WATCHDOG=1"
    assert notify.stopping()
    assert systemd.recv(4096) == b"STOPPING=1\nSTATUS="


def test_a_reload_has_its_time(systemd):
    before = time.monotonic()
    assert notify.reloading()
    first, second = systemd.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    microseconds = int(second.removeprefix("MONOTONIC_USEC="))
    assert before - 0.001 <= microseconds / 1e6 <= time.monotonic()


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/socket", "@nobody-listens-here"])
def test_without_systemd_nothing_happens(monkeypatch, address):
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not notify.ready()
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert not notify.ready()


def test_a_systemd_that_does_not_read_is_not_waited_for(systemd):
    assert notify.watchdog()
    assert not all(notify.watchdog() for _ in range(10000))


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "x"}, None),
    ],
)
def test_the_interval_of_the_watchdog(environment, interval):
    assert notify.watchdog_interval(environment) == interval
