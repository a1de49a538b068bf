"""Whether what `xenmovectl --json` printed is as `xenmovectl schema` says, and no more."""

from __future__ import annotations

import functools
import json
from typing import Any

from jsonschema import Draft202012Validator

from xenmoved.ctl.records import schema


@functools.cache
def validator(name: str) -> Draft202012Validator:
    """Return what finds whether an object is as this definition says, with no field beside."""
    return Draft202012Validator(
        {
            "$ref": f"#/$defs/{name}",
            "$defs": {key: _closed(one) for key, one in definitions().items()},
        }
    )


@functools.cache
def definitions() -> dict[str, Any]:
    """Return all definitions of the schema."""
    found: dict[str, Any] = schema()["$defs"]
    return found


def check(printed: str) -> None:
    """Assert that every line is a record as described."""
    for line in printed.splitlines():
        record = json.loads(line)
        errors = [
            f"{record['type']}: {error.json_path}: {error.message}"
            for error in validator(record["type"]).iter_errors(record)
        ]
        assert not errors, errors


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "additionalProperties": False} if "properties" in schema else schema
