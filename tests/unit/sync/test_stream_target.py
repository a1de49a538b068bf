"""Which snapshot a stream may start from."""

from __future__ import annotations

import pytest

from storage.contracts import Snapshot, own_name
from xenmoved.sync.snapshots import guid_text
from xenmoved.sync.stream_target import common_base

OURS = [Snapshot(own_name("b", "0" * 32, number), number) for number in range(10)]
FOREIGN = [Snapshot(f"auto-{number}", 100 + number) for number in range(10)]


def offered(*snapshots: Snapshot) -> list[str]:
    return [guid_text(snapshot.guid) for snapshot in snapshots]


@pytest.mark.parametrize(
    ("known", "theirs", "base"),
    [
        ([], OURS, None),
        (OURS[:3], [], None),
        (OURS[:3], OURS[:3], OURS[2]),
        (OURS[:3], OURS[:2], OURS[1]),  # what came after it is ours to destroy
        ([OURS[0], FOREIGN[0]], OURS[:1], None),  # that is not
        ([FOREIGN[0], OURS[0]], OURS[:1], OURS[0]),
        ([OURS[0], FOREIGN[0], OURS[1]], OURS[:1], None),
        ([OURS[0], FOREIGN[0]], [OURS[0], FOREIGN[0]], FOREIGN[0]),  # whoever made it
    ],
)
def test_the_newest_common_one_unless_others_came_after_it(
    known: list[Snapshot], theirs: list[Snapshot], base: Snapshot | None
) -> None:
    assert common_base(known, offered(*theirs)) == base


def test_names_do_not_matter() -> None:
    here, there = Snapshot(own_name("a", "1" * 32, 1), 7), Snapshot(own_name("b", "1" * 32, 1), 7)
    assert common_base([here], offered(there)) == here
    other = Snapshot(here.name, 8)
    assert common_base([here], offered(other)) is None
