"""What every version has on the wire is as it was recorded: no change of it goes unnoticed."""

import typing
from dataclasses import fields, is_dataclass

import pytest

from protocol.messages import OLDEST, PEER, VERSION
from protocol.schema import first_version, has_default
from tests.support.protocol_document import parts
from tests.support.wire_tables import recorded, released_versions, version_table

CHANGED = f"""
Version {{version}} of the protocol is not what it was when it was recorded, and releases may know
it as it was. Declare what is new: a message with @PEER.since({VERSION + 1}), a field with
Annotated[..., Since({VERSION + 1})] and a default. Anything else that changes (a bound, a word of
an enum, a field that goes) is a new field or message, too. See CONTRIBUTING.md, "What goes over the
wire". If no release has this version yet: python -m tests.support.wire_tables
"""


@pytest.mark.parametrize("version", range(OLDEST, VERSION + 1))
def test_a_version_has_on_the_wire_what_was_recorded(version):
    table = recorded(f"version-{version}").read_text(encoding="utf-8")
    assert version_table(version) == table, CHANGED.format(version=version)


def test_every_version_that_is_spoken_is_recorded_and_no_other():
    wanted = {recorded(f"version-{version}").name for version in range(OLDEST, VERSION + 1)}
    assert {path.name for path in recorded("x").parent.glob("version-*.txt")} == wanted


def test_what_the_last_release_speaks_is_spoken():
    assert OLDEST <= max(released_versions()) <= VERSION


def test_a_field_may_be_left_out_only_where_earlier_versions_do_not_have_it():
    """A default says what it means that an older release does not say it."""
    kinds = {part for kind in PEER.kinds for part in parts(kind) if is_dataclass(part)}
    for kind in kinds:
        hints = typing.get_type_hints(kind, include_extras=True)
        for field in fields(kind):
            since = first_version(hints[field.name])
            assert has_default(field) == bool(since), f"{kind.__name__}.{field.name}"
            assert since <= VERSION, f"{kind.__name__}.{field.name} is of no version yet"
