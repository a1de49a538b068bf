"""Every request of the control socket has a handler, and everything else is refused."""

import pytest

from xenmoved.control.api import Done, GetStatus
from xenmoved.control.reports import CONTROL
from xenmoved.handlers import dispatch
from xenmoved.problems import Refused

VERBS = (
    *("Abort", "Add", "Decide", "Drop", "Fetch", "Get", "List", "Ping", "Plan"),
    *("Remove", "Set", "Start", "Stop", "Watch"),
)


def _handled():
    return {*dispatch._HANDLERS, *dispatch._STREAMS}


def test_every_request_has_a_handler():
    requests = {
        kind
        for kind in CONTROL.kinds
        if kind.__name__.startswith(VERBS) and kind.__name__ not in ("Plan", "Status")
    }
    assert requests == _handled()


async def test_what_is_no_request_is_refused():
    with pytest.raises(Refused, match="Done is not a request"):
        [one async for one in dispatch.answer(None, Done("it is done"))]


def test_a_handler_is_what_its_module_has():
    from xenmoved.handlers import status

    assert dispatch._HANDLERS[GetStatus] is status.status
