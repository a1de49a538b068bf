"""Bulk packets past asyncssh: whatever comes, the same happens as with asyncssh alone."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import asyncssh
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.wires import HEAD, End, data_packet, wired
from xenmoved.link import bulk as bulk_module
from xenmoved.link.bulk import Bulk
from xenmoved.link.errors import LinkLost

pytestmark = pytest.mark.long

FRAME = 256 * 1024 + 13
WINDOW = 4 * 2**20


@pytest.fixture(autouse=True)
def way() -> None:
    """Each test says by itself what it has at which end."""


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def run(test: Callable[[], Any]) -> Any:
    return asyncio.run(asyncio.wait_for(test(), 60))


async def sent_by(end: End, *sizes: int) -> tuple[bytes, list[bytes]]:
    """Send pieces of these sizes; return all of their data, and the packets."""
    pieces = [noise(size, number) for number, size in enumerate(sizes)]
    packets = []
    for piece in pieces:
        await end.channel.send(piece[:13], memoryview(piece)[13:])
        packets.append(end.take_sent())
    return b"".join(pieces), packets


BOTH = pytest.mark.parametrize(
    "bulks", [(True, True), (True, False), (False, True)], ids=["both", "sender", "receiver"]
)
ROLES = pytest.mark.parametrize("client_sends", [True, False], ids=["client", "server"])


@BOTH
@ROLES
async def test_packets_of_all_sizes_arrive(bulks, client_sends):
    sizes = (1, 4095, 4096, 4097, FRAME, 60_000, FRAME, 272 * 1024, 300_000, 1_000_000, 1)
    async with wired(*(bulks if client_sends else bulks[::-1])) as ends:
        sender, receiver = ends if client_sends else ends[::-1]
        sending = asyncio.create_task(send_all(sender, sizes))
        came = bytearray()
        while piece := await asyncio.wait_for(receiver.channel.receive(), 5):
            came += piece
        assert came == await sending
        for end in ends:
            if end.bulk is not None:
                assert (end.bulk.sealed >= 4) if end is sender else (end.bulk.opened >= 4)


async def send_all(end: End, sizes: tuple[int, ...]) -> bytes:
    pieces = [noise(size, number) for number, size in enumerate(sizes)]
    for piece in pieces:
        await end.channel.send(piece)
    end.channel.finish()
    return b"".join(pieces)


@BOTH
@ROLES
async def test_keys_are_renewed_in_mid_stream(bulks, client_sends):
    """By either side, while both send all they can."""
    sizes = (FRAME, 70_000, FRAME, 10, 5000, FRAME, 300_000) * 12
    async with wired(*(bulks if client_sends else bulks[::-1])) as ends:
        first = ends[0].connection._send_encryption
        for end, often in zip(ends, (500_000, 800_000), strict=True):
            end.connection._rekey_bytes = often

        async def receive(end: End) -> bytes:
            digest = hashlib.sha256()
            while piece := await end.channel.receive():
                digest.update(piece)
            return digest.digest()

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            sent = [group.create_task(send_all(end, sizes)) for end in ends]
            came = [group.create_task(receive(end)) for end in ends]
        expected = hashlib.sha256(sent[0].result()).digest()
        assert [one.result() for one in came] == [expected, expected]
        assert ends[0].connection._send_encryption is not first
        for end in ends:
            if end.bulk is not None:
                assert end.bulk.opened > 12 < end.bulk.sealed
                assert len(end.bulk._ciphers) <= 2  # no old key is kept


async def test_keys_are_renewed_while_half_a_packet_has_come():
    async with wired(True, True) as (near, far):
        near.hold()
        far.hold()
        data, (packet,) = await sent_by(near, FRAME)
        far.feed(packet[:100_000])
        near.connection._send_kexinit()
        near.connection._kexinit_sent = True
        assert far.unread() == b""
        far.feed(packet[100_000:])
        for _ in range(10):  # the exchange, to its end
            far.feed(near.take_sent())
            await asyncio.sleep(0.01)
            near.feed(far.take_sent())
            await asyncio.sleep(0.01)
        more, (packet,) = await sent_by(near, FRAME)
        far.feed(packet, [5])
        assert far.unread() == data + more
        assert far.bulk is not None and far.bulk.opened == 2
        assert far.alive and near.alive


@ROLES
@pytest.mark.parametrize("place", [4, 5, 20, FRAME // 2, -17, -16, -1])
async def test_nothing_is_delivered_of_a_packet_with_a_wrong_tag(client_sends, place):
    async with wired(True, True) as ends:
        sender, receiver = ends if client_sends else ends[::-1]
        for end in ends:
            end.hold()
        data, packets = await sent_by(sender, FRAME, FRAME)
        packets[1] = flipped(packets[1], place)
        receiver.feed(b"".join(packets), [300_000])
        assert receiver.unread() == data[:FRAME]
        assert isinstance(receiver.lost, asyncssh.MACError)
        assert not receiver.alive


def flipped(packet: bytes, place: int) -> bytes:
    changed = bytearray(packet)
    changed[place] ^= 0x20
    return bytes(changed)


@pytest.mark.parametrize("far_bulk", [True, False])
@pytest.mark.parametrize("length", [0, 1, 15, 16, 4095, 272 * 1024 + 1, 2**20, 2**31, 2**32 - 1])
async def test_lengths_that_are_wrong_end_the_connection_or_wait(length, far_bulk):
    """The tag covers the length; one that is too large for any buffer is not waited for."""
    async with wired(True, far_bulk) as (near, far):
        near.hold()
        far.hold()
        _, (packet,) = await sent_by(near, FRAME)
        far.feed(length.to_bytes(4, "big") + packet[4:], range(0, 1000, 7))
        assert far.unread() == b""
        complete = 4 + length + 16 <= len(packet)
        if complete:
            assert isinstance(far.lost, asyncssh.MACError)
        elif length > 2**20 + 1024:
            assert isinstance(far.lost, asyncssh.ProtocolError)
        else:
            assert far.alive


async def test_what_ends_within_a_packet_is_lost_with_it():
    async with wired(True, True) as (near, far):
        near.hold()
        data, packets = await sent_by(near, FRAME, FRAME)
        far.feed(packets[0] + packets[1][:-1])
        near.connection.abort()
        await far.channel.wait_closed()
        assert far.unread() == data[:FRAME]
        await far.channel.receive()
        with pytest.raises(LinkLost):
            await far.channel.receive()


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from([1, 100, 4095, 4096, 5000, 70_000, FRAME, 300_000]), max_size=8),
    st.lists(st.integers(0, 1_500_000), max_size=12),
    st.none() | st.tuples(st.integers(0, 2**32), st.integers(0, 7)),
    st.booleans(),
)
def test_a_stream_is_the_same_however_it_is_cut_and_ends_where_it_was_changed(
    sizes, cuts, change, far_bulk
):
    async def test() -> None:
        async with wired(True, far_bulk) as (near, far):
            near.hold()
            far.hold()
            data, packets = await sent_by(near, *sizes)
            stream, intact = bytearray(b"".join(packets)), len(packets)
            if change is not None and stream:
                place = change[0] % len(stream)
                stream[place] ^= 1 << change[1]
                ends = [sum(map(len, packets[: n + 1])) for n in range(len(packets))]
                intact = next(n for n, end in enumerate(ends) if place < end)
            far.feed(bytes(stream), cuts)
            assert far.unread() == data[: sum(sizes[:intact])]
            if intact == len(packets):
                assert far.alive

    run(test)


PLAIN = st.builds(
    lambda number, size, changed: data_packet(number, noise(size), **changed),
    st.sampled_from([0, 0, 0, 1, 2, 2**31, 2**32 - 1]),
    st.sampled_from([0, 1, 4086, 5000, 70_000, 100_000, FRAME]),
    st.fixed_dictionaries(
        {},
        optional={
            "kind": st.sampled_from([0, 1, 2, 3, 20, 21, 30, 50, 80, 93, 95, 96, 97, 98, 99, 255]),
            "length": st.sampled_from([0, 1, 4095, 5001, 69_999, FRAME + 1, 2**31, 2**32 - 1]),
            "padding": st.sampled_from([0, 1, 3, 4, 5, 16, 255]),
        },
    ),
)
TAIL = st.binary(max_size=40).map(lambda tail: tail + bytes(5000))
"""No packet of any kind: a message of 1 would be a disconnect, whose text is told as it comes."""


@settings(max_examples=60)
@given(st.lists(PLAIN | TAIL, min_size=1, max_size=5), st.booleans(), st.booleans())
def test_what_a_peer_seals_is_taken_and_refused_as_by_asyncssh_alone(plains, client_sends, ended):
    """Other messages, channels, lengths and paddings; data after the end of file."""

    async def outcome(with_bulk: bool) -> tuple[bytes, bool, str]:
        async with wired(with_bulk, with_bulk) as ends:
            sender, receiver = ends if client_sends else ends[::-1]
            for end in ends:
                end.hold()
            if ended:
                sender.channel.finish()
                receiver.feed(sender.take_sent())
            for plain in plains:
                receiver.feed(sender.seal(plain))
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            return receiver.unread(), receiver.alive, repr(receiver.lost)

    assert run(lambda: outcome(True)) == run(lambda: outcome(False))


@pytest.mark.parametrize("far_bulk", [True, False])
async def test_a_window_that_is_overrun_ends_the_connection(far_bulk):
    async with wired(True, far_bulk) as (near, far):
        near.hold()
        far.hold()
        far.channel._channel.pause_reading()
        packet = data_packet(far.channel._channel._recv_chan, bytes(FRAME))
        for _ in range(2 * WINDOW // FRAME):
            far.feed(near.seal(packet))
        assert "Window exceeded" in str(far.lost)
        held = far.channel._channel._recv_buf
        assert sum(len(piece) for piece, _ in held) <= WINDOW


async def test_a_channel_that_is_closed_takes_nothing_more():
    async with wired(True, True) as (near, far):
        near.hold()
        far.hold()
        _, packets = await sent_by(near, FRAME, FRAME)
        far.feed(packets[0][:1000])
        far.channel.close()
        far.feed(packets[0][1000:] + packets[1])
        assert far.unread() == b""
        assert far.alive  # it may not have heard of the end yet


async def test_an_error_in_a_channel_ends_its_connection_only_after_the_packet():
    async with wired(True, True) as (near, far):
        near.hold()
        far.hold()

        def fail(*_: object) -> None:
            raise RuntimeError("no room")

        far.channel.data_received = fail
        _, packets = await sent_by(near, FRAME, FRAME)
        far.feed(b"".join(packets))
        assert isinstance(far.lost, RuntimeError)


@pytest.mark.parametrize("size", [4096, 70_000, 199_000, 205_000, FRAME])
async def test_what_is_kept_is_not_much_more_than_what_came(size):
    """A view of a large buffer with little in it would let a peer have us keep many times more."""
    async with wired(True, True) as (near, far):
        sending = asyncio.create_task(pour(near, size))
        await until_it_stands(far)
        views = [piece for piece, _ in (*far.channel._unread, *far.channel._channel._recv_buf)]
        kept = {id(view.obj): len(view.obj) for view in views if isinstance(view, memoryview)}
        assert WINDOW <= sum(map(len, views)) <= 2 * WINDOW + size
        assert kept
        assert sum(kept.values()) < 1.4 * sum(map(len, views))
        assert far.bulk is not None and len(far.bulk._buffer) == bulk_module._BUFFER
        sending.cancel()


async def pour(end: End, size: int) -> None:
    while True:
        await end.channel.send(bytes(size))


async def until_it_stands(end: End) -> None:
    async with asyncio.timeout(10):
        size = -1
        while end.channel._unread_size != size or not size:
            size = end.channel._unread_size
            await asyncio.sleep(0.2)


async def test_bytes_that_somebody_keeps_stay_what_they_are():
    """Buffers are used again only when no view of them is left, wherever it is."""
    async with wired(True, True) as (near, far):
        kept: list[tuple[memoryview, bytes]] = []
        for number in range(200):
            await near.channel.send(noise(FRAME, number))
            came = await asyncio.wait_for(far.channel.receive(), 5)
            assert came == noise(FRAME, number)
            if number % 3 == 0:
                kept.append((memoryview(came)[number::7], bytes(came[number::7])))
        assert all(view == copy for view, copy in kept)


async def test_a_window_smaller_than_a_packet_is_enough():
    async with wired(True, True, window=64 * 1024) as (near, far):
        sending = asyncio.create_task(send_all(near, (FRAME,) * 10))
        came = bytearray()
        while piece := await asyncio.wait_for(far.channel.receive(), 5):
            came += piece
        assert came == await sending


async def test_pieces_of_several_tasks_stay_whole():
    async with wired(True, True) as (near, far):
        sizes = (FRAME, 70_000, 50, FRAME, 4096)

        async def send(name: int) -> None:
            for size in sizes * 8:
                await near.channel.send(bytes((name,)), bytes((name,)) * (size - 1))

        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            tasks = [group.create_task(send(name)) for name in range(4)]
            came, left = bytearray(), 4 * 8 * sum(sizes)
            while len(came) < left:
                came += await far.channel.receive()
            assert all(task.done() for task in tasks)
        bounds = [0, *(n for n in range(1, len(came)) if came[n] != came[n - 1]), len(came)]
        runs = [(came[begin], end - begin) for begin, end in pairwise(bounds)]
        whole = set(sizes)
        for _, length in runs:  # pieces of one task may follow one another
            assert length in whole or any(length >= size for size in whole)
        for name in range(4):
            assert came.count(name) == 8 * sum(sizes)


@pytest.mark.parametrize("end_it", ["close", "abort", "far"])
async def test_who_waits_for_a_window_is_told_of_the_end(end_it):
    async with wired(True, True) as (near, far):
        sending = asyncio.create_task(pour(near, FRAME))
        await until_it_stands(far)
        assert not sending.done()
        if end_it == "close":
            near.channel.close()
        elif end_it == "abort":
            near.connection.abort()
        else:
            far.connection.abort()
        with pytest.raises(LinkLost):
            await asyncio.wait_for(sending, 5)


async def test_padding_is_random():
    async with wired(True, True) as (near, far):
        near.hold()
        far.hold()
        assert near.bulk is not None
        paddings = set()
        for _ in range(5):
            near.bulk._plain[:] = bytes(len(near.bulk._plain))
            await near.channel.send(bytes(4096))
            count = near.bulk._plain[4]
            assert 4 <= count < 20
            begin = 5 + HEAD - 1 + 4096
            paddings.add(bytes(near.bulk._plain[begin : begin + count]))
        assert len(paddings) == 5


def test_it_is_not_used_where_the_trial_did_not_allow_it(monkeypatch):
    monkeypatch.setattr(Bulk, "refused", "it was not tried")

    async def test() -> None:
        async with wired(False, False) as (near, far):
            Bulk.carry(near.connection)
            assert Bulk.of(near.connection) is None
            await near.channel.send(bytes(FRAME))
            assert await asyncio.wait_for(far.channel.receive(), 5)

    run(test)
