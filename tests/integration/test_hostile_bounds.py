"""How much of this host one peer may take: domains that run, and what is started at boot."""

from dataclasses import replace

import pytest

from protocol.handover import Word
from protocol.messages import GuestSize, Mode, Refused
from tests.integration.test_hostile_guest import sent, with_file
from tests.integration.test_hostile_peer import MIB, QUICKLY, SIZE, Target, make_image, saved
from tests.support import preloaded
from tests.support.hostile import Stranger
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


async def test_what_a_peer_has_started_at_boot_leaves_room_for_the_operators(tmp_path, saved):
    """Guests that are off, each of a size that is allowed, to be started before all others."""
    host = Target.__new__(Target)
    launcher = preloaded.launcher("tests.support.faulty_daemon")
    host.host = SandboxHost(tmp_path, "target", launcher=launcher)
    folder = host.host.folder / "xen"
    (folder / "auto").mkdir(parents=True, exist_ok=True)
    disk = make_image(host.host.folder / "operators-disk", 1)
    text = f"name = 'operators'\nmemory = 4096\ndisk = ['{disk},raw,xvda,w']\n"
    (folder / "operators.cfg").write_text(text)
    (folder / "auto" / "00-operators.cfg").symlink_to("../operators.cfg")
    host.host.start(XENMOVED_LIMITS=QUICKLY)
    size = GuestSize(4096 * MIB, 4096 * MIB, 0, 1, 1)
    try:
        host.evil = Stranger(host.host, "evil")
        host.evil.introduce()
        for number in range(4):
            one = saved.named(f"boot{number}")
            offer = with_file(one, "memory = 4096\n", size=size, nics=(), autostart=True)
            offer = replace(offer, guest=replace(offer.guest, boot_order="0-"), mode=Mode.COLD)
            fate = await sent(host, offer, b"")
            assert fate.word is Word.STARTED, fate
        entries = sorted(path.name for path in (folder / "auto").iterdir())
        assert "00-operators.cfg" in entries
        assert 2 < len(entries) < 5, "16 GiB are not enough for all"
        assert "boot3 is not started at boot on target" in host.host.log()
    finally:
        host.host.close()
