"""The block-sync engine end to end: real files, real threads, a real SSH link on loopback."""

import asyncio
import os
import random
from contextlib import AsyncExitStack, asynccontextmanager

import asyncssh
import pytest

from protocol.errors import Code, ProtocolError
from protocol.fingerprints import fingerprints
from protocol.frames import FrameDecoder, Kind, encode_hashes
from protocol.messages import BLOCK_SIZE, PEER, Attach, BeginRound, Credit, EndRound, Receipt
from storage.contracts import EVERYTHING, Extent
from storage.errors import StorageError
from storage.files.volume import RawFile
from tests.support.fed import VolumeSender
from tests.support.frames import encode_data, encode_packed
from tests.support.trusting import Keys
from xenmoved.choices import Compression
from xenmoved.link.bulk import Bulk
from xenmoved.link.channel import Purpose
from xenmoved.link.client import connect
from xenmoved.link.errors import LinkLost
from xenmoved.link.framed import Framed
from xenmoved.link.server import LinkServer
from xenmoved.migration.target.channels import _read_attach
from xenmoved.sync.compression import Compressor
from xenmoved.sync.devices import Buffers, DeviceThreads
from xenmoved.sync.limiter import RateLimiter
from xenmoved.sync.progress import RoundProgress, VolumeProgress
from xenmoved.sync.source import SyncTools, VerificationFailed, VolumeSource
from xenmoved.sync.target import VolumeTarget

pytestmark = pytest.mark.long

B = BLOCK_SIZE
KEY = asyncssh.generate_private_key("ssh-ed25519")
MIGRATION = "0" * 32
ODD = 37 * B + 12345


class Bench:
    """Two volumes with a link between them."""

    def __init__(self, folder, size, stack):
        self.folder, self.size, self.stack = folder, size, stack
        self.ours, self.theirs = folder / "ours", folder / "theirs"
        for path in (self.ours, self.theirs):
            path.touch()
            os.truncate(path, size)
        self.came = asyncio.Queue()
        self.buffers = Buffers(12)
        self.limiter = RateLimiter(None)

    async def start(self):
        self.server = LinkServer(KEY, Keys({KEY.public_data: "far"}), 30)
        port = await self.server.start("127.0.0.1", 0, lambda v, p, c: self.came.put_nowait(c))
        self.stack.push_async_callback(self.server.stop)
        self.link = await connect(
            "near", "127.0.0.1", port, identity=KEY, pinned=KEY, timeout=5, keepalive=30
        )
        self.stack.push_async_callback(self.link.close)

    async def channels(self):
        ours = await self.link.open(Purpose.VOLUME)
        return ours, await asyncio.wait_for(self.came.get(), 5)

    @asynccontextmanager
    async def copy(self, compression=Compression.OFF):
        """Yield a source whose target is served, and the target."""
        async with AsyncExitStack() as stack:
            ours, theirs = await self.channels()
            stack.callback(ours.close)
            stack.callback(theirs.close)
            near = RawFile.open(str(self.ours), name="ours", writable=False)
            far = RawFile.open(str(self.theirs), name="theirs", writable=True)
            stack.callback(near.close)
            stack.callback(far.close)
            near_threads = await stack.enter_async_context(DeviceThreads("near", 2))
            far_threads = await stack.enter_async_context(DeviceThreads("far", 2))
            source = VolumeSource(
                near,
                Framed(ours),
                near_threads,
                compressor=Compressor(compression),
                tools=SyncTools(self.buffers, self.limiter, self.folder),
                progress=VolumeProgress("ours", self.size),
            )
            stack.callback(source.close)
            await ours.send(PEER.encode(Attach(MIGRATION, 3)))
            far_framed = Framed(theirs)
            attach = await _read_attach(far_framed)
            assert (attach.migration, attach.volume) == (MIGRATION, 3)
            progress = VolumeProgress("theirs", self.size)
            target = VolumeTarget(far, far_framed, far_threads, Buffers(12), progress)
            target.progress = progress
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(target.serve())
                source.serving = serving
                try:
                    yield source, target
                    if not serving.cancelled():
                        ours.finish()
                except BaseException:
                    serving.cancel()
                    raise

    def write(self, path, offset, data):
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def same(self):
        return self.ours.read_bytes() == self.theirs.read_bytes()


@pytest.fixture(autouse=True)
def bulk(monkeypatch):
    """Bulk packets go past asyncssh, so that views of them are used down to the disk."""
    monkeypatch.setattr(Bulk, "refused", None)


