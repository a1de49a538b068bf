"""What a guest is started from that is looked for on this host."""

from __future__ import annotations

from pathlib import Path

import pytest

from xenmoved.migration.target.boot_files import _absent

FOLDERS = ("/boot",)


def absent(root: Path, text: str) -> list[tuple[str, str]]:
    return list(_absent(f"name = 'web'\n{text}", FOLDERS, root))


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("kernel = '/boot/there'", []),
        ("kernel = '/boot/gone'", [("kernel", "/boot/gone")]),
        ("kernel = '/boot//gone'", [("kernel", "/boot//gone")]),
        ("kernel = '/etc/gone'", []),
        ("bootloader = 'pygrub'", []),
        ("bootloader = '/usr/bin/pygrub'", [("bootloader", "/usr/bin/pygrub")]),
    ],
)
def test_what_is_not_here(tmp_path, text, missing):
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/there").touch()
    (tmp_path / "usr/lib/xen-4.17/bin").mkdir(parents=True)
    (tmp_path / "usr/lib/xen-4.17/bin/pygrub").touch()
    assert absent(tmp_path, text) == missing


@pytest.mark.parametrize("key", ["kernel", "ramdisk", "bootloader", "firmware_override"])
@pytest.mark.parametrize("path", ["**/x", "../../**/x", "*", "[", "x"])
def test_no_pattern_of_a_peers_is_looked_for(tmp_path, monkeypatch, key, path):
    """It could take for ever, and tell of any file of this host."""

    def forbidden(*_: object) -> None:
        raise AssertionError("looked for")

    monkeypatch.setattr(Path, "glob", forbidden)
    monkeypatch.setattr(Path, "exists", forbidden)
    assert absent(tmp_path, f"{key} = '{path}'") == []
