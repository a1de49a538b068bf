"""The pair of hosts, booted once for all tests, and what is kept when one of them fails."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import image
from tests.lab.pair import RESULTS, RUNNING, Pair, booted, say

_FAILED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put those last that reset hosts: the clock of an emulated host may be slow after that."""
    items.sort(key=lambda item: item.path.name == "test_failures.py")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and report.when != "teardown":
        item.stash[_FAILED] = True
    return report


@pytest.fixture(scope="session")
def _running() -> Iterator[Pair]:
    """The pair that `make lab-shell` has booted, when this runs in there; else one of its own."""
    if RUNNING in os.environ:
        pair = Pair(Path(os.environ[RUNNING]))
        yield pair
        pair.close()
    else:
        with booted(image.make()) as pair:
            yield pair


@pytest.fixture
def pair(untidied: Pair) -> Pair:
    """Two booted hosts without guests, daemons active, peers of each other."""
    untidied.tidy()
    return untidied


@pytest.fixture
def untidied(_running: Pair, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """The hosts as the test before left them. Records are kept of a failed test."""
    say(f"begins: {request.node.name}")
    yield _running
    if request.node.stash.get(_FAILED, False):
        _running.keep(RESULTS / re.sub(r"[^\w.-]+", "-", request.node.name))
