"""A peer that does not keep to the protocol, with a key of its own or without any."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
from blake3 import blake3

from protocol.blocksync import RoundDigest
from protocol.fingerprints import BLOCK_SIZE
from protocol.frames import MAX_PAYLOAD, FrameDecoder, Kind, encode_zero
from protocol.messages import (
    PEER,
    Accepted,
    Action,
    Attach,
    Begin,
    BeginRound,
    EndRound,
    GuestOffer,
    HandOver,
    Hello,
    HypervisorOffer,
    ImageFormat,
    NicOffer,
    Offer,
    OfferedMode,
    Receipt,
    Receiving,
    Seal,
    VolumeOffer,
    Working,
    greeting,
)
from tests.support.frames import encode_data, encode_memory
from xenmoved.control.peer_api import AddPeer
from xenmoved.link.channel import Channel, Purpose
from xenmoved.link.client import PeerLink, connect
from xenmoved.link.errors import LinkLost
from xenmoved.link.identity import parse_public, public_text
from xenmoved.sandbox.pair import SandboxHost
from xenmoved.toolstack.domains import size_of

PATIENCE = 15.0


class Talk:
    """A channel on which messages are said and heard, with no state to keep anybody honest."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._decoder = FrameDecoder(list(Kind))

    async def say(self, *messages: object) -> None:
        """Send messages, or bytes as they are."""
        for message in messages:
            data = message if isinstance(message, bytes) else PEER.encode(message)
            await self.channel.send(data)

    async def hear(self, patience: float = PATIENCE) -> Any:
        """Return the next message, None at the end of the channel."""
        async with asyncio.timeout(patience):
            while (frame := self._decoder.next_frame()) is None:
                try:
                    data = await self.channel.receive()
                except LinkLost:
                    return None
                if not data:
                    return None
                self._decoder.feed(data)
        return PEER.decode(frame.untrusted_body)

    async def ask(self, message: object, patience: float = PATIENCE) -> Any:
        """Send a message and return what comes next, but for word that it is worked on."""
        await self.say(message)
        while isinstance(answer := await self.hear(patience), Working):
            pass
        return answer

    async def ask_and_end(self, message: object) -> list[Any]:
        """Send a message and return what is said before the end of the channel."""
        await self.say(message)
        return await self.ended()

    async def ended(self, patience: float = PATIENCE) -> list[Any]:
        """Wait for the end of the channel; return what was said before it."""
        heard = []
        while (message := await self.hear(patience)) is not None:
            heard.append(message)
        return heard


