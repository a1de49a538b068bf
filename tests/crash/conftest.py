import pytest

from tests.support.crash import Worlds


@pytest.fixture(scope="session")
def worlds(tmp_path_factory):
    """Worlds of this worker. Unix sockets want short paths."""
    made = Worlds(tmp_path_factory.mktemp)
    yield made
    made.close()
