"""Running tools: what they print, how they fail, and that none outlives its use."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from storage.commands import lines, run
from storage.errors import VolumeError


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_output_is_returned_and_arguments_are_not_interpreted() -> None:
    assert run(["printf", "%s|", "a b", "$HOME", ";", "*"]) == "a b|$HOME|;|*|"


def test_tools_speak_english_and_are_found_in_system_folders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert run(shell("echo $LC_ALL; echo $PATH")) == "C\n/usr/bin:/bin:/usr/sbin:/sbin\n"


def test_nothing_is_read_from_our_input() -> None:
    assert run(["cat"]) == ""


def test_a_failure_names_command_status_and_complaint() -> None:
    with pytest.raises(VolumeError, match="failed with status 3: no such thing") as error:
        run(shell("echo no such thing >&2; exit 3"))
    assert str(error.value).startswith("sh -c 'echo no such thing >&2; exit 3' ")
    with pytest.raises(VolumeError, match="failed with status 1: it did not say why"):
        run(["false"])
    with pytest.raises(VolumeError, match="was killed by signal 9"):
        run(shell("kill -9 $$"))


def test_what_is_printed_before_a_failure_is_no_answer() -> None:
    with pytest.raises(VolumeError, match="status 1"):
        run(shell("echo half; exit 1"))


def test_only_the_end_of_a_long_complaint_is_shown() -> None:
    with pytest.raises(VolumeError) as error:
        run(shell("yes nonsense | head -100000 >&2; echo the reason >&2; exit 1"))
    assert str(error.value).endswith("the reason")
    assert len(str(error.value)) < 5000


@pytest.mark.parametrize(
    ("tool", "package"),
    [("lvnone", "lvm2"), ("zfs-none", "zfsutils-linux"), ("thin_none", "thin-provisioning-tools")],
)
def test_a_missing_tool_names_its_package(tool: str, package: str) -> None:
    with pytest.raises(VolumeError, match=f"^{tool} is not installed: install {package}$"):
        run([tool, "--version"])


def test_what_cannot_be_run_says_why(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=f"{tmp_path} cannot be run: Permission denied"):
        run([str(tmp_path)])


def test_a_command_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    began = time.monotonic()
    with pytest.raises(VolumeError, match=r"did not end within 0.3 s"):
        run(shell(f"echo $$ > {pid}; exec sleep 60"), timeout=0.3)
    assert time.monotonic() - began < 10
    assert gone(int(pid.read_text()))


def test_a_command_that_closes_its_output_may_not_take_longer() -> None:
    with pytest.raises(VolumeError, match=r"did not end within 0.3 s"):
        run(shell("exec >&- 2>&-; exec sleep 60"), timeout=0.3)


def test_output_is_bounded(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with pytest.raises(VolumeError, match="yes' printed more than 1000000 bytes"):
        run(shell(f"echo $$ > {pid}; exec yes"), limit=1_000_000)
    assert gone(int(pid.read_text()))


def test_lines_come_as_they_are_printed() -> None:
    found = lines(shell("echo one; sleep 60"))
    began = time.monotonic()
    assert next(found) == "one"
    found.close()
    assert time.monotonic() - began < 10


def test_lines_are_whole() -> None:
    assert list(lines(shell("printf 'a\\nb\\n\\nc'"))) == ["a", "b", "", "c"]
    assert len(list(lines(shell("yes 'some words' | head -50000")))) == 50000
    with pytest.raises(VolumeError, match="a line that is too long"):
        list(lines(shell("head -c 1000000 /dev/zero")))


def test_lines_end_with_the_failure() -> None:
    found = lines(shell("echo one; echo broken >&2; exit 1"))
    assert next(found) == "one"
    with pytest.raises(VolumeError, match="status 1: broken"):
        next(found)