class Stranger:
    """Connects to a daemon; with a key that the daemon knows after `introduce`."""

    def __init__(self, host: SandboxHost, name: str) -> None:
        self.host = host
        self.name = name
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self._host_key = parse_public(host.identity().key)

    def introduce(self, **allow: Any) -> None:
        """Have the daemon know this peer."""
        request: dict[str, Any] = {
            "name": self.name,
            "address": "127.0.0.1",
            "port": 9,
            "key": public_text(self.key),
            "actions": (Action.MIGRATE, Action.SYNC),
            "pools": ("images",),
            "guests": ("*",),
            "quota": None,
            "memory": None,
            "vcpus": None,
            "overwrite": False,
            "replace": True,
            **allow,
        }
        answer = self.host.ask(AddPeer(**request))
        assert type(answer).__name__ == "Done", answer

    async def connect(self, timeout: float = 5.0) -> PeerLink:
        """Make a connection of its own."""
        return await connect(
            self.host.name,
            "127.0.0.1",
            self.host.port,
            identity=self.key,
            pinned=self._host_key,
            timeout=timeout,
            keepalive=60,
        )

    @asynccontextmanager
    async def linked(self) -> AsyncIterator[PeerLink]:
        """Have a connection that is dropped at the end."""
        link = await self.connect()
        try:
            yield link
        finally:
            link.abort()

    async def ping(self, timeout: float = 2.0) -> float:
        """Behave: connect and greet, all within `timeout`; returns the seconds it took.

        A greeting is what the daemon answers by itself, without its toolstack.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.timeout(timeout), self.linked() as link:
            await greeted(link)
        return loop.time() - began


async def talk(link: PeerLink, purpose: Purpose = Purpose.CONTROL) -> Talk:
    """Open a channel."""
    return Talk(await link.open(purpose))


async def greeted(link: PeerLink) -> Talk:
    """Open a control channel and greet."""
    control = await talk(link)
    answer = await control.ask(greeting("hostile 1", "hostile"))
    assert isinstance(answer, Hello), answer
    return control


def new_migration() -> str:
    """Return a fresh id."""
    return secrets.token_hex(16)


def volume_offer(
    name: str, size: int, vdev: str | None = None, path: str | None = None
) -> VolumeOffer:
    """Offer a volume for the pool `images`; a disk of a guest is at `path` at the source."""
    return VolumeOffer(
        name, size, vdev, "images", None, None, ImageFormat.RAW, size, 512, path, True, None
    )


def sync_offer(*volumes: VolumeOffer) -> Offer:
    """Offer volumes without a guest."""
    return Offer(Action.SYNC, OfferedMode.SAVE, False, None, tuple(volumes))


class Guest:
    """A guest that exists only as a saved image, taken from an emulated one."""

    def __init__(self, image: bytes) -> None:
        self.image = image
        self.config = config_of(image)
        self.name: str = self.config["c_info"]["name"]
        self.uuid: str = self.config["c_info"]["uuid"]
        self.size = size_of(self.config["b_info"])
        self.nics = tuple(
            NicOffer(nic.get("mac"), nic.get("bridge"), nic.get("script"))
            for nic in self.config.get("nics", ())
        )

    def named(self, name: str) -> Guest:
        """Return the same guest under another name."""
        config = json.loads(json.dumps(self.config))
        config["c_info"]["name"] = name
        digits = blake3(name.encode()).hexdigest()
        config["c_info"]["uuid"] = "-".join(
            (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32])
        )
        return Guest(with_config(self.image, config))

    def offer(self, size: int, vdevs: Sequence[str] = ("xvda",), toolstack: str = "xl") -> Offer:
        """Offer it with disks of one size."""
        guest = GuestOffer(
            name=self.name,
            uuid=self.uuid,
            kind="pv",
            toolstack=toolstack,
            hypervisor=HypervisorOffer("4.17.3", ()),
            size=self.size,
            nics=self.nics,
            config=None,
            autostart=False,
            boot_order=None,
            wish=None,
            bridges={},
            shared=(),
            ejected=(),
        )
        said = {disk["vdev"]: disk.get("pdev_path") for disk in self.config["disks"]}
        volumes = tuple(
            volume_offer(f"{self.name}-{vdev}", size, vdev, said.get(vdev) or f"/images/{vdev}")
            for vdev in vdevs
        )
        return Offer(Action.MIGRATE, OfferedMode.SAVE, False, guest, volumes)


def config_of(image: bytes) -> dict[str, Any]:
    """Return the configuration in a saved image."""
    (length,) = struct.unpack_from("=I", image, 48)
    config: dict[str, Any] = json.loads(image[52 : 52 + length].rstrip(b"\0"))
    return config


def with_config(image: bytes, config: dict[str, Any]) -> bytes:
    """Return a saved image with another configuration."""
    (rest,) = struct.unpack_from("=I", image, 44)
    blob = json.dumps(config).encode() + b"\0"
    head = image[:44] + struct.pack("=II", len(blob) + 4, len(blob))
    return head + blob + image[48 + rest :]


class Transfer:
    """A migration by hand: every step can be left out, done twice or done wrong."""

    def __init__(self, link: PeerLink, control: Talk, offer: Offer) -> None:
        self.link = link
        self.control = control
        self.offer = offer
        self.migration = new_migration()

    async def begin(self, *, keep_partial: bool = False) -> Any:
        """Say Begin; return the answer."""
        return await self.control.ask(Begin(self.migration, self.offer, keep_partial))

    async def attached(self, volume: int = 0, purpose: Purpose = Purpose.VOLUME) -> Talk:
        """Open a channel for a volume or for memory."""
        bulk = await talk(self.link, purpose)
        await bulk.say(Attach(self.migration, volume))
        return bulk

    async def copy(self, volume: int = 0, head: bytes = b"") -> None:
        """Do one right round on a volume, and end its channel: zeros behind a `head` of a block."""
        bulk = await self.attached(volume)
        size, digest, said = self.offer.volumes[volume].size, RoundDigest(), []
        if head:
            block = head.ljust(BLOCK_SIZE, b"\0")
            digest.add_data(0, len(block), blake3(block).digest())
            said.append(encode_data(0, block))
        start = len(said) * BLOCK_SIZE
        digest.add_zero(start, size - start)
        claim = EndRound(1, start, size - start, 1 + len(said), digest.value())
        await bulk.say(BeginRound(1, False), *said, encode_zero(start, size - start), claim)
        receipt = await bulk.hear()
        assert isinstance(receipt, Receipt), receipt
        bulk.channel.finish()

    async def hand_over(self) -> None:
        """Do everything right until the target waits for the memory."""
        answer = await self.begin()
        assert isinstance(answer, Accepted), answer
        for volume in range(len(self.offer.volumes)):
            await self.copy(volume)
        assert self.offer.guest is not None
        answer = await self.control.ask(HandOver(self.offer.guest.size))
        assert isinstance(answer, Receiving), answer

    async def send_memory(self, image: bytes) -> Seal:
        """Send an image to its end; return the seal that belongs to it."""
        memory = await self.attached(0, Purpose.MEMORY)
        for start in range(0, len(image), MAX_PAYLOAD):
            await memory.say(encode_memory(image[start : start + MAX_PAYLOAD]))
        memory.channel.finish()
        return Seal(len(image), blake3(image).digest())


@asynccontextmanager
async def transferring(peer: Stranger, offer: Offer) -> AsyncIterator[Transfer]:
    """Have a connection with a greeted control channel; all of it is dropped at the end."""
    async with peer.linked() as link:
        yield Transfer(link, await greeted(link), offer)


def memory_of(process: int, field: str = "VmHWM") -> int:
    """Return the memory of a process, by default the highest since `forget_peak`, in bytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field}")


def forget_peak(process: int) -> None:
    """Start the highest mark anew from what the process has now."""
    descriptor = os.open(f"/proc/{process}/clear_refs", os.O_WRONLY)
    try:
        os.write(descriptor, b"5")
    finally:
        os.close(descriptor)
