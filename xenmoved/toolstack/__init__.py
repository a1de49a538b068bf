"""Everything that this program does with Xen, behind the contract in `interface`.

interface      what the daemon may ask of a toolstack
guest_configs  what of guests' configuration files
detect         which driver this host has
driver         what the drivers have in common
xl             the driver of `xl`
xm             the driver of `xm`
domains        what `xl list` prints, as domains
lookup         finding and ending domains
backends       what the backends of a domain really have open
configs        guests' configuration files
cold           a guest that does not run, on its way
sizes          how large a guest is, whatever form says so
announced      whether the guest that comes is the one that was announced
vetting        what a configuration from another host may make this host do
policy         what each of its keys may say
readable       which files of this host a guest may be given to read
wiring         what its network interfaces may have of this host
commands       runs Xen's commands
pipes          our ends of the pipes to them
durable        small files that must survive a crash
"""

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
