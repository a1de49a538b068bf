"""How much of this host one peer may take: domains that run, and what is started at boot."""

import pytest

from protocol.handover import Word
from protocol.messages import Refused
from tests.integration.test_hostile_guest import sent, with_file
from tests.integration.test_hostile_peer import QUICKLY, SIZE, Target, saved
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
