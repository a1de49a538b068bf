"""Images in a format of QEMU's, whose content QEMU's own tools read and write for us.

`qemu-nbd` serves an image to this process alone, for as long as there is a connection to it. When
this process is killed its connections end, and with the last one that tool. Nothing of ours looks
into an image, and the tools never guess its format.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from storage.commands import end, failure, run
from storage.confinement import start_confined
from storage.contracts import Backing
from storage.errors import StorageError, VolumeError, VolumeExists, reason
from storage.files.chains import beneath
from storage.files.images import clusters, require_standalone
from storage.files.volume import RawFile
from storage.qemu.guest_disk import content_backing
from storage.qemu.nbd import PATIENCE, Connection, require_libnbd
from storage.qemu.ownership import is_listening, own_name, stale_sockets
from storage.qemu.volume import ExportedVolume
from storage.watching import Watch

if TYPE_CHECKING:
    import subprocess

FORMATS: Final = {"qcow2": "qcow2", "vhd": "vpc"}
"""Formats of images that can be made here, with QEMU's names for them."""
_OPTIONS: Final = {"vhd": "force_size=on"}
"""Without it, a VHD has the next size that cylinders, heads and sectors can say."""

CLUSTERS: Final = tuple(1 << bits for bits in range(9, 22))
"""Sizes in bytes that clusters of a qcow2 image may have."""

_MOST_OF_VHD: Final = 0xFF000000 * 512
_TOOLS: Final = ("qemu-img", "qemu-nbd")

_EXPORT: Final = "disk"
_SUFFIX: Final = ".image"
_STARTING: Final = 20.0
_ENDING: Final = 60.0
_PAUSE: Final = 0.005
_MOST_CLIENTS: Final = 64


def require_tools() -> None:
    """See that images can be made, read and written here. Raises `VolumeError`."""
    require_libnbd()
    for tool in _TOOLS:
        run([tool, "--version"])


def most_content(image_format: str) -> int:
    """Return how many bytes the content of an image can have at most, as QEMU makes it."""
    return _MOST_OF_VHD if image_format == "vhd" else 1 << 62


def create_image(
    path: str | os.PathLike[str], image_format: str, size: int, *, cluster: int | None = None
) -> None:
    """Make an image of one of `FORMATS` with a content of `size` bytes that are zero.

    `cluster` is the size of its clusters in bytes, where the format has any and the usual one is
    not wanted. Durable when this returns. Raises `VolumeExists` or `VolumeError`; nothing is left
    behind then.
    """
    name = os.fspath(path)
    try:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError as error:
        raise VolumeExists(f"volume {name} is already there") from error
    except OSError as error:
        raise VolumeError(f"volume {name}: cannot create it: {reason(error)}") from error
    options = [_OPTIONS[image_format]] if image_format in _OPTIONS else []
    options += [f"cluster_size={cluster}"] if cluster is not None else []
    wish = ["-o", ",".join(options)] if options else []
    try:
        run(["qemu-img", "create", "-q", "-f", FORMATS[image_format], *wish, name, str(size)])
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise VolumeError(f"volume {name}: cannot create it: {reason(error)}") from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class ImageVolume(ExportedVolume):
    """The content of an image that no guest has open.

    Its file is claimed as a raw one would be, by `RawFile`; what that says of the file holds for
    the image.
    """

    def __init__(
        self, file: RawFile, server: _ImageServer, patience: float, *, writable: bool
    ) -> None:
        """Use `open`. Owns the file and the server from the end of this on."""
        connect = partial(Connection, str(server.socket), _EXPORT, patience=patience)
        super().__init__(file.name, connect, writable=writable)
        self._file = file
        self._server = server
        self.cluster = clusters(file)
        self._watch: Watch | None = None
        self._finished = self._given_up = False

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        image_format: str,
        *,
        name: str,
        writable: bool,
        folder: Path,
        exclusive: bool = False,
        standalone: bool = False,
        patience: float = PATIENCE,
    ) -> Self:
        """Open the image at `path` under the name that errors show, for nobody else to write.

        `folder` is one where only root gets at sockets, `patience` in seconds for each request. One
        that is `exclusive`, as each that is writable, nobody else may have open. One that is to be
        `standalone`, as each that is writable, needs no other file: what has come from elsewhere
        could name any of this host. Raises what `RawFile.open` does, `UnfitImage`, and
        `VolumeError` when it is no image of that format.
        """
        with ExitStack() as stack:
            file = RawFile.open(os.fspath(path), name=name, writable=writable or exclusive)
            stack.callback(file.close)
            if writable or standalone:
                require_standalone(file, image_format)
            server = _ImageServer(os.path.realpath(path), image_format, folder, writable=writable)
            stack.callback(server.end)
            volume = cls(file, server, patience, writable=writable)
            stack.pop_all()
            return volume

    def watch(self) -> Watch:
        """Begin to watch for others who open the image. Raises `VolumeError`."""
        self._watch = self._file.watch()
        self._watch.helper = self._server.pid if self.writable else None
        return self._watch

    def unlock(self) -> None:
        """Let programs that lock what they open have it, after `finish`. Raises `VolumeError`."""
        self._file.unlock()

    def flush(self) -> None:
        """Make what was written durable, and drop the file from the page cache. See `Volume`."""
        super().flush()
        self._file.flush()

    def finish(self) -> None:
        """Have the tool close the image and end: its file is durable then, and as it stays.

        Its content cannot be read or written any more. Idempotent. Raises `VolumeError`, also when
        the tool was ended otherwise: what it had in memory of the image is lost then. With a watch
        it raises what `Watching.require_alone` does, too.
        """
        if self._finished:
            return
        try:
            self.flush()
            watched = self._watch.helper_ending() if self._watch is not None else nullcontext()
            with watched:
                super().close()
                self._server.finish()
            self._file.flush()
        except StorageError:
            self._given_up = True
            raise
        self._finished = True

    def backing(self) -> Backing:
        """Tell what the image is in, as it is now, with the size of its content."""
        return content_backing(self._file.backing(), self.size)

    def close(self) -> None:
        """Release the image, when it was closed by the tool. Idempotent. Does not flush."""
        super().close()
        if self._given_up:  # it does not end by itself, or did
            self._server.end()
        self._server.let_go()
        self._file.close()


