"""What no honest source would offer."""

from dataclasses import replace

import pytest

from protocol.errors import ProtocolError
from protocol.messages import Action, ImageFormat, Offer, OfferedMode
from tests.support.hostile import volume_offer
from tests.unit.migration.target.test_guests_left import GUEST
from xenmoved.migration.target.preflight import _require_honest

DISK = volume_offer("web-root", 1 << 20, "xvda", "/images/web-root")
OFFER = Offer(Action.MIGRATE, OfferedMode.COLD, False, GUEST, (DISK,), restart=True)


def test_a_guest_that_is_to_be_started_anew_may_be_offered():
    _require_honest(OFFER)


@pytest.mark.parametrize(
    "offer",
    [
        replace(OFFER, mode=OfferedMode.SAVE),
        replace(OFFER, mode=OfferedMode.LIVE),
        replace(OFFER, action=Action.SYNC, guest=None),
        replace(OFFER, volumes=(replace(DISK, format=ImageFormat.QCOW2),)),
    ],
)
def test_nothing_else_is_to_be_started_anew(offer):
    with pytest.raises(ProtocolError):
        _require_honest(offer)
