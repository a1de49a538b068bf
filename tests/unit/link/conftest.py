"""Every test of the link runs with bulk packets past asyncssh, and with asyncssh alone."""

from __future__ import annotations

import pytest

from xenmoved.link.bulk import Bulk

WAYS = {"bulk": None, "asyncssh": "as a test wants it"}


@pytest.fixture(autouse=True, params=WAYS.values(), ids=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Have connections that are made in the test carry their bulk packets in one of both ways."""
    monkeypatch.setattr(Bulk, "refused", request.param)
    return request.param
