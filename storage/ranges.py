"""What all volumes say of a range that cannot be read, written and so on."""

from __future__ import annotations

from storage.errors import VolumeError


class Ranged:
    """A volume of `size` bytes whose ranges begin and end at multiples of `alignment`."""

    name: str
    size: int
    alignment: int
    writable: bool

    def changing(self, verb: str, offset: int, length: int) -> None:
        """Raise `VolumeError` unless the volume was opened for writing."""
        if not self.writable:
            raise self.error(verb, offset, length, "it was opened for reading only")

    def require_range(self, verb: str, offset: int, length: int) -> None:
        """Raise `VolumeError` for a range that is not in the volume, or not aligned."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise self.error(verb, offset, length, f"the volume has {self.size} bytes")
        if offset % self.alignment or length % self.alignment:
            raise self.error(
                verb, offset, length, f"its sectors of {self.alignment} bytes cannot be divided"
            )

    def error(
        self,
        verb: str,
        offset: int,
        length: int,
        why: str,
        kind: type[VolumeError] = VolumeError,
    ) -> VolumeError:
        """Make the error that says why a range cannot be read, written and so on."""
        return kind(f"volume {self.name}: cannot {verb} {length} bytes at {offset}: {why}")
