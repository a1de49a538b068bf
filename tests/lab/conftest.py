"""The pair of hosts, booted once for all tests, and what is kept when one of them fails."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import image
from tests.lab.pair import Pair, say

RESULTS = image.ROOT / "lab-results"
_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and report.when != "teardown":
        item.stash[_FAILED] = True
    return report


@pytest.fixture(scope="session")
def _booted() -> Iterator[Pair]:
    pair = Pair(image.make())
    try:
        pair.start()
        yield pair
    except BaseException:
        pair.keep(RESULTS / "start")
        raise
    finally:
        say("ending the hosts")
        pair.close()


@pytest.fixture
def pair(_booted: Pair, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two booted hosts, daemons active, peers of each other. Records are kept of a failed test."""
    say(f"begins: {request.node.name}")
    yield _booted
    if request.node.stash.get(_FAILED, False):
        name = re.sub(r"[^\w.-]+", "-", request.node.name)
        _booted.keep(Path(RESULTS / name))