@pytest.fixture
async def bench(tmp_path, request):
    size = getattr(request, "param", ODD)
    async with asyncio.timeout(60), AsyncExitStack() as stack:
        made = Bench(tmp_path, size, stack)
        await made.start()
        yield made


def noise(count, seed=0):
    return random.Random(seed).randbytes(count)


def allocated(path):
    return path.stat().st_blocks * 512


SIZES = [1, 511, 4096, B - 1, B, B + 1, 4 * B, 4 * B + 1, 33 * B, ODD, 100 * B + 4096]


@pytest.mark.parametrize("bench", SIZES, indirect=True)
@pytest.mark.parametrize("compare", [False, True])
async def test_a_full_volume_of_any_size_arrives(bench, compare):
    bench.write(bench.ours, 0, noise(bench.size))
    async with bench.copy() as (source, target):
        progress = await source.run_round(EVERYTHING, compare=compare)
        assert progress.data_bytes == bench.size
        assert progress.diff == -(-bench.size // B)
        assert (progress.same, progress.zero) == (0, 0)
        assert progress.examined == progress.total == bench.size
        assert bench.size < progress.wire_bytes < bench.size * 1.01 + 1000
        assert target.rounds == 1
        assert target.idle
        assert target.progress.rounds[0].data_bytes == bench.size
        await source.verify()
    assert bench.same()


async def test_zeros_and_data_change_places_and_holes_stay_holes(bench):
    bench.size = 64 * B
    for path in (bench.ours, bench.theirs):
        os.truncate(path, bench.size)
    bench.write(bench.ours, 0, noise(4 * B))  # data where the target has nothing
    bench.write(bench.theirs, 8 * B, noise(8 * B))  # a hole here, data there
    bench.write(bench.ours, 20 * B, bytes(4 * B))  # written zeros here, data there
    bench.write(bench.theirs, 20 * B, noise(4 * B))
    bench.write(bench.ours, 30 * B, bytes(4 * B))  # written zeros here, a hole there
    bench.write(bench.theirs, 40 * B, bytes(4 * B))  # a hole here, written zeros there
    for path in (bench.ours, bench.theirs):
        bench.write(path, 50 * B, noise(2 * B, 5))  # alike
    async with bench.copy() as (source, _):
        progress = await source.run_round(EVERYTHING, compare=True)
        assert (progress.diff, progress.zero, progress.same) == (4, 12, 48)
        assert (progress.data_bytes, progress.zero_bytes) == (4 * B, 12 * B)
        progress = await source.run_round(EVERYTHING, compare=False)
        assert (progress.diff, progress.zero, progress.same) == (0, 0, 64)
        await source.verify()
    assert bench.same()
    # Only what holds data takes space, and the zeros that nobody had to write again.
    assert allocated(bench.theirs) <= (4 + 2 + 4) * B + 64 * 1024


@pytest.mark.parametrize("hole", [False, True])
async def test_the_short_last_block_becomes_zero(bench, hole):
    bench.write(bench.theirs, ODD - 10, noise(10))
    if not hole:
        bench.write(bench.ours, 36 * B, bytes(ODD - 36 * B))
    async with bench.copy() as (source, _):
        progress = await source.run_round(EVERYTHING, compare=True)
        assert (progress.zero, progress.zero_bytes) == (1, ODD % B)
        await source.verify()
    assert bench.same()


async def test_an_empty_volume_costs_next_to_nothing(bench):
    for path in (bench.ours, bench.theirs):
        os.truncate(path, 2**40)
    bench.size = 2**40
    bench.write(bench.ours, 2**39, b"x")
    async with bench.copy() as (source, _):
        progress = await source.run_round(EVERYTHING, compare=True)
        assert progress.data_bytes == B
        assert progress.wire_bytes < 2 * B
        await source.verify()
    assert allocated(bench.theirs) <= 2 * B
    with bench.theirs.open("rb") as file:
        file.seek(2**39)
        assert file.read(2) == b"x\0"


async def test_a_later_round_sends_only_what_changed(bench):
    bench.write(bench.ours, 0, noise(bench.size))
    async with bench.copy() as (source, target):
        await source.run_round(EVERYTHING, compare=True)
        bench.write(bench.ours, 5 * B + 17, b"changed")
        bench.write(bench.ours, 9 * B, bytes(B))
        bench.write(bench.ours, bench.size - 3, b"end")
        written = [Extent(5 * B + 17, 7), Extent(9 * B, 3 * B), Extent(bench.size - 3, 3)]
        progress = await source.run_round(written, compare=False)
        assert (progress.diff, progress.zero, progress.same) == (2, 1, 2)
        assert progress.data_bytes == B + bench.size % B
        assert progress.wire_bytes < progress.data_bytes + 1000
        # The fallback of a host that cannot track: all is read, the same is sent.
        bench.write(bench.ours, 0, b"once more")
        progress = await source.run_round(EVERYTHING, compare=False)
        assert (progress.diff, progress.zero, progress.same) == (1, 0, 37)
        progress = await source.run_round([], compare=False)
        assert (progress.diff, progress.same, progress.wire_bytes < 200) == (0, 0, True)
        assert target.rounds == 4
        await source.verify()
        assert [r.number for r in source.progress.rounds] == [1, 2, 3, 4, 5]
    assert bench.same()


async def test_what_was_dirtied_all_over_arrives(bench):
    rng = random.Random(3)
    async with bench.copy() as (source, _):
        await source.run_round(EVERYTHING, compare=False)
        for _ in range(6):
            written = []
            for _ in range(20):
                offset = rng.randrange(bench.size - 5000)
                length = rng.randrange(1, 5000)
                bench.write(bench.ours, offset, rng.choice((bytes(length), rng.randbytes(length))))
                written.append(Extent(offset, length))
            await source.run_round(sorted(written), compare=False)
            assert bench.same()


@pytest.mark.parametrize("where", [0, 10 * B + 1000, ODD - 1])
@pytest.mark.parametrize("sparse", [False, True])
async def test_verification_finds_one_wrong_byte(bench, where, sparse):
    if not sparse:
        bench.write(bench.ours, 0, noise(bench.size))
    async with bench.copy() as (source, _):
        await source.run_round(EVERYTHING, compare=True)
        await source.verify()
        with bench.theirs.open("r+b") as file:
            file.seek(where)
            byte = file.read(1)[0]
            file.seek(where)
            file.write(bytes([byte ^ 1]))
        block = where // B * B
        with pytest.raises(VerificationFailed, match=rf"offset {block} \(1 blocks\)"):
            try:
                await source.verify()
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None
        source.serving.cancel()


async def test_a_broken_off_copy_goes_on_where_it_was(bench):
    size = 400 * B
    for path in (bench.ours, bench.theirs):
        os.truncate(path, size)
    bench.size = size
    bench.write(bench.ours, 0, noise(size))
    bench.limiter.rate = 20 * 2**20
    with pytest.raises(BaseExceptionGroup) as caught:
        async with bench.copy() as (source, _):
            asyncio.get_running_loop().call_later(0.4, bench.link.abort)
            await source.run_round(EVERYTHING, compare=True)
    lost, other = caught.value.split(LinkLost)
    assert lost is not None
    assert other is None
    done = sum(a == b for a, b in zip(blocks(bench.ours), blocks(bench.theirs), strict=True))
    assert 20 < done < 380
    bench.limiter.rate = None
    await bench.start()
    async with bench.copy() as (source, _):
        progress = await source.run_round(EVERYTHING, compare=True)
        assert (progress.same, progress.diff) == (done, 400 - done)
    assert bench.same()


def blocks(path):
    data = path.read_bytes()
    return [data[at : at + B] for at in range(0, len(data), B)]


@pytest.mark.parametrize("compression", Compression)
async def test_compressed_or_not_the_same_bytes_arrive(bench, compression):
    text = b"the quick brown fox jumps over the lazy dog. " * 3000
    data = (text + noise(3 * B)) * 20
    bench.write(bench.ours, 0, data[: bench.size])
    async with bench.copy(compression) as (source, _):
        progress = await source.run_round(EVERYTHING, compare=True)
        assert progress.data_bytes == bench.size
        packed = progress.wire_bytes < 0.8 * bench.size
        assert packed == (compression is Compression.ZSTD)
        await source.verify()
    assert bench.same()


async def test_the_limit_holds_for_a_copy_and_no_credit_comes_late(bench):
    bench.write(bench.ours, 0, noise(bench.size))
    bench.limiter.rate = 4 * 2**20
    began = asyncio.get_running_loop().time()
    async with bench.copy() as (source, _):
        await source.run_round(EVERYTHING, compare=True)
        seconds = asyncio.get_running_loop().time() - began
        assert bench.size / seconds < 4 * 2**20 * 1.25
        for _ in range(20):
            await source.run_round([], compare=True)
    assert bench.same()


class Delayed:
    """A channel that takes its time over credit, as a limiter or a full window would."""

    def __init__(self, channel):
        self._channel = channel

    async def send(self, data):
        if len(data) < 60 and b"Credit" in bytes(data):
            await asyncio.sleep(0.02)
        await self._channel.send(data)

    def __getattr__(self, name):
        return getattr(self._channel, name)


async def test_credit_never_follows_the_end_of_its_round(bench):
    async with bench.copy() as (source, _):
        source._channel = Delayed(source._channel)
        for _ in range(3):
            await source.run_round(EVERYTHING, compare=True)
    assert bench.same()


# A target against a source that cheats, and the other way round; both over the link.


@asynccontextmanager
async def served_target(bench):
    """Yield a channel to a target, and the task that serves it."""
    async with AsyncExitStack() as stack:
        ours, theirs = await bench.channels()
        far = RawFile.open(str(bench.theirs), name="theirs", writable=True)
        stack.callback(far.close)
        threads = await stack.enter_async_context(DeviceThreads("far", 2))
        progress = VolumeProgress("theirs", bench.size)
        target = VolumeTarget(far, Framed(theirs), threads, bench.buffers, progress)
        serving = asyncio.create_task(target.serve())
        try:
            yield ours, serving
        finally:
            serving.cancel()
            await asyncio.wait([serving])


async def failure(task, kind):
    try:
        await asyncio.wait_for(asyncio.shield(task), 5)
    except BaseExceptionGroup as group:
        found = group.exceptions[0]
    else:
        raise AssertionError("nothing failed")
    assert isinstance(found, kind), found
    return found


def round_of(*frames, number=1, frames_claimed=None, digest=bytes(32)):
    count = len(frames) if frames_claimed is None else frames_claimed
    end = EndRound(number, 0, 0, count, digest)
    return PEER.encode(BeginRound(number, False)) + b"".join(frames) + PEER.encode(end)


async def test_a_round_with_a_false_digest_gets_no_receipt(bench):
    async with served_target(bench) as (channel, serving):
        await channel.send(round_of(encode_data(0, noise(B))))
        error = await failure(serving, ProtocolError)
        assert error.code is Code.DIGEST


async def test_a_packed_frame_that_is_none_ends_the_copy(bench):
    for packed in (b"nonsense", b"\x28\xb5\x2f\xfd" + bytes(50)):
        async with served_target(bench) as (channel, serving):
            await channel.send(round_of(encode_packed(0, B, packed)))
            error = await failure(serving, ProtocolError)
            assert error.code is Code.BAD_FRAME
    assert not any(bench.theirs.read_bytes())


async def test_the_end_of_the_channel_within_a_round_is_a_loss(bench):
    async with served_target(bench) as (channel, serving):
        await channel.send(PEER.encode(BeginRound(1, True)) + PEER.encode(Credit(1)))
        channel.finish()
        await failure(serving, LinkLost)
    await whole(bench.buffers)


async def test_a_source_that_gives_no_credit_gets_nothing_and_holds_no_buffers_for_ever(bench):
    bench.write(bench.theirs, 0, noise(bench.size))
    async with served_target(bench) as (channel, serving):
        await channel.send(PEER.encode(BeginRound(1, True)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(channel.receive(), 0.2)
        assert not serving.done()
    await whole(bench.buffers)


async def test_fingerprints_are_told_many_at_once_and_not_beyond_credit(bench_of_40_mib):
    """Each frame costs far more than what is in it; an older source grants as many as ever."""
    bench = bench_of_40_mib
    bench.write(bench.theirs, 0, noise(bench.size))
    async with served_target(bench) as (channel, serving):
        await channel.send(PEER.encode(BeginRound(1, True)) + PEER.encode(Credit(4)))
        decoder, told = FrameDecoder([Kind.HASHES]), []
        while len(told) < 5:
            while (frame := decoder.next_frame()) is not None:
                told.append(len(frame.untrusted_body) - 8)
            if len(told) == 4:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(channel.receive(), 0.2)
                await channel.send(PEER.encode(Credit(1)))
            if len(told) < 5:
                decoder.feed(await asyncio.wait_for(channel.receive(), 5))
        assert told == [8 * 2**20 // B * 32] * 5
        assert not serving.done()


@pytest.fixture
async def bench_of_40_mib(tmp_path):
    async with asyncio.timeout(60), AsyncExitStack() as stack:
        made = Bench(tmp_path, 40 * 2**20, stack)
        await made.start()
        yield made


async def whole(buffers):
    async with asyncio.timeout(2):
        taken = [await buffers.acquire() for _ in range(12)]
    for buffer in taken:
        buffers.release(buffer)


async def test_a_write_error_at_the_target_ends_the_copy(bench):
    async with served_target(bench) as (channel, serving):
        os.truncate(bench.theirs, 10)
        await channel.send(PEER.encode(BeginRound(1, True)) + PEER.encode(Credit(100)))
        await failure(serving, StorageError)


@asynccontextmanager
async def hostile_target(bench, answer):
    """Yield a source whose target runs `answer(channel)`."""
    async with AsyncExitStack() as stack:
        ours, theirs = await bench.channels()
        near = RawFile.open(str(bench.ours), name="ours", writable=False)
        stack.callback(near.close)
        threads = await stack.enter_async_context(DeviceThreads("near", 2))
        source = VolumeSource(
            near,
            Framed(ours),
            threads,
            compressor=Compressor(Compression.OFF),
            tools=SyncTools(bench.buffers, bench.limiter, bench.folder),
            progress=VolumeProgress("ours", bench.size),
        )
        stack.callback(source.close)
        answering = asyncio.create_task(answer(theirs))
        try:
            yield source
        finally:
            answering.cancel()
            await asyncio.wait([answering])
        await whole(bench.buffers)


def claim_of(data):
    decoder = FrameDecoder(list(Kind))
    decoder.feed(data)
    while (frame := decoder.next_frame()) is not None:
        if frame.kind is Kind.MESSAGE:
            message = PEER.decode(frame.untrusted_body)
            if isinstance(message, EndRound):
                return message
    return None


async def read_claim(channel):
    data = b""
    while piece := await channel.receive():
        data += piece
        if (claim := claim_of(data)) is not None:
            return claim
    raise AssertionError("no end of the round")


async def test_a_receipt_for_other_bytes_is_no_receipt(bench):
    bench.write(bench.ours, 0, noise(bench.size))

    async def answer(channel):
        claim = await read_claim(channel)
        lie = Receipt(claim.number, claim.data_bytes, claim.zero_bytes, claim.frames, bytes(32))
        await channel.send(PEER.encode(lie))

    async with hostile_target(bench, answer) as source:
        running = asyncio.create_task(source.run_round(EVERYTHING, compare=False))
        error = await failure(running, ProtocolError)
        assert error.code is Code.DIGEST


@pytest.mark.parametrize(
    "answer",
    [
        encode_hashes(1, bytes(32)),
        encode_hashes(0, bytes(32 * 2000)),
        encode_data(0, bytes(B)),
        PEER.encode(Credit(1)),
        b"\xff" * 100,
        b"",
    ],
    ids=["gap", "beyond", "data", "credit", "garbage", "end"],
)
async def test_a_target_that_breaks_the_protocol_ends_the_round(bench, answer):
    bench.write(bench.ours, 0, noise(bench.size))

    async def reply(channel):
        if answer:
            await channel.send(answer)
        else:
            channel.finish()
        while await channel.receive():
            pass

    async with hostile_target(bench, reply) as source:
        running = asyncio.create_task(source.run_round(EVERYTHING, compare=True))
        await failure(running, ProtocolError if answer else LinkLost)


def test_the_sender_counts_what_it_covers():
    sender = VolumeSender(3 * B)
    sender.begin_round(1, compare=True)
    sender.grant(2)
    list(sender.receive(encode_hashes(0, fingerprints(memoryview(noise(2 * B))))))
    assert sender.covered == 2 * B


@pytest.mark.parametrize("bench", [40 * B + 4096], indirect=True)
async def test_both_hosts_count_the_same_blocks(bench):
    bench.write(bench.ours, 0, noise(10 * B))
    bench.write(bench.theirs, 20 * B, noise(4 * B))
    async with bench.copy() as (source, target):
        near = await source.run_round(EVERYTHING, compare=True)
        far = target.progress.rounds[0]
    assert (near.same, near.diff, near.zero) == (27, 10, 4)
    assert (far.same, far.diff, far.zero) == (near.same, near.diff, near.zero)


def test_what_arrives_tells_how_far_the_source_has_come():
    progress = RoundProgress(1, 20 * B)
    progress.arrived(2 * B, B, 9 * B)
    assert (progress.examined, progress.diff, progress.zero, progress.same) == (9 * B, 2, 1, 0)
    progress.arrived(3 * B, B, 4 * B)
    assert progress.examined == 9 * B
    progress.arrived_whole()
    assert (progress.examined, progress.diff, progress.same) == (20 * B, 3, 16)
