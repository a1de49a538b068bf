"""Talking QMP with what answers otherwise than QEMU mostly does; the rest has a real QEMU."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from storage.errors import QemuError, QemuRefusal
from storage.qemu.monitor import session

pytestmark = pytest.mark.long

GREETING = {"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": []}}
EVENT = {"event": "BLOCK_EXPORT_DELETED", "timestamp": {"seconds": 1, "microseconds": 2}}
Serve = Callable[..., Path]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Answer each connection with what is first said to it, then every command alike."""
    path = tmp_path / "monitor"
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(path))
        server.listen(1)

        def answer(first: bytes, reply: dict[str, object]) -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                connection.sendall(first)
                while asked := connection.recv(1 << 16):  # one command at a time
                    command = json.loads(asked)
                    if command["execute"] == "qmp_capabilities":
                        connection.sendall(lines({"return": {}}))
                    else:
                        connection.sendall(lines(EVENT, {**reply, "id": command["id"]}))

        def start(*firsts: bytes, **reply: object) -> Path:
            def run() -> None:
                with suppress(OSError):  # not all are needed where the test ends before
                    for first in firsts:
                        answer(first, reply)

            threading.Thread(target=run, daemon=True).start()
            return path

        yield start


def lines(*messages: object) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in messages)


def test_an_answer_comes_back_and_events_are_none_of_it(serve: Serve) -> None:
    path = serve(lines(GREETING), **{"return": {"running": True}})
    with session(str(path)) as qemu:
        assert qemu.execute("query-status") == {"running": True}


def test_an_event_before_the_greeting_is_of_no_account(serve: Serve) -> None:
    path = serve(lines(EVENT, GREETING), lines(GREETING, EVENT), lines(GREETING), **{"return": 3})
    with session(str(path)) as qemu:
        assert qemu.execute("query-status") == 3


def test_a_refusal_has_the_reason(serve: Serve) -> None:
    path = serve(lines(GREETING), error={"class": "GenericError", "desc": "Bitmap is busy"})
    with (
        session(str(path)) as qemu,
        pytest.raises(QemuRefusal, match=r"refuses block-export-add: Bitmap is busy"),
    ):
        qemu.execute("block-export-add")


@pytest.mark.parametrize("first", [b"nonsense\n", b"[]\n", b"", lines(GREETING) + b"\xff\n"])
def test_what_does_not_speak_qmp_is_given_up_in_time(serve: Serve, first: bytes) -> None:
    path = serve(*[first] * 100)
    began = time.monotonic()
    with pytest.raises(QemuError), session(str(path), patience=0.3) as qemu:
        qemu.execute("query-status")
    assert time.monotonic() - began < 3


def test_where_nobody_listens_is_told_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    for name in ("nothing", "x" * 200):
        with pytest.raises(QemuError, match="cannot be reached"), session(str(tmp_path / name)):
            pass
    assert time.monotonic() - began < 2


def test_where_others_wait_one_waits_for_a_while(tmp_path: Path) -> None:
    path = tmp_path / "monitor"
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(path))
        server.listen(0)
        for _ in range(2):
            other = stack.enter_context(socket.socket(socket.AF_UNIX))
            other.setblocking(False)
            with suppress(BlockingIOError):
                other.connect(str(path))
        began = time.monotonic()
        with pytest.raises(QemuError, match="in time"), session(str(path), patience=0.3):
            pass
        assert 0.2 < time.monotonic() - began < 3
