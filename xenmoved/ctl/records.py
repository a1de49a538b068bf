"""What `--json` prints: which records there are, and the JSON Schema of a line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from protocol.jsonschema import DIALECT, Definitions, Schema
from xenmoved import __version__
from xenmoved.control.api import Done, Guests, Jobs, Plan, Status
from xenmoved.control.peer_api import Identity, PeerPing, Peers
from xenmoved.ctl.checks import Check
from xenmoved.evacuation.report import Evacuation
from xenmoved.hooks.report import HookRows
from xenmoved.jobs.report import JobReport
from xenmoved.migration.report import Doubts, Volumes
from xenmoved.trust.report import Certificates


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason why a command failed, and what to do about it; `hint` may be empty."""

    code: str
    text: str
    hint: str


@dataclass(frozen=True, slots=True)
class CommandFailure:
    """Why a command failed, every problem at once. It is the last record."""

    exit_code: int
    problems: tuple[Reason, ...]


RECORDS: Final[Mapping[type, str]] = {
    Status: "status",
    Guests: "guests",
    Plan: "plan",
    JobReport: "job_report",
    Jobs: "jobs",
    Peers: "peers",
    PeerPing: "peer_ping",
    Doubts: "doubts",
    Volumes: "volumes",
    HookRows: "hooks",
    Evacuation: "evacuation",
    Identity: "identity",
    Certificates: "certificates",
    Done: "done",
    Check: "check",
    CommandFailure: "failure",
}
"""The `type` of every record. Part of the client's interface: scripts rely on the names."""


def schema() -> Schema:
    """Return the JSON Schema of a line; each record has a definition named like its `type`."""
    definitions = Definitions()
    records = {name: _record(name, definitions.object(kind)) for kind, name in RECORDS.items()}
    return {
        "$schema": DIALECT,
        "title": "A line that xenmovectl --json prints",
        "description": f"As of xenmovectl {__version__}: later releases may add fields and types. "
        "Sizes are in bytes, durations in seconds, moments in seconds since 1970.",
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in records],
        "$defs": {**records, **definitions.schemas},
    }


def _record(name: str, fields: Schema) -> Schema:
    return {
        **fields,
        "properties": {"type": {"const": name}, **fields["properties"]},
        "required": ["type", *fields["required"]],
    }
