"""A real daemon and a peer that means harm, or is mad: with a pinned key, and without any."""

import asyncio
import contextlib
import copy
import os
import secrets
import time
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from blake3 import blake3

from protocol.blocksync import RoundDigest
from protocol.frames import MAX_PAYLOAD, FrameDecoder, Kind, encode_zero
from protocol.handover import Word
from protocol.messages import (
    CAPABILITIES,
    PEER,
    VERSION,
    Abort,
    Accepted,
    Attach,
    Begin,
    BeginRound,
    BeginStream,
    Commit,
    Credit,
    EndRound,
    Failed,
    Fate,
    Findings,
    Finish,
    Finished,
    HandOver,
    Hello,
    ImageFormat,
    Inquire,
    Mode,
    Ping,
    Pong,
    Ready,
    Receipt,
    Receiving,
    Refused,
    Seal,
    SharedOffer,
    StreamOffer,
    greeting,
)
from tests.support import preloaded
from tests.support.frames import encode_data, encode_memory, encode_stream
from tests.support.hostile import (
    Guest,
    Stranger,
    Transfer,
    forget_peak,
    greeted,
    memory_of,
    new_migration,
    sync_offer,
    talk,
    transferring,
    volume_offer,
    with_config,
)
from tests.support.images import make_cdrom, qcow2_header
from tests.support.qemu import only_with_qemu
from tests.support.volumes import run
from xenmoved.control.api import ListJobs
from xenmoved.link.channel import Purpose
from xenmoved.link.errors import LinkError, LinkLost, NotAuthorized
from xenmoved.sandbox.harness import EmulatedHost, make_image
from xenmoved.sandbox.host import Host as EmulatedXen
from xenmoved.sandbox.pair import SandboxHost

MIB = 2**20
SIZE = MIB
GROWTH = 80 * MIB
HELLO = greeting("hostile 1", "hostile")


QUICKLY = (
    "xenmoved.migration.target.channels.ATTACH_PATIENCE=5 "
    "xenmoved.migration.target.dialogue._HELLO_PATIENCE=5"
)
"""Limits of the daemon, which are longer in life."""


class Target:
    """The daemon under attack, a hostile peer of it, and one that behaves."""

    def __init__(self, root):
        launcher = preloaded.launcher("tests.support.faulty_daemon")
        self.host = SandboxHost(root, "target", launcher=launcher)
        self.host.start(XENMOVED_LIMITS=QUICKLY)
        self.emulator = EmulatedXen(self.host.xen.root, self.host.xen.root.parent / "witness")
        self.evil = Stranger(self.host, "evil")
        self.good = Stranger(self.host, "good")
        self.nobody = Stranger(self.host, "nobody")
        self.evil.introduce()
        self.good.introduce()
        self.log_mark = 0
        self.may_grow = GROWTH
        self.numbers = iter(range(10_000))

    @property
    def pid(self):
        assert self.host.process is not None
        return self.host.process.pid

    def news(self):
        """Return what was logged since this was last asked."""
        log = self.host.log()
        news, self.log_mark = log[self.log_mark :], len(log)
        return news

    def left(self):
        """Return everything that a migration could have left."""
        spool = self.host.folder / "state" / "spool"
        return {
            "images": sorted(path.name for path in self.host.images.iterdir()),
            "spool": sorted(path.name for path in spool.iterdir()),
            "domains": [domain.name for domain in self.emulator.domains()],
            "jobs": [job.guest for job in self.host.ask(ListJobs(ended=False)).jobs],
        }

    async def clean(self, timeout=8.0):
        """Wait until nothing is left."""
        deadline = time.monotonic() + timeout
        while any((left := await asyncio.to_thread(self.left)).values()):
            assert time.monotonic() < deadline, (left, self.host.log()[-4000:])
            await asyncio.sleep(0.05)

    @contextlib.asynccontextmanager
    async def serving_others(self):
        """Assert that the daemon answers a peer that behaves, quickly, all the time.

        What is quick is told by how long an answer takes on this machine before the attack.
        """
        took, first = [], asyncio.Event()
        patience = 2.0 + 20 * await self.good.ping(20.0)

        async def ping():
            while True:
                took.append(await self.good.ping(patience))
                first.set()
                await asyncio.sleep(0.15)

        task = asyncio.create_task(ping())
        try:
            yield took
            answered = asyncio.create_task(first.wait())
            await asyncio.wait([task, answered], return_when=asyncio.FIRST_COMPLETED)
            answered.cancel()
        finally:
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled():
            raise AssertionError("the other peer was not served") from task.exception()


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    target = Target(tmp_path_factory.mktemp("hostile"))
    try:
        yield target
    finally:
        target.host.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A guest's saved image."""
    folder = tmp_path_factory.mktemp("saved")
    xen = EmulatedHost(folder / "xen")
    options = "sandbox.rate=0 sandbox.checks=0 sandbox.dirty=0"
    xen.create("web", [make_image(folder / "disk.img", 1)], memory=2, extra=options)
    xen.xl("save", "web", str(folder / "image"))
    xen.stop()
    return Guest((folder / "image").read_bytes())


@pytest.fixture
def guest(running, saved):
    """A guest of a name that no other test uses."""
    return saved.named(f"web{next(running.numbers)}")


@pytest.fixture
async def target(running):
    """The daemon: it must survive, stay small, and keep nothing."""
    forget_peak(running.pid)
    before = memory_of(running.pid, "VmRSS")
    running.may_grow = GROWTH
    yield running
    await running.good.ping()
    await running.clean()
    grown = memory_of(running.pid) - before
    news = running.news()
    assert "Traceback" not in news, news[-3000:]
    assert "internal error" not in news, news[-3000:]
    assert grown < running.may_grow, f"the daemon grew by {grown / MIB:.0f} MiB"


async def until(condition, what, timeout=8.0, every=0.05):
    deadline = time.monotonic() + timeout
    while not await condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(every)


# Without a key


