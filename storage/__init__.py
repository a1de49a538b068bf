"""Volumes: read, write, measure, track and provision them. No network, no event loop.

All calls block and are meant for threads. Where to look:

- `contracts`   what every backend provides: `Volume`, `Pool`, `Tracker`
- `errors`      every error raised here
- `registry`    kinds of pools, and `open_pool`
- `directory`   pool of image files in a folder; `block` pool of listed devices
- `lvm`         pools of logical volumes, plain and thin: `lvmreport` what LVM says of them, `thin`
                an open thin volume, `thinmetadata` what is mapped in it, `devmapper` names in sysfs
- `opening`     `open_source`: a guest's disk by its path
- `rawfile`     volume on a file; `blockdev` on a block device, under the page cache
- `tracking`    `choose_tracker`: which tracker a volume gets, and why
- `rehash`      tracker for where nothing can track
- `tracefs_tracker` tracker by the kernel's trace: `tracefs` instances of it, `ringpages` what is in
                them, `writelog` what that says, `tracktarget` which device sees a volume's writes
- `window`      a volume at another size than its own
- `extents`     arithmetic on ranges; `buffers` aligned memory and `is_zero`
- `usage`       who has a path in use; `names` which names volumes may have
- `zfs`         pool of zvols; `zvol` volume on one; `zfs_history` its snapshots and the streams
                between them, `zfs_stream` what is in a stream
- `commands`    runs the tools of storage, `pipes` those that stream; nothing else runs commands
- `sectors`     logical sector sizes, as guests see them
- `backing`     what a path or an open volume is at this moment, and whether that has changed
- `identity`    what tells a volume from others that had its name, or will: `identify` finds it out,
                `shared_identity` that of what two hosts see, `devices` asks sysfs and udev
- `descriptor`, `claiming`, `syscalls`: what the volumes are built from

A new backend is one module, a line in `registry` and a line in the conformance tests.
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
from storage.rehash import RehashTracker
from storage.tracefs import clean_up_stale
from storage.tracking import TrackingKind, TrackingMethod, choose_tracker, tracking_method

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
