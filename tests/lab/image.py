"""The disk images of the lab's hosts, and what they boot from.

`python -m tests.lab.image [RELEASE]` makes one, of these layers for each release of Debian:

base     Debian, Xen, QEMU, LVM, ZFS               some minutes
wheels   the Python packages that are shipped, and those that tests need that run on a host
guests   what guests boot from and run             a minute or two
loads    a guest with programs that people run     some minutes, for `tests.lab.loads` only
host     base, with the program's package and the lab's settings; made again whenever the source
         changes
"""

from __future__ import annotations

import argparse
import gzip
import lzma
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import zstandard

from package import deb
from package.wheels import LOCK, ROOT, BuildError, download
from tests.lab import cache, packages
from tests.lab.errors import LabError
from tests.lab.processes import WITH_PARENT

LAB: Final = Path(__file__).resolve().parent
_SCRIPTS: Final = LAB / "scripts"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_SOURCE: Final = ("xenmoved", "protocol", "storage", "package", "etc", "systemd", "docs/man")
_SOURCE_FILES: Final = ("requirements.lock", "CHANGELOG.md")
_TESTS: Final = (
    *("pytest>=8.0", "pytest-timeout>=2.2", "hypothesis>=6.90"),
    "psycopg[binary]>=3.1",
)
_PLATFORM: Final = (
    *("--implementation", "cp", "--only-binary", ":all:"),
    *("--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_28_x86_64"),
    *("--platform", "manylinux_2_34_x86_64"),
)
"""The C library of the images."""


@dataclass(frozen=True)
class Release:
    """A release of Debian, with its Xen and Python."""

    name: str
    xen: str
    python: str

    def layer(self, name: str) -> str:
        """Return the name of a layer of this release in the cache."""
        return name if self is DEBIAN_12 else f"{self.name}-{name}"


DEBIAN_12: Final = Release("bookworm", "4.17", "3.11")
DEBIAN_13: Final = Release("trixie", "4.20", "3.13")
RELEASES: Final = {one.name: one for one in (DEBIAN_12, DEBIAN_13)}


@dataclass(frozen=True)
class HostImage:
    """What a host is started with. None of it is ever written to."""

    disk: Path
    xen: Path
    kernel: Path
    initrd: Path
    debian_guest: Path
    key: Path  # private key of whoever may log in
    loads_guest: Path | None = None


def make(release: Release = DEBIAN_12) -> HostImage:
    """Make whatever is missing. Raises LabError."""
    packages.ensure()
    key = _ssh_key()
    base_key = cache.fingerprint([_SCRIPTS / "base.sh", "boot files 2", release.name])
    base = cache.layer(release.layer("base"), base_key, lambda out: _make_base(out, release))
    guests_key = cache.fingerprint([base_key, _SCRIPTS / "guests.sh", LAB / "guest"])
    guests = cache.layer(
        release.layer("guests"), guests_key, lambda out: _make_guests(out, base, release)
    )
    wheels_key = cache.fingerprint([LOCK, ROOT / "package/wheels.py", *_TESTS, *_platform(release)])
    wheels = cache.layer(release.layer("wheels"), wheels_key, lambda out: _fetch(out, release))
    source = [ROOT / name for name in (*_SOURCE, *_SOURCE_FILES)]
    inputs = [base_key, guests_key, _SCRIPTS / "host.sh", LAB / "hostfs", key.with_suffix(".pub")]
    host = cache.layer(
        release.layer("host"),
        cache.fingerprint([*inputs, *source, wheels_key]),
        lambda out: _make_host(out, (base, guests, wheels), key.with_suffix(".pub"), release),
    )
    return HostImage(
        disk=host / "root.img",
        xen=base / "xen",
        kernel=base / "vmlinux",
        initrd=guests / "root.initrd",
        debian_guest=guests / "debian.img",
        key=key,
    )


def with_loads(host: HostImage) -> HostImage:
    """Return an image that also has the disk of the guest with loads. Raises LabError."""
    folder = LAB / "guest_loads"
    key = cache.fingerprint([_SCRIPTS / "loads.sh", folder, DEBIAN_12.name])
    made = cache.layer("loads", key, lambda out: _run_script("loads", out, DEBIAN_12, GUEST=folder))
    return replace(host, loads_guest=made / "loads.img")


def _ssh_key() -> Path:
    path = cache.folder() / "id_ed25519"
    if not path.exists():
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "xenmoved-lab", "-f", path]
        subprocess.run(command, check=True)
    return path


