"""Who has no more than the key with which a migration began, and wants more than to settle it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import asyncssh
import pytest

from protocol.handover import Word
from protocol.messages import (
    Abort,
    Attach,
    Commit,
    Failed,
    Fate,
    Hello,
    Inquire,
    Ping,
    Recall,
)
from tests.support.dom0 import QUIET, Dom0, image, unique
from tests.support.fleets import Fleet
from tests.support.hostile import Talk, talk
from tests.support.journals import query
from xenmoved.control.peer_api import ListPeers
from xenmoved.link.channel import Purpose
from xenmoved.link.client import PeerLink, connect
from xenmoved.link.errors import LinkError, NotAuthorized
from xenmoved.link.identity import load_identity, parse_public
from xenmoved.migration.hello import hello

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet[Dom0]]:
    """Three hosts, of which host-a and host-c have sent a guest to host-b; host-a is revoked."""
    fleet = Fleet[Dom0](tmp_path_factory.mktemp("fleet"))
    try:
        for name in ("host-a", "host-b", "host-c"):
            fleet.add(Dom0(fleet.root, name))
        fleet.list_hosts(fleet.hosts)
        fleet.hand_out()
        for name in fleet.hosts:
            fleet.enroll(name)
        for name in ("host-a", "host-c"):
            host, guest = fleet.hosts[name], unique("guest")
            host.boot(guest, [image(host.images / f"{guest}-root", 4, data=1)], extra=QUIET)
            host.migrate(guest, "host-b")
        fleet.authority.revoke("host-a")
        fleet.hand_out()
        yield fleet
    finally:
        fleet.close()


def migration_of(host: Dom0) -> str:
    """Return the migration that left a host."""
    [(migration,)] = query(host, "SELECT migration FROM outbound")
    return str(migration)


async def settler(target: Dom0, key: asyncssh.SSHKey) -> PeerLink:
    """Connect to host-b with a key alone."""
    return await connect(
        "host-b",
        "127.0.0.1",
        target.port,
        identity=key,
        pinned=parse_public(target.identity().key),
        settling=True,
        timeout=5,
        keepalive=30,
    )


@asynccontextmanager
async def settling(fleet: Fleet[Dom0], name: str = "host-a") -> AsyncIterator[PeerLink]:
    """Connect to host-b with the key of a host alone."""
    key = load_identity(fleet.hosts[name].folder / "state/identity")
    link = await settler(fleet.hosts["host-b"], key)
    try:
        yield link
    finally:
        link.abort()


async def greet(said: Talk) -> None:
    """Greet as host-c."""
    answer = await said.ask(hello("host-c"))
    assert isinstance(answer, Hello), answer


async def test_it_learns_the_fate_of_what_it_began(fleet: Fleet[Dom0]) -> None:
    migration = migration_of(fleet.hosts["host-a"])
    async with settling(fleet) as link:
        for question in (
            Inquire(migration, None, "guest"),
            Commit(migration),
            Abort(migration, "for no reason"),
        ):
            said = await talk(link)
            await greet(said)
            answer = await said.ask(question)
            assert isinstance(answer, Fate), answer
            assert answer.word is Word.STARTED
    (row,) = (one for one in fleet.hosts["host-b"].ask(ListPeers()).peers if one.name == "host-a")
    assert not row.connected_from, "it is not taken for the peer"


async def test_it_learns_nothing_else_and_begins_nothing(fleet: Fleet[Dom0]) -> None:
    own, others = (migration_of(fleet.hosts[name]) for name in ("host-a", "host-c"))
    async with settling(fleet) as link:
        for question in (
            Ping(),
            Recall(own),
            Inquire(others, None, "guest"),
            Commit(others),
            Abort(others, "harm"),
            Inquire(secrets.token_hex(16), None, "guest"),
        ):
            said = await talk(link)
            await greet(said)
            answer = await said.ask(question)
            assert isinstance(answer, Failed), (question, answer)
            assert answer.problem.code in ("only-settling", "protocol"), answer


@pytest.mark.parametrize("purpose", [Purpose.VOLUME, Purpose.MEMORY, Purpose.PROBE])
async def test_it_opens_no_other_channel(fleet: Fleet[Dom0], purpose: Purpose) -> None:
    async with settling(fleet) as link:
        said = await talk(link, purpose)
        try:
            await said.say(Attach(migration_of(fleet.hosts["host-a"]), 0))
        except LinkError:
            return
        assert await said.hear() is None


async def test_a_key_with_which_nothing_began_is_nobodys(fleet: Fleet[Dom0]) -> None:
    target = fleet.hosts["host-b"]
    for key in (
        asyncssh.generate_private_key("ssh-ed25519"),
        load_identity(target.folder / "state/identity"),
    ):
        with pytest.raises(NotAuthorized):
            await settler(target, key)


async def test_it_survives_a_restart_of_the_daemon(fleet: Fleet[Dom0]) -> None:
    target = fleet.hosts["host-b"]
    await asyncio.to_thread(target.stop)
    await asyncio.to_thread(target.start)
    async with settling(fleet) as link:
        said = await talk(link)
        await greet(said)
        answer = await said.ask(Inquire(migration_of(fleet.hosts["host-a"]), None, "guest"))
        assert isinstance(answer, Fate)
        assert answer.word is Word.STARTED
    assert "Traceback" not in target.log()
