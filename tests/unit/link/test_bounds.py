"""What a peer may have us keep for it: in small pieces, as answers, as requests."""

import asyncio
import logging
import socket
import sys
import time
from contextlib import asynccontextmanager

import asyncssh
import pytest
from asyncssh.constants import MSG_CHANNEL_OPEN, MSG_GLOBAL_REQUEST
from asyncssh.packet import Boolean, String, UInt32

from tests.support.trusting import Keys
from xenmoved.link import flow as flow_module
from xenmoved.link import server as server_module
from xenmoved.link.bounds import Pieces
from xenmoved.link.channel import Purpose
from xenmoved.link.client import connect
from xenmoved.link.errors import LinkError
from xenmoved.link.identity import parse_public, public_text
from xenmoved.link.options import CHANNEL_OPTIONS
from xenmoved.link.server import LinkServer

pytestmark = pytest.mark.long

HOST, EVIL, GOOD = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(3))
WINDOW = 32 * 1024


class Served:
    """A link server, and the channels that came to it."""

    def __init__(self):
        peers = {EVIL.public_data: "evil", GOOD.public_data: "good"}
        self.server = LinkServer(HOST, Keys(peers), 30)
        self.came = asyncio.Queue()
        self.port = 0

    async def link(self, key=EVIL):
        pinned = parse_public(public_text(HOST))
        return await connect(
            "host", "127.0.0.1", self.port, identity=key, pinned=pinned, timeout=5, keepalive=30
        )

    async def channels(self, link):
        ours = await link.open(Purpose.CONTROL)
        return ours, await asyncio.wait_for(self.came.get(), 5)


@asynccontextmanager
async def serving():
    served = Served()
    served.port = await served.server.start(
        "127.0.0.1", 0, lambda _visitor, _purpose, channel: served.came.put_nowait(channel)
    )
    try:
        yield served
    finally:
        await served.server.stop()


async def until(condition, what, timeout=20.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.01)


def cost(pieces):
    """Bytes that pieces take, with what keeps them."""
    return sys.getsizeof(pieces) + sum(
        sys.getsizeof(piece) + sum(map(sys.getsizeof, piece)) for piece in pieces
    )


def test_pieces_stay_the_same_bytes():
    sizes = [1, 2, 4095, 4096, 1, 70000, 3, 4095, 65000, 1, 1] + [7] * 20000
    data = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    pieces = Pieces()
    for one in data:
        pieces.append((one, None))
    assert len(pieces) < 20
    pieces.append((b"x", 1))
    assert pieces[-1] == (b"x", 1)  # of another type
    taken = [pieces.pop(0) for _ in range(len(pieces))]
    assert {type(one) for one, _ in taken} == {bytes}
    assert b"".join(one for one, kind in taken if kind is None) == b"".join(data)


