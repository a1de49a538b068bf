"""The generated parts of docs/protocol.md, and its byte-level examples.

``python -m tests.support.protocol_document`` writes the generated parts anew. The examples are
never generated: they are what keeps an accidental change of the wire from going unnoticed.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, Union, get_args, get_origin

from protocol.conversation import TABLE, Stage
from protocol.errors import Code
from protocol.frames import CAPS
from protocol.messages import CAPABILITIES, PEER, REQUIRED_CAPABILITIES
from protocol.schema import Length, Pattern, Range, Since, first_version
from xenmoved.link.channel import Purpose

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "protocol.md"

_MARK = "<!-- generated: {} -->"
_END = "<!-- end of generated -->"

_CODES: Final = {
    Code.BAD_FRAME: "a frame's kind is not allowed here, it is too short, or its body is damaged",
    Code.TOO_LARGE: "a length above a cap",
    Code.BAD_MESSAGE: "the body of a MESSAGE frame is not msgpack of `[name, fields]`",
    Code.UNKNOWN_MESSAGE: "a message that this version does not have",
    Code.UNEXPECTED: "a message or frame out of turn, or about what this connection does not own",
    Code.OUT_OF_RANGE: "a field missing, unknown, of a wrong type or out of bounds; a range outside"
    " the volume",
    Code.VERSION: "no common version, or a required capability is missing",
    Code.DIGEST: "other bytes arrived than were sent",
    Code.CREDIT: "more comparison frames than were allowed, or more credit than may be given",
}

_PURPOSES: Final = {
    Purpose.CONTROL: "messages of one dialogue: requests of the source, answers of the target",
    Purpose.VOLUME: "one volume, after `Attach`",
    Purpose.MEMORY: "the saved image of one guest, after `Attach`",
    Purpose.PROBE: "any bytes, to measure the link; no frames",
}


def generated() -> dict[str, str]:
    """Return the generated parts by name."""
    return {
        "subsystems": _subsystems(),
        "kinds": _kinds(),
        "messages": _messages(PEER.kinds),
        "structures": _messages(tuple(_structures())),
        "capabilities": _capabilities(),
        "conversation": _conversation(),
        "codes": _codes(),
    }


def with_generated(text: str) -> str:
    """Return the document with its generated parts renewed."""
    for name, part in generated().items():
        begin = _MARK.format(name)
        pattern = re.compile(re.escape(begin) + r"\n.*?" + re.escape(_END), re.DOTALL)
        text, count = pattern.subn(lambda _, p=f"{begin}\n{part}\n{_END}": p, text)
        if count != 1:
            raise ValueError(f"the document has {count} places for {name}")
    return text


def examples(text: str) -> dict[str, bytes]:
    """Return the hex blocks of the document by name; `#` begins a remark."""
    found: dict[str, bytes] = {}
    for name, body in re.findall(r"^```hex (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if name in found:
            raise ValueError(f"two examples are called {name}")
        digits = "".join(line.partition("#")[0] for line in body.splitlines())
        found[name] = bytes.fromhex(digits)
    return found


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _subsystems() -> str:
    return _table(
        ("Subsystem", "Carries"), [(f"`{purpose}`", _PURPOSES[purpose]) for purpose in Purpose]
    )


def _kinds() -> str:
    bodies = {
        "MESSAGE": "msgpack `[name, fields]`",
        "DATA": "`offset: u64`, bytes of the volume",
        "PACKED": "`offset: u64`, `unpacked length: u32`, one zstd frame",
        "ZERO": "`offset: u64`, `length: u64`",
        "HASHES": "`first block: u64`, 32-byte fingerprints of consecutive blocks",
        "MEMORY": "bytes of the saved image",
        "STREAM": "bytes of a stream that storage made of the volume",
    }
    rows = [
        (str(int(kind)), kind.name, bodies[kind.name], str(low), str(high))
        for kind, (low, high) in CAPS.items()
    ]
    return _table(("Kind", "Name", "Body", "Least", "Most"), rows)


def _capabilities() -> str:
    return _table(
        ("Capability", "Required"),
        [(f"`{c}`", "yes" if c in REQUIRED_CAPABILITIES else "no") for c in CAPABILITIES],
    )


def _conversation() -> str:
    rows = []
    for (stage, request), replies in TABLE.items():
        for reply, following in replies.items():
            rows.append((str(stage), request.__name__, reply.__name__, str(following)))
    rows.append(("any but greeting", "any", "Working", "the same, the answer is still to come"))
    rows.append(("any", "any, or none", "Failed", str(Stage.ENDED)))
    return _table(("Stage", "Request", "Answer", "Stage after it"), rows)


def _codes() -> str:
    return _table(("Code", "Meaning"), [(f"`{code}`", _CODES[code]) for code in Code])


def _messages(kinds: tuple[type[Any], ...]) -> str:
    return "\n\n".join(_message(kind) for kind in kinds)


def _message(kind: type[Any]) -> str:
    description = " ".join(
        " ".join(line.split()) for line in (kind.__doc__ or "").strip().splitlines()
    )
    text = f"#### {kind.__name__}\n\n{description}\n"
    hints = typing.get_type_hints(kind, include_extras=True)
    rows = [
        (f"`{field.name}`", *_since(*_described(hints[field.name]), hints[field.name]))
        for field in dataclasses.fields(kind)
    ]
    if not rows:
        return text + "\nNo fields."
    return text + "\n" + _table(("Field", "Type", "Bounds"), rows)


def _since(shown: str, bounds: str, hint: Any) -> tuple[str, str]:
    first = first_version(hint)
    return shown, "; ".join(filter(None, (bounds, f"from version {first} on" if first else "")))


def _structures() -> Iterator[type[Any]]:
    """Dataclasses that messages are made of, in the order in which they are met."""
    seen: list[type[Any]] = list(PEER.kinds)
    waiting: list[Any] = list(PEER.kinds)
    while waiting:
        kind = waiting.pop(0)
        for part in parts(kind):
            if dataclasses.is_dataclass(part) and part not in seen:
                found = typing.cast("type[Any]", part)
                seen.append(found)
                waiting.append(found)
                yield found


def parts(kind: Any) -> Iterator[Any]:
    """Yield every type that an annotation or a dataclass is made of, itself last."""
    if dataclasses.is_dataclass(kind):
        for hint in typing.get_type_hints(kind, include_extras=True).values():
            yield from parts(hint)
    else:
        for inner in get_args(kind):
            if not isinstance(inner, Range | Length | Pattern | Since):
                yield from parts(inner)
    yield kind


def _described(kind: Any) -> tuple[str, str]:
    bounds: tuple[Any, ...] = ()
    if get_origin(kind) is Annotated:
        kind, *rest = get_args(kind)
        bounds = tuple(note for note in rest if not isinstance(note, Since))
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        inner = next(k for k in get_args(kind) if k is not type(None))
        shown, limits = _described(Annotated[inner, *bounds] if bounds else inner)
        return f"{shown} or nil", limits
    if origin is tuple:
        shown, limits = _described(get_args(kind)[0])
        own = _limits(bounds, "items")
        return f"list of {shown}", f"{own}; each {limits}" if limits else own
    if origin is dict:
        (key, key_limits), (value, limits) = map(_described, get_args(kind))
        own = _limits(bounds, "items")
        return f"map of {key} to {value}", f"{own}; keys {key_limits}; values {limits}"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "string", "one of " + ", ".join(f"`{member.value}`" for member in kind)
    if dataclasses.is_dataclass(kind):
        return f"[{kind.__name__}](#{kind.__name__.lower()})", ""
    names = {bool: "boolean", int: "integer", float: "number", str: "string", bytes: "bytes"}
    return names[kind], _limits(bounds, "characters" if kind is str else "bytes")


def _limits(bounds: tuple[Any, ...], unit: str) -> str:
    show: dict[type, Callable[[Any], str]] = {
        Range: lambda b: f"{_number(b.low)} to {_number(b.high)}",
        Length: lambda b: f"{b.low} to {b.high} {unit}" if b.low != b.high else f"{b.low} {unit}",
        Pattern: lambda b: "matches `" + b.regex.replace("|", "\\|") + "`",
    }
    return ", ".join(show[type(bound)](bound) for bound in bounds)


def _number(value: float) -> str:
    whole = int(value)
    if whole == value and whole.bit_length() > 40 and whole & (whole + 1) == 0:
        return f"2^{whole.bit_length()} - 1"
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    DOCUMENT.write_text(with_generated(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
