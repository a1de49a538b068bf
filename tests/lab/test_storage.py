"""The tests of storage that need what the machine with the lab does not have, on a host."""

from __future__ import annotations

import pytest

from tests.lab import storage
from tests.lab.pair import Pair


@pytest.mark.slow
def test_kinds_of_volumes_that_only_a_host_has(untidied: Pair) -> None:
    said = storage.run_tests(untidied.a, "lvm or zfs")
    print(said)
    summary = said.splitlines()[-1]
    assert " passed" in summary
    assert "failed" not in summary
    assert "error" not in summary
    assert "(see make lab)" not in said  # no kind was skipped here, too
