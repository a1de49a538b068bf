"""The link over real SSH on loopback: keys, what is refused, back-pressure."""

import asyncio
import logging
import os
import shutil
import socket
import stat
import subprocess
import time
from contextlib import asynccontextmanager

import asyncssh
import pytest

from tests.support.trusting import Keys
from xenmoved.link import server as server_module
from xenmoved.link.channel import WINDOW, Channel, Purpose
from xenmoved.link.client import connect, fetch_host_key
from xenmoved.link.errors import LinkError, LinkLost, NotAuthorized, PeerUnreachable, WrongHostKey
from xenmoved.link.identity import (
    IdentityError,
    fingerprint,
    load_identity,
    parse_public,
    public_text,
)
from xenmoved.link.server import MAX_CHANNELS, MAX_UNPROVEN, LinkServer

pytestmark = pytest.mark.long

HOST, PEER, STRANGER = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(3))


class Served:
    """A link server on loopback, and the channels that came to it."""

    def __init__(self):
        self.peers = {HOST.public_data: "itself", PEER.public_data: "peer"}
        self.server = LinkServer(HOST, Keys(self.peers), 30)
        self.came = asyncio.Queue()
        self.port = 0

    def serve(self, visitor, purpose, channel):
        self.came.put_nowait((visitor, purpose, channel))

    async def link(self, identity=PEER, pinned=HOST, **options):
        return await connect(
            "host",
            "127.0.0.1",
            self.port,
            identity=identity,
            pinned=parse_public(public_text(pinned)),
            timeout=options.pop("timeout", 5),
            keepalive=30,
            **options,
        )

    async def raw(self, key=PEER, username="xenmoved", **options):
        """Connect with asyncssh itself, as somebody else's client would."""
        return await asyncssh.connect(
            "127.0.0.1",
            self.port,
            username=username,
            client_keys=[key],
            known_hosts=None,
            agent_path=None,
            config=None,
            **options,
        )

    async def channels(self, link, purpose=Purpose.CONTROL):
        """Open a channel; return both ends."""
        ours = await link.open(purpose)
        _, _, theirs = await asyncio.wait_for(self.came.get(), 5)
        return ours, theirs


@asynccontextmanager
async def serving():
    served = Served()
    served.port = await served.server.start("127.0.0.1", 0, served.serve)
    try:
        yield served
    finally:
        await served.server.stop()


# Keys


