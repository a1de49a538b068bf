"""What takes long to make is kept, under the hash of all that went into it.

A layer is a folder NAME-HASH in the cache. It appears whole or not at all. As long as a process
uses it, it holds a shared lock on it; when another one of that name is made, those without a lock
are removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_LOCK: Final = ".lock"
_held: Final[list[int]] = []


def folder() -> Path:
    """Where the cache is: $XENMOVED_LAB_CACHE, or xenmoved-lab in the user's cache folder."""
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(os.environ.get("XENMOVED_LAB_CACHE") or Path(user) / "xenmoved-lab")
    path.mkdir(parents=True, exist_ok=True)
    return path


def fingerprint(inputs: Iterable[str | Path]) -> str:
    """Hash of texts, and of the files and folders that paths name: names, modes and contents."""
    digest = hashlib.sha256()

    def add(data: bytes) -> None:
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)

    for item in inputs:
        if isinstance(item, str):
            add(item.encode())
            continue
        for file in sorted(item.rglob("*")) if item.is_dir() else [item]:
            if file.is_file() and "__pycache__" not in file.parts:
                add(str(file.relative_to(item.parent)).encode())
                add(f"{file.stat().st_mode:o}".encode())
                add(file.read_bytes())
    return digest.hexdigest()[:16]


def layer(name: str, key: str, build: Callable[[Path], None]) -> Path:
    """Return the folder of a layer, which `build` fills if there is none with this key."""
    path = folder() / f"{name}-{key}"
    with _exclusively(folder() / f"{name}.lock"):
        if not path.is_dir():
            print(f"lab: making {name} ({path})", flush=True)
            began = time.monotonic()
            _remove_others(name, path)
            draft = folder() / f"{name}-{key}.draft"
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            try:
                build(draft)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
            draft.rename(path)
            print(f"lab: {name} took {time.monotonic() - began:.0f} s", flush=True)
        _held.append(_lock(path, fcntl.LOCK_SH))
    return path


def _lock(path: Path, operation: int) -> int:
    descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, operation)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def _exclusively(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_others(name: str, path: Path) -> None:
    for other in folder().glob(f"{name}-*"):
        if other == path or not other.is_dir():
            continue
        try:
            descriptor = _lock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # a lab is running on it
        shutil.rmtree(other)
        os.close(descriptor)
