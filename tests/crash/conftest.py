import pytest
from crash_support import Worlds


@pytest.fixture(scope="session")
def worlds(tmp_path_factory):
    """Worlds of this worker. Unix sockets want short paths."""
    made = Worlds(lambda tool: tmp_path_factory.mktemp(tool))
    yield made
    made.close()
