"""What is recorded of earlier releases is what they are: it is asked of their own source."""

import subprocess
import sys

import pytest

from protocol.messages import OLDEST
from tests.support import journal_layout, wire_tables
from tests.support.releases import earlier_releases, environment, without_history
from xenmoved.journal.file import LAYOUT

SPOKEN = [one for one in earlier_releases() if one.version >= OLDEST]


def printed(script, tree, *args):
    """Run a script of the present with the source of another release; returns what it printed."""
    command = [sys.executable, "-P", script, *args]
    there = environment(tree)
    return subprocess.run(
        command, cwd="/", env=there, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(autouse=True)
def history():
    if (reason := without_history()) is not None:
        pytest.skip(reason)


@pytest.mark.long
@pytest.mark.parametrize("release", SPOKEN, ids=lambda one: one.name)
def test_a_release_has_on_the_wire_what_is_recorded_of_its_version(trees, release):
    table = printed(wire_tables.__file__, trees.tree(release.name), str(release.version))
    assert table == wire_tables.recorded(f"version-{release.version}").read_text(encoding="utf-8")


@pytest.mark.thorough
@pytest.mark.parametrize("release", earlier_releases(), ids=lambda one: one.name)
def test_a_release_says_the_version_that_is_listed(trees, release):
    script = "from protocol.messages import VERSION; print(VERSION)"
    command = [sys.executable, "-P", "-c", script]
    there = environment(trees.tree(release.name))
    said = subprocess.run(command, cwd="/", env=there, capture_output=True, text=True, check=True)
    assert int(said.stdout) == release.version


@pytest.mark.thorough
def test_the_last_release_writes_the_journal_that_is_recorded(trees):
    text = printed(journal_layout.__file__, trees.tree(SPOKEN[0].name))
    layouts = [
        journal_layout.recorded(one).read_text(encoding="utf-8") for one in range(1, LAYOUT + 1)
    ]
    assert text in layouts


def test_the_newest_release_is_listed_first():
    versions = [one.version for one in earlier_releases()]
    assert versions == sorted(versions, reverse=True)