def _run_script(name: str, out: Path, release: Release, **variables: str | Path) -> None:
    """Run a script as root in namespaces of its own, whose mounts and processes end with it."""
    log = cache.folder() / f"{release.layer(name)}.log"
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as apt:
        apt.write(apt_proxies())
        apt.flush()
        environment = {
            **os.environ,
            "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
            "OUT": str(out),
            "MIRROR": mirror(),
            "RELEASE": release.name,
            "XEN": release.xen,
            "APT_CONF": apt.name,
            **{key: str(value) for key, value in variables.items()},
        }
        isolated = [*WITH_PARENT, "unshare", "--mount", "--pid", "--fork", "--kill-child"]
        isolated += ["--propagation", "private"]
        with log.open("w") as output:
            script = subprocess.run(
                [*isolated, "bash", _SCRIPTS / f"{name}.sh"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                check=False,
            )
    if script.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise LabError(f"{_SCRIPTS.name}/{name}.sh failed; all that it said is in {log}:\n{tail}")


def mirror() -> str:
    """Where this machine's apt gets Debian from. "" for debootstrap's own default."""
    layout = "$(ORIGIN)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)"
    command = ["apt-get", "indextargets", "--format", layout, "Created-By: Packages"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""
    for line in listed.splitlines():
        origin, codename, component, uri = line.split("|", 3)
        if (origin, component) == ("Debian", "main") and codename in RELEASES:
            return uri.rstrip("/")
    return ""


def apt_proxies() -> str:
    """Settings of this machine's apt that say how to reach servers."""
    try:
        command = ["apt-config", "dump", "Acquire"]
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""
    return "".join(f"{line}\n" for line in listed.splitlines() if "::proxy" in line.lower())


def _make_base(out: Path, release: Release) -> None:
    _run_script("base", out / "root.img", release)
    with tempfile.TemporaryDirectory() as temporary:
        boot = Path(temporary)
        command = f"mount -o loop,ro,noload {out / 'root.img'} /mnt && cp /mnt/boot/* {boot}"
        subprocess.run(["unshare", "--mount", "sh", "-c", command], check=True)
        [xen] = boot.glob("xen-*.gz")
        [kernel] = boot.glob("vmlinuz-*")
        (out / "xen").write_bytes(gzip.decompress(xen.read_bytes()))
        (out / "vmlinux").write_bytes(unpacked_kernel(kernel.read_bytes()))


def unpacked_kernel(image: bytes) -> bytes:
    """The ELF file in a bzImage, which takes an emulated processor long to unpack at each boot."""
    setup_sectors = image[0x1F1]
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    packed = image[start : start + length]
    if packed.startswith(_ZSTD):  # its size follows
        kernel = zstandard.ZstdDecompressor().decompressobj().decompress(packed[:-4])
    else:
        kernel = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(packed)
    if not kernel.startswith(b"\x7fELF"):
        raise LabError("the kernel of the image is not an ELF file packed with xz or zstd")
    return kernel


def _make_guests(out: Path, base: Path, release: Release) -> None:
    _run_script("guests", out, release, BASE=base / "root.img", GUEST=LAB / "guest")


def _platform(release: Release) -> tuple[str, ...]:
    return ("--python-version", release.python, *_PLATFORM)


def _fetch(out: Path, release: Release) -> None:
    (out / "program").mkdir()
    try:
        download(out / "program", release.python)
    except BuildError as error:
        raise LabError(str(error)) from None
    _pip("download", "-d", out / "tests", *_platform(release), *_TESTS)


def _pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    pip = subprocess.run(command, capture_output=True, text=True, check=False)
    if pip.returncode != 0:
        raise LabError(f"pip cannot get the packages that the tests need:\n{pip.stderr}")


def _make_host(
    out: Path, layers: tuple[Path, Path, Path], public_key: Path, release: Release
) -> None:
    base, guests, wheels = layers
    disk = out / "root.img"
    copy = ["cp", "--sparse=always", "--reflink=auto", base / "root.img", disk]
    subprocess.run(copy, check=True)
    with tempfile.TemporaryDirectory() as temporary:
        boot, tests = Path(temporary, "boot"), Path(temporary, "tests")
        boot.mkdir()
        shutil.copy(base / "vmlinux", boot / "guest-vmlinux")
        shutil.copy(guests / "root.initrd", boot / "guest-root.initrd")
        shutil.copy(guests / "small.initrd", boot / "guest-small.initrd")
        sparse = ["cp", "--sparse=always", guests / "bootable.img", boot / "guest-bootable.img"]
        subprocess.run(sparse, check=True)
        offline = ("--no-index", "--find-links", wheels / "tests", "--no-compile")
        _pip("install", *offline, *_platform(release), "--target", tests, *_TESTS)
        _run_script(
            "host",
            disk,
            release,
            HOSTFS=LAB / "hostfs",
            BOOT=boot,
            PACKAGE=_package(Path(temporary), wheels / "program", release),
            TESTS=tests,
            PUBLIC_KEY=public_key,
        )


def _package(out: Path, wheels: Path, release: Release) -> Path:
    """Build the program's package for a release, as `make deb` does, but for the compression."""
    try:
        return deb.build(out, deb.RELEASES[release.name], packages=wheels, compression="none")
    except BuildError as error:
        raise LabError(str(error)) from None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the disk image of the lab's hosts.")
    parser.add_argument("release", nargs="?", choices=RELEASES, default=DEBIAN_12.name)
    try:
        print(f"lab: the image of the hosts is {make(RELEASES[parser.parse_args().release]).disk}")
    except LabError as error:
        sys.exit(f"lab: {error}")
