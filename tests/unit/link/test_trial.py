"""What is no longer as it was in asyncssh, or cryptography, is noticed before it is relied on."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh import encryption
from asyncssh.channel import SSHChannel
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.support.wires import wired
from xenmoved.link import bulk as bulk_module
from xenmoved.link import trial
from xenmoved.link.bulk import Bulk

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[3]
Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def way(monkeypatch: Patch) -> None:
    """As at the start of a daemon."""
    monkeypatch.setattr(Bulk, "refused", "asyncssh was not tried")


async def test_it_is_used_with_the_asyncssh_that_is_here() -> None:
    assert await trial.choose() is None
    assert Bulk.refused is None
    async with wired(False, False) as (near, _):
        Bulk.carry(near.connection)
        assert Bulk.of(near.connection) is not None


TRANSFER = """
import asyncio, asyncssh
from tests.support.trusting import Keys
from xenmoved.link import trial
from xenmoved.link.bulk import Bulk
from xenmoved.link.channel import Purpose
from xenmoved.link.client import connect
from xenmoved.link.identity import parse_public, public_text
from xenmoved.link.server import LinkServer

HOST, PEER = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
DATA = bytes(range(256)) * 1024


async def both(channel):
    async def send():
        for _ in range(40):
            await channel.send(b"head", DATA)
        channel.finish()

    sending, came = asyncio.create_task(send()), bytearray()
    while piece := await channel.receive():
        came += piece
    await sending
    assert came == (b"head" + DATA) * 40, len(came)


async def main():
    reason = await trial.choose()
    assert reason == Bulk.refused
    served = asyncio.get_running_loop().create_future()

    def serve(visitor, purpose, channel):
        served.set_result(asyncio.create_task(both(channel)))

    server = LinkServer(HOST, Keys({PEER.public_data: "peer"}), 30)
    port = await server.start("127.0.0.1", 0, serve)
    pinned = parse_public(public_text(HOST))
    link = await connect(
        "host", "127.0.0.1", port, identity=PEER, pinned=pinned, timeout=20, keepalive=30
    )
    assert (Bulk.of(link._connection) is None) == (reason is not None)
    async with asyncio.timeout(30):
        await both(await link.open(Purpose.VOLUME))
        await (await served)
    await link.close()
    await server.stop()
    print(reason)


asyncio.run(main())
"""


def _with_names(folder: Path, old: str, new: str) -> str:
    """Transfer something both ways with an asyncssh that calls something otherwise."""
    shutil.copytree(Path(asyncssh.__file__).parent, folder / "asyncssh")
    for file in (folder / "asyncssh").rglob("*.py"):
        text = file.read_text()
        file.write_text(re.sub(rf"\b{old}\b", new, text))
    done = subprocess.run(
        [sys.executable, "-c", TRANSFER],
        env={"PYTHONPATH": f"{folder}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_these_tests_transfer_is_transferred_past_asyncssh(tmp_path: Path) -> None:
    assert _with_names(tmp_path, "nothing_of_this_name", "nothing") == "None"


NAMES = [*trial._CONNECTION, *trial._CONNECTION_CALLS, *trial._CHANNEL, *trial._CHANNEL_CALLS]
ELSEWHERE = {
    "_send_buf",  # link/bounds.py
    "data_received",  # what asyncio calls it
    "internal_error",
}


@pytest.mark.sampled
@pytest.mark.parametrize(
    "name", ["GCMEncryption", "_iv", "_key", "_update_iv", *sorted({*NAMES} - ELSEWHERE)]
)
def test_a_name_that_is_missing_leaves_all_to_asyncssh(tmp_path: Path, name: str) -> None:
    reason = _with_names(tmp_path, name, f"{name}_now")
    assert "is not as expected" in reason
    assert name in reason


def _no_bytes(patch: Patch) -> None:
    patch.setattr(SSHChannel, "_accept_data", lambda *_: None)


def _other_bytes(patch: Patch) -> None:
    accept = SSHChannel._accept_data
    patch.setattr(SSHChannel, "_accept_data", lambda self, data: accept(self, bytes(len(data))))


class _NeverInto:
    """AESGCM as it was before it could write into a buffer."""

    def __init__(self, key: bytes) -> None:
        self.decrypt = AESGCM(key).decrypt


def _older_cryptography(patch: Patch) -> None:
    patch.setattr(bulk_module, "AESGCM", _NeverInto)


def _other_cipher(patch: Patch) -> None:
    class Other(encryption.GCMEncryption):
        pass

    for name in ("aes128-gcm", "aes256-gcm"):
        known = encryption._enc_params
        patch.setitem(known, f"{name}@openssh.com".encode(), (Other, name))


CHANGES: dict[str, tuple[Callable[[Patch], None], str]] = {
    "no bytes": (_no_bytes, "other bytes came"),
    "other bytes": (_other_bytes, "other bytes came"),
    "cryptography": (_older_cryptography, ""),
    "cipher": (_other_cipher, "another cipher"),
}


@pytest.mark.parametrize(("change", "said"), CHANGES.values(), ids=CHANGES)
async def test_what_works_in_another_way_is_not_used(
    monkeypatch: Patch, change: Callable[[Patch], None], said: str
) -> None:
    monkeypatch.setattr(trial, "_LIMIT", 3.0)
    change(monkeypatch)
    reason: Any = await trial.choose()
    assert reason is not None and said in reason
    assert Bulk.refused == reason
