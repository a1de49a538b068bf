"""What two daemons say to each other.

`Hello` opens every control channel, in both directions. Then the source asks and the target
answers; `protocol.conversation` says what may follow what. `Attach` opens volume and memory
channels and ties them to a migration. The remaining messages belong to volume channels
(`protocol.blocksync`). Sizes and offsets are in bytes. Every field is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

from protocol.codec import MessageSet
from protocol.errors import Code, ProtocolError
from protocol.handover import Word
from protocol.schema import U8, U16, U32, U63, Length, Name, Pattern, Range, Text

VERSION: Final = 5
CAPABILITIES: Final = ("blake3-64k", "zstd", "zfs-stream")
"""What this release can do. `blake3-64k` is the block hash that every daemon has."""
REQUIRED_CAPABILITIES: Final = frozenset({"blake3-64k"})
BLOCK_SIZE: Final = 64 * 1024
"""Bytes of a volume that share one hash."""

PEER: Final = MessageSet()

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
DiskPath = Annotated[
    str, Pattern(r"/[^,'\"\\\x00-\x1f\x7f]{1,1023}", "an absolute path without quotes and commas")
]
SourcePath = Annotated[str, Length(1, 4096)]
"""Where the source has a disk, as its toolstack says it: to be compared, never to be opened."""
Vdev = Annotated[str, Pattern(r"[a-z0-9]{1,16}", "a virtual device name such as xvda")]
BootOrder = Annotated[
    str, Pattern(r"[0-9]{1,8}[-_.+]?", "a number that names of boot entries begin with, as 01-")
]
Digest = Annotated[bytes, Length(32, 32)]
Guid = Annotated[str, Pattern(r"[0-9a-f]{16}", "the guid of a snapshot (16 hex digits)")]
GuestKind = Annotated[str, Pattern(r"pv|pvh|hvm", "a type of guest (pv, pvh or hvm)")]
Processors = Annotated[int, Range(1, 8192)]
Names = Annotated[tuple[Name, ...], Length(0, 256)]
Seconds = Annotated[float, Range(0, 1e9)]
Bridges = Annotated[dict[Name, Name], Length(0, 64)]
"""Names on the target of the source's bridges."""


class Action(StrEnum):
    """What a peer may be allowed to do on this host."""

    MIGRATE = "migrate"  # send a guest with its disks, and start it here
    SYNC = "sync"  # send disks only


class Mode(StrEnum):
    """How a guest is moved."""

    LIVE = "live"  # its memory is copied while it runs
    SAVE = "save"  # it is suspended, then its memory is copied
    COLD = "cold"  # it does not run, and is not started


class Presence(StrEnum):
    """Whether a domain of a guest is on the target."""

    THERE = "there"  # one of its uuid, under whatever name
    NAMESAKE = "namesake"  # none of its uuid, but one of its name
    ABSENT = "absent"
    UNSEEN = "unseen"  # it was not looked, or what was seen does not tell


class Weight(StrEnum):
    """What a remark asks of an operator."""

    INFO = "info"  # nothing: it is good to know
    ACTION = "action"  # to look at it, or to do something


class ImageFormat(StrEnum):
    """How a disk lies in its volume. All but raw ones are copied as they are, never looked into."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VHD = "vhd"


@PEER.add
@dataclass(frozen=True, slots=True)
class Hello:
    """Who speaks. Both sides use the intersection of the capabilities."""

    version: U16
    software: Name
    node: Name
    capabilities: Names


@PEER.add
@dataclass(frozen=True, slots=True)
class Working:
    """An answer is still to come: what the target is at meanwhile.

    It has taken `steps` steps before this one. As often as once a second, so that a source can tell
    a slow target from one that hangs: `steps` grows within the limits that the target has for each.
    """

    steps: U32
    doing: Text


@PEER.add
@dataclass(frozen=True, slots=True)
class Ping:
    """Ask for an answer, and for what the other side lets this one do."""


@dataclass(frozen=True, slots=True)
class Room:
    """What new volumes in a pool may take, in bytes; None where that is not limited."""

    pool: PoolName
    free: U63 | None


@PEER.add
@dataclass(frozen=True, slots=True)
class Pong:
    """What the asker may do there, and what fits there, in bytes. A limit of None is none.

    `memory` and `vcpus` limit each guest. `room` has the pools in which it may make volumes.
    """

    toolstack: Name
    xen_version: Text
    actions: Names
    pools: Names
    guests: Names
    quota: U63 | None
    quota_used: U63
    memory: U63 | None
    vcpus: Processors | None
    free_memory: U63
    room: Annotated[tuple[Room, ...], Length(0, 256)]


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
    of that name, rather than its default. `size` is that of the volume; in a `format` other than
    raw the disk has another one. `sector` is the logical sector size that a guest sees.

    `vdev`, `path` and `writable` are what the source's configuration says of the guest's disk. The
    target opens no such path: it sees that the guest comes with the disks that were announced.
    `vdev` and `path` are None for a volume without a guest.

    `moved_by` is the migration with which the volume's guest came to the source, where that is
    known: the target may have a copy of it from then, though the guest was started anew with
    another uuid since.
    """

    name: VolumeName
    size: U63
    vdev: Vdev | None
    pool: PoolName | None
    home: PoolName | None
    wish: VolumeName | None
    format: ImageFormat
    sector: Annotated[int, Range(1, 65536)]
    path: SourcePath | None
    writable: bool
    moved_by: MigrationId | None


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that stands in the way, for an operator: what, and what to do about it."""

    code: Name
    text: Text
    hint: Text


@dataclass(frozen=True, slots=True)
class Remark:
    """Something that stands in nobody's way, for an operator: what, and what to do about it."""

    weight: Weight
    code: Name
    text: Text
    hint: Text


