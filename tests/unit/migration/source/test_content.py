"""Disks whose content is sent while their guest runs."""

from dataclasses import replace

from storage.backing import backing_of
from xenmoved.migration.source.content import settled


def test_an_image_may_have_grown_when_its_guest_has_gone(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(bytes(100))
    opened = replace(backing_of(path), size=1 << 20)
    path.write_bytes(bytes(200))
    assert settled(str(path), opened, content=True) == opened
    assert settled(str(path), opened, content=False).size == 200
