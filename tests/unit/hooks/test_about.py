"""What hooks are told, and that its schema is the one that is installed."""

import json

import pytest

from protocol.messages import Mode, Problem
from tests.support.ctl import HOSTILE, ROOT
from xenmoved.hooks.about import (
    Direction,
    HookInput,
    HookInterface,
    HookOutcome,
    interface,
    schema,
    volumes,
)
from xenmoved.hooks.events import HookEvent
from xenmoved.toolstack.interface import Nic

FILE = ROOT / "share" / "hooks" / "schema.json"


def about(**changes):
    said = {
        **{"event": HookEvent.FAILURE, "plan": False, "host": "host-a", "peer": "host-b"},
        **{"direction": Direction.DEPARTURE, "job": "0a1b2c3d", "mode": Mode.LIVE},
        **{"guest": "web", "other_name": "", "uuid": "x", "outcome": HookOutcome.STAYED},
    }
    return HookInput(**{**said, **changes})


def test_the_installed_schema_is_that_of_the_program():
    written = FILE.read_text()
    assert json.loads(written) == schema(), (
        "share/hooks/schema.json is out of date: write json.dumps(schema(), indent=2) into it"
    )


def test_every_event_is_in_the_documents():
    for document in ("docs/operating.md", "docs/man/xenmovectl.1"):
        text = (ROOT / document).read_text().replace("\\-", "-")
        assert [event for event in HookEvent if event.value not in text] == [], document


def test_every_field_is_in_the_document():
    text = (ROOT / "docs/operating.md").read_text()
    assert [name for name in schema()["properties"] if f"`{name}`" not in text] == []


def test_no_word_of_a_peer_moves_a_cursor():
    told = about().with_problems(Problem("code", HOSTILE, HOSTILE), None)
    encoded = told.encoded()
    assert encoded.isascii()
    (found,) = json.loads(encoded)["problems"]
    assert found["text"].isprintable()
    assert found["hint"].isprintable()


@pytest.mark.parametrize(
    ("nic", "told"),
    [
        (
            Nic("00:16:3E:00:00:01", "xenbr0", ip="192.0.2.1/24, 2001:DB8::1"),
            HookInterface("00:16:3e:00:00:01", "xenbr0", ("192.0.2.1/24", "2001:db8::1")),
        ),
        (Nic("$(reboot)", "br\x1b[2J", ip="$(reboot) 1"), HookInterface(None, "br\\x1b[2J")),
        (Nic(None, None), HookInterface(None, None)),
    ],
)
def test_what_is_no_address_is_left_out(nic, told):
    assert interface(nic, nic.bridge) == told


def test_volumes_without_empty_drives():
    found = volumes([("xvda", "/dev/vg/a"), ("hdc", "")], ["xvda"])
    assert [(one.vdev, one.path, one.copied) for one in found] == [("xvda", "/dev/vg/a", True)]
