"""Disks whose content is sent while their guest runs."""

from dataclasses import replace

import pytest

from protocol.messages import Action, ImageFormat, Mode, Offer, Placement, VolumeOffer
from storage.backing import backing_of
from xenmoved.journal.records import Form
from xenmoved.migration.source.content import converted, form_of, require_understood, settled
from xenmoved.problems import Obstructed

RAW, QCOW2, VHD = ImageFormat.RAW, ImageFormat.QCOW2, ImageFormat.VHD


def test_an_image_may_have_grown_when_its_guest_has_gone(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(bytes(100))
    opened = replace(backing_of(path), size=1 << 20)
    path.write_bytes(bytes(200))
    assert settled(str(path), opened, content=True) == opened
    assert settled(str(path), opened, content=False).size == 200


def volume(kind, **changes):
    made = VolumeOffer(
        "web", 1 << 20, "xvda", None, None, None, kind, 1 << 20, 512, "/x/web", True, None
    )
    return replace(made, **changes)


def offer(mode, *volumes):
    return Offer.of(Action.MIGRATE, mode, overwrite=False, guest=None, volumes=volumes)


def place(kind):
    return Placement("images", "web", True, True, 1 << 20, kind)


@pytest.mark.parametrize(
    ("mode", "kind", "wanted", "content"),
    [
        (Mode.LIVE, RAW, None, False),
        (Mode.LIVE, RAW, QCOW2, False),
        (Mode.LIVE, QCOW2, None, True),
        (Mode.SAVE, QCOW2, QCOW2, True),
        (Mode.COLD, QCOW2, None, False),
        (Mode.COLD, QCOW2, QCOW2, False),
        (Mode.COLD, QCOW2, VHD, True),
        (Mode.COLD, VHD, RAW, True),
        (Mode.COLD, RAW, QCOW2, False),
        (Mode.RESTART, RAW, QCOW2, False),
    ],
)
def test_what_is_content(mode, kind, wanted, content):
    offered = volume(kind, wanted=wanted)
    assert offered.is_content(mode) is content
    form = {(True, False): Form.IMAGE, (True, True): Form.CONTENT}
    assert form_of(offered, mode) is form.get((kind is not RAW, content), Form.RAW)


@pytest.mark.parametrize(
    ("mode", "kind", "wanted", "there", "said"),
    [
        (Mode.LIVE, RAW, None, RAW, None),
        (Mode.LIVE, RAW, None, QCOW2, "in the format raw, and will be qcow2"),
        (Mode.LIVE, QCOW2, None, RAW, "in the format qcow2, and will be raw"),
        (Mode.LIVE, QCOW2, None, QCOW2, "and in an image of host-b then"),
        (Mode.COLD, QCOW2, None, RAW, None),  # as releases say it that do not know of formats
        (Mode.COLD, QCOW2, None, QCOW2, None),
        (Mode.COLD, QCOW2, VHD, VHD, "in the format qcow2, and will be vhd"),
        (Mode.RESTART, RAW, VHD, VHD, "in the format raw, and will be vhd"),
    ],
)
def test_what_becomes_of_a_disk_is_told(mode, kind, wanted, there, said):
    found = converted(offer(mode, volume(kind, wanted=wanted)), [place(there)], "host-b")
    assert [one.code for one in found] == (["converted"] if said else [])
    assert all(said in one.text for one in found)


def test_an_older_release_is_offered_no_wish_that_it_would_not_hear():
    for done_anyway in (
        offer(Mode.LIVE, volume(QCOW2), volume(RAW, wanted=RAW), volume(QCOW2, wanted=RAW)),
        offer(Mode.COLD, volume(QCOW2), volume(RAW, wanted=RAW), volume(QCOW2, wanted=QCOW2)),
    ):
        require_understood(done_anyway, 7, "host-b")
    for wished in (
        offer(Mode.LIVE, volume(RAW, wanted=VHD)),
        offer(Mode.SAVE, volume(QCOW2, wanted=QCOW2)),
        offer(Mode.COLD, volume(QCOW2, wanted=RAW)),
        offer(Mode.COLD, volume(RAW, wanted=QCOW2)),
        offer(Mode.RESTART, volume(RAW, wanted=QCOW2)),
    ):
        require_understood(wished, 8, "host-b")
        for version in (7, None):
            with pytest.raises(Obstructed) as raised:
                require_understood(wished, version, "host-b")
            (found,) = raised.value.problems
            assert found.code == "peer-too-old"
            assert "upgrade host-b" in found.hint
