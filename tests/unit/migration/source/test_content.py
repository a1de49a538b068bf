"""Disks whose content is sent while their guest runs."""

from dataclasses import replace

import pytest

from protocol.messages import ImageFormat
from storage.backing import backing_of
from storage.names import MAX_NAME, check_name
from xenmoved.migration.source.content import name_of_content, settled


def test_an_image_may_have_grown_when_its_guest_has_gone(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(bytes(100))
    opened = replace(backing_of(path), size=1 << 20)
    path.write_bytes(bytes(200))
    assert settled(str(path), opened, content=True) == opened
    assert settled(str(path), opened, content=False).size == 200


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("web.qcow2", "web"),
        ("web.img", "web.img-raw"),
        ("web.vhd", "web.vhd-raw"),
        ("qcow2", "qcow2-raw"),
        ("w" * MAX_NAME, "w" * (MAX_NAME - 4) + "-raw"),
    ],
)
def test_content_is_never_called_as_the_image(name, called):
    assert name_of_content(name, ImageFormat.QCOW2) == called
    check_name("images", called)
