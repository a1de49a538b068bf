"""Thin logical volumes: only what is mapped is data, and what is zeroed is unmapped again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from storage.contracts import Extent
from storage.descriptor import zero_by_unit
from storage.devices.volume import BlockDevice
from storage.errors import VolumeError
from storage.lvm import thinmetadata

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ThinPlace:
    """Where a thin volume is: its id in a pool of a group, and the pool's chunk size in bytes.

    `zeroing` says whether the pool zeroes a new chunk before a part of it is written.
    """

    group: str
    pool: str
    thin_id: int
    chunk: int
    zeroing: bool


class ThinVolume(BlockDevice):
    """An open thin volume. Its unmapped chunks read as zeros."""

    _place: ThinPlace

    @classmethod
    def at(cls, place: ThinPlace, path: str, *, name: str, writable: bool) -> Self:
        """Open the volume at `path`; see `BlockDevice.open`."""
        volume = cls.open(path, name=name, writable=writable)
        volume._place = place
        return volume

    def changing(self, verb: str, offset: int, length: int) -> None:
        """Raise `VolumeError` also in a pool that does not zero new chunks.

        Old bytes would appear beside what is written, where zeros were read before.
        """
        super().changing(verb, offset, length)
        if not self._place.zeroing:
            raise self.error(verb, offset, length, why_not_written(self._place))

    def zero(self, offset: int, length: int) -> None:
        """Unmap the whole chunks in the range, and write zeros to what is left of it.

        Raises `VolumeFull` or `VolumeError`.
        """
        with self.using("zero", offset, length) as fd:
            self.changing("zero", offset, length)
            zero_by_unit(fd, offset, length, self._place.chunk)

    def data_extents(self) -> Iterator[Extent]:
        """Yield what is mapped when the first is asked for; all of it where that is not known."""
        place = self._place
        with self.using("find data in", 0, self.size):
            try:
                mapping = thinmetadata.read_mapping(
                    place.group, place.pool, place.thin_id, self.size
                )
            except VolumeError as error:
                log.warning("%s is read in full: %s", self.name, error)
                mapping = None
        if mapping is None:
            yield from super().data_extents()
        else:
            yield from mapping.extents(self.size)


def why_not_written(place: ThinPlace) -> str:
    """Say what keeps the volumes of a pool that does not zero new chunks from being written."""
    pool = f"{place.group}/{place.pool}"
    return (
        f"its thin pool {pool} does not zero new chunks, so that old bytes would appear beside "
        f"what is written: lvchange -Zy {pool}"
    )