async def test_what_comes_in_small_pieces_takes_no_more(monkeypatch):
    monkeypatch.setattr(server_module, "WINDOW", WINDOW)
    monkeypatch.setitem(CHANNEL_OPTIONS, "window", WINDOW)
    async with serving() as served:
        ours, theirs = await served.channels(await served.link())
        chan, sent, idle = ours._channel, bytearray(), 0
        while idle < 50:  # until the window stays shut
            for _ in range(min(500, chan._send_window // 2)):
                sent += (piece := bytes([len(sent) % 251, 7]))
                chan.write(piece)
            idle = 0 if chan._send_window >= 2 else idle + 1
            await asyncio.sleep(0.01)
        buffers = theirs._unread, theirs._channel._recv_buf
        assert sum(len(piece) for buffer in buffers for piece, _ in buffer) == len(sent)
        assert WINDOW < len(sent) <= 2 * WINDOW
        assert sum(map(cost, buffers)) < 1.3 * len(sent) + 1000
        ours.finish()
        came = bytearray()
        while piece := await asyncio.wait_for(theirs.receive(), 5):
            came += piece
        assert came == sent


async def test_what_cannot_be_sent_in_small_pieces_takes_no_more(monkeypatch):
    monkeypatch.setattr(server_module, "WINDOW", WINDOW)
    monkeypatch.setitem(CHANNEL_OPTIONS, "window", WINDOW)
    async with serving() as served:
        ours, theirs = await served.channels(await served.link())
        ours._channel.pause_reading()
        sent = bytearray()
        idle = 0
        while idle < 50:  # until it would have to wait
            while theirs._writable.is_set():
                await theirs.send(piece := bytes([len(sent) % 251, 9]))
                sent += piece
                if len(sent) % 1000 == 0:
                    await asyncio.sleep(0)
            idle = idle + 1 if not theirs._writable.is_set() else 0
            await asyncio.sleep(0.01)
        unsent = theirs._channel._send_buf
        assert theirs._channel.get_write_buffer_size() > WINDOW
        assert cost(unsent) < 1.3 * WINDOW + 1000
        theirs.finish()
        ours._channel.resume_reading()
        came = bytearray()
        while piece := await asyncio.wait_for(ours.receive(), 5):
            came += piece
        assert came == sent


def an_open(connection):
    connection.send_packet(MSG_CHANNEL_OPEN, String(b"x"), UInt32(1), UInt32(1), UInt32(1))


def a_request(connection):
    connection.send_packet(MSG_GLOBAL_REQUEST, String(b"x"), Boolean(True))


def a_forwarding(connection):
    address = String(b""), UInt32(1)
    connection.send_packet(MSG_GLOBAL_REQUEST, String(b"tcpip-forward"), Boolean(True), *address)


def a_question(connection):
    connection.send_packet(10)  # of no meaning


QUESTIONS = {
    "channels": an_open,
    "requests": a_request,
    "forwarding": a_forwarding,
    "unknown": a_question,
}


@pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS)
async def test_who_does_not_read_answers_is_dropped(monkeypatch, caplog, ask):
    monkeypatch.setattr(flow_module, "MOST_ANSWERS", 200_000)
    async with serving() as served:
        link, good = await served.link(), await served.link(GOOD)
        (visitor,) = (one for one in served.server.visitors if one.peer == "evil")
        connection, theirs = link._connection, visitor.connection
        # What the kernel keeps is not the daemon's.
        theirs.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        connection._transport.pause_reading()
        waits = most = 0
        with caplog.at_level(logging.WARNING):
            for _ in range(2000):
                if visitor.gone:
                    break
                for _ in range(500):
                    ask(connection)
                await asyncio.sleep(0)
                # Or it would be the first to find that nobody reads.
                while connection._transport and not visitor.gone:
                    if connection._transport.get_write_buffer_size() < 50_000:
                        break
                    await asyncio.sleep(0)
                if theirs._transport is not None:
                    waits = theirs._transport.get_write_buffer_size()
                    most = max(most, waits)
                    assert len(theirs._global_request_queue) < 10
            await until(lambda: visitor.gone, "its end")
        # A small answer takes less on the wire than it counts; the kernel has the rest.
        assert most < 400_000
        assert caplog.text.count("evil does not read what it is answered") == 1
        await served.channels(good)


async def test_answers_that_wait_for_new_keys_are_bounded(monkeypatch, caplog):
    """It begins to renew keys, never ends it, and asks on."""
    monkeypatch.setattr(flow_module, "MOST_ANSWERS", 200_000)
    async with serving() as served:
        link = await served.link()
        (visitor,) = served.server.visitors
        ours, theirs = await served.channels(link)
        connection = link._connection
        connection._send_kexinit()
        connection._kexinit_sent = True
        connection._kex_complete = True  # so that it sends on
        connection._process_kexinit = None
        connection._recv_handler = lambda: False
        for _ in range(20):
            an_open(connection)
        await until(lambda: theirs._flow.full, "channels that wait")
        sending = asyncio.create_task(theirs.send(b"x"))
        await asyncio.sleep(0.1)
        assert not sending.done()
        with caplog.at_level(logging.WARNING):
            for _ in range(200):
                for _ in range(200):
                    an_open(connection)
                await asyncio.sleep(0)
                if visitor.gone:
                    break
            await until(lambda: visitor.gone, "its end")
        assert caplog.text.count("evil does not read what it is answered") == 1
        with pytest.raises(LinkError):
            await asyncio.wait_for(sending, 5)
        del ours


async def test_channels_go_on_when_keys_are_renewed(monkeypatch):
    """Again and again, while both sides send as much as they can."""
    monkeypatch.setattr(flow_module, "MOST_ANSWERS", 20_000)
    async with serving() as served:
        link = await served.link()
        ends = [await served.channels(link) for _ in range(3)]
        for one in (link._connection, served.server.visitors[0].connection):
            one._rekey_bytes = 3_000_000

        async def send(channel):
            for _ in range(100):
                await channel.send(bytes(200_000))
            channel.finish()

        async def receive(channel):
            came = 0
            while piece := await channel.receive():
                came += len(piece)
            assert came == 20_000_000

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for channel in (one for pair in ends for one in pair):
                group.create_task(send(channel))
                group.create_task(receive(channel))
        assert not link.closed


async def test_variables_and_requests_that_wait_are_not_kept():
    async with serving() as served:
        ours, theirs = await served.channels(await served.link())
        chan, there = ours._channel, theirs._channel
        for number in range(2000):
            chan._send_request(b"env", String(b"name%d" % number), String(b"value"))
            chan._send_request(b"auth-agent-req@openssh.com")
        await ours.send(b"end")
        assert await asyncio.wait_for(theirs.receive(), 5) == b"end"
        assert not there.get_environment_bytes()
        assert not there._request_queue
