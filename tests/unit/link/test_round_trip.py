"""The kernel tells how long it takes to the other side of a connection, and back."""

from __future__ import annotations

import socket

from xenmoved.link.round_trip import round_trip


class OverSocket:
    """A connection as asyncssh has them, over this socket."""

    def __init__(self, transport: socket.socket | None) -> None:
        self._transport = transport

    def get_extra_info(self, name: str) -> object:
        return self._transport if name == "socket" else None


def test_it_is_that_of_the_socket() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        other, _ = server.accept()
        with other:
            for _ in range(10):
                client.sendall(b"x")
                other.recv(1)
                other.sendall(b"y")
                client.recv(1)
            found = round_trip(OverSocket(client))
            assert found is not None
            assert 0 < found < 1


def test_where_nothing_tells() -> None:
    assert round_trip(OverSocket(None)) is None
    with socket.socket() as closed:
        pass
    assert round_trip(OverSocket(closed)) is None
    here, there = socket.socketpair()
    with here, there:
        assert round_trip(OverSocket(here)) is None
