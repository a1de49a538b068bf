"""Texts of configurations by chance: such as operators write, and such as a hostile peer would."""

import json
from pathlib import Path

from tests.support.xl_reading import words

KEYS = json.loads((Path(__file__).parents[1] / "data" / "xen_keys.json").read_text())
ALL_KEYS = sorted({key for version in KEYS.values() for key in version["cfg"]})

DISKS = (
    *("phy:/dev/vg/web,xvda,w", "/dev/vg/web,raw,xvda,rw", "file:/srv/web.img,xvda,w"),
    *("vdev=xvda,format=raw,target=/srv/a, b.img", "vdev=xvda2, target=/dev/vg/web", "/b,,xvdb,r"),
    *("/srv/a.iso,,hdc,cdrom", ",hdc:cdrom,r", "file:/srv/a.iso,hdc:cdrom,r", "tap:aio:/x,xvda,w"),
    *("/b,raw,xvdb,r,backendtype=qdisk", "/dev/vg/web,raw,xvda,rw,discard", "/b,,xvdb,rw"),
    *("/dev/vg/web,raw,xvda,rw,direct-io-safe", "/x,qcow2,xvda,w", "/x,raw,xvdz,w", "/x"),
    *("script=block-x,vdev=xvda,target=/x", "nbd:/x,xvda,w", "/x,raw,xvda,w,backend=3", ""),
    *("/x,raw,xvda,rw,specification=virtio", "colo,active-disk=/etc/shadow,/x,raw,xvda,w"),
    *("phy:/dev/vg/web,ioemu:xvda,w", "phy:vg/web,xvda,w", "access=ro,vdev=xvdb,target=/b"),
)
NICS = (
    *("bridge=xenbr0", "mac=00:16:3e:00:00:01,bridge=xenbr0", "bridge=xenbr0,script=vif-bridge"),
    *("bridge=xenbr0,rate=10Mb/s@50ms", "type=ioemu,model=e1000,bridge=xenbr0", "", "bridge=eth0"),
    *("bridge=xenbr0,vifname=vif-web.0", "bridge=xenbr0,vifname=eth0", "bridge=xenbr0,backend=3"),
    *("bridge=xenbr0,ip=192.0.2.7", "ip=0.0.0.0/0,script=vif-route", "gatewaydev=eth0"),
    *("bridge=xenbr0,netdev=eth0", "forwarddev=eth0,script=/etc/x", "bridge=xenbr0, script=/x"),
    *("colo_sock_mirror_id=m,colo_sock_mirror_ip=0.0.0.0", "bridge=xenbr0,trusted=0,mtu=9000"),
    *("bridge=xenbr0,policy=x,label=y", "bridge = xenbr0", "bridge=xenbr0,accel=eth0", "dhcp"),
    *("script=vif-bridge,bridge=xenbr0,script=/x", "bridge=xenbr0,backend=0", "vlan=3"),
)
SCREENS = (
    *("vnc=1,vncpasswd=hunter2", "type=vnc,vncunused=1,vnclisten=0.0.0.0", "sdl=1,display=:0"),
    *("vnc=1,keymap=../../etc/x", "vnclisten=unix:/run/x,vnc=1", "xauthority=/root/.Xauthority"),
    *("vnc=1,vncpasswd=hunter2\\x2c,serial=tcp:1", "vnc=1,monitor=/x", "sdl=1,opengl=1,keymap=de"),
)
PATHS = (
    *("/boot/vmlinuz", "/etc/shadow", "/boot/../etc/shadow", "hvmloader", "", "../../etc/shadow"),
    *("/usr/lib/xen-4.17/boot/hvmloader", "/usr/lib/grub-xen/grub-x86_64-xen.bin", "0", "uefi"),
    *("/usr/bin/pygrub", "pygrub", "/usr/../tmp/pygrub", "/tmp/pygrub", "pvgrub64", "/boot//x"),
)
WORDS = (
    *("pty", "null", "tablet", "host:1.1", "tcp:1.2.3.4:5", "file:/etc/x", "restart", "destroy"),
    *("coredump-restart", "coredump_destroy", "preserve", "hvm", "pv", "pvh", "h", "linux", ""),
    *("generic", "0.0.0.0", "unix:/run/x", "root=/dev/xvda1 ro", "a,b=c", "system_u:system_r:x"),
    *("0-3,^1", "all"),
    *("root", "nobody", "hunter2", "de", "cd", "True", "False", "<default>", "igd", "web", "db"),
    *("connection=pty,name=org.qemu.guest_agent.0", "connection=socket,path=/run/x,name=x"),
    *("connection = socket , path=/x,name=y", "type=auto,version=2,ports=4", "backend=3", "Ä"),
    *("backend-type=qemu,unique-id=x", "strategy=host,policy=relaxed", "strategy=ignore"),
    *("system_serial_number=ABC 12", "01:00.0", "generate", "1:ecx=xxxx", "host,tm=0", "2,x"),
)
ARGUMENTS = (
    *("--kernel=/vmlinuz", "--output=/etc/x", "--entry=1 --output=/x", "-q", "--args=ro quiet"),
    *("--entry=0 -q", "--runas=0", "-l", "--kernel=/x\t--output-directory=/etc"),
)
NUMBERS = ("0", "1", "512", "0x400", "010", "12ax", "-1", "9" * 20, "65536")
OTHERS = (
    *("dhcp", "xen_shell", "nics", "hostname", "bootargs", "vncviewer", "loader", "fda", "monitor"),
    *("cpu_cap", "irq", "vscsi", "foo", "a.b", "_x", "Name", "restart", "access_control"),
)
OF_THE_HOST = words(
    "pci dtdev usbdev ioports irqs iomem p9 vtpm vdispl pvcalls vsnd virtio channel"
)
SEPARATORS = ("\n",) * 30 + (";", "; ", "\n\n", " # it's\n", "\t#'\n", "\r\n", "\n#[\n")
NOISE = "'\"\\\n#;,=+[]() \t\r:/.\0\x0b\u00e4"
NEEDED = (
    *("kernel='/boot/vmlinuz'", "bootloader='pygrub'", "memory=512", "vcpus=2"),
    *("type='hvm'", "builder='hvm'", "disk=['phy:/dev/vg/web,xvda,w']", "vif=['bridge=xenbr0']"),
)
NAMED = ["name='web'"]
POOLS = {"disk": DISKS, "vif": NICS, "vfb": SCREENS, "bootloader_args": ARGUMENTS}
OF_PATHS = words(
    "kernel ramdisk bootloader firmware firmware_override bios_path_override pvshim_path "
    "device_model_override acpi_firmware smbios_firmware loader device_model"
)
RARE = (OTHERS, OF_THE_HOST, OF_PATHS)


