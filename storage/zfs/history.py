"""The snapshots of a zvol, and streams between them.

Snapshots of ours are called ``xenmoved-PEER-MIGRATION-ROUND``. Two hosts know one to be the same by
its guid, which a stream carries along. No other snapshot is ever destroyed here: `receive -F` would
do that on the way (seen with OpenZFS 2.1), so that it is used only for a volume without any.
OpenZFS 2 receives into a zvol that is open, and keeps it so; what the page cache has of it is stale
then, until `Volume.flush`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from storage.commands import lines, run
from storage.contracts import OWN_NAME, ResumePoint, Snapshot
from storage.descriptor import make_durable
from storage.errors import VolumeError, VolumeInUse, VolumeResized
from storage.pipes import Inflow, Outflow, end_others

COMPRESSION_FEATURES: Final = ("lz4_compress", "zstd_compress")
"""Features of a pool that decide in which form blocks are in a compressed stream."""

_TOKEN: Final = re.compile(r"[0-9a-f-]{1,4000}")


class ZfsHistory:
    """Snapshots of the zvol that is the dataset `dataset`, and whose device node is `device`.

    All methods raise `VolumeError`.
    """

    def __init__(self, dataset: str, device: str) -> None:
        self.dataset = dataset
        self.device = device

    def snapshots(self) -> list[Snapshot]:
        """Every snapshot, the oldest first."""
        listed = ("-t", "snapshot", "-d", "1", "-s", "createtxg", "-o", "name,guid")
        return parse_snapshots(run(["zfs", "list", "-H", "-p", *listed, self.dataset]))

    def take(self, name: str, size: int) -> Snapshot:
        """Make a snapshot of what the zvol holds now, dom0's page cache included.

        A backend that writes through it, as QEMU does for emulated disks, is told that a write is
        done when ZFS has not seen it yet. Raises VolumeResized when the zvol has not that size.
        """
        make_durable(self.device)
        run(["zfs", "snapshot", f"{self.dataset}@{name}"])
        guid, now = self.guid_and_size(name)
        snapshot = Snapshot(name, guid)
        if now != size:
            self.destroy([snapshot])
            raise VolumeResized(f"{self.device} has {now} bytes now, and had {size}")
        return snapshot

    def destroy(self, snapshots: Iterable[Snapshot]) -> None:
        """Destroy snapshots, all of them ours. Fails for those that have clones or holds."""
        names = [snapshot.name for snapshot in snapshots if snapshot.ours]
        if names:
            run(["zfs", "destroy", f"{self.dataset}@{','.join(names)}"])

    def roll_back(self, snapshot: Snapshot) -> None:
        """Undo what was written since the snapshot. Fails when there is a newer one."""
        run(["zfs", "rollback", f"{self.dataset}@{snapshot.name}"])

    def written_since(self, snapshot: Snapshot) -> int:
        """Bytes of space that was written since. What is a few seconds old may be missing."""
        return int(self._get(f"written@{snapshot.name}"))

    def guid_and_size(self, name: str) -> tuple[int, int]:
        """Guid of a snapshot, and the size of the volume in bytes when it was made."""
        command = ["zfs", "get", "-H", "-p", "-o", "value", "guid,volsize"]
        guid, size = run([*command, f"{self.dataset}@{name}"]).split()
        return int(guid), int(size)

    def is_encrypted(self) -> bool:
        """Tell whether the dataset is encrypted.

        It is sent in clear then, and the target encrypts it with a key of its own if it has one:
        one that was sent as it is could not be opened there.
        """
        return self._get("encryption") != "off"

    def features(self) -> frozenset[str]:
        """Those of `COMPRESSION_FEATURES` that the pool can take blocks of."""
        return self._features("enabled", "active")

    def needed_features(self) -> frozenset[str]:
        """Those of `COMPRESSION_FEATURES` that the pool may have blocks of."""
        return self._features("active")

    def _features(self, *states: str) -> frozenset[str]:
        names = ",".join(f"feature@{name}" for name in COMPRESSION_FEATURES)
        pool = self.dataset.partition("/")[0]
        text = run(["zpool", "get", "-H", "-p", "-o", "property,value", names, pool])
        return parse_features(text, states)

    def end_receiving(self) -> None:
        """End what an earlier process may have left that still receives into the volume."""
        end_others(lambda words: is_receiving(words, self.dataset))

    def resume_point(self) -> ResumePoint | None:
        """How far a stream of ours came that was interrupted here, None when there is none.

        Raises `VolumeError` when it is the stream of somebody else.
        """
        token = self._get("receive_resume_token")
        if token == "-":
            return None
        point = self.read_token(token)
        if point is None:
            raise VolumeError(f"{self.dataset} holds half of a stream that is not ours")
        return point

    def read_token(self, untrusted_token: str) -> ResumePoint | None:
        """Tell what a token says, None when it is none, or not of a snapshot of ours."""
        if not _TOKEN.fullmatch(untrusted_token):
            return None
        said: list[str] = []
        with suppress(VolumeError):  # it fails where the snapshot is not, but says this first
            said.extend(lines(["zfs", "send", "-n", "-v", "-P", "-t", untrusted_token]))
        return parse_token(untrusted_token, "\n".join(said))

    def forget_partial(self) -> None:
        """Drop what arrived of an interrupted stream. There must be some."""
        run(["zfs", "receive", "-A", self.dataset])

    def clear(self) -> None:
        """Drop what could bring back what the zvol held before: snapshots, half of a stream.

        Raises `VolumeInUse` for snapshots that others made: those are theirs to destroy.
        """
        self.end_receiving()
        known = self.snapshots()
        if foreign := [snapshot.name for snapshot in known if not snapshot.ours]:
            raise VolumeInUse(
                f"{self.dataset} has snapshots that others made ({', '.join(foreign[:5])}): "
                "what it holds cannot be lost while they are there; destroy them if it may be"
            )
        self.destroy(known)
        if self._get("receive_resume_token") != "-":
            self.forget_partial()

    def stream_size(self, snapshot: Snapshot, base: Snapshot | None) -> int:
        """Bytes that `send` would give, about."""
        return parse_stream_size(run(self._sending(snapshot, base, "-n", "-P", "-c")))

    def send(self, snapshot: Snapshot, base: Snapshot | None, *, compressed: bool) -> Outflow:
        """Start to stream the difference between two snapshots, or all of one."""
        return Outflow(self._sending(snapshot, base, *(("-c",) if compressed else ())))

    def send_rest(self, point: ResumePoint) -> Outflow:
        """Start to stream what is missing of an interrupted stream."""
        return Outflow(["zfs", "send", "-t", point.token])

    def receive(self, name: str, *, full: bool) -> Inflow:
        """Start to take in a stream, whose snapshot gets the name.

        What arrives of one that is interrupted is kept. A full one needs a volume without any
        snapshot, and replaces all of it.
        """
        force = ("-F",) if full else ()
        return Inflow(["zfs", "receive", "-u", "-s", *force, f"{self.dataset}@{name}"])

    def _sending(self, snapshot: Snapshot, base: Snapshot | None, *options: str) -> tuple[str, ...]:
        start = ("-i", f"@{base.name}") if base is not None else ()
        return ("zfs", "send", *options, *start, f"{self.dataset}@{snapshot.name}")

    def _get(self, name: str, suffix: str = "") -> str:
        command = ["zfs", "get", "-H", "-p", "-o", "value", name, f"{self.dataset}{suffix}"]
        return run(command).strip()


def is_receiving(words: Sequence[str], dataset: str) -> bool:
    """Tell whether a command line is one of ours that receives into the dataset."""
    into, _, name = words[-1].partition("@") if words else ("", "", "")
    return (
        list(words[:2]) == ["zfs", "receive"] and into == dataset and bool(OWN_NAME.fullmatch(name))
    )


def parse_snapshots(text: str) -> list[Snapshot]:
    """Read ``DATASET@NAME<tab>GUID`` lines."""
    found = []
    for line in text.splitlines():
        name, _, guid = line.partition("\t")
        found.append(Snapshot(name.partition("@")[2], int(guid)))
    return found


def parse_features(text: str, states: Sequence[str]) -> frozenset[str]:
    """Read ``feature@NAME<tab>STATE`` lines; names of features in one of the states."""
    pairs = (line.split("\t") for line in text.splitlines())
    return frozenset(name.removeprefix("feature@") for name, state in pairs if state in states)


def parse_stream_size(text: str) -> int:
    """Read the line ``size<tab>BYTES`` of `zfs send -n -P`."""
    for line in text.splitlines():
        if line.startswith("size\t"):
            return int(line.split("\t")[1])
    raise VolumeError(f"zfs send told no size, but: {text[:200]!r}")


def parse_token(token: str, text: str) -> ResumePoint | None:
    """Read what `zfs send -n -v -t` says of a token; None unless it is of a snapshot of ours."""
    said = dict(re.findall(r"^\s*(\w+) = (\S+)$", text, re.MULTILINE))
    if not {"toguid", "toname"} <= said.keys():
        return None
    if not OWN_NAME.fullmatch(said["toname"].partition("@")[2]):
        return None
    base = int(said["fromguid"], 16) if int(said.get("fromguid", "0"), 16) else None
    return ResumePoint(token, int(said["toguid"], 16), base)
