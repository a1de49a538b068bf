"""Errors of the storage layer.

StorageError
├── VolumeError          input or output on a volume failed
│   ├── VolumeFull       the file system or pool under it has no space left
│   └── QemuError        a QEMU process cannot be reached, or does not answer
│       └── QemuRefusal  it answers that it does not do what it was asked
├── VolumeReplaced       its path or name leads to something else than what is open or meant
├── VolumeResized        it has another size than when it was opened
├── VolumeWritten        somebody else may have written to it while it was filled
├── VolumeNotFound       no such volume
├── VolumeExists         a volume of that name is already there
├── VolumeInUse          somebody has it open
├── InvalidVolumeName    the name cannot be one in this pool
├── PoolFull             the pool cannot take a volume of that size
├── UnsupportedVolume    the path is neither a regular file nor a block device, or not usable as one
└── UnfitImage           it is no image of its format, or needs other files

Each message is complete: it names the volume, what was tried and the reason.
"""

from __future__ import annotations

from typing import Self


class StorageError(Exception):
    """Base of every error that this package raises."""


class VolumeError(StorageError):
    """Input or output on a volume failed."""


class VolumeFull(VolumeError):
    """No space left beneath the volume."""


class QemuError(VolumeError):
    """A QEMU process cannot be reached, or does not answer in time."""


class QemuRefusal(QemuError):
    """A QEMU process does not do what it was asked."""


class VolumeReplaced(StorageError):
    """The path of an open volume, or the name of a known one, leads to something else by now."""


class VolumeResized(StorageError):
    """An open volume has another size than when it was opened."""


class VolumeWritten(StorageError):
    """Somebody else may have written to a volume while it was filled."""


class VolumeNotFound(StorageError):
    """No such volume."""


class VolumeExists(StorageError):
    """A volume of that name is already there."""


class VolumeInUse(StorageError):
    """Somebody has the volume open."""


class InvalidVolumeName(StorageError):
    """The name cannot be one in this pool."""


class PoolFull(StorageError):
    """The pool cannot take a volume of that size."""

    @classmethod
    def lacks(cls, pool: str, place: object, free: int, volume: str, size: int) -> Self:
        """Make the error that says how much is missing, in bytes. `place` is where the pool is."""
        return cls(
            f"pool {pool}: {place} has {free} bytes free for new volumes, {volume} needs {size}"
        )


class UnsupportedVolume(StorageError):
    """The path is not something that can be used as a volume."""


class UnfitImage(StorageError):
    """The volume does not hold an image of its format, or one that needs other files."""


def reason(error: OSError) -> str:
    """Give the system's reason in words."""
    return error.strerror or str(error)
