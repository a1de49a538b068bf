"""How much of this host one peer may take: domains that run, and what is started at boot."""

import time
from contextlib import contextmanager
from dataclasses import replace

import pytest

from protocol.handover import Word
from protocol.messages import GuestSize, Mode, Refused
from tests.integration.test_hostile_guest import sent, with_file
from tests.integration.test_hostile_ids import an_outbound, write_down
from tests.integration.test_hostile_peer import MIB, QUICKLY, SIZE, Target, make_image, saved
from tests.support import preloaded
from tests.support.hostile import Stranger, greeted, new_migration
from xenmoved.control.api import ListJobs
from xenmoved.sandbox.pair import SandboxHost

__all__ = ["saved"]  # fixtures

FEW = " ".join(
    f"xenmoved.migration.target.guests_left.{name}=2"
    for name in ("MOST_GUESTS", "MOST_BARE_GUESTS")
)


@pytest.mark.parametrize("with_files", [True, False], ids=["with files", "without files"])
async def test_domains_of_one_peer_are_bounded(tmp_path, saved, with_files):
    launcher = preloaded.launcher("tests.support.faulty_daemon")
    host = Target.__new__(Target)
    host.host = SandboxHost(tmp_path, "target", launcher=launcher)
    host.host.start(XENMOVED_LIMITS=f"{QUICKLY} {FEW}")
    try:
        host.evil = Stranger(host.host, "evil")
        host.evil.introduce()
        for number in range(3):
            one = saved.named(f"many{number}")
            offer = with_file(one, "memory = 2\n") if with_files else one.offer(SIZE)
            said = await sent(host, offer, one.image)
            if number < 2:
                assert said.word is Word.STARTED, said
        assert isinstance(said, Refused), said
        assert [problem.code for problem in said.problems] == ["guests-off"]
        # It may bring another one where one of them ended.
        host.host.xen.xl("destroy", "many0")
        said = await sent(host, offer, one.image)
        assert isinstance(said, Refused) is with_files, said
    finally:
        host.host.close()


@contextmanager
def with_operators_guest(root, text="memory = 8192\n"):
    """A target of 16 GiB that starts a guest of its operator's at boot."""
    host = Target.__new__(Target)
    launcher = preloaded.launcher("tests.support.faulty_daemon")
    host.host = SandboxHost(root, "target", launcher=launcher)
    folder = host.host.folder / "xen"
    (folder / "auto").mkdir(parents=True, exist_ok=True)
    disk = make_image(host.host.folder / "operators-disk", 1)
    text = f"name = 'operators'\n{text}disk = ['{disk},raw,xvda,w']\n"
    (folder / "operators.cfg").write_text(text)
    (folder / "auto" / "00-operators.cfg").symlink_to("../operators.cfg")
    host.host.start(XENMOVED_LIMITS=QUICKLY)
    try:
        host.evil = Stranger(host.host, "evil")
        host.evil.introduce()
        yield host, folder
    finally:
        host.host.close()


def at_boot(folder):
    """Return what is started at boot beside the operator's."""
    entries = sorted(path.name for path in (folder / "auto").iterdir())
    assert "00-operators.cfg" in entries
    return [entry for entry in entries if entry != "00-operators.cfg"]


async def sent_off(host, one, text, size, kind="pv"):
    """Have a guest sent that is off, and is to be started at boot before all others."""
    offer = with_file(one, text, size=size, nics=(), autostart=True)
    guest = replace(offer.guest, boot_order="0-", kind=kind)
    fate = await sent(host, replace(offer, guest=guest, mode=Mode.COLD), b"")
    assert fate.word is Word.STARTED, fate


async def test_what_a_peer_has_started_at_boot_leaves_room_for_the_operators(tmp_path, saved):
    """Guests that are off, each of a size that is allowed, to be started before all others."""
    size = GuestSize(4096 * MIB, 4096 * MIB, 0, 1, 1)
    with with_operators_guest(tmp_path, "memory = 4096\n") as (host, folder):
        for number in range(4):
            await sent_off(host, saved.named(f"boot{number}"), "memory = 4096\n", size)
        assert 1 < len(at_boot(folder)) < 4, "16 GiB are not enough for all"
        assert "boot3 is not started at boot on target" in host.host.log()


TRACES = "vmtrace_buf_kb = 65536\n"
OF_TRACES = GuestSize(64 * MIB, 64 * MIB, 8500 * MIB, 128, 128)


