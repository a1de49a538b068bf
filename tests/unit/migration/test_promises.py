"""What is promised to peers and not taken yet."""

from typing import Any

import pytest

from protocol.messages import Placement
from storage.contracts import VolumeInfo
from storage.errors import VolumeError
from xenmoved.migration.promises import Promise, Promises, unfilled
from xenmoved.toolstack.interface import DomainState, DomainStatus

GIB = 1 << 30


def placed(name: str, size: int, *, fresh: bool = True, zeroed: bool = True) -> Placement:
    return Placement("p", name, fresh, zeroed, size)


class Pool:
    """A pool that holds volumes of one size, of which a part is written."""

    def __init__(
        self, *, reserves: bool, allocated: dict[str, int | None], name: str = "p"
    ) -> None:
        self.name = name
        self.reserves = reserves
        self._allocated = allocated

    def find(self, name: str) -> VolumeInfo | None:
        if name == "broken":
            raise VolumeError("it cannot be looked at")
        if name not in self._allocated:
            return None
        return VolumeInfo("p", name, f"/p/{name}", GIB, self._allocated[name], None)


def domain(name: str, memory: int) -> DomainStatus:
    return DomainStatus(name, 7, memory, DomainState.PAUSED)


def test_memory_counts_until_the_domain_has_it() -> None:
    promises = Promises()
    promises.give("m1", Promise("host-a", "web", 3 * GIB, (), ()))
    promises.give("m2", Promise("host-a", "db", 2 * GIB, (), ()))
    assert promises.memory([]) == 5 * GIB
    assert promises.memory([domain("other", GIB), domain("web--incoming", GIB)]) == 4 * GIB
    assert promises.memory([domain("web", 3 * GIB), domain("db", 4 * GIB)]) == 0
    promises.release("m2")
    promises.release("m2")
    assert promises.memory([]) == 3 * GIB
    assert promises.memory([], "m1") == 0, "what was promised to a guest is free for it"
    promises.resize("m1", 5 * GIB)
    assert promises.memory([]) == 5 * GIB


def test_volumes_count_by_their_peer_whether_they_are_there_or_not() -> None:
    promises = Promises()
    there = placed("there", GIB, fresh=False, zeroed=False)
    emptied = placed("emptied", GIB, fresh=False)
    promises.give(
        "m1", Promise("host-a", "", 0, (placed("new", GIB), there, emptied), (3 * GIB, GIB, GIB))
    )
    promises.give("m2", Promise("host-c", "", 0, (placed("theirs", 2 * GIB),), (GIB,)))
    assert promises.made_for("host-a") == {("m1", "p", "new"): 3 * GIB}, "an image grows"
    assert promises.made_for("host-c") == {("m2", "p", "theirs"): 2 * GIB}


@pytest.mark.parametrize(
    ("reserves", "expected"), [(False, (GIB, 3 * GIB // 4, GIB, GIB)), (True, (GIB, 0, 0, GIB))]
)
def test_what_a_volume_still_takes(reserves: bool, expected: tuple[int, ...]) -> None:
    pool: Any = Pool(reserves=reserves, allocated={"part": GIB // 4, "unknown": None})
    names = ("absent", "part", "unknown", "broken")
    assert tuple(unfilled(pool, [placed(name, GIB)]) for name in names) == expected
    assert unfilled(pool, [placed("part", GIB, fresh=False, zeroed=False)]) == 0


async def test_space_of_one_pool_of_all_that_come() -> None:
    promises = Promises()
    promises.give(
        "m1", Promise("host-a", "", 0, (placed("one", GIB), placed("two", GIB)), (GIB, GIB))
    )
    promises.give("m2", Promise("host-c", "", 0, (placed("three", GIB),), (GIB,)))
    pool: Any = Pool(reserves=False, allocated={"two": GIB // 2})
    pools: Any = {"p": pool, "q": Pool(reserves=False, allocated={}, name="q")}
    assert await promises.space(pools, "p") == 5 * GIB // 2
    assert await promises.space(pools, "q") == 0
