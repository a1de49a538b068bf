"""Everything that this program does with Xen, behind the contract in `interface`."""

from xenmoved.toolstack.detect import detect
from xenmoved.toolstack.interface import (
    MIGRATION_VARIABLE,
    Arrival,
    Disk,
    Domain,
    DomainNotFound,
    DomainState,
    DomainStatus,
    HostInfo,
    IncomingImage,
    Nic,
    OutgoingImage,
    Settled,
    StartFailed,
    Toolstack,
    ToolstackError,
)

__all__ = [
    "MIGRATION_VARIABLE",
    "Arrival",
    "Disk",
    "Domain",
    "DomainNotFound",
    "DomainState",
    "DomainStatus",
    "HostInfo",
    "IncomingImage",
    "Nic",
    "OutgoingImage",
    "Settled",
    "StartFailed",
    "Toolstack",
    "ToolstackError",
    "detect",
]
