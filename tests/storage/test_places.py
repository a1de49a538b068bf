"""Paths of one file, device or free place are one place, by whatever they lead there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.places import place_at


def test_links_lead_to_one_place(tmp_path: Path) -> None:
    file = tmp_path / "disk"
    file.write_bytes(b"x")
    (tmp_path / "soft").symlink_to(file)
    os.link(file, tmp_path / "hard")
    assert place_at(file) == place_at(tmp_path / "soft") == place_at(tmp_path / "hard")
    (tmp_path / "copy").write_bytes(b"x")
    assert place_at(tmp_path / "copy") != place_at(file)


def test_a_free_place_is_known_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    (tmp_path / "link").symlink_to("pool")
    assert place_at(tmp_path / "pool/disk") == place_at(tmp_path / "link/disk")
    assert place_at(tmp_path / "pool/disk") != place_at(tmp_path / "pool/other")
    assert place_at(tmp_path / "gone/disk") == place_at(f"{tmp_path}/./gone/disk")


@pytest.mark.root
def test_a_folder_that_is_mounted_twice(tmp_path: Path) -> None:
    pool, bound = tmp_path / "pool", tmp_path / "bound"
    pool.mkdir()
    bound.mkdir()
    (pool / "disk").write_bytes(b"x")
    subprocess.run(["mount", "--bind", pool, bound], check=True)
    try:
        assert place_at(pool / "disk") == place_at(bound / "disk")
        assert place_at(pool / "free") == place_at(bound / "free")
    finally:
        subprocess.run(["umount", bound], check=True)


@pytest.mark.root
def test_a_loop_device_is_where_its_file_is(tmp_path: Path, attach: Callable[..., Path]) -> None:
    file = tmp_path / "disk"
    file.write_bytes(bytes(1 << 20))
    device = attach(file)
    assert place_at(device) == place_at(file)
    assert place_at(attach(device)) == place_at(file)
