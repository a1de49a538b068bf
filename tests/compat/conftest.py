from collections.abc import Callable, Iterator

import pytest

from tests.support.releases import (
    FAR,
    NEXT,
    PRESENT,
    ReleaseWorld,
    Trees,
    without_history,
)


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    """Folders of releases, for all tests of this worker."""
    return Trees(tmp_path_factory.mktemp("releases"))


@pytest.fixture
def world_of(
    tmp_path_factory: pytest.TempPathFactory, trees: Trees
) -> Iterator[Callable[[str, str], ReleaseWorld]]:
    """Start a world of two releases; skips where an earlier one cannot be had."""
    made: list[ReleaseWorld] = []

    def make(first: str, second: str) -> ReleaseWorld:
        reason = without_history() if {first, second} - {PRESENT, NEXT, FAR} else None
        if reason is not None:
            pytest.skip(reason)
        world = ReleaseWorld(tmp_path_factory.mktemp("w"), trees, first, second)
        made.append(world)
        world.start()
        return world

    yield make
    for world in made:
        world.print_logs()
        world.close()
