"""What is to move, and what the target answers to that: preflight, then provision."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

from protocol.messages.remarks import Problem, SomeRemarks
from protocol.messages.values import (
    PEER,
    GuestName,
    MigrationId,
    PoolName,
    Processors,
    Uuid,
    Vdev,
    VolumeName,
)
from protocol.schema import U32, U63, Length, Name, Pattern, Range, Since, Text

DiskPath = Annotated[
    str, Pattern(r"/[^,'\"\\\x00-\x1f\x7f]{1,1023}", "an absolute path without quotes and commas")
]
SourcePath = Annotated[str, Length(1, 4096)]
"""Where the source has a disk, as its toolstack says it: to be compared, never to be opened."""
BootOrder = Annotated[
    str, Pattern(r"[0-9]{1,8}[-_.+]?", "a number that names of boot entries begin with, as 01-")
]
GuestKind = Annotated[str, Pattern(r"pv|pvh|hvm", "a type of guest (pv, pvh or hvm)")]
Bridges = Annotated[dict[Name, Name], Length(0, 64)]
"""Names on the target of the source's bridges."""


class Action(StrEnum):
    """What a peer may be allowed to do on this host."""

    MIGRATE = "migrate"  # send a guest with its disks, and start it here
    SYNC = "sync"  # send disks only


RESTARTS_SINCE: Final = 8
"""The version from which on a target can be asked to start a guest anew."""


class Mode(StrEnum):
    """How a guest is moved."""

    LIVE = "live"  # its memory is copied while it runs
    SAVE = "save"  # it is suspended, then its memory is copied
    COLD = "cold"  # it does not run, and is not started
    RESTART = "restart"  # it is shut down when its disks are there, and started on the target


class OfferedMode(StrEnum):
    """The modes that every version has a word for: an offer says the others in fields beside it."""

    LIVE = "live"
    SAVE = "save"
    COLD = "cold"


class ImageFormat(StrEnum):
    """How a disk lies in its volume.

    Images of a guest that is off are copied as they are, unless another format is wanted. Of one
    that runs the content is sent, as the guest sees it; releases that do not know of that refuse
    it. One that is to be started anew has none. Where content arrives in a format other than raw,
    the target makes the image.
    """

    RAW = "raw"
    QCOW2 = "qcow2"
    VHD = "vhd"


@dataclass(frozen=True, slots=True)
class NicOffer:
    """A network interface of the guest. `script` puts it on its bridge, None for the default."""

    mac: Text | None
    bridge: Name | None
    script: Name | None


@dataclass(frozen=True, slots=True)
class GuestSize:
    """What the guest may take of a host. Memory in bytes.

    `memory` is what it has or is about to have, `maximum` what it may be given while it runs,
    `beside` what Xen is told to keep for it beside that. `vcpus` are in use, of `max_vcpus`.
    """

    memory: U63
    maximum: U63
    beside: U63
    vcpus: Processors
    max_vcpus: Processors


@dataclass(frozen=True, slots=True)
class HypervisorOffer:
    """What a guest runs on.

    `version` is Xen's. `features` has the words of what its processors can do, as the toolstack
    prints them; none where it does not tell.
    """

    version: Text
    features: Annotated[tuple[U32, ...], Length(0, 64)]


@dataclass(frozen=True, slots=True)
class SharedOffer:
    """A disk that is not copied: the target must have it already. Size in bytes.

    Of one that is shared by its pool, `home` and `name` are what the source calls it, and `pool` is
    the pool that was asked for; of any other both are None, and `path` is what it is on both hosts.
    `identity` tells it from others of its size, where the source can tell. `cdrom`: it is in such a
    drive, and nobody writes to it.
    """

    vdev: Vdev
    path: DiskPath
    size: U63
    writable: bool
    cdrom: bool
    name: VolumeName | None
    pool: PoolName | None
    home: PoolName | None
    identity: Name | None


@dataclass(frozen=True, slots=True)
class GuestOffer:
    """The guest that is to move, as the target weighs it: what comes in its place is refused.

    `name` is what the source calls it, and `wish` what it was asked to be called on the target.
    `bridges` has the names there of bridges, where they were asked for. `shared` are disks that are
    not copied, `ejected` the CD-ROM drives that are to be empty there. `config` is its
    configuration file, in whatever encoding. `autostart`: it is started at boot, among those in
    `boot_order`, where the name of its entry says so.
    """

    name: GuestName
    uuid: Uuid
    kind: GuestKind
    toolstack: Name
    hypervisor: HypervisorOffer
    size: GuestSize
    nics: Annotated[tuple[NicOffer, ...], Length(0, 64)]
    config: Annotated[bytes, Length(0, 65536)] | None
    autostart: bool
    boot_order: BootOrder | None
    wish: GuestName | None
    bridges: Bridges
    shared: Annotated[tuple[SharedOffer, ...], Length(0, 64)]
    ejected: Annotated[tuple[Vdev, ...], Length(0, 64)]

    @property
    def target_name(self) -> str:
        """What it is to be called on the target."""
        return self.wish or self.name

    @property
    def config_text(self) -> str | None:
        """Its configuration file; bytes that are no UTF-8 are in it as lone surrogates."""
        return self.config.decode("utf-8", "surrogateescape") if self.config is not None else None


