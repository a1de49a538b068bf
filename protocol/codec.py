"""Messages in frames: msgpack on the wire, validated dataclasses on both sides of it.

The body of a MESSAGE frame is the msgpack array ``[name, fields]``: the message's name and a map of
its fields. Which messages exist, and the bounds of their fields, is declared with dataclasses (see
`protocol.schema`) that are collected in a `MessageSet`: one for peers, one for the control socket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgpack

from protocol.errors import Code, ProtocolError, SchemaError
from protocol.frames import MAX_MESSAGE, Bytes, Kind, encode_frame
from protocol.schema import build, plain

T = TypeVar("T")

MAX_ITEMS = 8192
"""Most items of one list or map in a message: msgpack makes room before it reads them."""
MAX_CONTAINERS = 16384
"""Most lists and maps in a message: empty ones take a byte each, but a hundred times that here."""


class MessageSet:
    """The messages of one protocol, by name.

    `at` returns those of an earlier version, as it has them: what came later is left out of what is
    sent, and is unknown in what comes.
    """

    def __init__(self) -> None:
        self._by_name: dict[str, type[Any]] = {}
        self._since: dict[type[Any], int] = {}
        self._frozen: set[type[Any]] = set()
        self._version: int | None = None
        self._earlier: dict[int, MessageSet] = {}

    def add(self, kind: type[T]) -> type[T]:
        """Register a dataclass as a message named like the class; used as a decorator."""
        self._by_name[kind.__name__] = kind
        self._since[kind] = 0
        return kind

    def since(self, version: int) -> Callable[[type[T]], type[T]]:
        """Register a message that there is from a version on; used as a decorator."""

        def register(kind: type[T]) -> type[T]:
            self.add(kind)
            self._since[kind] = version
            return kind

        return register

    def frozen(self, kind: type[T]) -> type[T]:
        """Register a message that is the same in every version for ever; used as a decorator."""
        self._frozen.add(kind)
        return self.add(kind)

    @property
    def kinds(self) -> tuple[type[Any], ...]:
        """Every registered message type."""
        return tuple(self._since)

    @property
    def frozen_kinds(self) -> frozenset[type[Any]]:
        """The message types that are the same in every version."""
        return frozenset(self._frozen)

    def at(self, version: int) -> MessageSet:
        """Return the messages that there are in a version. To be called when all are registered."""
        if (earlier := self._earlier.get(version)) is None:
            earlier = self._earlier[version] = MessageSet()
            earlier._version, earlier._frozen = version, self._frozen
            earlier._since = {kind: at for kind, at in self._since.items() if at <= version}
            earlier._by_name = {kind.__name__: kind for kind in earlier._since}
        return earlier

    def encode(self, message: object) -> bytes:
        """Return the frame of a message.

        Bytes of a text that were no UTF-8 (lone surrogates) become question marks. Raises
        ProtocolError when it is above the cap, or the version has no such message.
        """
        name = type(message).__name__
        if type(message) not in self._since:
            text = f"version {self._version} has no message {name}: it is not to be sent"
            raise ProtocolError(Code.UNKNOWN_MESSAGE, text)
        body = msgpack.packb([name, plain(message, self._version)], unicode_errors="replace")
        if len(body) > MAX_MESSAGE:
            raise ProtocolError(Code.TOO_LARGE, f"{name} of {len(body)} bytes is above the cap")
        return encode_frame(Kind.MESSAGE, body)

    def decode(self, untrusted_body: Bytes) -> Any:
        """Return the message in the body of a MESSAGE frame. Raises ProtocolError."""
        count = _counter()
        try:
            untrusted = msgpack.unpackb(
                untrusted_body,
                list_hook=count,
                object_hook=count,
                strict_map_key=True,
                max_array_len=MAX_ITEMS,
                max_map_len=MAX_ITEMS,
                max_ext_len=0,
            )
        except (ValueError, msgpack.exceptions.UnpackException) as error:
            raise ProtocolError(Code.BAD_MESSAGE, f"message is not msgpack: {error}") from None
        match untrusted:
            case [str(untrusted_name), dict(untrusted_fields)]:
                pass
            case _:
                raise ProtocolError(Code.BAD_MESSAGE, "message is not [name, fields]")
        kind = self._by_name.get(untrusted_name)
        if kind is None:
            raise ProtocolError(Code.UNKNOWN_MESSAGE, f"unknown message {untrusted_name[:80]!a}")
        try:
            return build(kind, untrusted_fields, version=self._version)
        except SchemaError as error:
            raise ProtocolError(Code.OUT_OF_RANGE, f"{untrusted_name}.{error}") from None


def _counter() -> Callable[[T], T]:
    left = MAX_CONTAINERS

    def count(container: T) -> T:
        nonlocal left
        left -= 1
        if left < 0:
            raise ProtocolError(Code.BAD_MESSAGE, f"more than {MAX_CONTAINERS} lists and maps")
        return container

    return count
