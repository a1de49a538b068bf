"""What is known of a guest that comes to this host, from its offer on, and across restarts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from protocol.errors import Code, ProtocolError
from protocol.messages import GuestSize, ImageFormat, Mode, Offer, Remark
from protocol.schema import build
from xenmoved.journal.records import Inbound
from xenmoved.toolstack.interface import Announced, Arrival, Nic, SourceDisk
from xenmoved.toolstack.wiring import CAUTIOUS, Wiring

NOT_READ_ANY_MORE: Final = frozenset({"made"})
"""What earlier releases kept of a guest, and nobody asks for."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the journal keeps of an arriving guest, so that a later process can go on."""

    name: str
    uuid: str
    disks: dict[str, str]
    keep_partial: bool
    config: str | None
    autostart: bool
    cold: bool
    bridges: dict[str, str] = field(default_factory=dict)
    given_up: bool = False
    """An operator has declared that it was never started here."""
    source_name: str = ""
    """What it is called at the source, where that is something else."""
    read_only: list[str] = field(default_factory=list)
    """Disks that are not this guest's alone, and that it may only read."""
    formats: dict[str, str] = field(default_factory=dict)
    """Of disks that are not raw."""
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the source's configuration says of each disk: fields of a `SourceDisk`."""
    announced: dict[str, Any] | None = None
    """What else was announced: fields of `Announced`; None in records of old releases."""
    was_ready: bool = True
    """It was ready once, as nothing else is known in records of old releases."""
    left_out: list[str] = field(default_factory=list)
    """What it comes without; known when it is ready."""
    remarks: list[object] | None = None
    """What an operator should know of its being here: `Remark`s as plain data, None before."""
    wiring: dict[str, Any] | None = None
    """What its interfaces may have of this host: fields of a `Wiring`, None in old records."""
    boot_order: str = ""
    """What the name of its entry begins with that starts it at boot at the source."""
    returns: bool = True
    """It went from here to the peer that it comes from; not known in records of old releases."""
    stayed: list[str] = field(default_factory=list)
    """Disks that stayed here when it went from here."""
    shared: list[str] = field(default_factory=list)
    """Disks that were not copied."""
    not_at_boot: str = ""
    """Why it is not started at boot here, although it is at the source."""
    unweighed: list[str] = field(default_factory=list)
    """Entries that are started at boot here, and because of which it is not."""
    restart: bool = False
    """It is started here from its configuration."""

    @classmethod
    def of(cls, entry: Inbound) -> Expected:
        """Return what the journal keeps of it."""
        details = entry.details.items()
        return cls(**{key: value for key, value in details if key not in NOT_READ_ANY_MORE})

    @property
    def by_file(self) -> bool:
        """Whether its configuration is all that comes of it, beside its disks."""
        return self.cold or self.restart

    @property
    def arrival(self) -> Arrival:
        """How the guest is to look here."""
        return Arrival(
            self.name,
            self.uuid,
            self.disks,
            self.bridges,
            self.source_name or self.name,
            frozenset(self.read_only),
            self.formats,
            {vdev: SourceDisk(**said) for vdev, said in self.sources.items()},
            _announced(self.announced) if self.announced is not None else None,
            _wiring(self.wiring) if self.wiring is not None else CAUTIOUS,
            self.boot_order,
            self.returns,
            frozenset(self.stayed),
        )

    @property
    def all_remarks(self) -> tuple[Remark, ...]:
        """What an operator should know of its being here."""
        return tuple(build(Remark, one) for one in self.remarks or ())

    def resized(self, size: GuestSize) -> Expected:
        """Return the same guest, announced as of another size."""
        assert self.announced is not None
        return replace(self, announced=self.announced | {"size": asdict(size)})


def _announced(said: dict[str, Any]) -> Announced:
    nics = tuple(Nic(**nic) for nic in said["nics"])
    return Announced(said["kind"], GuestSize(**said["size"]), nics)


def _wiring(said: dict[str, Any]) -> Wiring:
    lists = {key: tuple(said[key]) for key in ("scripts", "networks", "gateways")}
    return Wiring(folder=said["folder"], **lists)


def laid_out(offer: Offer) -> Offer:
    """Return an offer with its volumes as they come: the content of an image is raw."""
    volumes = tuple(
        replace(volume, format=ImageFormat.RAW) if volume.is_content(offer.way) else volume
        for volume in offer.volumes
    )
    return replace(offer, volumes=volumes)


def expect(
    offer: Offer,
    disks: dict[str, str],
    bridges: dict[str, str],
    wiring: Wiring,
    *,
    formats: Mapping[str, ImageFormat],
    stayed: Collection[str],
    returns: bool,
    keep_partial: bool,
) -> Expected:
    """Return what is to be kept of an offer of a guest.

    `disks` maps each vdev to its path here, and `formats` that of each volume to the format in
    which the disk lies here, `bridges` the source's to those here, and `wiring` is what its
    interfaces may have beside them. `stayed` are the vdevs of volumes that it left here.
    `returns`: it went from here to this very peer.
    """
    guest = offer.guest
    assert guest is not None
    sources = {disk.vdev: SourceDisk(disk.path, disk.writable, disk.cdrom) for disk in guest.shared}
    for volume in offer.volumes:
        if volume.vdev is None or volume.path is None:
            raise ProtocolError(Code.OUT_OF_RANGE, "a disk of a guest without its place there")
        sources[volume.vdev] = SourceDisk(
            volume.path, volume.writable, cdrom=False, format=volume.format.value
        )
    return Expected(
        name=guest.target_name,
        uuid=guest.uuid,
        disks=disks | dict.fromkeys(guest.ejected, ""),
        keep_partial=keep_partial,
        config=guest.config_text,
        autostart=guest.autostart,
        cold=offer.way is Mode.COLD,
        bridges=bridges,
        source_name=guest.name if guest.wish is not None else "",
        read_only=[disk.vdev for disk in guest.shared if disk.cdrom or not disk.writable],
        formats={vdev: kind.value for vdev, kind in formats.items() if kind is not ImageFormat.RAW},
        sources={vdev: asdict(source) for vdev, source in sources.items()},
        announced={
            "kind": guest.kind,
            "size": asdict(guest.size),
            "nics": [asdict(nic) for nic in guest.nics],
        },
        was_ready=False,
        wiring=asdict(wiring),
        boot_order=guest.boot_order or "",
        returns=returns,
        stayed=sorted(stayed),
        shared=[disk.vdev for disk in guest.shared],
        restart=offer.restart,
    )
