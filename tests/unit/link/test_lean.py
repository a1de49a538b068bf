"""The leaner packets are used where asyncssh is as it is expected to be, and only there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asyncssh import encryption

from xenmoved.link import lean

_NAME = b"aes256-gcm@openssh.com"


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is registered in a test is forgotten after it."""
    for name in ("_enc_algs", "_default_enc_algs"):
        monkeypatch.setattr(encryption, name, list(getattr(encryption, name)))
    monkeypatch.setattr(encryption, "_enc_params", dict(encryption._enc_params))
    yield


def _in_use() -> type:
    return encryption._enc_params[_NAME][0]


def test_they_are_used() -> None:
    assert lean.install() is None
    assert _in_use() is lean.LeanGcm


class _Longer(encryption.GCMEncryption):
    def encrypt_packet(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:
        sealed, tag = super().encrypt_packet(seq, header, packet)
        return sealed, tag + b"\0"


class _Deaf(encryption.GCMEncryption):
    def decrypt_packet(self, *_: Any) -> None:
        return None


def _cipher(kind: type[encryption.Encryption]) -> Callable[[pytest.MonkeyPatch], None]:
    def change(patch: pytest.MonkeyPatch) -> None:
        patch.setitem(encryption._enc_params, _NAME, (kind, "aes256-gcm"))

    return change


def _more(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(encryption.Encryption, "seal_in_place", lambda self: None, raising=False)


def _less(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(encryption, "get_encryption")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_cipher(_Longer), "its packets differ"),
        (_cipher(_Deaf), "in another way"),
        (_more, "seal_in_place"),
        (_less, "get_encryption"),
    ],
)
def test_a_library_of_another_shape_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None], said: str
) -> None:
    change(monkeypatch)
    before = _in_use()
    reason = lean.install()
    assert reason is not None and said in reason
    assert _in_use() is before
