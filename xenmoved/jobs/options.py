"""What an operator may choose for one job."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from protocol.schema import U63, Length, Name
from xenmoved.choices import CdromChoice, Compression
from xenmoved.jobs.report import Seconds

NameMap = Annotated[dict[Name, Name], Length(0, 64)]


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """Choices for one job; None leaves them to the configuration.

    `rate_limit` is in bytes a second, 0 is no limit. `pool` is
    where the target is to put new volumes. `keep_partial`: when it fails, volumes made for it stay,
    so that the next try sends only what is missing. `overwrite`: volumes that are there and not
    known to be this guest's may be used. `max_downtime`: the guest may stand still for no
    longer, as far as can be told before. `hold`: it is suspended only when `SetJob` takes that
    back. `remove_source`: verify, and drop the volumes here when the guest has moved. `pools`,
    `volumes` and `bridges` have names there by names here, those of volumes being patterns
    (`xenmoved.namemap`); `pools` goes before `pool`. `shutdown_timeout`: the seconds that a guest
    may take to shut down, to be started there. `rename` is what the guest is to be called there,
    and `cdrom` what becomes of a CD-ROM in its drive. `several`: they are for many guests, of which
    some may not have what is named.
    """

    rate_limit: U63 | None = None
    compression: Compression | None = None
    verify: bool | None = None
    pool: Name | None = None
    keep_partial: bool = False
    overwrite: bool = False
    max_downtime: Seconds | None = None
    hold: bool = False
    shutdown_timeout: Seconds | None = None
    remove_source: bool = False
    pools: NameMap = field(default_factory=dict)
    volumes: NameMap = field(default_factory=dict)
    bridges: NameMap = field(default_factory=dict)
    rename: Name | None = None
    cdrom: CdromChoice | None = None
    several: bool = False
