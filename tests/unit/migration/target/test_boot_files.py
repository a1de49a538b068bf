"""What a guest is started from that is looked for on this host."""

from __future__ import annotations

from pathlib import Path

import pytest

from xenmoved.migration.target.boot_files import _absent, _withheld
from xenmoved.toolstack.readable import Readable

FOLDERS = ("/boot",)


def absent(root: Path, text: str) -> list[tuple[str, str]]:
    return list(_absent(f"name = 'web'\n{text}", Readable(FOLDERS, root), root))


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

    with monkeypatch.context() as patch:
        patch.setattr(Path, "glob", forbidden)
        patch.setattr(Path, "exists", forbidden)
        found = absent(tmp_path, f"{key} = '{path}'")
    assert found == []


@pytest.mark.parametrize("key", ["kernel", "ramdisk", "bios_path_override", "acpi_firmware"])
@pytest.mark.parametrize("more", ["", "bootloader = 'pygrub'\n"])
def test_what_is_not_for_guests(tmp_path, key, more):
    (tmp_path / "boot").mkdir()
    file = tmp_path / "boot/private"
    file.touch(0o600)
    text, folders = f"{more}{key} = '/boot/private'\n", Readable(FOLDERS, tmp_path)
    ((found, path, why),) = _withheld(text, folders)
    assert (found, path) == (key, "/boot/private")
    assert "chmod o+r" in why
    file.chmod(0o644)
    assert _withheld(text, folders) == []
    # Of what is elsewhere nobody learns anything; it is refused for its name.
    assert _withheld(f"{key} = '/etc/shadow'\n", Readable(FOLDERS)) == []
