"""The rate limit: by a clock of our own, and on the wire."""

import asyncio
import contextlib
import time

import asyncssh
import pytest

from tests.support.trusting import Keys
from xenmoved.link.channel import Purpose
from xenmoved.link.client import connect
from xenmoved.link.server import LinkServer
from xenmoved.sync import limiter as limiter_module
from xenmoved.sync.limiter import RateLimiter

pytestmark = pytest.mark.long


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(limiter_module.asyncio, "sleep", self.sleep)

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        assert seconds > 0
        self.now += seconds


async def test_the_average_holds_from_the_start(monkeypatch):
    clock = Clock(monkeypatch)
    limiter = RateLimiter(1000, clock)
    for count in (100, 1, 499, 400):
        await limiter.take(count)
    assert clock.now == pytest.approx(101.0, abs=0.11)
    for _ in range(1000):
        await limiter.take(10)
    assert clock.now == pytest.approx(111.0, abs=0.11)


async def test_a_pause_earns_no_more_than_a_tenth_of_a_second(monkeypatch):
    clock = Clock(monkeypatch)
    limiter = RateLimiter(1000, clock)
    clock.now += 3600
    before = clock.now
    await limiter.take(100)
    assert clock.now == before
    await limiter.take(1000)
    assert clock.now == pytest.approx(before + 1.0, abs=0.01)


async def test_no_limit_never_waits_and_may_become_one(monkeypatch):
    clock = Clock(monkeypatch)
    limiter = RateLimiter(None, clock)
    await limiter.take(10**12)
    assert clock.now == 100.0
    limiter.rate = 1000
    await limiter.take(2000)
    assert clock.now == pytest.approx(102.0, abs=0.11)
    limiter.rate = 10_000
    await limiter.take(10_000)
    assert clock.now == pytest.approx(103.0, abs=0.22)
    limiter.rate = None
    await limiter.take(10**12)
    assert clock.now < 103.3


async def test_all_channels_share_the_rate():
    limiter = RateLimiter(1_000_000)
    began = time.monotonic()

    async def take():
        for _ in range(25):
            await limiter.take(5000)

    await asyncio.gather(*(take() for _ in range(4)))
    assert 0.37 < time.monotonic() - began < 3


RATE = 8 * 2**20


@pytest.mark.thorough
async def test_the_rate_holds_on_the_wire():
    """Bytes at the receiver's socket, beneath SSH, over two seconds: within a tenth."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    took, counted = asyncio.Event(), [0]

    async def drain(channel):
        while await channel.receive():
            pass
        took.set()

    async with asyncio.TaskGroup() as group:
        server = LinkServer(key, Keys({key.public_data: "peer"}), 30)
        inner = await server.start("127.0.0.1", 0, lambda _v, _p, c: group.create_task(drain(c)))

        async def relay(reader, writer):
            """Stand between the two and count what comes from the sender."""
            back_reader, back_writer = await asyncio.open_connection("127.0.0.1", inner)

            async def copy(source, sink, count):
                while data := await source.read(65536):
                    counted[0] += len(data) if count else 0
                    sink.write(data)
                    await sink.drain()
                sink.close()

            with contextlib.suppress(ConnectionError):
                await asyncio.gather(
                    copy(reader, back_writer, True), copy(back_reader, writer, False)
                )

        between = await asyncio.start_server(relay, "127.0.0.1", 0)
        port = between.sockets[0].getsockname()[1]
        link = await connect(
            "peer", "127.0.0.1", port, identity=key, pinned=key, timeout=5, keepalive=30
        )
        channel = await link.open(Purpose.VOLUME)
        limiter = RateLimiter(RATE)
        sending = True

        async def send():
            while sending:
                await limiter.take(64 * 1024)
                await channel.send(bytes(64 * 1024))
            channel.finish()

        sender = group.create_task(send())
        await asyncio.sleep(0.3)
        start, began = counted[0], time.monotonic()
        await asyncio.sleep(2)
        rate = (counted[0] - start) / (time.monotonic() - began)
        sending = False
        await sender
        await asyncio.wait_for(took.wait(), 5)
        await link.close()
        between.close()
        await server.stop()
    assert rate == pytest.approx(RATE, rel=0.1)
