"""What is said of a guest that is not what it was when its migration began."""

import pytest

from storage.contracts import Backing
from xenmoved.migration.source.inventory import DiskFacts, GuestFacts, differences, require_running
from xenmoved.problems import Obstructed
from xenmoved.toolstack.interface import Disk, DomainState, DomainStatus

DISK = Disk("xvda", "/dev/zvol/tank/web", "phy", "raw", True, False, None, 0)


def had(backing, domid=5):
    return GuestFacts("web", "uuid", domid, {"xvda": DiskFacts(DISK, backing)}, ())


ZVOL = Backing("device 230:0", 1 << 20, 512, sequence="29")


def status(state, domid=5):
    return DomainStatus("web", domid, 1 << 20, state)


def test_a_guest_that_runs_goes_on():
    running = status(DomainState.RUNNING)
    assert require_running(had(ZVOL), running) is running


@pytest.mark.parametrize("state", list(DomainState))
def test_another_domain_was_started_anew_whatever_it_does(state):
    with pytest.raises(Obstructed) as refused:
        require_running(had(ZVOL), status(state, domid=6))
    assert refused.value.problems[0].code == "guest-restarted"


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (None, "has ended: it was shut down"),
        (status(DomainState.SHUTDOWN), "is shutdown now: it was shut down"),
        (status(DomainState.PAUSED), "was paused"),
    ],
)
def test_a_guest_that_does_not_run_stays(now, words):
    with pytest.raises(Obstructed, match=words) as refused:
        require_running(had(ZVOL), now)
    assert refused.value.problems[0].code == "guest-gone"


@pytest.mark.parametrize(
    ("now", "code"),
    [
        (Backing("device 230:0", 2 << 20, 512, sequence="29"), "disk-resized"),
        (Backing("device 230:0", 2 << 20, 512, sequence="30"), "disk-resized"),
        (Backing("device 230:0", 1 << 20, 512, sequence="30"), "disk-replaced"),
        (Backing("device 230:16", 2 << 20, 512, sequence="30"), "disk-replaced"),
        (Backing("device 230:0", 1 << 20, 4096, sequence="29"), "disk-exchanged"),
    ],
)
def test_a_device_that_is_numbered_anew_when_it_is_resized_is_no_other_one(now, code):
    found = differences(had(ZVOL), had(now))
    assert [one.code for one in found] == [code]
