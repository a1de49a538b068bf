"""Every request of the control socket has a handler, and everything else is refused."""

import pytest

from xenmoved.config.model import Action, Allow, Peer
from xenmoved.control.api import Done, GetStatus
from xenmoved.control.message_set import CONTROL
from xenmoved.control.peer_api import AddPeer
from xenmoved.handlers import dispatch
from xenmoved.handlers.peer_rows import peer_data
from xenmoved.problems import Obstructed

VERBS = (
    *("Abort", "Add", "Decide", "Drop", "Enroll", "Fetch", "Get", "List", "Ping", "Plan"),
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
    with pytest.raises(Obstructed, match="Done is not a request"):
        [one async for one in dispatch.answer(None, Done("it is done"), True)]


def test_a_handler_is_what_its_module_has():
    from xenmoved.handlers import status

    assert dispatch._HANDLERS[GetStatus] is status.status


def test_a_peer_that_is_changed_keeps_what_the_command_does_not_know():
    allow = Allow(scripts=("vif-route",), ip=("192.0.2.0/24",), gatewaydev=("eth0",))
    known = Peer(name="b", address="b", key="", allow=allow, bridges={"x": "y"})
    request = AddPeer(
        *("b", "b", 7222, "", (Action.SYNC,), ("p",), ("*",), None, None, None),
        overwrite=False,
        replace=True,
    )
    data = peer_data(request, known)
    assert data["bridges"] == {"x": "y"}
    assert data["allow"] == {
        **{"actions": ["sync"], "pools": ["p"], "guests": ["*"], "overwrite": False},
        **{"scripts": ["vif-route"], "ip": ["192.0.2.0/24"], "gatewaydev": ["eth0"]},
    }
    assert "scripts" not in peer_data(request, None)["allow"]