def test_an_identity_is_made_once_and_is_private(tmp_path):
    path = tmp_path / "state" / "identity"
    old = os.umask(0)
    try:
        key = load_identity(path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["identity"]
    assert key.algorithm == b"ssh-ed25519"
    assert load_identity(path).public_data == key.public_data
    assert load_identity(tmp_path / "other").public_data != key.public_data


def test_a_half_written_identity_of_a_crash_is_replaced(tmp_path):
    (tmp_path / ".identity.new").write_bytes(b"half")
    key = load_identity(tmp_path / "identity")
    assert load_identity(tmp_path / "identity").public_data == key.public_data
    assert [entry.name for entry in tmp_path.iterdir()] == ["identity"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_an_identity_that_others_may_read_is_refused(tmp_path, mode):
    path = tmp_path / "identity"
    load_identity(path)
    path.chmod(mode)
    with pytest.raises(IdentityError, match=f"mode {mode:04o}.*chmod 600"):
        load_identity(path)


def test_what_is_no_ed25519_key_is_refused(tmp_path):
    path = tmp_path / "identity"
    for content in (b"", b"nonsense", HOST.export_public_key(), HOST.export_private_key()[:100]):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(IdentityError, match="not a usable private key"):
            load_identity(path)
    path.write_bytes(asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_private_key())
    with pytest.raises(IdentityError, match="must be an ed25519 key, not ecdsa"):
        load_identity(path)


def test_public_text_and_fingerprint_are_those_of_ssh(tmp_path):
    text = public_text(HOST)
    assert text.startswith("ssh-ed25519 AAAA")
    assert len(text.split()) == 2
    assert parse_public(text).public_data == HOST.public_data
    for wrong in ("", "ssh-ed25519", "ssh-ed25519 AAAA", "nonsense"):
        with pytest.raises(asyncssh.KeyImportError):
            parse_public(wrong)
    if shutil.which("ssh-keygen"):
        (tmp_path / "key.pub").write_text(text)
        shown = subprocess.check_output(["ssh-keygen", "-lf", tmp_path / "key.pub"], text=True)
        assert fingerprint(HOST) == shown.split()[1]


# Connecting


async def test_a_channel_carries_bytes_both_ways_to_their_ends():
    async with serving() as served:
        link = await served.link()
        ours, theirs = await served.channels(link, Purpose.VOLUME)
        await ours.send(b"abc")
        ours.finish()
        assert await theirs.receive() == b"abc"
        assert await theirs.receive() == b""
        assert await theirs.receive() == b""
        await theirs.send(b"def")
        theirs.finish()
        assert await ours.receive() == b"def"
        assert await ours.receive() == b""
        assert ours.sent_bytes == theirs.sent_bytes == 3
        await link.close()
        assert link.closed


async def test_the_purpose_and_the_name_of_the_peer_are_told():
    async with serving() as served:
        link = await served.link()
        for purpose in Purpose:
            await link.open(purpose)
            visitor, told, channel = await asyncio.wait_for(served.came.get(), 5)
            assert (visitor.peer, told, channel.peer) == ("peer", purpose, "peer")
        assert len(served.server.visitors) == 1
        assert served.server.unproven == 0


async def test_another_host_key_is_refused_with_both_fingerprints():
    async with serving() as served:
        with pytest.raises(WrongHostKey) as caught:
            await served.link(pinned=STRANGER)
        assert fingerprint(HOST) in str(caught.value)
        assert fingerprint(STRANGER) in str(caught.value)
        assert "--replace" in caught.value.hint
        assert served.came.empty()


async def test_a_key_that_is_not_known_is_refused():
    async with serving() as served:
        with pytest.raises(NotAuthorized, match="does not know this host's key") as caught:
            await served.link(identity=STRANGER)
        assert "xenmovectl peer add" in caught.value.hint
        assert not served.server.visitors
        served.peers[STRANGER.public_data] = "newcomer"
        link = await served.link(identity=STRANGER)
        assert not link.closed


async def test_a_peer_that_was_removed_is_refused():
    async with serving() as served:
        link = await served.link()
        ours, _ = await served.channels(link)
        del served.peers[PEER.public_data]
        served.server.drop("peer")
        with pytest.raises(LinkLost):
            await ours.receive()
        with pytest.raises(LinkError):
            await link.open(Purpose.CONTROL)
        with pytest.raises(NotAuthorized):
            await served.link()


async def test_a_connection_attempt_can_be_cancelled_at_any_moment():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    key = asyncssh.generate_private_key("ssh-ed25519")
    pinned = key.convert_to_public()
    cancelled = 0
    for turns in [turn for turn in range(60) for _ in range(10)]:
        attempt = asyncio.create_task(
            connect(
                "nobody", "127.0.0.1", port, identity=key, pinned=pinned, timeout=2, keepalive=5
            )
        )
        for _ in range(turns):
            await asyncio.sleep(0)
        if attempt.cancel():
            cancelled += 1
            with pytest.raises(asyncio.CancelledError):
                await attempt
        else:
            with pytest.raises(PeerUnreachable):
                await attempt
    assert cancelled > 100


async def test_a_cancellation_of_long_ago_does_not_end_an_attempt():
    """As one that a TaskGroup leaves behind when a task of it fails late."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    key = asyncssh.generate_private_key("ssh-ed25519")
    pinned = key.convert_to_public()
    asyncio.current_task().cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(0)
    try:
        with pytest.raises(PeerUnreachable):
            await connect(
                "nobody", "127.0.0.1", port, identity=key, pinned=pinned, timeout=2, keepalive=5
            )
    finally:
        asyncio.current_task().uncancel()


async def test_nobody_there_and_silence_are_told_apart_from_a_refusal():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    options = {"identity": PEER, "pinned": HOST, "timeout": 0.4, "keepalive": 30}
    with pytest.raises(
        PeerUnreachable, match=f"port {port}.*refused|Connect call failed"
    ) as caught:
        await connect("far", "127.0.0.1", port, **options)
    assert "firewall" in caught.value.hint
    with pytest.raises(PeerUnreachable) as unasked:
        await fetch_host_key("127.0.0.1", port, 5)
    assert str(unasked.value).endswith(": Connection refused")
    assert not any("Errno" in str(each.value) for each in (caught, unasked))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(PeerUnreachable, match="cannot connect to far"):
            await connect("far", *silent.getsockname(), **options)
        assert time.monotonic() - began < 3
        with pytest.raises(PeerUnreachable, match="cannot get the key"):
            await fetch_host_key(*silent.getsockname(), 0.3)


async def test_the_key_of_a_host_can_be_asked_for():
    async with serving() as served:
        key = await fetch_host_key("127.0.0.1", served.port, 5)
        assert key.public_data == HOST.public_data


# What is refused


@pytest.mark.parametrize("username", ["root", "", "XENMOVED", "xenmoved2"])
async def test_other_users_are_refused(username):
    async with serving() as served:
        with pytest.raises(asyncssh.PermissionDenied):
            await served.raw(username=username or "_")


async def test_other_ways_to_log_in_are_refused():
    async with serving() as served:
        for options in ({"password": "x"}, {"preferred_auth": "keyboard-interactive"}):
            with pytest.raises(asyncssh.PermissionDenied):
                await served.raw(key=STRANGER, **options)
        with pytest.raises(asyncssh.PermissionDenied):
            await asyncssh.connect(
                "127.0.0.1",
                served.port,
                username="xenmoved",
                client_keys=None,
                known_hosts=None,
                agent_path=None,
                config=None,
                preferred_auth="none",
            )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"command": "id"},
        {"term_type": "xterm"},
        {"subsystem": "sftp"},
        {"subsystem": "xenmoved"},
        {"subsystem": "xenmoved-control\0"},
        {"subsystem": "XENMOVED-CONTROL"},
        {"subsystem": "xenmoved-control", "term_type": "xterm"},
    ],
    ids=["shell", "exec", "pty", "sftp", "prefix", "nul", "case", "pty-and-control"],
)
async def test_only_the_subsystems_can_be_opened(options):
    async with serving() as served:
        connection = await served.raw()
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.create_session(asyncssh.SSHClientSession, **options)
        assert served.came.empty()
        await connection.create_session(
            asyncssh.SSHClientSession, subsystem="xenmoved-probe", encoding=None
        )
        assert served.came.qsize() == 1
        connection.abort()


async def test_every_forwarding_is_refused(tmp_path):
    async with serving() as served:
        connection = await served.raw()
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_connection("127.0.0.1", served.port)
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_unix_connection(str(tmp_path / "socket"))
        with pytest.raises(asyncssh.ChannelListenError):
            await connection.forward_remote_port("127.0.0.1", 0, "127.0.0.1", 1)
        with pytest.raises(asyncssh.ChannelListenError):
            await connection.forward_remote_path(str(tmp_path / "there"), str(tmp_path / "here"))
        for open_tunnel in (connection.open_tun, connection.open_tap):
            with pytest.raises(asyncssh.ChannelOpenError):
                await open_tunnel()
        assert list(tmp_path.iterdir()) == []
        connection.abort()


async def test_agent_x11_and_environment_are_not_taken():
    async with serving() as served:
        connection = await served.raw(agent_forwarding=False)
        seen = []
        original = Channel.connection_made
        Channel.connection_made = lambda self, chan: (seen.append(chan), original(self, chan))[1]
        try:
            await connection.create_session(
                asyncssh.SSHClientSession,
                subsystem="xenmoved-control",
                encoding=None,
                env={"LD_PRELOAD": "/evil.so"},
            )
        finally:
            Channel.connection_made = original
        (chan,) = seen
        assert chan.get_agent_path() is None
        assert chan.get_x11_display() is None
        assert "LD_PRELOAD" not in os.environ
        connection.abort()


SSH = shutil.which("ssh")


@pytest.mark.skipif(SSH is None, reason="needs the ssh client of OpenSSH")
@pytest.mark.parametrize(
    "arguments",
    [
        ["id"],
        ["-T"],
        ["-tt"],
        ["-s", "sftp"],
        ["-W", "127.0.0.1:22"],
        ["-N", "-R", "0:127.0.0.1:1", "-o", "ExitOnForwardFailure=yes"],
    ],
    ids=lambda arguments: "".join(arguments[:1]),
)
async def test_openssh_gets_nothing_else(tmp_path, arguments):
    key = tmp_path / "key"
    key.write_bytes(PEER.export_private_key())
    key.chmod(0o600)
    async with serving() as served:
        options = ["-F", "none", "-i", key, "-p", served.port, "-l", "xenmoved"]
        for option in (
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "StrictHostKeyChecking=no",
            f"UserKnownHostsFile={tmp_path / 'known'}",
            "LogLevel=ERROR",
        ):
            options += ["-o", option]
        flags = arguments if arguments[0].startswith("-") and arguments[0] != "-s" else []
        rest = [] if flags else arguments
        if rest[:1] == ["-s"]:
            flags, rest = ["-s"], rest[1:]
        words = [SSH, *options, *flags, "127.0.0.1", *rest]
        process = await asyncio.create_subprocess_exec(
            *map(str, words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, errors = await asyncio.wait_for(process.communicate(), 10)
        assert process.returncode != 0, errors
        assert out == b""
        assert served.came.empty()


@pytest.mark.skipif(SSH is None, reason="needs the ssh client of OpenSSH")
async def test_openssh_can_open_a_subsystem(tmp_path):
    """So that the refusals above are not those of a client that never got in."""
    key = tmp_path / "key"
    key.write_bytes(PEER.export_private_key())
    key.chmod(0o600)
    async with serving() as served:
        process = await asyncio.create_subprocess_exec(
            *[SSH, "-F", "none", "-i", str(key), "-p", str(served.port), "-o", "BatchMode=yes"],
            *["-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={tmp_path / 'known'}"],
            *["-s", "xenmoved@127.0.0.1", "xenmoved-control"],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        _, _, channel = await asyncio.wait_for(served.came.get(), 10)
        await channel.send(b"hello")
        assert await process.stdout.readexactly(5) == b"hello"
        channel.close()
        process.stdin.close()
        await asyncio.wait_for(process.wait(), 10)


async def test_a_connection_has_a_limited_number_of_channels(monkeypatch, caplog):
    monkeypatch.setattr(server_module, "MAX_CHANNELS", 5)
    assert MAX_CHANNELS > 64 + 2  # every volume of a guest, its memory and a dialogue
    async with serving() as served:
        link = await served.link()
        channels = [await served.channels(link) for _ in range(5)]
        with caplog.at_level(logging.WARNING), pytest.raises(LinkError, match="refuses"):
            await link.open(Purpose.CONTROL)
        assert "peer has 5 channels open" in caplog.text
        channels[0][0].close()
        await asyncio.wait_for(channels[0][1].wait_closed(), 5)
        await served.channels(link)


# Connections that prove nothing


async def silent_connections(port, count, source="127.0.0.1"):
    """Open TCP connections that say nothing; return (reader, writer) of each."""
    found = []
    for _ in range(count):
        found.append(await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0)))
    return found


async def until(condition, what, timeout=5.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.01)


async def ended(reader):
    """Whether the server has closed a connection."""
    try:
        async with asyncio.timeout(0.05):
            while await reader.read(4096):
                pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


async def test_unproven_connections_are_capped_and_do_not_keep_others_out(caplog):
    async with serving() as served:
        proven = await served.link()
        silent = await silent_connections(served.port, MAX_UNPROVEN + 4)
        await until(lambda: served.server.unproven == MAX_UNPROVEN, "the cap")
        await asyncio.sleep(0.05)
        assert [await ended(reader) for reader, _ in silent] == [True] * 4 + [False] * MAX_UNPROVEN
        assert "too many connections without a key" in caplog.text
        await served.channels(proven)
        await served.link()
        # The address that has most of them pays, however old another's is.
        slow = (await silent_connections(served.port, 1, "127.0.0.3"))[0]
        flood = await silent_connections(served.port, 3 * MAX_UNPROVEN, "127.0.0.2")
        await until(lambda: served.server.unproven <= MAX_UNPROVEN, "the cap")
        assert not await ended(slow[0])
        for _, writer in [*silent, *flood, slow]:
            writer.close()
        await until(lambda: served.server.unproven == 0, "their end")


async def test_a_connection_that_proves_nothing_is_ended(monkeypatch):
    monkeypatch.setattr(server_module, "LOGIN_TIMEOUT", 0.3)
    async with serving() as served:
        ((reader, _),) = await silent_connections(served.port, 1)
        await until(lambda: served.server.unproven == 1, "the connection")
        await until(lambda: served.server.unproven == 0, "its end")
        assert await ended(reader)


async def test_refused_logins_are_not_counted_for_ever():
    async with serving() as served:
        for _ in range(MAX_UNPROVEN + 2):
            with pytest.raises(NotAuthorized):
                await served.link(identity=STRANGER)
        await until(lambda: served.server.unproven == 0, "their end")
        await served.link()


# Ends


async def test_the_loss_of_the_connection_wakes_whoever_waits():
    async with serving() as served:
        link = await served.link()
        ours, theirs = await served.channels(link)
        receiving = asyncio.create_task(theirs.receive())
        opening = asyncio.create_task(ours.receive())
        await asyncio.sleep(0)
        link.abort()
        for task in (receiving, opening):
            with pytest.raises(LinkLost, match="lost the channel"):
                await asyncio.wait_for(task, 5)
        await theirs.wait_closed()
        with pytest.raises(LinkLost):
            await theirs.send(b"x")
        with pytest.raises(LinkLost):
            await link.open(Purpose.CONTROL)
        assert link.closed


async def test_a_sender_that_waits_is_told_of_the_end():
    async with serving() as served:
        link = await served.link()
        ours, _ = await served.channels(link)

        async def send_for_ever():
            while True:
                await ours.send(bytes(256 * 1024))

        sending = asyncio.create_task(send_for_ever())
        await until_it_waits(ours)
        served.server.drop("peer")
        with pytest.raises(LinkLost):
            await asyncio.wait_for(sending, 5)


async def test_what_came_before_the_end_is_not_lost():
    async with serving() as served:
        link = await served.link()
        ours, theirs = await served.channels(link)
        await ours.send(b"last words")
        await asyncio.sleep(0.05)
        link.abort()
        await theirs.wait_closed()
        assert await theirs.receive() == b"last words"
        with pytest.raises(LinkLost):
            await theirs.receive()


# Back-pressure


async def until_it_waits(channel):
    """Wait until a sender that could send for ever has to wait."""
    async with asyncio.timeout(10):
        sent = 0
        while channel.sent_bytes == 0 or channel.sent_bytes != sent:
            sent = channel.sent_bytes
            await asyncio.sleep(0.2)


def resident():
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_a_slow_reader_holds_up_a_fast_sender():
    """Both ends in this process: together they hold no more than buffers and windows."""
    total, piece = 500 * 2**20, bytes(256 * 1024)
    async with serving() as served:
        ours, theirs = await served.channels(await served.link())
        await ours.send(piece)
        await theirs.receive()
        before = highest = resident()
        ahead = 0
        received = len(piece)

        async def send_all():
            while ours.sent_bytes < total:
                await ours.send(piece)
            ours.finish()

        async with asyncio.TaskGroup() as group:
            group.create_task(send_all())
            await asyncio.sleep(0.3)
            pieces = 0
            while data := await theirs.receive():
                received += len(data)
                pieces += 1
                ahead = max(ahead, ours.sent_bytes - received)
                highest = max(highest, resident())
                if received < 60 * 2**20 or pieces % 40 == 0:
                    await asyncio.sleep(0.002)
        assert received >= total
        assert ahead < 3 * WINDOW + 4 * 2**20, f"{ahead >> 20} MiB on the way"
        assert highest - before < 40 * 2**20, f"grew by {(highest - before) >> 20} MiB"


async def test_a_peer_that_opens_a_wide_window_and_reads_nothing(monkeypatch):
    """It gets no more than what is under way, and the sender learns when it goes."""
    monkeypatch.setattr(server_module, "WINDOW", 2**31)
    monkeypatch.setattr(server_module, "_WINDOWS", 2**34)
    async with serving() as served:
        ours, theirs = await served.channels(await served.link())
        theirs._channel.get_connection()._transport.pause_reading()

        async def send_for_ever():
            while ours.sent_bytes < 500 * 2**20:
                await ours.send(bytes(256 * 1024))

        sending = asyncio.create_task(send_for_ever())
        await until(lambda: ours._flow.full, "back-pressure", 10)
        await asyncio.sleep(0.3)
        assert ours.sent_bytes < 50 * 2**20
        theirs._channel.get_connection().abort()
        with pytest.raises(LinkLost):
            await asyncio.wait_for(sending, 5)


async def test_the_windows_of_one_peer_have_a_bound():
    async with serving() as served:
        links = [await served.link() for _ in range(2)]
        windows = [(await served.channels(link))[1].window for link in links * 64]
        assert windows[:9] == [WINDOW] * 9 > windows[1:10]
        assert windows == sorted(windows, reverse=True)
        assert sum(windows) < 72 * 2**20
        other = await served.link(identity=HOST)
        assert (await served.channels(other))[1].window == WINDOW


async def test_a_reader_that_stops_stops_the_sender_and_not_its_neighbours():
    async with serving() as served:
        link = await served.link()
        stuck, unread = await served.channels(link, Purpose.VOLUME)
        ours, theirs = await served.channels(link)

        async def send_for_ever():
            while True:
                await stuck.send(bytes(64 * 1024))

        sending = asyncio.create_task(send_for_ever())
        await until_it_waits(stuck)
        sent = stuck.sent_bytes
        assert sent < 4 * WINDOW
        for number in range(50):
            await ours.send(bytes([number]))
            assert await asyncio.wait_for(theirs.receive(), 1) == bytes([number])
        assert stuck.sent_bytes == sent
        taken = 0
        while taken < sent:
            taken += len(await asyncio.wait_for(unread.receive(), 5))
        await until(lambda: stuck.sent_bytes > sent, "the sender going on")
        sending.cancel()
