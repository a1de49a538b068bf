"""Bulk data past asyncssh: its packets are opened and sealed once, with no copies around that.

asyncssh has the connection: keys, authentication, channels, windows, and all packets but those of
channel data between `_LEAST` and `_MOST` bytes. It copies each byte of these about eight times, at
either end. `Bulk` does what is the same for each of these packets:

- It is what the transport talks to, instead of the connection. Bytes come into a buffer that is
  used again and again (`asyncio.BufferedProtocol`). A packet of channel data is opened into a
  buffer of its own and given to its channel as a view of that, when its tag was right and asyncssh
  would take it. Any other goes to asyncssh as it came, which opens it then, answers it, or finds
  what is wrong with it: nothing is refused here. While asyncssh is in the midst of a packet, or
  waits for something before it takes the next one (keys), it gets what comes.
- To send, a packet is put together once and sealed into a buffer that the transport sends.

The packet is that of RFC 4253, section 6, with RFC 4254, section 5.2 in it, in the form of the
cipher aes128-gcm@openssh.com or aes256-gcm@openssh.com (OpenSSH's PROTOCOL, section 1.6; RFC 5647
with the packet length as additional data):

    uint32  packet length, in clear: of all that follows but the tag
    byte    padding length, of at least 4; padding makes the packet length a multiple of 16
    byte    94: SSH_MSG_CHANNEL_DATA
    uint32  recipient channel
    uint32  length of the data
    byte[]  the data, the padding
    byte[16] the tag; bytes 4 to 11 of the nonce count packets

This rests on what asyncssh promises to nobody. So `trial` tries it with the library that is there,
before anything of it is used: else the library does all by itself, which takes longer.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Sequence
from time import monotonic
from typing import Any, ClassVar, Final

import asyncssh
from asyncssh import encryption
from asyncssh.channel import SSHChannel
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.frames import Bytes
from xenmoved.link.loans import Loans

_KEY: Final = "xenmoved-bulk"
_MSG_IGNORE: Final = 2  # RFC 4253, section 12
_MSG_CHANNEL_DATA: Final = 94  # RFC 4254, section 9

_LENGTH: Final = struct.Struct(">I")
_HEAD: Final = struct.Struct(">BBII")  # padding length, message, channel, length of the data
_TAG: Final = 16
_BLOCK: Final = 16
_LEAST_PADDING: Final = 4

_LEAST: Final = 4096
"""Smallest packet that is worth it."""
_MOST: Final = 272 * 1024
"""Largest packet that is dealt with here: one with a whole bulk frame."""
_MOST_DATA: Final = _MOST - _HEAD.size - _LEAST_PADDING - _BLOCK
"""Bytes of channel data that fit into that with any padding."""
_LENT: Final = _MOST // 4 * 3
"""Packets from this size on are opened into buffers that are used again. A smaller one would keep
more of a buffer than it fills, as long as somebody has it."""
_ROOM: Final = _LENGTH.size + _MOST + _TAG
_BUFFER: Final = 4 * _ROOM

_LOANS: Final = Loans(_ROOM, 80)


class Bulk(asyncio.BufferedProtocol):
    """The bulk packets of one connection of asyncssh, both ways."""

    refused: ClassVar[str | None] = "asyncssh was not tried"
    """Why asyncssh does all by itself in this process, None when it need not: see `trial`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._buffer = memoryview(bytearray(_BUFFER))
        self._begin = self._end = 0  # what has come and was not taken
        self._plain = memoryview(bytearray(_ROOM))
        self._ciphers: dict[object, AESGCM] = {}
        self.opened = self.sealed = 0
        """Packets that went past asyncssh."""

    @classmethod
    def carry(cls, connection: Any) -> None:
        """Take on the bulk packets of an authenticated connection, if that is possible."""
        if cls.refused is None:
            transport = connection._transport
            if transport is not None and not transport.is_closing():
                cls(connection).begin()

    @classmethod
    def of(cls, connection: Any) -> Bulk | None:
        """Return that of a connection, None where asyncssh does all."""
        found = connection.get_extra_info(_KEY)
        return found if isinstance(found, cls) else None

    def begin(self) -> None:
        """Put this between the connection and its transport."""
        transport = self._connection._transport
        self._connection.set_extra_info(**{_KEY: self})
        transport.pause_reading()  # it looks at what its protocol is when it begins to read
        transport.set_protocol(self)
        transport.resume_reading()

    # What follows is called by the transport.

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on."""
        self._connection.connection_lost(exc)

    def eof_received(self) -> bool | None:
        """Pass it on."""
        return bool(self._connection.eof_received())

    def pause_writing(self) -> None:
        """Pass it on."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._connection.resume_writing()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes are to go."""
        return self._buffer[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """Take what has come."""
        connection = self._connection
        if connection._transport is None:  # it ends, and what still comes is nobody's
            return
        self._end += nbytes
        connection._reset_keepalive_timer()
        while self._end > self._begin and connection._transport is not None:
            if not (taken := self._next()):
                break
            self._begin += taken
        if connection._transport is None or self._begin == self._end:
            self._begin = self._end = 0
        elif self._begin + _ROOM > _BUFFER:
            rest = bytes(self._buffer[self._begin : self._end])
            self._buffer[: len(rest)] = rest
            self._begin, self._end = 0, len(rest)

    def _next(self) -> int:
        """Take from what is there; return how much was, 0 when more is needed."""
        there = self._end - self._begin
        cipher = self._connection._recv_encryption
        if (needed := self._needed()) or type(cipher) is not encryption.GCMEncryption:
            return self._pass_on(min(needed or there, there))
        if there < _LENGTH.size:
            return 0
        (untrusted_length,) = _LENGTH.unpack_from(self._buffer, self._begin)
        whole: int = _LENGTH.size + untrusted_length + _TAG
        if not _LEAST <= untrusted_length <= min(_MOST, self._connection._max_recv_pktlen):
            return self._pass_on(min(whole, there))
        if there < whole:
            return 0
        if not self._open(cipher, self._buffer[self._begin : self._begin + whole]):
            return self._pass_on(whole)
        return whole

    def _needed(self) -> int:
        """Return how many bytes asyncssh needs to go on, 0 when a new packet may begin.

        As many as there are, when it waits for something, or has not come to packets yet.
        """
        connection = self._connection
        held = len(connection._inpbuf)
        if connection._recv_handler == connection._recv_pkthdr:
            return max(1, connection._recv_blocksize - held) if held else 0
        if connection._recv_handler == connection._recv_packet:
            rest: int = connection._pktlen + connection._recv_macsize - connection._recv_blocksize
            return max(1, _LENGTH.size + rest - held)
        return self._end - self._begin

    def _pass_on(self, count: int) -> int:
        self._connection.data_received(bytes(self._buffer[self._begin : self._begin + count]))
        return count

    def _open(self, cipher: Any, packet: memoryview) -> bool:
        """Open a packet and deliver it, if it is channel data that asyncssh would take."""
        length, sealed = packet[: _LENGTH.size], packet[_LENGTH.size :]
        size, nonce = len(sealed) - _TAG, cipher._cipher._iv
        gcm = self._gcm(cipher)
        try:
            if size < _LENT:
                opened = memoryview(gcm.decrypt(nonce, sealed, length))
            else:
                opened = _LOANS.take()[:size]
                gcm.decrypt_into(nonce, sealed, length, opened)
        except InvalidTag:
            return False
        padding, kind, number, count = _HEAD.unpack_from(opened)
        connection = self._connection
        channel = connection._channels.get(number)
        if (
            kind != _MSG_CHANNEL_DATA
            or padding < _LEAST_PADDING
            or _HEAD.size + count + padding != size
            or connection._decompressor is not None
            or not connection._auth_complete
            or not isinstance(channel, SSHChannel)
            or channel._recv_state != "open"
            or channel._encoding is not None
            or count > channel._recv_window
        ):
            return False
        cipher._cipher._update_iv()
        connection._recv_seq = (connection._recv_seq + 1) & 0xFFFFFFFF
        self.opened += 1
        accept: Any = channel._accept_data  # its type says bytes, and it passes on what it gets
        try:
            accept(opened[_HEAD.size : _HEAD.size + count])
        except Exception:  # as asyncssh does with whatever a packet leads to
            connection.internal_error()
        return True

    @staticmethod
    def takes(size: int) -> bool:
        """Tell whether so many bytes are a packet for `send`."""
        return _LEAST <= size <= _MOST_DATA

    def send(self, channel: Any, pieces: Sequence[Bytes], size: int) -> bool:
        """Send pieces of `size` bytes as one packet of channel data, if that can be done at once.

        Nothing was sent when it returns False: asyncssh is to do it.
        """
        connection = self._connection
        cipher = connection._send_encryption
        if (
            not self.takes(size)
            or not isinstance(channel, SSHChannel)  # as what only looks like one
            or type(cipher) is not encryption.GCMEncryption
            or connection._transport is None
            or connection._compressor is not None
            or not (connection._auth_complete and connection._kex_complete)
            or connection._rekey_bytes_sent >= connection._rekey_bytes
            or (connection._rekey_seconds and monotonic() >= connection._rekey_time)
            or channel._send_state != "open"
            or channel._send_chan is None
            or channel._send_buf
            or size > min(channel._send_window, channel._send_pktsize)
        ):
            return False
        packet = self._put_together(channel._send_chan, pieces, size)
        connection._send(self._seal(cipher, packet))
        channel._send_window -= size
        connection._send_seq = (connection._send_seq + 1) & 0xFFFFFFFF
        connection._rekey_bytes_sent += len(packet) - _LENGTH.size
        self.sealed += 1
        return True

    def _put_together(self, number: int, pieces: Sequence[Bytes], size: int) -> memoryview:
        padding = -(_HEAD.size + size) % _BLOCK
        if padding < _LEAST_PADDING:
            padding += _BLOCK
        plain = self._plain
        _LENGTH.pack_into(plain, 0, _HEAD.size + size + padding)
        _HEAD.pack_into(plain, _LENGTH.size, padding, _MSG_CHANNEL_DATA, number, size)
        end = _LENGTH.size + _HEAD.size
        for piece in (*pieces, os.urandom(padding)):
            begin, end = end, end + len(piece)
            plain[begin:end] = piece
        return plain[:end]

    def _seal(self, cipher: Any, packet: memoryview) -> memoryview:
        """Return the packet as it goes over the wire."""
        wire = _LOANS.take()[: len(packet) + _TAG]
        length = packet[: _LENGTH.size]
        wire[: _LENGTH.size] = length
        nonce = cipher._cipher._iv
        cipher._cipher._update_iv()
        self._gcm(cipher).encrypt_into(nonce, packet[_LENGTH.size :], length, wire[_LENGTH.size :])
        return wire

    def _gcm(self, cipher: Any) -> AESGCM:
        """Return what opens or seals with the key of a cipher of asyncssh."""
        if (gcm := self._ciphers.get(cipher)) is None:
            connection = self._connection
            using = (connection._recv_encryption, connection._send_encryption)
            self._ciphers = {of: made for of, made in self._ciphers.items() if of in using}
            gcm = self._ciphers[cipher] = AESGCM(cipher._cipher._key)
        return gcm


def drop_ignored(
    connection: asyncssh.SSHClientConnection | asyncssh.SSHServerConnection,
) -> None:
    """Have a connection send no packets that the other side is to ignore.

    asyncssh sends one before every other, against an attack on CBC ciphers (RFC 4251, section
    9.3.1). Only for connections whose ciphers are not in CBC mode, as all of ours.
    """
    send_packet = connection.send_packet

    def send_others(pkttype: int, *args: bytes, **options: Any) -> None:
        if pkttype != _MSG_IGNORE:
            send_packet(pkttype, *args, **options)

    connection.send_packet = send_others  # type: ignore[method-assign]