@dataclass(frozen=True, slots=True)
class VolumeOffer:
    """A volume that is to be copied.

    `name` is what the source calls it, and `wish` what it was asked to be called on the target,
    which otherwise may have its own mind about that. `pool` is the pool that was asked for. Without
    one the target takes the one that it has for `home`, where the volume is at the source, or one
    of that name, rather than its default. `size` is that of the volume, and `disk_size` that of the
    disk in it, another one in a `format` other than raw: the volume may grow to it. Of a guest that
    runs both are that of the disk that it sees. `sector` is the logical sector size that a guest
    sees.

    `vdev`, `path` and `writable` are what the source's configuration says of the guest's disk. The
    target opens no such path: it sees that the guest comes with the disks that were announced.
    `vdev` and `path` are None for a volume without a guest.

    `moved_by` is the migration with which the volume's guest came to the source, where that is
    known: the target may have a copy of it from then, though the guest was started anew with
    another uuid since.

    `wanted` is the format that was asked for on the target, None for what the target has. Where it
    is another one than `format`, the content is sent, also of a guest that is off. Of an image of
    which that is so `cluster` is the size of its clusters in bytes, 0 where it has none, or nothing
    tells. What an older release does not know it would take for an image as it is: it is offered no
    content of a guest that is off, and nothing with a format that is wanted.
    """

    name: VolumeName
    size: U63
    vdev: Vdev | None
    pool: PoolName | None
    home: PoolName | None
    wish: VolumeName | None
    format: ImageFormat
    disk_size: U63
    sector: Annotated[int, Range(1, 65536)]
    path: SourcePath | None
    writable: bool
    moved_by: MigrationId | None
    wanted: Annotated[ImageFormat | None, Since(8)] = None
    cluster: Annotated[int, Range(0, 2 << 20), Since(8)] = 0

    def is_content(self, mode: Mode) -> bool:
        """Whether what is sent is the content of an image, and not the image itself."""
        if self.format is ImageFormat.RAW:
            return False
        by_file = mode in (Mode.COLD, Mode.RESTART)
        return not by_file or self.wanted not in (None, self.format)


@PEER.add
@dataclass(frozen=True, slots=True)
class Offer:
    """Ask what would stand in the way of this migration or sync. Changes nothing.

    `overwrite`: volumes that are there already and not known to be this guest's may be emptied and
    used, as far as the target lets this peer do so. `restart`, with mode `cold`: the guest runs,
    and is shut down when its disks are there; its configuration comes, and the target starts it.
    """

    action: Action
    mode: OfferedMode
    overwrite: bool
    guest: GuestOffer | None
    volumes: Annotated[tuple[VolumeOffer, ...], Length(0, 64)]
    restart: Annotated[bool, Since(RESTARTS_SINCE)] = False

    @classmethod
    def of(
        cls,
        action: Action,
        mode: Mode,
        *,
        overwrite: bool,
        guest: GuestOffer | None,
        volumes: tuple[VolumeOffer, ...],
    ) -> Offer:
        """Return the offer to move in a mode."""
        restart = mode is Mode.RESTART
        offered = OfferedMode.COLD if restart else OfferedMode(mode.value)
        return cls(action, offered, overwrite, guest, volumes, restart=restart)

    @property
    def way(self) -> Mode:
        """The mode in which it is to move."""
        return Mode.RESTART if self.restart else Mode(self.mode.value)

    @property
    def by_file(self) -> bool:
        """Whether its configuration file is all that comes of a guest, beside its disks."""
        return self.mode is OfferedMode.COLD

    @property
    def starts(self) -> bool:
        """Whether the guest runs on the target when it has come."""
        return self.way is not Mode.COLD


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the target would put, or has put, a volume.

    A fresh volume is made for it. A zeroed one reads as zeros: nothing there needs to be hashed.
    `size` is that of the whole volume in bytes, at least that of the offered one: all that is
    beyond the end of the source is zeros, and is copied as such. `format` is how the disk of a
    guest will lie there; where that is an image, `size` is still that of the disk.
    """

    pool: PoolName
    name: VolumeName
    fresh: bool
    zeroed: bool
    size: U63
    format: Annotated[ImageFormat, Since(8)] = ImageFormat.RAW


@PEER.add
@dataclass(frozen=True, slots=True)
class Findings:
    """The answer to `Offer`: every problem at once, and the rest only when there is none.

    `shared` has the paths of shared disks there, in the order of the offer, and `bridges` the name
    there of every bridge of the guest. `remarks` are those that the target will have to make when
    the guest has come, as far as it knows now.
    """

    problems: Annotated[tuple[Problem, ...], Length(0, 256)]
    volumes: Annotated[tuple[Placement, ...], Length(0, 64)]
    shared: Annotated[tuple[Text, ...], Length(0, 64)]
    bridges: Bridges
    remarks: SomeRemarks


@PEER.add
@dataclass(frozen=True, slots=True)
class Begin:
    """Provision and open the volumes for this offer.

    `keep_partial`: leave volumes that were made for it in place when it fails, so that a later
    attempt sends only what is missing.
    """

    migration: MigrationId
    offer: Offer
    keep_partial: bool


@PEER.add
@dataclass(frozen=True, slots=True)
class Accepted:
    """The volumes are open for writing, in the order of the offer."""

    volumes: Annotated[tuple[Placement, ...], Length(0, 64)]


@PEER.add
@dataclass(frozen=True, slots=True)
class Refused:
    """The offer cannot be taken; nothing was changed."""

    problems: Annotated[tuple[Problem, ...], Length(1, 256)]
