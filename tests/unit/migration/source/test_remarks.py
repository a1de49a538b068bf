"""What a target has to remark is heard, and decides nothing."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from protocol.messages import Mode, Remark, Weight
from xenmoved.codes import LINK_LOST, UNHEARD, code_of_peer
from xenmoved.jobs.job import Job
from xenmoved.jobs.report import JobKind
from xenmoved.migration.source import remarks as hearing
from xenmoved.problems import from_peer, problem
from xenmoved.remarks import from_peer as remarks_from_peer


async def test_a_peer_cannot_have_its_remarks_asked_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = 0

    async def tell(*_: object) -> tuple[Remark, ...]:
        nonlocal asked
        asked += 1
        said = [Remark(Weight.ACTION, code, "text", "hint") for code in (UNHEARD, f"{UNHEARD}\n")]
        return remarks_from_peer(said)

    monkeypatch.setattr(hearing, "_ask", tell)
    monkeypatch.setattr(hearing, "_LATER_AFTER", (0.0,))
    reports: dict[str, Any] = {}

    async def remark(job: str, found: Any, *, instead_of: str) -> None:
        assert instead_of == UNHEARD
        reports[job] = found

    host: Any = SimpleNamespace(roster={"b": object()}, jobs=SimpleNamespace(remark=remark))
    ours = Remark(Weight.ACTION, UNHEARD, "not heard", "wait")
    job = Job(JobKind.MIGRATE, "web", "b", Mode.LIVE, job="j1")
    job.remarks = (ours,)
    report = job.report()
    async with asyncio.timeout(5):
        await hearing.hear_later(host, report, "f" * 32)
    assert asked == 1
    assert ours not in reports["j1"]
    assert len(reports["j1"]) == 2


def test_codes_that_are_acted_upon_are_nobodys_but_ours() -> None:
    for code in (LINK_LOST, UNHEARD):
        (found,) = from_peer([problem(code, "text", "hint")])
        assert (found.code, found.text) == (f"peer-{code}", "text")
    assert code_of_peer("volume-exists") == "volume-exists"
