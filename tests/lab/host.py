"""One Xen host: a QEMU process, its disks, and ssh into it."""

from __future__ import annotations

import contextlib
import functools
import shlex
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from uuid import NAMESPACE_DNS, uuid5

from tests.lab import cable, qmp
from tests.lab.errors import HostError, LabError
from tests.lab.image import HostImage
from tests.lab.processes import WITH_PARENT
from tests.lab.ssh import Ssh

MEMORY: Final = 2560  # MiB
_PROCESSOR: Final = "qemu64,+svm,+npt,+ssse3,+sse4.1,+sse4.2,+popcnt,+aes,+pclmulqdq"
"""With SVM, for HVM and PVH; without AVX and SMAP, which the emulation has wrong for Xen."""
_DOM0_MEMORY: Final = 1024
_DISK: Final = 8 << 30  # of LVM and of ZFS, sparse

# None of the defences against leaks between processors' guests: nobody is to be defended here, and
# emulated they cost much.
_XEN_OPTIONS: Final = (
    f"dom0_mem={_DOM0_MEMORY}M,max:{_DOM0_MEMORY}M noreboot=1 console=com1 com1=115200,8n1 "
    "xpti=no spec-ctrl=no pv-l1tf=off"
)
_LINUX_OPTIONS: Final = "root=/dev/vda rw console=hvc0 net.ifnames=0 mitigations=off fsck.mode=skip"

_BOOT_TIMEOUT: Final = 900.0


