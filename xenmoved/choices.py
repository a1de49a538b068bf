"""What an operator can choose between, in the configuration and for one job."""

from __future__ import annotations

from enum import StrEnum


class Compression(StrEnum):
    """Whether disk blocks and memory are compressed on the way."""

    AUTO = "auto"  # only while the network is the slower part
    ZSTD = "zstd"
    OFF = "off"


class CdromChoice(StrEnum):
    """What becomes of a CD-ROM in the drive of a guest that leaves."""

    REFUSE = "refuse"  # the operator must say
    EJECT = "eject"  # its drive is empty on the other host
    REQUIRE = "require"  # the other host must have it too
