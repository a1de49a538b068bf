"""The packages that requirements.lock names, as wheels for one version of Python."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
LOCK: Final = ROOT / "requirements.lock"
KEPT: Final = ROOT / "build" / "wheels"

PLATFORM: Final = (
    *("--implementation", "cp", "--only-binary", ":all:"),
    *("--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_28_x86_64"),
)
"""Options of pip for wheels that run with glibc 2.28 and later."""
GLIBC: Final = "2.28"


class BuildError(Exception):
    """Something cannot be built. The message says why, and what to do."""


def download(folder: Path, python: str) -> None:
    """Fetch the wheels for a version of Python ("3.11"). Raises BuildError."""
    options = ("--quiet", "--disable-pip-version-check", "--require-hashes", "--no-deps")
    target = ("--python-version", python, *PLATFORM)
    places = ("-d", str(folder), "-r", str(LOCK))
    pip = [sys.executable, "-m", "pip", "download", *options, *target, *places]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"pip cannot get the packages in {LOCK.name}:\n{done.stderr}")


def kept(python: str) -> Path:
    """Return a folder with the wheels, which are fetched once. Raises BuildError."""
    what = hashlib.sha256(LOCK.read_bytes() + " ".join(PLATFORM).encode()).hexdigest()[:16]
    folder = KEPT / f"{python}-{what}"
    if not folder.is_dir():
        draft = folder.with_name(f"{folder.name}.{os.getpid()}")
        draft.mkdir(parents=True)
        try:
            download(draft, python)
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder


def unpack(wheels: Sequence[Path], site: Path) -> None:
    """Put wheels into a folder for packages, also those of several versions of Python into one.

    These have the same modules, and extensions whose names say for which version they are. Raises
    BuildError where that is not so.
    """
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                if not member.is_dir():
                    _unpack_member(wheel, member.filename, archive.read(member), site)


def _unpack_member(wheel: Path, name: str, content: bytes, site: Path) -> None:
    top, *below = PurePosixPath(name).parts
    if top.endswith(".data") or (not below and top.endswith(".pth")):
        raise BuildError(f"{wheel.name} has {name}: package/wheels.py does not know where it goes")
    path = site / name
    if not path.resolve().is_relative_to(site.resolve()):
        raise BuildError(f"{wheel.name} has {name}, which is outside of its folder")
    # What an installer reads differs with the version of Python, and nobody imports it.
    if path.exists() and path.read_bytes() != content and not top.endswith(".dist-info"):
        raise BuildError(f"{name} is not the same for all versions of Python ({wheel.name})")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o644)