@functools.cache
def acceleration() -> str:
    """KVM where it can show the processor that the hosts are made for, else emulation."""
    probe = ["qemu-system-x86_64", "-accel", "kvm", "-cpu", f"{_PROCESSOR},enforce"]
    probe += ["-nodefaults", "-display", "none", "-m", "64", "-S", "-monitor", "stdio"]
    try:
        tried = subprocess.run(
            probe, input="quit\n", text=True, capture_output=True, timeout=20, check=False
        )
    except subprocess.TimeoutExpired:
        return "tcg"
    return "kvm" if tried.returncode == 0 else "tcg"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Host:
    """A host with its files in `folder`: one that another process has started, or `start` does.

    `name` is host-a or host-b; `address` is the one of its daemon.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.address = f"10.77.0.{1 + cable.NODES.index(name)}"
        self.folder = folder
        self.ssh = Ssh(name, folder)
        self._qemu: subprocess.Popen[bytes] | None = None

    @property
    def console(self) -> Path:
        """What Xen and dom0 wrote to the serial line."""
        return self.folder / f"{self.name}.console"

    def _file(self, suffix: str) -> Path:
        return self.folder / f"{self.name}.{suffix}"

    def start(self, image: HostImage) -> None:
        """Make its disks and switch it on.

        To be called by a thread that lives as long as the host: QEMU ends with it.
        """
        overlay = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", image.disk, "-F", "raw"]
        subprocess.run([*overlay, self._file("qcow2")], check=True)
        for disk in ("lvm", "zfs"):
            with self._file(disk).open("wb") as file:
                file.truncate(_DISK)
        port = _free_port()
        self.ssh.configure(port, image.key)
        with self._file("qemu.log").open("ab") as log:
            self._qemu = subprocess.Popen(
                [*WITH_PARENT, *self._command(image, port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests, which then tear it down
            )

    def _command(self, image: HostImage, port: int) -> list[str]:
        # Of one image: with one machine id, their bridges would also have one MAC address.
        machine = uuid5(NAMESPACE_DNS, self.name).hex
        own = f"systemd.hostname={self.name} systemd.machine_id={machine}"
        linux = f"{image.kernel} {_LINUX_OPTIONS} {own}"
        command = ["qemu-system-x86_64", "-name", self.name, "-nodefaults", "-no-user-config"]
        command += ["-accel", acceleration(), "-cpu", _PROCESSOR, "-smp", "1"]
        command += [
            "-machine",
            "pc,i8042=off",
            "-m",
            str(MEMORY),
            "-display",
            "none",
            "-vga",
            "none",
        ]
        command += ["-chardev", f"file,id=serial,path={self.console},append=on"]
        command += ["-serial", "chardev:serial"]
        command += ["-qmp", f"unix:{self._file('qmp')},server=on,wait=off"]
        command += ["-kernel", str(image.xen), "-append", _XEN_OPTIONS]
        command += ["-initrd", f"{linux},{image.initrd}"]
        disks = [
            (self._file("qcow2"), "qcow2", "off"),
            (self._file("lvm"), "raw", "off"),
            (self._file("zfs"), "raw", "off"),
            (image.debian_guest, "raw", "on"),
        ]
        if image.loads_guest is not None:
            disks.append((image.loads_guest, "raw", "on"))
        for number, (path, form, readonly) in enumerate(disks):
            drive = f"if=none,id=disk{number},file={path},format={form},readonly={readonly}"
            # The machine that runs the lab keeps what a host wrote, even when the host is reset.
            command += ["-drive", f"{drive},cache=unsafe,discard=unmap,detect-zeroes=unmap"]
            command += ["-device", f"virtio-blk-pci,drive=disk{number}"]
        mac = f"52:54:00:77:{cable.NODES.index(self.name):02x}"
        command += ["-netdev", f"user,id=tests,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"]
        command += ["-device", f"virtio-net-pci,netdev=tests,romfile=,mac={mac}:00"]
        command += ["-netdev", cable.netdev(self.folder, self.name)]
        command += ["-device", f"virtio-net-pci,netdev={cable.DEVICE},romfile=,mac={mac}:01"]
        return command

    def wait(self) -> None:
        """Wait until it has booted. Raises LabError."""
        deadline = time.monotonic() + _BOOT_TIMEOUT
        while True:
            if self._qemu is not None and self._qemu.poll() is not None:
                said = self._file("qemu.log").read_text(errors="replace")[-1000:]
                raise LabError(f"QEMU of {self.name} ended: {said}")
            with contextlib.suppress(HostError, subprocess.TimeoutExpired):
                self.run("systemctl is-system-running --wait || true", timeout=120)
                return
            if time.monotonic() > deadline:
                raise LabError(
                    f"{self.name} has not booted within {_BOOT_TIMEOUT:g} s; see {self.console}"
                )
            time.sleep(1)

    def reset(self) -> None:
        """Take its power away for a moment. Returns before it has booted again: `wait`."""
        self.ssh.close()
        qmp.execute(self._file("qmp"), "system_reset")

    def freeze(self) -> None:
        """Stop its processor: for everyone else it is gone, until `thaw`."""
        qmp.execute(self._file("qmp"), "stop")

    def thaw(self) -> None:
        """Let its processor go on."""
        qmp.execute(self._file("qmp"), "cont")

    def stop(self) -> None:
        """End ssh, and QEMU if it was started here. Idempotent."""
        self.ssh.close()
        if self._qemu is None:
            return
        with contextlib.suppress(OSError):
            qmp.execute(self._file("qmp"), "quit")
        try:
            self._qemu.wait(10)
        except subprocess.TimeoutExpired:
            self._qemu.kill()
            self._qemu.wait()
        self._qemu = None

    def run(
        self,
        command: str | Sequence[str],
        *,
        stdin: str = "",
        timeout: float = 300,
        check: bool = True,
        terminal: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command as root. Raises HostError when it fails, unless told not to check."""
        text = command if isinstance(command, str) else shlex.join(command)
        done = self.ssh.run(text, stdin=stdin, timeout=timeout, terminal=terminal)
        if check and done.returncode != 0:
            said = (done.stdout + done.stderr)[-4000:]
            raise HostError(f"{self.name}: `{text}` failed with {done.returncode}:\n{said}")
        return done

    def put(self, path: str, text: str) -> None:
        """Write a file, durably."""
        quoted = shlex.quote(path)
        self.run(f"mkdir -p $(dirname {quoted}) && cat > {quoted} && sync {quoted}", stdin=text)

    def read(self, path: str) -> str:
        """Text of a file, "" when there is none."""
        return self.run(f"cat {shlex.quote(path)} 2>/dev/null || true").stdout
