"""What is done with a guest's disk by its path."""

import os

import pytest

from storage.descriptor import make_durable
from storage.errors import VolumeError


def test_what_is_in_memory_is_written_out(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    file = tmp_path / "disk"
    file.write_bytes(b"x")
    (tmp_path / "link").symlink_to(file)
    make_durable(tmp_path / "link")
    assert synced == [file.stat().st_ino]
    with pytest.raises(VolumeError, match="cannot flush it: No such file"):
        make_durable(tmp_path / "nothing")
