"""SSH settings that both ends share."""

from __future__ import annotations

from typing import Any, Final

from xenmoved.link.channel import PACKET_SIZE, WINDOW

USERNAME: Final = "xenmoved"
SETTLING: Final = "xenmoved-settling"
"""Who logs in as this wants to settle what is in doubt, and may do nothing else."""
KEYS: Final = ("ssh-ed25519",)
CERTIFICATES: Final = ("ssh-ed25519-cert-v01@openssh.com",)
"""Algorithms of host keys, and of host keys with certificates."""

_CIPHERS: Final = (
    "aes128-gcm@openssh.com",  # twice as fast as chacha20 where the processor has AES
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
)
_REKEY_BYTES: Final = 64 * 2**30  # what OpenSSH does for AES-GCM; the default stalls every GiB


def ssh_options(keepalive: float) -> dict[str, Any]:
    """Return the arguments for asyncssh that both ends use. `keepalive` is in seconds."""
    return {
        "encryption_algs": _CIPHERS,
        "compression_algs": ("none",),  # volumes are compressed by frame, where it helps
        "rekey_bytes": _REKEY_BYTES,
        "keepalive_interval": keepalive,
        "keepalive_count_max": 3,
        "config": None,
    }


CHANNEL_OPTIONS: Final[dict[str, Any]] = {
    "encoding": None,
    "window": WINDOW,
    "max_pktsize": PACKET_SIZE,
}