def end_stale(folder: Path) -> list[str]:
    """End what serves images to nobody; return the names of its sockets.

    A process that was killed after it had started one, and before it was connected, leaves it.
    """
    ended = []
    for path in stale_sockets(folder, _SUFFIX):
        if is_listening(path):
            with suppress(OSError):
                Connection(str(path), _EXPORT).close()
        path.unlink(missing_ok=True)
        ended.append(path.name)
    return ended


class _ImageServer:
    """A `qemu-nbd` with one image, which ends with the last connection to it.

    One is held from the beginning, so that it stays whatever becomes of others.
    """

    def __init__(self, path: str, image_format: str, folder: Path, *, writable: bool) -> None:
        """Start it, and connect to it. Raises `VolumeError`."""
        self.socket = folder / f"{own_name()}{_SUFFIX}"
        mode = ["--discard=unmap", "--cache=writeback"] if writable else ["--read-only"]
        self._command: Sequence[str] = [
            "qemu-nbd",
            f"--format={FORMATS[image_format]}",
            f"--socket={self.socket}",
            f"--export-name={_EXPORT}",
            f"--shared={_MOST_CLIENTS}",
            *mode,
            path,
        ]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        self._process: subprocess.Popen[bytes] | None = None
        self._held: Connection | None = None
        try:
            self._process = start_confined(
                self._command,
                reads=() if writable else (path, *beneath(path)),
                writes=(path,) if writable else (),
                sockets=(str(folder),),
                output=self._said.fileno(),
            )
            self._held = self._connect(self._process)
        except BaseException:
            self.end()
            raise

    def _connect(self, process: subprocess.Popen[bytes]) -> Connection:
        deadline = time.monotonic() + _STARTING
        while time.monotonic() < deadline:
            # It listens before it has opened the image.
            if is_listening(self.socket):
                with suppress(OSError):
                    return Connection(str(self.socket), _EXPORT)
            if (status := process.poll()) is not None:
                self._said.seek(0)
                raise failure(self._command, status, self._said.read())
            time.sleep(_PAUSE)
        raise VolumeError(f"{self._command[0]} did not serve {self._command[-1]} in time")

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def finish(self) -> None:
        """Disconnect, and see that it closes the image and ends, now that nobody is connected.

        Raises `VolumeError`.
        """
        status = self._ended()
        if status is None:
            raise VolumeError(f"{self._command[0]} did not close {self._command[-1]} in time")
        if status != 0:
            self._said.seek(0)
            raise failure(self._command, status, self._said.read())

    def let_go(self) -> None:
        """Do the same, however it ends."""
        self._ended()
        self.end()

    def _ended(self) -> int | None:
        if self._held is not None:
            self._held.close()
        if self._process is not None:
            with suppress(Exception):
                return self._process.wait(_ENDING)
        return None

    def end(self) -> None:
        """End it if it still runs. Idempotent."""
        if self._process is not None:
            end(self._process)
        self._said.close()
        self.socket.unlink(missing_ok=True)
