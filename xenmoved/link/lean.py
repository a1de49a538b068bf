"""SSH packets for bulk transfer, with less work for each than asyncssh puts in.

Two things take a fifth of the time of a transfer and add nothing with AES-GCM:

- asyncssh copies a packet four times around its encryption. `LeanGcm` leaves the cryptography to
  the library and handles the buffers itself. The format is that of OpenSSH's PROTOCOL, section 1.6
  (RFC 5647 with the packet length as additional data): the length in clear, then the packet, then a
  tag of 16 bytes; the last eight bytes of the nonce count packets.
- asyncssh sends an SSH_MSG_IGNORE before every packet, against an attack on CBC ciphers (RFC 4251,
  section 9.3.1). `drop_ignored` leaves these out.

Both rest on what asyncssh promises to nobody. So nothing of it is imported here before `install`
has seen that it is as expected; else the library does all by itself.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

import asyncssh
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_MSG_IGNORE: Final = 2  # RFC 4253, section 12
_TAG_SIZE: Final = 16
_COUNTER_END: Final = 2**64


class LeanGcm:
    """One direction of a connection, with the methods of asyncssh's `Encryption`."""

    def __init__(self, key: bytes, nonce: bytes) -> None:
        self._cipher = AESGCM(key)
        self._fixed = nonce[:4]
        self._counter = int.from_bytes(nonce[4:], "big")

    @classmethod
    def new(  # noqa: PLR0917 - asyncssh's signature
        cls,
        cipher_name: str,
        key: bytes,
        iv: bytes,
        mac_alg: bytes = b"",
        mac_key: bytes = b"",
        etm: bool = False,
    ) -> LeanGcm:
        """Return the cipher for a key and a nonce; it needs no separate MAC."""
        return cls(key, iv)

    @classmethod
    def needs_mac(cls) -> bool:
        """Tell that the cipher authenticates by itself."""
        return False

    @classmethod
    def get_mac_params(cls, mac_alg: bytes) -> tuple[int, int, bool]:
        """Return key size, tag size, and that the length is in clear."""
        return 0, _TAG_SIZE, True

    def encrypt_packet(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:
        """Return the whole packet on the wire; nothing is left for a MAC."""
        return header + self._cipher.encrypt(self._nonce(), packet, header), b""

    def decrypt_header(self, seq: int, first_block: bytes, header_len: int) -> tuple[bytes, bytes]:
        """Return the first block as it is, and the length in it."""
        return first_block, first_block[:header_len]

    def decrypt_packet(
        self, seq: int, first: bytes, rest: bytes, header_len: int, mac: bytes
    ) -> bytes | None:
        """Return the packet, None when it is not authentic."""
        sealed = b"".join((memoryview(first)[header_len:], rest, mac))
        try:
            return self._cipher.decrypt(self._nonce(), sealed, first[:header_len])
        except InvalidTag:
            return None

    def _nonce(self) -> bytes:
        nonce = self._fixed + self._counter.to_bytes(8, "big")
        self._counter = (self._counter + 1) % _COUNTER_END
        return nonce


def install() -> str | None:
    """Have asyncssh use this for its AES-GCM ciphers, in this process.

    Returns None, or why not: then the library's own are used, which take longer.
    """
    try:
        ciphers = importlib.import_module("asyncssh.encryption")
        for bits in (128, 256):
            _compare(ciphers, bits)
        for bits in (128, 256):
            name = f"aes{bits}-gcm"
            ciphers.register_encryption_alg(_algorithm(bits), LeanGcm, name, default=True)
    except Exception as error:  # whatever a library of another shape raises
        return f"asyncssh {asyncssh.__version__} is not as expected: {error!r}"
    return None


def _algorithm(bits: int) -> bytes:
    return f"aes{bits}-gcm@openssh.com".encode()


def _compare(ciphers: Any, bits: int) -> None:
    """See that this does what the library's own cipher does. Raises whatever shows that not."""
    key, nonce = bytes(range(bits // 8)), b"\xfe" * 3 + b"\xff" * 9
    missing = {name for name in vars(ciphers.Encryption) if not name.startswith("_")} - set(
        vars(LeanGcm)
    )
    if missing:
        raise TypeError(f"it also has {', '.join(sorted(missing))}")
    theirs, there = (ciphers.get_encryption(_algorithm(bits), key, nonce) for _ in range(2))
    ours, here = (LeanGcm.new(f"aes{bits}-gcm", key, nonce) for _ in range(2))
    # Several, as the nonce counts them, and its counter ends with the second.
    for number, size in enumerate((16, 32768, 16)):
        header, packet = size.to_bytes(4, "big"), bytes([number]) * size
        sealed = b"".join(ours.encrypt_packet(number, header, packet))
        if sealed != b"".join(theirs.encrypt_packet(number, header, packet)):
            raise ValueError("its packets differ")
        whole = sealed[:16], sealed[16:-_TAG_SIZE], 4, sealed[-_TAG_SIZE:]
        opened = here.decrypt_packet(number, *whole), there.decrypt_packet(number, *whole)
        if opened != (packet, packet):
            raise ValueError("it opens packets in another way")


def drop_ignored(
    connection: asyncssh.SSHClientConnection | asyncssh.SSHServerConnection,
) -> None:
    """Have a connection send no packets that the other side is to ignore.

    Only for connections whose ciphers are not in CBC mode, as all of ours.
    """
    send_packet = connection.send_packet

    def send_others(pkttype: int, *args: bytes, **options: Any) -> None:
        if pkttype != _MSG_IGNORE:
            send_packet(pkttype, *args, **options)

    connection.send_packet = send_others  # type: ignore[method-assign]
