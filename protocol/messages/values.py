"""What messages are made of: names, numbers and texts with their bounds; and the set of them."""

from __future__ import annotations

from typing import Annotated, Final

from protocol.codec import MessageSet
from protocol.schema import Length, Name, Pattern, Range

PEER: Final = MessageSet()
"""Every message that two daemons exchange."""

MigrationId = Annotated[str, Pattern(r"[0-9a-f]{32}", "a migration id (32 hex digits)")]
GuestName = Annotated[
    str, Pattern(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,79}", "a domain name (letters, digits, _ . + -)")
]
Uuid = Annotated[
    str, Pattern(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "a UUID")
]
VolumeName = Annotated[
    str, Pattern(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}", "a volume name (letters, digits, _ . + -)")
]
PoolName = Annotated[str, Pattern(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}", "a pool name")]
Vdev = Annotated[str, Pattern(r"[a-z0-9]{1,16}", "a virtual device name such as xvda")]
Digest = Annotated[bytes, Length(32, 32)]
Guid = Annotated[str, Pattern(r"[0-9a-f]{16}", "the guid of a snapshot (16 hex digits)")]
Processors = Annotated[int, Range(1, 8192)]
Names = Annotated[tuple[Name, ...], Length(0, 256)]
Seconds = Annotated[float, Range(0, 1e9)]
