"""Volumes: read, write, measure, track and provision them. No network, no event loop.

All calls block and are meant for threads. Where to look:

contracts        what every backend provides: `Volume`, `Pool`, `Tracker`, `History`
errors           every error raised here
registry         kinds of pools, and `open_pool`
files            image files in a folder
devices          block devices that the operator listed
lvm              logical volumes, plain and thin
zfs              zvols, their snapshots, and the streams between them
qemu             disks that a guest's QEMU serves, in any format
tracking         which parts of a volume are written: `choose_tracker`
opening          `open_source`: a guest's disk by its path
extents          arithmetic on ranges
window           a volume at another size than its own
buffers          aligned memory, and `is_zero`
names            which names volumes may have
sectors          logical sector sizes, as guests see them
usage            who has a path in use
watching         whether anybody opens a volume while it is copied
places           where paths lead, whatever they are called
backing          what a path or an open volume is at this moment, and whether that has changed
last_write       when something was written to last
loops            what is behind a loop device, and beneath any device
identify         what tells a volume from others that had its name, or will
canonical        the one form of that, by whatever a volume is reached
shared_identity  the same for what two hosts see
same_volume      whether what is about to be removed is what was meant
processes        which processes there are
commands         runs the tools of storage
pipes            runs those that stream; nothing else runs commands
confinement      starts a tool that opens no other files than those that are meant
ranges           what all volumes say of a range
descriptor       what volumes that are one file descriptor have in common
claiming         opens paths, and keeps others off what is written
sysfs            what sysfs and udev say of a block device
syscalls         system calls that Python has no binding for

A new kind of pool: see CONTRIBUTING.md.
"""

from __future__ import annotations

from storage.buffers import AlignedBuffer, BufferPool, is_zero
from storage.contracts import (
    BUFFER_ALIGNMENT,
    EVERYTHING,
    Capacity,
    Everything,
    Extent,
    Pool,
    Tracker,
    Volume,
    VolumeInfo,
)
from storage.errors import (
    InvalidVolumeName,
    PoolFull,
    StorageError,
    UnsupportedVolume,
    VolumeError,
    VolumeExists,
    VolumeFull,
    VolumeInUse,
    VolumeNotFound,
)
from storage.opening import open_source
from storage.registry import POOL_KINDS, open_pool
from storage.tracking.choice import TrackingKind, TrackingMethod, choose_tracker, tracking_method
from storage.tracking.rehash import RehashTracker
from storage.tracking.tracefs import clean_up_stale

__all__ = [
    "BUFFER_ALIGNMENT",
    "EVERYTHING",
    "POOL_KINDS",
    "AlignedBuffer",
    "BufferPool",
    "Capacity",
    "Everything",
    "Extent",
    "InvalidVolumeName",
    "Pool",
    "PoolFull",
    "RehashTracker",
    "StorageError",
    "Tracker",
    "TrackingKind",
    "TrackingMethod",
    "UnsupportedVolume",
    "Volume",
    "VolumeError",
    "VolumeExists",
    "VolumeFull",
    "VolumeInUse",
    "VolumeInfo",
    "VolumeNotFound",
    "choose_tracker",
    "clean_up_stale",
    "is_zero",
    "open_pool",
    "open_source",
    "tracking_method",
]
