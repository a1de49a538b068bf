"""Which files are run, in which order, and what nobody else than root may have had a hand in."""

import os

import pytest

from xenmoved.hooks.events import HookEvent
from xenmoved.hooks.found import find

EVENT = HookEvent.BEFORE_ARRIVAL
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / EVENT.folder
    made.mkdir()
    return made


def put(path, mode=0o755):
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def run(folder):
    return [one.name for one in find(folder.parent, EVENT).hooks]


def skipped(folder):
    return {one.name: one for one in find(folder.parent, EVENT).skipped}


def test_no_folder_has_no_hooks(tmp_path):
    found = find(tmp_path, EVENT)
    assert (found.hooks, found.skipped) == ((), ())


def test_a_folder_that_is_none_is_an_error(tmp_path):
    (tmp_path / EVENT.folder).write_text("")
    with pytest.raises(NotADirectoryError):
        find(tmp_path, EVENT)


def test_the_order_is_that_of_the_bytes(folder):
    for name in ("b", "B", "10-x", "9-x", "_a"):
        put(folder / name)
    assert run(folder) == ["10-x", "9-x", "B", "_a", "b"]


@pytest.mark.parametrize(
    "name",
    [
        *("a~", "a.bak", "a.sh", "a.dpkg-old", ".hidden", "#a#", "a b", "a\nb", "a\n"),
        *("a\udcff", "x" * 101),
    ],
)
def test_names_that_are_none(folder, name):
    put(folder / name)
    assert run(folder) == []
    (one,) = skipped(folder).values()
    assert not one.unsafe
    assert one.hint


def test_what_is_not_executable_or_no_file(folder):
    put(folder / "a", 0o644)
    (folder / "b").mkdir()
    os.mkfifo(folder / "c", 0o755)
    assert run(folder) == []
    assert [one.unsafe for one in skipped(folder).values()] == [False] * 3


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o702])
def test_what_others_can_write(folder, mode):
    put(folder / "a", mode)
    one = skipped(folder)["a"]
    assert one.unsafe
    assert f"chmod go-w {folder}/a" in one.hint
    assert run(folder) == []


def test_a_folder_that_others_can_write(folder):
    put(folder / "a")
    folder.chmod(0o775)
    assert str(folder) in skipped(folder)["a"].why
    folder.chmod(0o1777)  # sticky: others can add to it, but a hook of root's stays that
    assert run(folder) == ["a"]


@only_root
def test_what_belongs_to_others(folder):
    os.chown(put(folder / "a"), 1234, 0)
    (folder / "b").symlink_to("/bin/true")
    os.lchown(folder / "b", 1234, 0)
    found = skipped(folder)
    assert all(found[name].unsafe for name in "ab")
    assert "belongs to the user 1234" in found["a"].why


@only_root
def test_links_are_followed_step_by_step(folder, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "up").symlink_to("..")
    put(tmp_path / "good")
    (folder / "direct").symlink_to("../good")
    (folder / "through").symlink_to(theirs / "up" / "good")
    assert run(folder) == ["direct", "through"]
    os.chown(theirs, 1234, 1234)
    assert run(folder) == ["direct"]
    assert skipped(folder)["through"].unsafe


def test_links_in_a_circle(folder):
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    assert [one.unsafe for one in skipped(folder).values()] == [True, True]


def test_a_link_to_nothing_is_told_when_it_is_to_be_run(folder):
    (folder / "a").symlink_to("/no/such/hook")
    assert run(folder) == ["a"]
