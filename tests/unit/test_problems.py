"""What operators are told of exceptions."""

import pytest

from protocol.errors import Code, ProtocolError, ReleasesDiffer
from storage.errors import StorageError
from xenmoved.link.errors import LinkError, LinkLost
from xenmoved.problems import is_expected, problems_of
from xenmoved.tasks import TookTooLong
from xenmoved.toolstack.interface import StartFailed, ToolstackError


def raised(error):
    """Return an exception with where it came up, as in life."""
    try:
        raise error
    except type(error) as caught:
        return caught


@pytest.mark.parametrize("kind", [OSError, TimeoutError, ConnectionResetError, StorageError])
@pytest.mark.parametrize("text", [(), ("",)])
def test_an_exception_without_a_text_tells_where_it_came_up(kind, text):
    error = raised(kind(*text))
    (found,) = problems_of(ExceptionGroup("several", [error]))
    assert found.code == "internal"
    assert f"{kind.__name__}: in test_problems.py:" in found.text
    assert found.hint
    assert not is_expected(error)  # so its traceback is in the log


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TookTooLong("host-b did not answer within 5 s"), "timeout"),
        (TimeoutError(110, "Connection timed out"), "system"),
        (LinkLost("lost the channel"), "link-lost"),
        (LinkError("refused"), "link"),
        (StartFailed("not started"), "start-failed"),
        (ToolstackError("`xl list` failed"), "toolstack"),
        (ProtocolError(Code.DIGEST, "other bytes"), "protocol"),
        (ReleasesDiffer("host-b", "old", "that has x", peer_is_older=True), "peer-too-old"),
        (ReleasesDiffer("host-b", "new", "that has x", peer_is_older=False), "peer-too-new"),
    ],
)
def test_every_other_one_is_told_with_what_to_do(error, code):
    (found,) = problems_of(error)
    assert found.code == code
    assert getattr(error, "reason", str(error)) in found.text
    assert found.hint
    assert is_expected(error)


def test_it_is_said_which_host_is_to_be_upgraded_and_to_what():
    for older, host in ((True, "host-b"), (False, "this host")):
        error = ReleasesDiffer(
            "host-b", "they differ", "that speaks version 9", peer_is_older=older
        )
        (found,) = problems_of(error)
        assert found.text == "they differ"
        assert f"upgrade xenmoved on {host} to a release that speaks version 9" in found.hint
