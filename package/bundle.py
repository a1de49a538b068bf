"""One archive for distributions without a package: `python -m package.bundle [--out FOLDER]`.

It has the packages for every version of Python that it is for, and a script that installs them.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from package import tree, wheels
from package.wheels import ROOT, BuildError

PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
_BUNDLE: Final = Path(__file__).with_name("bundle")


def build(out: Path) -> Path:
    """Build the archive in the folder `out`, and return it. Raises BuildError."""
    name = f"xenmoved-{tree.version()}"
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}-linux-x86_64.tar.gz"
    with tempfile.TemporaryDirectory(prefix="xenmoved-bundle-") as temporary:
        root = Path(temporary, name)
        _fill(root)
        tree.finish(root, tree.source_time())
        _pack(root, path)
    return path


def _fill(root: Path) -> None:
    site, system = root / "site-packages", root / "system"
    for python in PYTHONS:
        wheels.unpack(sorted(wheels.kept(python).glob("*.whl")), site)
    tree.add_program(site)
    tree.add_system_files(system, site, "/opt/xenmoved/bin/python")
    # Where the distributions that this is for look for them.
    (system / "usr/share/zsh/vendor-completions").rename(system / "usr/share/zsh/site-functions")
    tree.add_commands(root / "bin", "/opt/xenmoved/bin/python")
    installed = [path.relative_to(system) for path in tree.everything(system / "usr")]
    files = [str(path) for path in installed if (system / path).is_file()]
    tree.put(root / "files", "".join(f"{file}\n" for file in files))
    values = {"@VERSION@": tree.version(), "@PYTHONS@": " ".join(reversed(PYTHONS))}
    values["@GLIBC@"] = wheels.GLIBC
    for name in ("install", "uninstall", "openrc"):
        text = (_BUNDLE / name).read_text()
        for word, value in values.items():
            text = text.replace(word, value)
        tree.put(root / name, text, 0o644 if name == "openrc" else 0o755)
    for source, name in ((ROOT / "docs/install.md", "install.md"), (ROOT / "LICENSE", "LICENSE")):
        tree.put(root / name, source.read_bytes())
    tree.put(root / "copyright", (_BUNDLE.parent / "debian/copyright").read_bytes())


def _pack(root: Path, path: Path) -> None:
    def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        return member

    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", 6, file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for one in (root, *tree.everything(root)):
            place = str(one.relative_to(root.parent))
            archive.add(one, place, recursive=False, filter=anonymous)


def main() -> None:
    """Build the archive."""
    parser = argparse.ArgumentParser(prog="python -m package.bundle", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", metavar="FOLDER")
    try:
        print(build(parser.parse_args().out))
    except BuildError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
