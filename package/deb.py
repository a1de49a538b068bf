"""Packages for releases of Debian: `python -m package.deb [--out FOLDER] [RELEASE…]`.

No tools are needed but dpkg-deb, and no chroot of the release: all that differs is its Python.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from textwrap import fill
from typing import Any, Final

from package import tree, wheels
from package.wheels import ROOT, BuildError

_DEBIAN: Final = Path(__file__).with_name("debian")
_PREFIX: Final = "usr/lib/xenmoved"
_SCRIPTS: Final = ("postinst", "prerm", "postrm")
_BULLET: Final[dict[str, Any]] = {
    **{"initial_indent": "  * ", "subsequent_indent": "    "},
    **{"break_long_words": False, "break_on_hyphens": False},
}
# Debian's form wants an address. This one is of a domain that never is (RFC 2606): nobody's.
MAINTAINER: Final = "The xenmoved authors <authors@xenmoved.invalid>"


@dataclass(frozen=True)
class Release:
    """A release of Debian, with its Python."""

    name: str
    number: int
    python: str

    @property
    def next_python(self) -> str:
        """The version of Python that is too new for it."""
        major, minor = self.python.split(".")
        return f"{major}.{int(minor) + 1}"


_ALL: Final = (Release("bookworm", 12, "3.11"), Release("trixie", 13, "3.13"))
RELEASES: Final = {one.name: one for one in _ALL}


def build(
    out: Path,
    release: Release,
    *,
    packages: Path | None = None,
    version: str | None = None,
    compression: str = "xz",
) -> Path:
    """Build the package of a release in the folder `out`, and return it.

    `packages` has the wheels for its Python (default: fetched once and kept). `version` is that of
    the program (default: what the source says). `compression` is as dpkg-deb has it after -Z.
    Raises BuildError.
    """
    full = f"{version or tree.version()}~deb{release.number}"
    found = sorted((packages or wheels.kept(release.python)).glob("*.whl"))
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"xenmoved_{full}_amd64.deb"
    with tempfile.TemporaryDirectory(prefix="xenmoved-deb-") as temporary:
        root = Path(temporary, "root")
        _fill(root, release, found, full)
        _add_control(root, release, full)
        when = tree.source_time()
        tree.finish(root, when)
        command = ["dpkg-deb", "--root-owner-group", "--threads-max=1"]
        command += [f"-Z{compression}", "-z3"]
        _run([*command, "--build", str(root), str(path)], when)
    return path


def _fill(root: Path, release: Release, found: list[Path], full: str) -> None:
    prefix = root / _PREFIX
    site = prefix / f"lib/python{release.python}/site-packages"
    wheels.unpack(found, site)
    tree.add_program(site)
    tree.add_system_files(root, site, f"/{_PREFIX}/bin/python")
    tree.add_commands(prefix / "bin", f"/{_PREFIX}/bin/python")
    (prefix / "bin" / "python").symlink_to(f"../../../bin/python{release.python}")
    lines = ("home = /usr/bin", "include-system-site-packages = false")
    tree.put(prefix / "pyvenv.cfg", "\n".join((*lines, f"version = {release.python}", "")))
    (root / "usr/bin").mkdir()
    for name in ("xenmoved", "xenmovectl"):
        (root / "usr/bin" / name).symlink_to(f"../lib/xenmoved/bin/{name}")
    _add_documents(root, full)


def _add_documents(root: Path, full: str) -> None:
    for manual in [*(root / "usr/share/man").rglob("*.[0-9]")]:
        tree.put(manual.with_name(f"{manual.name}.gz"), _packed(manual.read_bytes()))
        manual.unlink()
    documents = root / "usr/share/doc/xenmoved"
    tree.put(documents / "copyright", (_DEBIAN / "copyright").read_bytes())
    changes = changelog((ROOT / "CHANGELOG.md").read_text(), full, tree.source_time())
    tree.put(documents / "changelog.gz", _packed(changes.encode()))
    overrides = (_DEBIAN / "lintian-overrides").read_bytes()
    tree.put(root / "usr/share/lintian/overrides/xenmoved", overrides)


def _packed(data: bytes) -> bytes:
    return gzip.compress(data, 9, mtime=0)


def changelog(markdown: str, full: str, when: int) -> str:
    """Return CHANGELOG.md in Debian's form. Its newest release is called `full`.

    It is of the time `when`, and each older one a day before the next: the form wants a time.
    """
    entries: list[str] = []
    parts = re.split(r"^## ", markdown, flags=re.MULTILINE)[1:]
    for age, part in enumerate(parts):
        heading, _, text = part.partition("\n")
        name = heading.split()[0] if entries else full
        items = [" ".join(item.split()) for item in re.split(r"^- ", text, flags=re.MULTILINE)]
        entries += [f"xenmoved ({name}) stable; urgency=medium\n"]
        entries += [fill(item, 78, **_BULLET) for item in items if item]
        entries += [f"\n -- {MAINTAINER}  {formatdate(when - age * 86400)}\n"]
    return "\n".join(entries)


def _add_control(root: Path, release: Release, full: str) -> None:
    control = root / "DEBIAN"
    files = [path for path in tree.everything(root) if path.is_file() and not path.is_symlink()]
    sums = [(hashlib.md5(path.read_bytes()).hexdigest(), path.relative_to(root)) for path in files]
    size = sum(-(-path.stat().st_size // 1024) for path in files)
    values = {
        "@VERSION@": full,
        "@MAINTAINER@": MAINTAINER,
        "@SIZE@": str(size),
        "@PYTHON@": release.python,
        "@NEXT@": release.next_python,
        "@GLIBC@": wheels.GLIBC,
    }
    text = (_DEBIAN / "control").read_text()
    for name, value in values.items():
        text = text.replace(name, value)
    tree.put(control / "control", text)
    tree.put(control / "md5sums", "".join(f"{total}  {name}\n" for total, name in sums))
    tree.put(control / "conffiles", "/etc/xenmoved/xenmoved.yaml\n")
    for name in _SCRIPTS:
        tree.put(control / name, (_DEBIAN / name).read_bytes(), 0o755)


def _run(command: list[str], when: int) -> None:
    if shutil.which(command[0]) is None:
        raise BuildError(f"there is no {command[0]}: packages are built on Debian")
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(when)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{command[0]} failed:\n{done.stderr}")


def main() -> None:
    """Build the packages that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m package.deb", description=__doc__)
    parser.add_argument("release", nargs="*", help=f"of {', '.join(RELEASES)}; default: all")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", metavar="FOLDER")
    parser.add_argument("--version", help="default: what the source says")
    arguments = parser.parse_args()
    try:
        for name in arguments.release or RELEASES:
            if name not in RELEASES:
                parser.error(f"there is no {name}: {', '.join(RELEASES)}")
            print(build(arguments.out, RELEASES[name], version=arguments.version))
    except BuildError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