async def slam(port, data, source="127.0.0.2"):
    """Connect, send, and wait for the other side to end it; returns what it said."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    except OSError:
        return b""
    heard = b""
    with contextlib.suppress(OSError, TimeoutError):
        writer.write(data)
        writer.write_eof()
        async with asyncio.timeout(3):
            while piece := await reader.read(65536):
                heard += piece
    writer.close()
    return heard


BANNER = b"SSH-2.0-x\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\0" * 100_000,
        b"x" * MIB,
        b"x\n" * 100_000,
        b"SSH-2.0-" + b"x" * 100_000,
        b"SSH-1.5-old\r\n",
        BANNER + b"\xff" * 100_000,
        BANNER + b"\x7f\xff\xff\xff" + b"\x10" + bytes(5 * MIB),
        BANNER + b"\x00\x10\x00\x00" + b"\x10" + bytes(5 * MIB),
        BANNER + b"\x00\x00\x00\x00" * 1000,
        BANNER + b"\x00\x00\x00\x0c\x04" + bytes(11),
    ],
    ids=[
        *("http", "zeros", "long-line", "lines", "long-version", "ssh-1", "noise"),
        *("giant-packet", "big-packet", "empty-packets", "no-kex"),
    ],
)
async def test_garbage_instead_of_ssh(target, data):
    async with target.serving_others():
        heard = await asyncio.gather(*(slam(target.host.port, data) for _ in range(10)))
    assert any(said.startswith(b"SSH-2.0-xenmoved") for said in heard)


async def test_a_thousand_connections_keep_nobody_out(target):
    held = []

    async def connect():
        with contextlib.suppress(OSError):
            held.append(
                await asyncio.open_connection(
                    "127.0.0.1", target.host.port, local_addr=("127.0.0.2", 0)
                )
            )

    descriptors = len(os.listdir(f"/proc/{target.pid}/fd"))  # noqa: PTH208
    try:
        async with target.serving_others() as took:
            for _ in range(20):
                await asyncio.gather(*(connect() for _ in range(50)))
            await asyncio.sleep(0.3)
        assert len(held) > 900
        assert len(took) >= 2
        assert len(os.listdir(f"/proc/{target.pid}/fd")) < descriptors + 40  # noqa: PTH208
    finally:
        for _, writer in held:
            writer.close()


async def test_a_stranger_learns_and_opens_nothing(target):
    for _ in range(20):
        with pytest.raises(NotAuthorized):
            await target.nobody.connect()
    assert "from nobody" not in target.news()


# Garbage with a key


def frame(kind, body, length=None):
    size = len(body) if length is None else length
    return bytes([kind]) + size.to_bytes(4, "big") + body


GARBAGE = {
    "noise": b"\xde\xad\xbe\xef" * 5000,
    "zeros": bytes(100),
    "kind": frame(Kind.DATA, bytes(100)),
    "giant": frame(Kind.MESSAGE, b"", 2**32 - 1),
    "not-msgpack": frame(Kind.MESSAGE, b"\xc1" * 50),
    "deep": frame(Kind.MESSAGE, b"\x91" * 100_000),
    "claims": frame(Kind.MESSAGE, b"\xdd\xff\xff\xff\xff"),
    "bomb": frame(
        Kind.MESSAGE,
        b"\x92\xa4Ping\x81\xa1x\xdc\x00\x78" + (b"\xdc\x20\x00" + b"\x90" * 8192) * 120,
    ),
    "unknown": frame(Kind.MESSAGE, b"\x92\xa4Evil\x80"),
    "wrong-type": frame(Kind.MESSAGE, b"\x92\xa7Inquire\x81\xa9migration\x90"),
    "other-channel": PEER.encode(Credit(1)),
}
CODES = {
    "noise": "bad-frame",
    "zeros": "bad-frame",
    "kind": "bad-frame",
    "giant": "too-large",
    "not-msgpack": "bad-message",
    "deep": "bad-message",
    "claims": "bad-message",
    "bomb": "bad-message",
    "unknown": "unknown-message",
    "wrong-type": "out-of-range",
    "other-channel": "unexpected",
}


async def test_garbage_on_a_control_channel_is_answered_with_its_code(target):
    async with target.serving_others(), target.evil.linked() as link:
        for name, data in GARBAGE.items():
            for greet in (False, True):
                control = await greeted(link) if greet else await talk(link)
                (said,) = await control.ask_and_end(data)
                assert isinstance(said, Failed)
                assert said.problem.code == "protocol"
                assert said.problem.text.endswith(f"({CODES[name]})"), name
        # And the connection goes on.
        assert isinstance(await (await greeted(link)).ask(Ping()), Pong)


@pytest.mark.parametrize("name", ["noise", "giant", "wrong-type"])
async def test_garbage_on_the_control_channel_ends_the_migration(target, guest, name):
    offer = guest.offer(SIZE)
    async with target.serving_others(), transferring(target.evil, offer) as transfer:
        assert isinstance(await transfer.begin(), Accepted)
        volume = await transfer.attached()
        await volume.say(BeginRound(1, False))
        (said,) = await transfer.control.ask_and_end(GARBAGE[name])
        assert said.problem.text.endswith(f"({CODES[name]})")
        await volume.ended()
        await target.clean()


@pytest.mark.parametrize(
    "first", [Ping(), Commit("0" * 32), HELLO], ids=["ping", "commit", "again"]
)
async def test_the_greeting_comes_first_and_once(target, first):
    async with target.evil.linked() as link:
        control = await (greeted(link) if first is HELLO else talk(link))
        (said,) = await control.ask_and_end(PEER.encode(first))
        assert "is out of turn" in said.problem.text


@pytest.mark.parametrize(
    "other", [Hello(9, "future 9", "f", CAPABILITIES), Hello(VERSION, "odd 1", "f", ())]
)
async def test_another_release_can_settle_a_doubt_and_no_more(target, other):
    async with target.evil.linked() as link:
        control = await talk(link)
        assert (await control.ask(other)).version == HELLO.version
        assert (await control.ask(inquiry("0" * 32))).word is Word.UNKNOWN
        (said,) = await control.ask_and_end(PEER.encode(Ping()))
        assert "Ping is out of turn: the channel is settling" in said.problem.text


@pytest.mark.parametrize("purpose", [Purpose.VOLUME, Purpose.MEMORY])
async def test_garbage_on_a_bulk_channel_before_it_is_attached(target, purpose):
    async with target.serving_others(), target.evil.linked() as link:
        for data in (*GARBAGE.values(), PEER.encode(HELLO), b""):
            bulk = await talk(link, purpose)
            if data:
                await bulk.say(data)
            else:
                bulk.channel.finish()
            assert await bulk.ended() == []


VIOLATIONS = {
    "no-round": [encode_zero(0, SIZE)],
    "outside": [BeginRound(1, False), encode_zero(SIZE, 65536)],
    "unaligned": [BeginRound(1, False), encode_data(1, bytes(65536))],
    "not-zstd": [
        BeginRound(1, False),
        frame(Kind.PACKED, bytes(8) + b"\0\1\0\0" + b"x" * 30),
        EndRound(1, 0, 0, 1, bytes(32)),
    ],
    "credit": [BeginRound(1, True), Credit(256), Credit(256)],
    "no-comparison": [BeginRound(1, True), EndRound(1, 0, 0, 0, bytes(32))],
    "digest": [BeginRound(1, False), encode_zero(0, SIZE), EndRound(1, 0, SIZE, 1, bytes(32))],
    "two-rounds": [BeginRound(1, False), BeginRound(2, False)],
    "stream": [encode_stream(b"x")],
    "stream-declined": [StreamOffer((), ()), BeginStream(1, None, "0" * 16, 1, False)],
    "two-offers": [StreamOffer((), ()), StreamOffer((), ())],
    "offer-in-a-round": [BeginRound(1, False), StreamOffer((), ())],
    "garbage": [b"\xff" * 1000],
    "attach-again": [Attach("0" * 32, 0)],
    "ping": [Ping()],
    "end": [BeginRound(1, False), None],
}


@pytest.mark.sampled
@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_violation_on_a_volume_channel_ends_the_migration(target, guest, name):
    offer = guest.offer(SIZE)
    async with target.serving_others(), transferring(target.evil, offer) as transfer:
        assert isinstance(await transfer.begin(), Accepted)
        volume = await transfer.attached()
        for item in VIOLATIONS[name]:
            if item is None:
                volume.channel.finish()
            else:
                await volume.say(item)
        said = await transfer.control.ended()
        if name != "end":
            assert [type(message) for message in said] == [Failed]
            assert said[0].problem.code == "protocol"
        await target.clean()
        again = await greeted(transfer.link)
        for request in (inquiry(transfer.migration), Commit(transfer.migration)):
            assert (await again.ask(request)).word is Word.NEVER_READY


@pytest.mark.parametrize("name", ["garbage", "data", "early-end"])
async def test_garbage_on_the_memory_channel_ends_the_migration(target, guest, name):
    async with transferring(target.evil, guest.offer(SIZE)) as transfer:
        await transfer.hand_over()
        memory = await transfer.attached(0, Purpose.MEMORY)
        await memory.say(encode_memory(guest.image[:1000]))
        if name == "garbage":
            await memory.say(b"\xff" * 100)
        elif name == "data":
            await memory.say(encode_data(0, bytes(65536)))
        else:
            await memory.say(encode_memory(bytes(100))[:50])
            memory.channel.finish()
        (said,) = await transfer.control.ended()
        assert said.problem.code == "protocol"
        await target.clean()


# Floods


async def pour(channel, data, limit, seconds=1.5):
    """Send the same bytes until the limit, or until no more is taken; return how many were."""
    with contextlib.suppress(TimeoutError, LinkLost):
        async with asyncio.timeout(seconds):
            while channel.sent_bytes < limit:
                await channel.send(data)
    return channel.sent_bytes


@pytest.mark.thorough
async def test_a_flood_of_questions_without_hearing_the_answers(target):
    async with target.serving_others(), target.evil.linked() as link:
        floods = []
        for _ in range(4):
            control = await greeted(link)
            floods.append(pour(control.channel, PEER.encode(inquiry("0" * 32)) * 500, 30 * MIB))
        await asyncio.gather(*floods)


ALL_WINDOWS = 200 * MIB
"""What one peer may have the daemon keep for it at most."""


@pytest.mark.sampled
@pytest.mark.parametrize(("links", "channels"), [(1, 60), (7, 9)])
async def test_a_flood_on_many_channels(target, links, channels):
    target.may_grow = ALL_WINDOWS
    questions = PEER.encode(inquiry("0" * 32)) * 3000
    async with target.serving_others(), contextlib.AsyncExitStack() as stack:
        made = [await stack.enter_async_context(target.evil.linked()) for _ in range(links)]
        controls = [await greeted(link) for link in made for _ in range(channels)]
        await asyncio.gather(*(pour(one.channel, questions, 10 * MIB) for one in controls))


@pytest.mark.thorough
async def test_questions_that_start_processes_wait_for_each_other(target):
    children = Path(f"/proc/{target.pid}/task/{target.pid}/children")
    target.host.xen.faults(info={"delay": 0.3})
    try:
        async with target.serving_others(), target.evil.linked() as link:
            controls = [await greeted(link) for _ in range(12)]
            asking = asyncio.gather(*(one.ask(Ping()) for one in controls))
            running = []
            while not asking.done():
                running.append(len(children.read_text().split()))
                await asyncio.sleep(0.02)
            assert all(isinstance(answer, Pong) for answer in await asking)
            assert max(running) == 4
    finally:
        target.host.xen.faults()


async def test_more_connections_than_a_peer_needs(target):
    async with contextlib.AsyncExitStack() as links:
        made = [await links.enter_async_context(target.evil.linked()) for _ in range(11)]

        async def dropped():
            return [link.closed for link in made] == [True] * 3 + [False] * 8

        await until(dropped, "the end of the oldest")
        assert isinstance(await (await greeted(made[-1])).ask(Ping()), Pong)


async def test_a_flood_of_nearly_whole_messages(target):
    async with target.serving_others(), target.evil.linked() as link:
        channels = [
            await talk(link, p) for p in Purpose if p is not Purpose.PROBE for _ in range(6)
        ]
        for one in channels:
            await one.say(frame(Kind.MESSAGE, bytes(MIB - 1), MIB))
        await asyncio.sleep(0.3)


async def test_a_flood_in_crumbs(target):
    async with target.serving_others(), target.evil.linked() as link:
        control = await talk(link)
        await control.say(frame(Kind.MESSAGE, b"", MIB))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                for number in range(20_000):
                    await control.say(b"\x90\x90")
                    if number % 50 == 0:
                        await asyncio.sleep(0)


@pytest.mark.sampled
@pytest.mark.parametrize("kind", ["data", "zeros", "bombs"])
async def test_a_flood_on_a_volume_channel(target, guest, kind):
    bomb = zstandard.ZstdCompressor(level=3).compress(bytes(MAX_PAYLOAD))
    data = {
        "data": encode_data(0, secrets.token_bytes(MAX_PAYLOAD)) * 4,
        "zeros": encode_zero(0, 65536) * 1000,
        "bombs": frame(Kind.PACKED, bytes(8) + MAX_PAYLOAD.to_bytes(4, "big") + bomb) * 100,
    }[kind]
    async with target.serving_others():
        async with transferring(target.evil, guest.offer(SIZE)) as transfer:
            assert isinstance(await transfer.begin(), Accepted)
            volume = await transfer.attached()
            await volume.say(BeginRound(1, False))
            assert await pour(volume.channel, data, 150 * MIB) > 100_000
        await target.clean()


async def test_a_flood_of_memory(target, guest):
    async with target.serving_others():
        async with transferring(target.evil, guest.offer(SIZE)) as transfer:
            await transfer.hand_over()
            memory = await transfer.attached(0, Purpose.MEMORY)
            await pour(memory.channel, encode_memory(guest.image[:200_000]), 200 * MIB)
        await target.clean()


async def test_memory_before_anybody_asked_for_it(target, guest):
    async with transferring(target.evil, guest.offer(SIZE)) as transfer:
        assert isinstance(await transfer.begin(), Accepted)
        memory = await transfer.attached(0, Purpose.MEMORY)
        await pour(memory.channel, encode_memory(bytes(MAX_PAYLOAD)), 50 * MIB)
        (said,) = await transfer.control.ended()
        assert "no memory is expected now" in said.problem.text


async def test_a_probe_is_limited(target):
    async with target.serving_others(), target.evil.linked() as link:
        probe = await link.open(Purpose.PROBE)
        await pour(probe, bytes(MIB), 64 * MIB, 5)
        probe.finish()
        assert int.from_bytes(await probe.receive(), "big") == probe.sent_bytes
        assert await probe.receive() == b""


async def test_many_channels_that_say_nothing(target):
    async with target.serving_others(), target.evil.linked() as link:
        opened = 0
        with pytest.raises(LinkError, match="refuses"):
            while opened < 400:
                await link.open(list(Purpose)[opened % 4])
                opened += 1
        assert opened == 256
        async with target.evil.linked() as other:  # it counts for all connections of a peer
            with pytest.raises(LinkError, match="refuses"):
                await other.open(Purpose.CONTROL)
        async with target.good.linked() as other:
            assert isinstance(await (await greeted(other)).ask(Ping()), Pong)


# Stalls


STEPS = ["connected", "opened", "greeted", "begun", "attached", "in-round", "copied", "receiving"]
STEPS += ["in-memory", "sent", "ready"]


async def come_to(step, link, guest):  # noqa: PLR0911 - one for each step
    """Behave until a step, and no longer."""
    if step == "connected":
        return None
    if step == "opened":
        return [await talk(link, purpose) for purpose in Purpose]
    transfer = Transfer(link, await greeted(link), guest.offer(SIZE))
    if step == "greeted":
        return transfer
    if step in ("begun", "attached", "in-round", "copied"):
        assert isinstance(await transfer.begin(), Accepted)
        if step == "copied":
            await transfer.copy()
        elif step != "begun":
            volume = await transfer.attached()
            if step == "in-round":
                await volume.say(BeginRound(1, True), Credit(1))
                await volume.say(encode_data(0, bytes(65536))[:1000])
        return transfer
    await transfer.hand_over()
    if step == "receiving":
        return transfer
    if step == "in-memory":
        memory = await transfer.attached(0, Purpose.MEMORY)
        await memory.say(encode_memory(guest.image[:70_000]))
        return transfer
    seal = await transfer.send_memory(guest.image)
    if step == "ready":
        assert isinstance(await transfer.control.ask(seal), Ready)
        await transfer.control.say(PEER.encode(Commit(transfer.migration))[:20])
    return transfer


@pytest.mark.sampled
@pytest.mark.parametrize("step", STEPS)
async def test_a_stall_holds_up_nobody_and_its_end_leaves_nothing(target, guest, step):
    async with target.serving_others() as took:
        link = await target.evil.connect()
        stalled = await come_to(step, link, guest)
        await until(lambda: enough(took, 2), "the other peer")
        if isinstance(stalled, Transfer):  # the peer itself may do other things meanwhile
            assert isinstance(await (await greeted(link)).ask(Ping()), Pong)
        link.abort()
        if step == "ready":  # the target waits for its source to come back, and is told to give up
            async with target.evil.linked() as again:
                await until(lambda: is_ready(again, stalled.migration), "the loss to be noticed")
                said = await (await greeted(again)).ask(Abort(stalled.migration, "enough"))
                assert said.word is Word.ABORTED
        await target.clean()


async def enough(took, count):
    return len(took) >= count


def inquiry(migration):
    return Inquire(migration, None, "web")


async def word_on(link, migration):
    fate = await (await greeted(link)).ask(inquiry(migration))
    assert isinstance(fate, Fate)
    return fate.word


async def is_ready(link, migration):
    return await word_on(link, migration) is Word.READY


@pytest.mark.thorough
async def test_a_channel_that_is_never_attached_or_greeted_is_ended(target):
    """All of them wait at the same time."""
    async with target.serving_others(), target.evil.linked() as link:
        silent = [await talk(link, p) for p in Purpose if p is not Purpose.PROBE]
        half = await talk(link)
        await half.say(PEER.encode(HELLO)[:-1])
        async with asyncio.timeout(14):
            for one in [*silent, half]:
                for said in await one.ended():
                    assert isinstance(said, Failed)


# Migrations that are not as they should be


async def test_what_is_done_right_goes_through(target, guest):
    """So that the refusals here are not those of a peer that never got anywhere."""
    async with transferring(target.evil, guest.offer(SIZE)) as transfer:
        await transfer.hand_over()
        seal = await transfer.send_memory(guest.image)
        assert isinstance(await transfer.control.ask(seal), Ready)
        assert (await transfer.control.ask(Commit(transfer.migration))).word is Word.STARTED
        again = await greeted(transfer.link)
        assert (await again.ask(Commit(transfer.migration))).word is Word.STARTED
    assert target.host.xen.state(guest.name) is not None
    target.host.xen.xl("destroy", guest.name)
    (target.host.images / f"{guest.name}-xvda").unlink()
    for path in (target.host.folder / "xen").rglob(f"{guest.name}*"):
        path.unlink()


@pytest.mark.sampled
@pytest.mark.parametrize("wrong", ["digest", "size", "flipped", "shorter", "longer"])
async def test_memory_that_was_damaged_on_the_way_is_refused(target, guest, wrong):
    image = bytearray(guest.image)
    if wrong == "flipped":
        image[-5000] ^= 1
    sent = {"shorter": image[:-8], "longer": image + bytes(8)}.get(wrong, image)
    async with transferring(target.evil, guest.offer(SIZE)) as transfer:
        await transfer.hand_over()
        seal = await transfer.send_memory(bytes(sent))
        if wrong == "digest":
            seal = Seal(seal.memory_size, bytes(32))
        elif wrong == "size":
            seal = Seal(seal.memory_size + 1, seal.memory_digest)
        else:
            seal = Seal(len(guest.image), blake3(guest.image).digest())
        said = await transfer.control.ask(seal)
        assert isinstance(said, Failed)
        if wrong != "longer":  # that one the toolstack's own format gives away first
            assert f"memory of {guest.name} was damaged on the way" in said.problem.text
        assert await transfer.control.ended() == []
        await target.clean()
        again = await greeted(transfer.link)
        assert (await again.ask(Commit(transfer.migration))).word is Word.NEVER_READY
    assert "damaged" in target.host.log() or wrong == "longer"


EVIL_CONFIGS = {
    "another-disk": lambda c: c["disks"].append({**c["disks"][0], "vdev": "xvdb"}),
    "shadow": lambda c: c["disks"].append(
        {"pdev_path": "/etc/shadow", "vdev": "xvdz", "format": "raw", "readwrite": 1}
    ),
    "exchanged": lambda c: c["disks"][0].update(pdev_path="/dev/vg/another"),
    "no-disk": lambda c: c["disks"].clear(),
    "cdrom": lambda c: c["disks"][0].update(is_cdrom="True", readwrite=0),
    "read-only": lambda c: c["disks"][0].update(readwrite=0),
    "qcow2": lambda c: c["disks"][0].update(format="qcow2"),
    "script": lambda c: c["disks"][0].update(script="/tmp/evil"),
    "other-uuid": lambda c: c["c_info"].update(uuid="0" * 8 + c["c_info"]["uuid"][8:]),
    "kernel": lambda c: c["b_info"].update(kernel="/etc/shadow"),
    "device-model": lambda c: c["b_info"].update(device_model="/tmp/evil"),
    "pci": lambda c: c.update(pcidevs=[{"bus": 1, "dev": 0}]),
}


@pytest.mark.sampled
@pytest.mark.parametrize("name", EVIL_CONFIGS)
async def test_an_image_that_names_what_was_not_offered_is_refused(target, guest, name):
    config = {**guest.config, "disks": [dict(disk) for disk in guest.config["disks"]]}
    config["b_info"], config["c_info"] = dict(config["b_info"]), dict(config["c_info"])
    EVIL_CONFIGS[name](config)
    image = with_config(guest.image, config)
    async with transferring(target.evil, guest.offer(SIZE)) as transfer:
        await transfer.hand_over()
        with contextlib.suppress(LinkLost):
            await transfer.send_memory(image)
        said = await transfer.control.hear()
        assert isinstance(said, Failed), said
        announced = name in ("exchanged", "no-disk", "cdrom", "read-only", "other-uuid")
        assert said.problem.code == ("not-announced" if announced else "toolstack"), said
        await target.clean()
        assert (await is_aborted(transfer.link, transfer.migration)) is True


async def test_a_cdrom_is_not_written(target, guest):
    offer = guest.offer(SIZE)
    disk = shared_offer(cdrom=True, writable=True, home="images", name="others")
    offer = replace(offer, guest=replace(offer.guest, shared=(disk,)))
    async with target.evil.linked() as link:
        control = await greeted(link)
        (said,) = await control.ask_and_end(PEER.encode(offer))
        assert "a CD-ROM that can be written" in said.problem.text


async def test_one_disk_is_announced_once(target, guest):
    offer = guest.offer(SIZE)
    again = replace(offer.volumes[0], name="again", format=ImageFormat.QCOW2)
    shared = shared_offer(vdev="xvda", cdrom=True, writable=False)
    for bad in (
        replace(offer, volumes=(*offer.volumes, again)),
        replace(offer, guest=replace(offer.guest, shared=(shared,))),
        replace(offer, guest=replace(offer.guest, ejected=("xvda",))),
    ):
        async with target.evil.linked() as link:
            for request in (bad, Begin(new_migration(), bad, False)):
                control = await greeted(link)
                (said,) = await control.ask_and_end(PEER.encode(request))
                assert "two disks are called xvda" in said.problem.text


async def test_a_disk_of_a_guest_on_its_way_is_written_by_nobody_else(target, guest):
    named = guest.named("on-its-way")
    async with transferring(target.evil, named.offer(SIZE)) as transfer:
        await transfer.hand_over()
        await transfer.send_memory(named.image)
        (volume,) = transfer.offer.volumes
        other = replace(sync_offer(volume_offer(volume.name, SIZE)), overwrite=True)
        async with transferring(target.evil, other) as second:
            said = await second.begin()
        assert isinstance(said, Refused)
        assert any("is in use: disk of on-its-way" in one.text for one in said.problems)
    await target.clean()


async def test_nobody_learns_what_a_volume_held_that_is_not_its_own(target):
    """Where a peer may overwrite, it gets the place, and not one fingerprint of what was there."""
    theirs = target.host.images / "theirs"
    theirs.write_bytes(os.urandom(SIZE))
    before = theirs.read_bytes()
    offer = replace(sync_offer(volume_offer("theirs", SIZE)), overwrite=True)
    async with transferring(target.evil, offer) as transfer:
        said = await transfer.begin()
        assert [one.code for one in said.problems] == ["permission"]
        assert "`overwrite: true` in `allow` of peer evil" in said.problems[0].hint
    assert theirs.read_bytes() == before
    target.evil.introduce(overwrite=True)
    try:
        async with transferring(target.evil, offer) as transfer:
            said = await transfer.begin()
            assert [place.zeroed for place in said.volumes] == [True]
            assert theirs.read_bytes() == bytes(SIZE)
            bulk = await transfer.attached()
            await bulk.say(BeginRound(1, True), Credit(100))
            decoder, kinds = FrameDecoder(list(Kind)), []
            while not kinds:
                decoder.feed(await bulk.channel.receive())
                while (frame := decoder.next_frame()) is not None:
                    kinds.append(frame.kind)
            assert kinds == [Kind.ZERO]
    finally:
        target.evil.introduce()
        theirs.unlink()
    await target.clean()


async def test_a_uuid_alone_opens_no_copy(target, guest):
    """What a guest left here when it went to one peer is not compared for another one."""
    named = guest.named("went-away")
    volume = f"{named.name}-xvda"
    async with transferring(target.good, named.offer(SIZE)) as transfer:
        assert isinstance(await transfer.begin(keep_partial=True), Accepted)
        await transfer.copy()
    copy = target.host.images / volume
    await until_idle(target)
    async with transferring(target.evil, named.offer(SIZE)) as transfer:
        said = await transfer.begin()
    assert [one.code for one in said.problems] == ["volume-exists"]
    assert "when the guest went to good, not to evil" in said.problems[0].text
    async with transferring(target.good, named.offer(SIZE)) as transfer:
        assert [place.zeroed for place in (await transfer.begin()).volumes] == [False]
    await until_idle(target)
    copy.unlink()
    await target.clean()


async def until_idle(target):
    deadline = time.monotonic() + 20
    while await asyncio.to_thread(lambda: target.host.ask(ListJobs(ended=False)).jobs):
        assert time.monotonic() < deadline, target.host.log()[-4000:]
        await asyncio.sleep(0.05)


async def at_once(target, offers):
    """Say Begin for all offers at the same time; return the transfers that were taken."""
    async with contextlib.AsyncExitStack() as stack:
        link = await stack.enter_async_context(target.evil.linked())
        transfers = [Transfer(link, await greeted(link), offer) for offer in offers]
        said = await asyncio.gather(*(one.begin() for one in transfers))
        yield (
            [one for one in said if isinstance(one, Accepted)],
            [problem for one in said if isinstance(one, Refused) for problem in one.problems],
        )


async def test_offers_at_the_same_time_never_exceed_a_quota(target):
    target.evil.introduce(quota=10 * MIB)
    offers = [
        sync_offer(*(volume_offer(f"v{number}-{part}", MIB) for part in range(4)))
        for number in range(6)
    ]
    try:
        async for taken, refused in at_once(target, offers):
            assert len(taken) == 2
            assert {one.code for one in refused} == {"quota"}
            made = [file for file in target.host.images.iterdir() if file.name.startswith("v")]
            assert len(made) == 8
        # What is there counts, what was only promised is free again.
        async for taken, _ in at_once(target, [sync_offer(volume_offer("v9", 2 * MIB))]):
            assert len(taken) == 1
    finally:
        target.evil.introduce()
    for file in target.host.images.glob("v*"):
        file.unlink()
    await target.clean()


async def test_the_smallest_volume_counts_a_mebibyte_of_a_quota(target):
    target.evil.introduce(quota=2 * MIB)
    tiny = [volume_offer(f"v{number}", 1) for number in range(3)]
    try:
        async with target.evil.linked() as link:
            control = await greeted(link)
            found = await control.ask(sync_offer(*tiny))
            assert [one.code for one in found.problems] == ["quota"]
            transfer = Transfer(link, control, sync_offer(*tiny[:2]))
            assert isinstance(await transfer.begin(), Accepted)
            promised = await (await greeted(link)).ask(Ping())
            for volume in range(2):
                await transfer.copy(volume)
            assert isinstance(await control.ask(Finish()), Finished)
            control = await greeted(link)
            there = await control.ask(Ping())
            assert promised.quota_used == there.quota_used == 2 * MIB
            found = await control.ask(sync_offer(tiny[2]))
            assert [one.code for one in found.problems] == ["quota"]
    finally:
        target.evil.introduce()
    for file in target.host.images.glob("v*"):
        file.unlink()
    await target.clean()


async def test_offers_at_the_same_time_never_exceed_the_space_of_a_pool(target):
    status = os.statvfs(target.host.images)
    much = status.f_bavail * status.f_frsize * 3 // 5 // MIB * MIB
    offers = [sync_offer(volume_offer(f"v{number}", much)) for number in range(4)]
    async for taken, refused in at_once(target, offers):
        assert len(taken) == 1  # and it is a sparse file, which takes nothing yet
        assert {one.code for one in refused} == {"pool-full"}
    for file in target.host.images.glob("v*"):
        file.unlink()
    await target.clean()


async def test_offers_at_the_same_time_never_exceed_the_memory(target, guest):
    async with target.evil.linked() as link:
        pong = await (await greeted(link)).ask(Ping())
    much = pong.free_memory * 2 // 5
    offers = []
    for number in range(5):
        offer = guest.named(f"large-{number}").offer(SIZE)
        size = replace(offer.guest.size, memory=much)
        offers.append(replace(offer, guest=replace(offer.guest, size=size)))
    for _ in range(2):  # given up, it is free again
        async for taken, refused in at_once(target, offers):
            assert len(taken) == 2
            assert {one.code for one in refused} == {"memory"}
            async with target.good.linked() as link:
                told = await (await greeted(link)).ask(Ping())
            assert told.free_memory == pong.free_memory - 2 * much
        await until_idle(target)
    await target.clean()


def image_offer(guest, image_format, lines=""):
    """Offer a guest that does not run, with a disk that is an image."""
    offer = guest.offer(SIZE)
    memory = f"memory = {offer.guest.size.memory >> 20}\n"
    config = f"name = '{guest.name}'\n{memory}disk = ['/x,{image_format},xvda,w']\n{lines}"
    return replace(
        offer,
        mode=Mode.COLD,
        guest=replace(offer.guest, config=config.encode(), nics=()),
        volumes=(replace(offer.volumes[0], format=image_format, path="/x"),),
    )


async def test_an_image_whose_configuration_nobody_can_use_is_refused(target, guest):
    offer = image_offer(guest.named("mended"), ImageFormat.QCOW2, "import os\n")
    async with transferring(target.evil, offer) as transfer:
        said = await transfer.begin()
        assert isinstance(said, Refused)
        (problem,) = said.problems
        assert problem.code == "guest-config" and "not a plain assignment" in problem.text
        await target.clean()


@pytest.mark.parametrize("image_format", [ImageFormat.QCOW2, ImageFormat.VHD])
async def test_an_image_that_is_none_is_refused(target, guest, image_format):
    cold = image_offer(guest.named(f"image-{image_format}"), image_format)
    async with transferring(target.evil, cold) as transfer:
        await transfer.hand_over()
        said = await transfer.control.ask(Seal(0, blake3(b"").digest()))
        assert isinstance(said, Failed)
        assert "is no" in said.problem.text
        await target.clean()
        assert await is_aborted(transfer.link, transfer.migration)


@pytest.mark.parametrize("comes_as", ["qcow2", "raw", "vhd"])
async def test_content_of_an_image_is_a_raw_disk_whatever_is_in_it(target, guest, comes_as):
    """Nor may the guest come with a disk that was not announced as an image."""
    guest = guest.named(f"content-{comes_as}")
    config = copy.deepcopy(guest.config)
    config["disks"][0]["format"] = comes_as
    offer = guest.offer(SIZE)
    volume = replace(offer.volumes[0], format=ImageFormat.QCOW2)
    async with transferring(target.evil, replace(offer, volumes=(volume,))) as transfer:
        answer = await transfer.begin()
        assert isinstance(answer, Accepted), answer
        await transfer.copy(head=qcow2_header(backing=104))
        assert isinstance(await transfer.control.ask(HandOver(guest.size)), Receiving)
        said = await transfer.control.ask(
            await transfer.send_memory(with_config(guest.image, config))
        )
        if comes_as != "qcow2":
            assert isinstance(said, Failed)
            assert f"has format {comes_as}, and qcow2 is expected" in said.problem.text
        else:
            assert isinstance(said, Ready), said
            built = target.emulator.domains()
            (disk,) = [one.config["disks"][0] for one in built if guest.name in one.name]
            assert disk["format"] == "raw"
            assert disk["pdev_path"] == str(target.host.images / answer.volumes[0].name)
            await transfer.control.ask(Abort(transfer.migration, "enough"))
    await target.clean()


async def test_content_has_the_size_of_the_disk(target, guest):
    offer = guest.offer(SIZE)
    volume = replace(offer.volumes[0], format=ImageFormat.VHD, disk_size=SIZE + 512)
    async with transferring(target.evil, replace(offer, volumes=(volume,))) as transfer:
        said = await transfer.begin()
        assert isinstance(said, Failed)
        assert "a raw volume that holds a disk of another size" in said.problem.text


@pytest.mark.parametrize("cluster", [3, 256, 65537])
async def test_clusters_that_cannot_be_are_no_offer(target, guest, cluster):
    offer = guest.offer(SIZE)
    asked = replace(offer.volumes[0], wanted=ImageFormat.QCOW2, wish="x.qcow2", cluster=cluster)
    async with transferring(target.evil, replace(offer, volumes=(asked,))) as transfer:
        said = await transfer.begin()
        assert isinstance(said, Failed)
        assert "clusters of a size that cannot be" in said.problem.text


@only_with_qemu
async def test_what_comes_into_an_image_is_its_content_alone(target, guest):
    """Whatever header it begins with, and whatever format it is announced in."""
    offer = guest.offer(SIZE)
    asked = replace(offer.volumes[0], wanted=ImageFormat.QCOW2, wish="x.qcow2")
    async with transferring(target.evil, replace(offer, volumes=(asked,))) as transfer:
        answer = await transfer.begin()
        assert isinstance(answer, Accepted), answer
        assert answer.volumes[0].format is ImageFormat.QCOW2
        await transfer.copy(head=qcow2_header(backing=104) + b"/etc/shadow")
        assert isinstance(await transfer.control.ask(HandOver(guest.size)), Receiving)
        said = await transfer.control.ask(await transfer.send_memory(guest.image))
        assert isinstance(said, Ready), said
        image = target.host.images / "x.qcow2"
        assert "backing file" not in run("qemu-img", "info", "-U", "-f", "qcow2", image)
        (disk,) = [
            one.config["disks"][0] for one in target.emulator.domains() if guest.name in one.name
        ]
        assert (disk["format"], disk["pdev_path"]) == ("qcow2", str(image))
        await transfer.control.ask(Abort(transfer.migration, "enough"))
    await target.clean()
    assert not image.exists()


async def is_aborted(link, migration):
    return await word_on(link, migration) is Word.NEVER_READY


LARGER = {
    "memory": lambda c: c["b_info"].update(target_memkb=12 << 20, max_memkb=12 << 20),
    "maxmem": lambda c: c["b_info"].update(max_memkb=12 << 20),
    "shadow": lambda c: c["b_info"].update(shadow_memkb=12 << 20),
    "vcpus": lambda c: c["b_info"].update(max_vcpus=4096),
    "interfaces": lambda c: c["nics"].append({"mac": "00:16:3e:00:00:01", "bridge": "mgmt"}),
    "bridge": lambda c: c["nics"][0].update(bridge="mgmt"),
    "type": lambda c: (c["c_info"].update(type="hvm"), c["b_info"].pop("type.pv")),
}


@pytest.mark.sampled
@pytest.mark.parametrize("change", LARGER.values(), ids=LARGER)
async def test_another_guest_than_was_announced_is_not_built(target, guest, change):
    config = copy.deepcopy(guest.config)
    change(config)
    async with transferring(target.evil, guest.offer(SIZE)) as transfer:
        await transfer.hand_over()
        seal = await transfer.send_memory(with_config(guest.image, config))
        said = await transfer.control.ask(seal)
        assert isinstance(said, Failed)
        assert said.problem.code == "not-announced"
        assert "is not what was announced: " in said.problem.text
        await target.clean()


async def test_what_was_announced_has_limits(target, guest):
    target.evil.introduce(memory=4 * MIB, vcpus=2)
    offer = guest.offer(SIZE)
    try:
        for change, codes in (
            ({"memory": 5 * MIB}, ["memory-limit"]),
            ({"maximum": 5 * MIB}, ["memory-limit"]),
            ({"beside": 1 << 40}, ["memory-limit", "memory"]),
            ({"max_vcpus": 3}, ["vcpus-limit"]),
        ):
            large = replace(offer.guest, size=replace(offer.guest.size, **change))
            async with transferring(target.evil, replace(offer, guest=large)) as transfer:
                said = await transfer.begin()
                assert isinstance(said, Refused)
                assert [one.code for one in said.problems] == codes
            # Nor may it grow to that between the offer and its memory.
            async with transferring(target.evil, offer) as transfer:
                assert isinstance(await transfer.begin(), Accepted)
                await transfer.copy()
                said = await transfer.control.ask(HandOver(large.size))
                assert isinstance(said, Failed)
                assert said.problem.code == codes[0]
                await target.clean()
    finally:
        target.evil.introduce()


async def test_a_guest_that_grew_comes_as_it_was_announced_last(target, guest):
    config = copy.deepcopy(guest.config)
    config["b_info"] |= {"target_memkb": 4096, "max_memkb": 4096}
    grown = Guest(with_config(guest.image, config))
    async with transferring(target.evil, guest.offer(SIZE)) as transfer:
        assert isinstance(await transfer.begin(), Accepted)
        await transfer.copy()
        assert isinstance(await transfer.control.ask(HandOver(grown.size)), Receiving)
        seal = await transfer.send_memory(grown.image)
        assert isinstance(await transfer.control.ask(seal), Ready)
        assert target.emulator.domains()[0].memory == 4
        await transfer.control.ask(Abort(transfer.migration, "x"))
    async with target.evil.linked() as link:
        await (await greeted(link)).ask(Abort(transfer.migration, "x"))
    await target.clean()


ELSE_IN_THE_FILE = {
    "maxmem = 99999\n": "as the most memory that it may be given",
    "vcpus = 2\n": "2 vcpus",
    "vif = ['bridge=mgmt']\n": "on 'mgmt' was not announced",
    "type = 'hvm'\n": "it is of type hvm, and pv was announced",
    "disk = ['file:/y,xvda,w']\n": "is at '/y', and was announced at '/x'",
}


@pytest.mark.parametrize(("line", "words"), ELSE_IN_THE_FILE.items(), ids=str)
async def test_a_guest_that_is_off_comes_with_the_file_that_was_announced(
    target, guest, line, words
):
    offer = image_offer(guest.named("off"), ImageFormat.RAW)
    assert offer.guest.config is not None
    text = offer.guest.config.replace(b"/x,raw,xvda", b"file:/x,xvda")
    changed = replace(offer, guest=replace(offer.guest, config=text + line.encode()))
    async with transferring(target.evil, changed) as transfer:
        said = await transfer.begin()
        assert isinstance(said, Refused)
        (problem,) = said.problems
        assert problem.code == "not-announced" and words in problem.text
    right = replace(offer, guest=replace(offer.guest, config=text))
    async with transferring(target.evil, right) as transfer:
        assert isinstance(await transfer.begin(), Accepted)
    await target.clean()


async def test_names_with_paths_in_them_are_refused(target, guest):
    async with target.evil.linked() as link:
        for name in ("../x", "a/b", "..", "/etc/passwd", ".hidden", "a\0b", "x" * 300):
            offer = replace(guest.offer(SIZE), overwrite=True)
            offers = (
                replace(sync_offer(volume_offer(name, SIZE)), overwrite=True),
                replace(offer, volumes=(volume_offer(name, SIZE, "xvda"),)),
            )
            for request in (*offers, *(Begin(new_migration(), bad, False) for bad in offers)):
                control = await greeted(link)
                (said,) = await control.ask_and_end(PEER.encode(request))
                assert said.problem.text.endswith("(out-of-range)")
                assert "a volume name" in said.problem.text


def shared_offer(**changes):
    offered = SharedOffer(
        vdev="xvdz",
        path="/etc/shadow",
        size=SIZE,
        writable=True,
        cdrom=False,
        name=None,
        pool=None,
        home=None,
        identity=None,
    )
    return replace(offered, **changes)


async def test_disks_that_are_not_shared_are_not_had(target, guest):
    others = make_image(target.host.images / "others", 1)
    wanted = (
        shared_offer(),
        shared_offer(path="/nowhere"),
        shared_offer(path=str(others)),
        shared_offer(cdrom=True, writable=False),
        shared_offer(home="images", name="others"),
        shared_offer(home="images", name="nothing"),
        shared_offer(home="elsewhere", pool="images", name="others"),
        shared_offer(home="secret", name="others", cdrom=True, writable=False),
    )
    async with target.evil.linked() as link:
        for disk in wanted:
            offer = guest.offer(SIZE)
            offer = replace(offer, guest=replace(offer.guest, shared=(disk,)))
            control = await greeted(link)
            for request in (offer, Begin(new_migration(), offer, False)):
                said = await control.ask(request)
                assert isinstance(said, Findings | Refused)
                assert [problem.code for problem in said.problems] == ["permission"], disk
    others.unlink()


async def test_paths_that_cannot_be_are_refused(target, guest):
    async with target.evil.linked() as link:
        for path in ("etc/shadow", "", "/a,script=/tmp/x", "/a\nb", "/a'b", "/" + "x" * 2000):
            offer = guest.offer(SIZE)
            disk = shared_offer(path=path)
            offer = replace(offer, guest=replace(offer.guest, shared=(disk,)))
            control = await greeted(link)
            (said,) = await control.ask_and_end(PEER.encode(offer))
            assert said.problem.text.endswith("(out-of-range)")


async def test_a_cdrom_of_a_pool_is_only_read(target, guest):
    """Whoever may use a pool may have a CD-ROM of it, and must not get it as a disk."""
    others = make_cdrom(target.host.images / "others", 1)
    config = {**guest.config, "disks": [dict(disk) for disk in guest.config["disks"]]}
    config["disks"].append({"pdev_path": "/x", "vdev": "xvdz", "format": "raw", "readwrite": 1})
    offer = guest.offer(SIZE)
    disk = shared_offer(home="images", name="others", cdrom=True, writable=False)
    offer = replace(offer, guest=replace(offer.guest, shared=(disk,)))
    async with transferring(target.evil, offer) as transfer:
        await transfer.hand_over()
        with contextlib.suppress(LinkLost):
            await transfer.send_memory(with_config(guest.image, config))
        said = await transfer.control.hear()
        assert isinstance(said, Failed), said
        assert "'xvdz' is writable, and was announced otherwise" in said.problem.text
    others.unlink()
    await target.clean()


async def test_a_name_that_was_not_announced_is_refused(target, guest):
    offer = guest.offer(SIZE)
    offer = replace(offer, guest=replace(offer.guest, name="other", wish=guest.name))
    async with transferring(target.evil, offer) as transfer:
        await transfer.hand_over()
        with contextlib.suppress(LinkLost):
            await transfer.send_memory(guest.image)
        said = await transfer.control.hear()
        assert isinstance(said, Failed), said
        assert f"its name is '{guest.name}'" in said.problem.text
    await target.clean()


async def test_pools_that_were_not_granted_do_not_exist(target):
    async with target.evil.linked() as link:
        control = await greeted(link)
        for pool in ("secret", "default", "Images"):
            volume = replace(volume_offer("x", SIZE), pool=pool)
            for request in (sync_offer(volume), Begin(new_migration(), sync_offer(volume), False)):
                said = await control.ask(request)
                assert isinstance(said, Findings | Refused)
                assert [problem.code for problem in said.problems] == ["permission"]


async def test_one_volume_is_attached_once(target, guest):
    async with transferring(target.evil, guest.offer(SIZE)) as transfer:
        assert isinstance(await transfer.begin(), Accepted)
        await transfer.attached()
        second = await transfer.attached()
        assert await second.ended() == []
        (said,) = await transfer.control.ended()
        assert "volume 0 cannot be attached" in said.problem.text


async def test_a_volume_that_was_not_offered_cannot_be_attached(target, guest):
    async with transferring(target.evil, guest.offer(SIZE)) as transfer:
        assert isinstance(await transfer.begin(), Accepted)
        await transfer.attached(1)
        (said,) = await transfer.control.ended()
        assert "volume 1 cannot be attached" in said.problem.text


async def test_memory_comes_once(target, guest):
    async with transferring(target.evil, guest.offer(SIZE)) as transfer:
        await transfer.hand_over()
        await transfer.attached(0, Purpose.MEMORY)
        await transfer.attached(0, Purpose.MEMORY)
        (said,) = await transfer.control.ended()
        assert "no memory is expected" in said.problem.text


async def test_a_sync_has_no_memory(target):
    async with transferring(target.evil, sync_offer(volume_offer("plain", SIZE))) as transfer:
        assert isinstance(await transfer.begin(), Accepted)
        await transfer.attached(0, Purpose.MEMORY)
        (said,) = await transfer.control.ended()
        assert "a sync has no memory" in said.problem.text
    (target.host.images / "plain").unlink()


async def test_a_guest_cannot_be_sealed_before_its_volumes_are_complete(target, guest):
    async with transferring(target.evil, guest.offer(SIZE)) as transfer:
        assert isinstance(await transfer.begin(), Accepted)
        assert isinstance(await transfer.control.ask(HandOver(guest.size)), Receiving)
        seal = await transfer.send_memory(guest.image)
        said = await transfer.control.ask(seal)
        assert isinstance(said, Failed)
        assert "volume 0 is not complete" in said.problem.text
        await target.clean()


@pytest.mark.parametrize("step", ["begun", "copied", "receiving", "sent"])
async def test_a_commit_without_ready_starts_nothing(target, guest, step):
    async with target.evil.linked() as link:
        transfer = await come_to(step, link, guest)
        other = await greeted(link)
        said = await other.ask(Commit(transfer.migration))
        assert isinstance(said, Failed)
        (said,) = await transfer.control.ask_and_end(PEER.encode(Commit(transfer.migration)))
        assert isinstance(said, Failed)
        await target.clean()
        assert await is_aborted(link, transfer.migration)


async def test_another_peers_migration_cannot_be_touched(target, guest):
    async with transferring(target.good, guest.offer(SIZE)) as transfer:
        assert isinstance(await transfer.begin(), Accepted)
        mine = await transfer.attached()
        await mine.say(BeginRound(1, False))
        async with target.evil.linked() as link:
            migration = transfer.migration
            for request in (Commit(migration), inquiry(migration), Abort(migration, "x")):
                said = await (await greeted(link)).ask(request)
                assert said.word is Word.UNKNOWN
            control = await greeted(link)
            begin = Begin(transfer.migration, guest.named("thief").offer(SIZE), False)
            (said,) = await control.ask_and_end(PEER.encode(begin))
            assert "was begun before" in said.problem.text
            for purpose in (Purpose.VOLUME, Purpose.MEMORY):
                bulk = await talk(link, purpose)
                await bulk.say(Attach(transfer.migration, 0))
                assert await bulk.ended() == []
        # Nor can another connection of the same peer take its channels.
        async with target.good.linked() as link:
            bulk = await talk(link, Purpose.VOLUME)
            await bulk.say(Attach(transfer.migration, 0))
            assert await bulk.ended() == []
        # And nothing of that has disturbed it.
        claim = EndRound(1, 0, 0, 0, RoundDigest().value())
        assert isinstance(await mine.ask(claim), Receipt)
        mine.channel.finish()
        assert isinstance(await transfer.control.ask(HandOver(guest.size)), Receiving)
        transfer.control.channel.finish()
        await target.clean()


async def test_an_id_is_used_once(target, guest):
    async with transferring(target.evil, guest.offer(SIZE)) as transfer:
        assert isinstance(await transfer.begin(), Accepted)
        transfer.control.channel.close()
        await target.clean()
        transfer.control = await greeted(transfer.link)
        said = await transfer.begin()
        assert "was begun before" in said.problem.text


@pytest.mark.thorough
async def test_a_disk_that_two_migrations_want_is_kept_or_removed_with_its_own(target, guest):
    """Both are told that it is theirs to make: one of them is refused, and breaks nothing."""
    many = guest.offer(SIZE, tuple(f"xvda{number}" for number in range(60)))
    other = guest.named(guest.name + "x").offer(SIZE)
    async with target.evil.linked() as link:
        offers = (many, replace(other, volumes=many.volumes[-1:]))
        transfers = [Transfer(link, await greeted(link), offer) for offer in offers]
        said = await asyncio.gather(*(transfer.begin() for transfer in transfers))
        assert sum(isinstance(answer, Accepted) for answer in said) == 1, said
    await target.clean()


async def test_the_end_of_a_migration_while_its_volumes_are_made_leaves_none(target, guest):
    vdevs = tuple(f"xvd{letter}" for letter in "abcdefghijklmnop")
    for wait in (0.0, 0.02, 0.06):
        offer = guest.offer(SIZE, vdevs)
        async with target.evil.linked() as link:
            transfer = Transfer(link, await greeted(link), offer)
            other = await greeted(link)
            await transfer.control.say(Begin(transfer.migration, offer, False))
            await wait_for_volume(target, guest)
            await asyncio.sleep(wait)
            said = await other.ask(Abort(transfer.migration, "on second thoughts"))
            assert said.word is Word.NEVER_READY, said
            await transfer.control.ended()
            await target.clean()


async def test_a_broken_channel_while_the_volumes_are_made_leaves_none(target, guest):
    vdevs = tuple(f"xvd{letter}" for letter in "abcdefghijklmnop")
    for _ in range(2):
        offer = guest.offer(SIZE, vdevs)
        async with target.evil.linked() as link:
            transfer = Transfer(link, await greeted(link), offer)
            await transfer.control.say(Begin(transfer.migration, offer, False))
            await wait_for_volume(target, guest)
            await transfer.attached(200)
            await transfer.control.ended()
            await target.clean()


async def wait_for_volume(target, guest):
    async def is_there():
        return any(path.name.startswith(guest.name) for path in target.host.images.iterdir())

    await until(is_there, "a volume", every=0.002)


@pytest.mark.parametrize("attached", [False, True])
async def test_a_sync_that_is_not_complete_is_not_finished(target, attached):
    async with transferring(target.evil, sync_offer(volume_offer("half", SIZE))) as transfer:
        assert isinstance(await transfer.begin(), Accepted)
        if attached:  # but not one round
            (await transfer.attached()).channel.finish()
            await asyncio.sleep(0.1)
        said = await transfer.control.ask(Finish())
        assert isinstance(said, Failed)
        assert "volume 0 is not complete" in said.problem.text
    (target.host.images / "half").unlink()
