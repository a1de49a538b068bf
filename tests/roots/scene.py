"""Two emulated hosts for a system that runs: `python scene.py STEP`, in the program's environment.

The daemon of host-a is the one of the package, under systemd; that of host-b is another unit. So
the package can be upgraded while a guest moves between them.
"""

import subprocess
import sys
from pathlib import Path

from xenmoved.sandbox.harness import make_image
from xenmoved.sandbox.pair import SandboxHost

GUEST = "web1"
PLACE = Path("/srv")
ON_A = {
    "state_dir": "/var/lib/xenmoved",
    "control": {"socket": "/run/xenmoved/control.sock"},
    "listen": {"address": "127.0.0.1", "port": 7222},
}
ON_B = {"listen": {"address": "127.0.0.1", "port": 7223}}
UNIT = Path("/etc/systemd/system/xenmoved.service.d/emulated.conf")


def hosts():
    """Both hosts; their folders and configurations are made anew."""
    first = SandboxHost(PLACE, "host-a", settings=ON_A)
    first.socket, first.config_file = (
        Path(ON_A["control"]["socket"]),
        Path("/etc/xenmoved/xenmoved.yaml"),
    )
    second = SandboxHost(PLACE, "host-b", settings=ON_B)
    first.port, second.port = 7222, 7223
    first.write_config()
    return first, second


def run(*command):
    subprocess.run(command, check=True)


def begin():
    first, second = hosts()
    UNIT.parent.mkdir(parents=True, exist_ok=True)
    UNIT.write_text("[Unit]\nConditionPathExists=\n")
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", "xenmoved")
    daemon = ("/usr/bin/xenmoved", "--config", str(second.config_file))
    run("systemd-run", "--quiet", "--unit=host-b", "--property=KillMode=process", *daemon)
    for host in (first, second):
        host.wait_ready()
    first.trust(second)
    second.trust(first)
    disk = first.images / "web1-root"
    make_image(disk, 64)
    disk.write_bytes(b"x" * (64 << 20))
    first.xen.create(GUEST, [disk], memory=16, extra="sandbox.rate=1")
    text = f'name = "{GUEST}"\nmemory = 16\ndisk = ["format=raw,vdev=xvda,target={disk}"]\n'
    (first.folder / "xen" / f"{GUEST}.cfg").write_text(text)
    print(first.ctl("migrate", GUEST, "host-b", "--rate-limit", "1MiB", "--detach").stdout)


def move():
    first, second = hosts()
    first.wait_ready()
    assert first.xen.check(GUEST)["ok"], first.xen.check(GUEST)
    done = first.ctl("migrate", GUEST, "host-b")
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert first.xen.state(GUEST) is None
    assert second.xen.check(GUEST)["ok"], second.xen.check(GUEST)


if __name__ == "__main__":
    {"begin": begin, "move": move}[sys.argv[1]]()