def text(chance, hostile=True):
    """Return a text. One that is not hostile may still be refused."""
    said = [one for one in NEEDED if chance.random() < 0.5]
    said += [_statement(chance) for _ in range(chance.randint(1, 3))]
    chance.shuffle(said)
    said = NAMED[chance.random() < 0.02 :] + said
    written = "".join(one + chance.choice(SEPARATORS) for one in said)
    while hostile and chance.random() < 0.2:
        written = _mutated(chance, written)
    return written


def _statement(chance):
    key = chance.choice((*POOLS, *[chance.choice(ALL_KEYS)] * 2, *map(chance.choice, RARE)))
    sign = "+=" if chance.random() < 0.15 else chance.choice(("=", " = ", "\t=", "= "))
    listed = chance.random() < (0.9 if key in (*POOLS, *OF_THE_HOST) else 0.3)
    return key + sign + (_list(chance, key) if listed else _atom(chance, key))


def _list(chance, key, depth=0):
    items = []
    for _ in range(chance.randint(0, 3)):
        nested = depth < 2 and chance.random() < 0.05
        items.append(_list(chance, key, depth + 1) if nested else _atom(chance, key))
    between = chance.choice((",", ", ", ",\n ", " ,\n#'x'\n"))
    return "[" + between.join(items) + chance.choice(("", "", ",", "\n")) + "]"


def _atom(chance, key):
    if chance.random() < 0.2:
        return chance.choice(NUMBERS)
    pool = POOLS.get(key) or (PATHS if key in OF_PATHS else WORDS)
    value = chance.choice(pool if chance.random() < 0.85 else ("", *PATHS, *WORDS, *NICS))
    value *= chance.random() > (0.3 if key in OF_THE_HOST else 0.05)
    if chance.random() < 0.1:  # parts from elsewhere
        parts = value.split(",") + chance.choice(pool).split(",")
        chance.shuffle(parts)
        value = ",".join(parts)
    quote = chance.choice("'\"")
    return quote + value + quote


def _mutated(chance, written):
    start, end = sorted(chance.randint(0, len(written)) for _ in range(2))
    kind = chance.randrange(3)
    if kind == 0:
        return written[:start] + chance.choice(NOISE) + written[start:]
    if kind == 1 and end - start < 12:
        return written[:start] + written[end:]
    return written[:start] + written[start : start + 12] + written[start:]
