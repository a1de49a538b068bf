"""The JSON Schema of what is printed says of every field what `protocol.schema` holds."""

import dataclasses
import json
from typing import Annotated

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from jsonschema import Draft202012Validator

from protocol.errors import SchemaError
from protocol.jsonschema import Definitions
from protocol.schema import Length, build, plain
from tests.support.protocol_document import parts
from tests.support.protocol_strategies import objects
from tests.support.records import check, definitions, validator
from xenmoved.ctl.output import Output
from xenmoved.ctl.records import RECORDS, CommandFailure, schema

pytestmark = pytest.mark.long

MESSAGES = sorted(RECORDS.keys() - {CommandFailure}, key=lambda kind: kind.__name__)
OBJECTS = sorted(
    {part for kind in MESSAGES for part in parts(kind) if dataclasses.is_dataclass(part)},
    key=lambda kind: kind.__name__,
)
VALUES = (
    *(None, True, False, 0, 7, -1, 70_000, 2**32, 2**63 - 1, 2**63, 1.5, -0.5, 2e12 + 0.5),
    *("", "x", "x" * 201, "x" * 4097, "live", "raw", "0123abcd", "0123abcdef", "done"),
    *([], ["x"], [7], [None], {}, {"x": 1}, {"x": "y"}),
)
SETTINGS = settings(
    max_examples=3, phases=[Phase.generate], deadline=None, suppress_health_check=list(HealthCheck)
)


def test_it_is_a_schema():
    Draft202012Validator.check_schema(schema())
    assert [one["$ref"] for one in schema()["oneOf"]] == [f"#/$defs/{n}" for n in RECORDS.values()]
    assert all(one["description"] for one in definitions().values())


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_every_record_is_as_described(kind, capsys):
    whole = Draft202012Validator(schema())

    @SETTINGS
    @given(objects(kind))
    def run(message):
        Output(as_json=True).result(message, [])
        printed = capsys.readouterr().out
        check(printed)
        assert whole.is_valid(json.loads(printed))

    run()


@pytest.mark.parametrize("kind", OBJECTS, ids=lambda kind: kind.__name__)
def test_what_may_not_be_built_is_not_described(kind):
    name = RECORDS.get(kind, kind.__name__)
    tag = {"type": name} if kind in RECORDS else {}

    @settings(SETTINGS, max_examples=1, database=None)
    @given(objects(kind))
    def run(message):
        data = plain(message)
        assert validator(name).is_valid(tag | data)
        for field in data:
            missing = {key: value for key, value in data.items() if key != field}
            assert not validator(name).is_valid(tag | missing)
            for value in VALUES:
                changed = {**data, field: value}
                assert validator(name).is_valid(tag | changed) == builds(kind, changed), changed

    run()


def builds(kind, data):
    try:
        build(kind, data)
    except SchemaError:
        return False
    return True


def test_what_json_does_not_have_cannot_be_described():
    for kind in (bytes, Annotated[bytes, Length(1, 2)], object, set[int]):
        with pytest.raises(TypeError, match="cannot be described"):
            Definitions().object(dataclasses.make_dataclass("Odd", [("field", kind)]))


def test_two_types_of_one_name_cannot_be_described():
    one, other = (dataclasses.make_dataclass("Twin", [("x", bool)]) for _ in range(2))
    with pytest.raises(TypeError, match="one name"):
        Definitions().object(dataclasses.make_dataclass("Pair", [("a", one), ("b", other)]))
