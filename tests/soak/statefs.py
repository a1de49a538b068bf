"""A small file system for a daemon's state, which can become full or read-only. For root only."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

from xenmoved.sandbox.harness import wait_until

_SIZE = 128 << 20  # `xm` saves a guest to a file, and wants 64 MiB more than that takes
_PATIENCE = 20.0


class StateFilesystem:
    """An ext4 file system on a loop device, mounted at `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._image = folder.with_name(f"{folder.name}.ext4")
        self._ballast = folder / "ballast"
        folder.mkdir(mode=0o700)
        with self._image.open("wb") as file:
            file.truncate(_SIZE)
        _run("mkfs.ext4", "-q", "-m", "0", str(self._image))
        self._mount()

    def fill(self) -> None:
        """Leave no block free."""
        with contextlib.suppress(OSError), self._ballast.open("wb", buffering=0) as file:
            os.posix_fallocate(file.fileno(), 0, _free(self._folder))
        with contextlib.suppress(OSError), self._ballast.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def empty(self) -> None:
        """Give the space back."""
        self._ballast.unlink(missing_ok=True)

    def fail(self) -> None:
        """Become read-only, as after an error of the device."""
        number = self._folder.stat().st_dev
        name = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve().name
        Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("1\n")

    def repair(self) -> None:
        """Be writable again. Nobody may use it now."""
        wait_until(self._unmounted, f"whoever uses {self._folder} to end", _PATIENCE)
        if device := self._device():
            # Mounts were copied elsewhere meanwhile, and there it goes on as it is.
            former, self._image = self._image, self._image.with_suffix(f"{self._image.suffix}+")
            shutil.copyfile(device, self._image)
            former.unlink()
        # It ends with 1 when it has corrected something.
        subprocess.run(["e2fsck", "-fy", str(self._image)], capture_output=True, check=False)
        self._mount()

    def close(self) -> None:
        """Take it away."""
        subprocess.run(["umount", "--lazy", str(self._folder)], check=False)

    def _mount(self) -> None:
        _run("mount", "-o", "loop,errors=remount-ro", str(self._image), str(self._folder))

    def _unmounted(self) -> bool:
        if os.path.ismount(self._folder):
            subprocess.run(["umount", str(self._folder)], capture_output=True, check=False)
        return not os.path.ismount(self._folder)

    def _device(self) -> str:
        """Return the loop device that has the image, "" where none has."""
        command = ["losetup", "--noheadings", "--output", "NAME", "--associated", str(self._image)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _run(*command: str) -> None:
    subprocess.run(command, capture_output=True, check=True)