SomeRemarks = Annotated[tuple[Remark, ...], Length(0, 64)]


@PEER.add
@dataclass(frozen=True, slots=True)
class Offer:
    """Ask what would stand in the way of this migration or sync. Changes nothing.

    `overwrite`: volumes that are there already and not known to be this guest's may be emptied and
    used, as far as the target lets this peer do so.
    """

    action: Action
    mode: Mode
    overwrite: bool
    guest: GuestOffer | None
    volumes: Annotated[tuple[VolumeOffer, ...], Length(0, 64)]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the target would put, or has put, a volume.

    A fresh volume is made for it. A zeroed one reads as zeros: nothing there needs to be hashed.
    `size` is that of the whole volume in bytes, at least that of the offered one: all that is
    beyond the end of the source is zeros, and is copied as such.
    """

    pool: PoolName
    name: VolumeName
    fresh: bool
    zeroed: bool
    size: U63


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


@PEER.add
@dataclass(frozen=True, slots=True)
class HandOver:
    """The guest is about to be suspended: get ready to receive its memory.

    `size` is what it has come to by now, as its host may have given it more since it was offered.
    """

    size: GuestSize


@PEER.add
@dataclass(frozen=True, slots=True)
class Receiving:
    """The memory channel may be opened."""


@PEER.add
@dataclass(frozen=True, slots=True)
class Seal:
    """Memory and the last round of every volume have been sent: build the domain, paused.

    `memory_digest` is the BLAKE3 hash of the image, `memory_size` its length.
    """

    memory_size: U63
    memory_digest: Digest


@PEER.add
@dataclass(frozen=True, slots=True)
class Ready:
    """Every volume is durable, the domain is built and paused."""


@PEER.add
@dataclass(frozen=True, slots=True)
class Commit:
    """The guest is yours. Idempotent. The answer is `started` once it runs there."""

    migration: MigrationId


@PEER.add
@dataclass(frozen=True, slots=True)
class Abort:
    """End this migration without the guest. Idempotent.

    A source whose operator has kept the guest, as nobody could tell whether the target had started
    it, tells so in this way. `started` is then the answer of a target that had.
    """

    migration: MigrationId
    reason: Text


@PEER.add
@dataclass(frozen=True, slots=True)
class Inquire:
    """Ask what became of a migration. Changes nothing.

    `uuid` is the guest's, None where the source does not know it any more, and `name` what it is
    called on the target: a target without a record looks for a domain of it.
    """

    migration: MigrationId
    uuid: Uuid | None
    name: GuestName


@PEER.add
@dataclass(frozen=True, slots=True)
class Fate:
    """What the target's journal says of a migration: the answer to `Inquire`, `Commit` and `Abort`.

    `unknown`, and `never-ready` to a source that was told `Ready`, say that its journal was lost or
    set back. They are no word about the guest: the source stays in doubt. `domain` is then the
    answer to `Inquire` of whether a domain of the guest is there. `reason` is for an operator.
    """

    word: Word
    domain: Presence
    reason: Text


@PEER.add
@dataclass(frozen=True, slots=True)
class Recall:
    """Ask what an operator should know of a guest that has come. Changes nothing."""

    migration: MigrationId


@PEER.add
@dataclass(frozen=True, slots=True)
class Remarks:
    """What the target has to remark on its configuration, its start at boot and its volumes there.

    It is in the target's journal: the answer to the same question stays the same once it is
    `complete`. Before, the target has not tidied up yet. A target without a record has no remarks.
    """

    complete: bool
    remarks: SomeRemarks


@PEER.add
@dataclass(frozen=True, slots=True)
class Finish:
    """End of a sync: make the volumes durable and release them."""


@PEER.add
@dataclass(frozen=True, slots=True)
class Finished:
    """The volumes are durable and released."""


@PEER.add
@dataclass(frozen=True, slots=True)
class Failed:
    """The side that says this cannot go on; it closes the channel afterwards."""

    problem: Problem


@PEER.add
@dataclass(frozen=True, slots=True)
class Attach:
    """First message on a volume or memory channel: what it belongs to.

    `volume` is the index in the offer; 0 on a memory channel.
    """

    migration: MigrationId
    volume: U8


@PEER.add
@dataclass(frozen=True, slots=True)
class BeginRound:
    """Start of a round. With `compare` the target streams the hashes of what it has."""

    number: U32
    compare: bool


@PEER.add
@dataclass(frozen=True, slots=True)
class Credit:
    """The target may send this many more frames of its comparison."""

    frames: U16


@PEER.add
@dataclass(frozen=True, slots=True)
class EndRound:
    """All of the round was sent. `digest` is described in `protocol.blocksync.RoundDigest`."""

    number: U32
    data_bytes: U63
    zero_bytes: U63
    frames: U32
    digest: Digest


@PEER.add
@dataclass(frozen=True, slots=True)
class Receipt:
    """What the target received in the round, all of it written and durable."""

    number: U32
    data_bytes: U63
    zero_bytes: U63
    frames: U32
    digest: Digest


@PEER.add
@dataclass(frozen=True, slots=True)
class StreamOffer:
    """Ask whether the volume may come as streams (see `protocol.streams`).

    `snapshots` is what the source has of it, the newest first; `features` is what the target's
    storage has to know for streams with compressed blocks.
    """

    snapshots: Annotated[tuple[Guid, ...], Length(0, 1024)]
    features: Names


@PEER.add
@dataclass(frozen=True, slots=True)
class StreamTerms:
    """How the streams have to be, if they are accepted.

    `base` is the newest snapshot that both have, None if all has to be sent. `resume` is where an
    earlier stream was interrupted.
    """

    accepted: bool
    base: Guid | None
    compressed: bool
    resume: Text | None


@PEER.add
@dataclass(frozen=True, slots=True)
class BeginStream:
    """Start of a stream from `base` (None: from nothing) to `snapshot`, of about `size` bytes.

    `resumed`: the rest of the stream that `StreamTerms` told of.
    """

    number: U32
    base: Guid | None
    snapshot: Guid
    size: U63
    resumed: bool


@PEER.add
@dataclass(frozen=True, slots=True)
class EndStream:
    """All of the stream was sent, `size` bytes."""

    number: U32
    size: U63


@PEER.add
@dataclass(frozen=True, slots=True)
class StreamReceipt:
    """The stream was taken in, is durable, and led to this snapshot."""

    number: U32
    size: U63
    snapshot: Guid


def releases_match(one: Hello | None, other: Hello) -> bool:
    """Whether two sides that have greeted each other so can do more than to settle a doubt."""
    return one is not None and (
        one.version == other.version
        and intersect(one.capabilities, other.capabilities) >= REQUIRED_CAPABILITIES
    )


def common_capabilities(untrusted_hello: Hello) -> frozenset[str]:
    """Return the capabilities that both sides have.

    Raises ProtocolError where no more is possible than to settle a doubt.
    """
    if untrusted_hello.version != VERSION:
        raise ProtocolError(
            Code.VERSION,
            f"{untrusted_hello.node} ({untrusted_hello.software}) speaks protocol version "
            f"{untrusted_hello.version}, this host version {VERSION}: install releases that match",
        )
    common = intersect(CAPABILITIES, untrusted_hello.capabilities)
    if missing := REQUIRED_CAPABILITIES - common:
        raise ProtocolError(
            Code.VERSION,
            f"{untrusted_hello.node} ({untrusted_hello.software}) lacks {', '.join(missing)}",
        )
    return common


def intersect(ours: Iterable[str], untrusted_theirs: Iterable[str]) -> frozenset[str]:
    """Return the names that both sides have."""
    return frozenset(ours) & frozenset(untrusted_theirs)