@pytest.mark.parametrize(
    ("text", "kind", "size"),
    [
        ("maxmem = 9000\n", "pv", GuestSize(9000 * MIB, 9000 * MIB, 0, 1, 1)),
        ("maxmem = 9000\n", "pv", GuestSize(0, 9000 * MIB, 0, 1, 1)),
        ("memory = 64\nmaxmem = 1500000\n", "hvm", GuestSize(64 * MIB, 1500000 * MIB, 0, 1, 1)),
        *(
            (f"memory = 64\nvcpus = 128\nmaxvcpus = 0\n{TRACES}", kind, OF_TRACES)
            for kind in ("hvm", "pv")
        ),
    ],
    ids=["maxmem", "announced as before", "shadow memory", "traces", "traces of pv"],
)
async def test_what_a_text_leaves_out_is_weighed(tmp_path, saved, text, kind, size):
    with with_operators_guest(tmp_path) as (host, folder):
        said = f"type = '{kind}'\n{text}"
        await sent_off(host, saved.named("large"), said, size, kind)
        assert at_boot(folder) == []
        assert "large is not started at boot on target: it takes" in host.host.log()


async def test_what_xm_would_build_as_another_type_waits_for_its_operator(tmp_path, saved):
    """xm knows no `type`: it builds an HVM guest, with shadow memory by `maxmem`."""
    size = GuestSize(64 * MIB, 1500000 * MIB, 0, 1, 1)
    text = "type = 'pv'\nbuilder = 'hvm'\nmemory = 64\nmaxmem = 1500000\n"
    with with_operators_guest(tmp_path) as (host, folder):
        offer = with_file(saved.named("two"), text, size=size, nics=(), autostart=True)
        said = await sent(host, replace(offer, mode=Mode.COLD), b"")
        assert isinstance(said, Refused) or (folder / "two.cfg.received").exists(), said
        assert at_boot(folder) == []
        assert not (folder / "two.cfg").exists()


@pytest.mark.parametrize(
    ("had", "entry", "comes_back"),
    [(9000, False, False), (64, True, False), (9000, True, True)],
    ids=["had no entry", "was smaller", "as it was"],
)
async def test_a_guest_returns_as_it_was_started_at_boot(tmp_path, saved, had, entry, comes_back):
    with with_operators_guest(tmp_path) as (host, folder):
        one = saved.named("small")
        disk = f"{host.host.images}/small-xvda"
        text = (
            f"name = 'small'\nuuid = '{one.uuid}'\nmemory = {had}\ndisk = ['{disk},raw,xvda,w']\n"
        )
        (folder / "small.cfg.moved").write_text(text)
        if entry:
            (folder / "small.auto.moved").mkdir()
            (folder / "small.auto.moved" / "20-small.cfg").symlink_to("../small.cfg")
        gone = an_outbound(new_migration(), "small", one.uuid, "done")
        write_down(host, "outbound", **{**gone, "peer": "evil", "updated": time.time()})
        size = GuestSize(9000 * MIB, 9000 * MIB, 0, 1, 1)
        await sent_off(host, one, f"uuid = '{one.uuid}'\nmemory = 9000\n", size)
        assert bool(at_boot(folder)) is comes_back
        said = "small is not started at boot on target: it takes" in host.host.log()
        assert said is not comes_back


async def test_nothing_more_is_started_at_boot_beside_what_cannot_be_weighed(tmp_path, saved):
    size = GuestSize(64 * MIB, 64 * MIB, 0, 1, 1)
    with with_operators_guest(tmp_path, "memory = 7 * 1024\n") as (host, folder):
        await sent_off(host, saved.named("new"), "memory = 64\n", size)
        assert at_boot(folder) == []
        here = "no memory can be read for 00-operators.cfg in auto"
        assert here in host.host.log()
        assert here in repr(host.host.ask(ListJobs(ended=True)).jobs)
        offer = with_file(saved.named("next"), "memory = 64\n", size=size, nics=(), autostart=True)
        async with host.evil.linked() as link:
            found = await (await greeted(link)).ask(offer)
        (remark,) = (one for one in found.remarks if one.code == "not-at-boot")
        assert "next is not started at boot on target" in remark.text
        assert "operators" not in repr(found), "how entries are called is not for a peer"
