"""Tools that open no other files than those that are meant."""

from __future__ import annotations

import ctypes
import tempfile
from pathlib import Path

import pytest

from storage.confinement import start_confined
from storage.errors import VolumeError

_CREATE_RULESET = 444
_has_landlock = ctypes.CDLL(None).syscall(_CREATE_RULESET, None, 0, 1) > 0

only_with_landlock = pytest.mark.skipif(not _has_landlock, reason="this kernel has no Landlock")


def tried(folder: Path, *command: str) -> tuple[int, str]:
    """Run a confined tool to its end; return its status and what it said."""
    for name in ("read", "written", "other"):
        (folder / name).write_text(f"this is {name}")
    with tempfile.TemporaryFile() as said:
        process = start_confined(
            command,
            reads=[str(folder / "read"), str(folder / "missing")],
            writes=[str(folder / "written")],
            sockets=[],
            output=said.fileno(),
        )
        status = process.wait(20)
        said.seek(0)
        return status, said.read().decode()


@only_with_landlock
def test_what_is_not_meant_is_refused(tmp_path: Path) -> None:
    assert tried(tmp_path, "cat", str(tmp_path / "read")) == (0, "this is read")
    script = f"echo more >> {tmp_path}/written && cat {tmp_path}/written"
    assert tried(tmp_path, "sh", "-c", script) == (0, "this is writtenmore\n")
    for command in (
        f"cat {tmp_path}/other",
        f"echo x >> {tmp_path}/read",
        f"echo x > {tmp_path}/new",
        f"ls {tmp_path}",
        f"rm {tmp_path}/written",
        f"ln -s {tmp_path}/other {tmp_path}/link",
        "cat /etc/passwd",
    ):
        status, said = tried(tmp_path, "sh", "-c", command)
        assert status != 0, command
        assert "ermission denied" in said, command
    (tmp_path / "other").read_text()  # this process is as it was


def test_a_tool_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"no-such-tool (is not installed|cannot be run)"):
        tried(tmp_path, "no-such-tool")
