"""Output of `xl list -l`, `xm list -l` and images, in the shapes that real hosts give them."""

import copy
import json
import struct

from xenmoved.toolstack.interface import Arrival

UUID = "8f2c3c5e-7a0e-4a5c-9c0b-1f4c2f0d9e11"

# xl 4.17, a PV guest booted by pygrub from an LV, with a second disk that is an image file.
PV = {
    "domid": 7,
    "config": {
        "c_info": {
            "type": "pv",
            "name": "web",
            "uuid": UUID,
            "run_hotplug_scripts": "True",
            "passthrough": "disabled",
        },
        "b_info": {
            "max_vcpus": 2,
            "avail_vcpus": [0, 1],
            "vcpu_hard_affinity": [[0, 1, 2, 3], [0, 1, 2, 3]],
            "numa_placement": "True",
            "max_memkb": 524288,
            "target_memkb": 524288,
            "shadow_memkb": 6144,
            "sched_params": {"sched": "credit2", "weight": 256, "cap": 0},
            "claim_mode": "True",
            "bootloader": "/usr/lib/xen-4.17/bin/pygrub",
            "bootloader_args": ["--kernel=/boot/vmlinuz", "-q"],
            "type.pv": {"e820_host": "False"},
            "arch_arm": {"gic_version": "v2"},
            "arch_x86": {},
        },
        "disks": [
            {
                "pdev_path": "/dev/vg0/web-root",
                "vdev": "xvda",
                "backend": "phy",
                "format": "raw",
                "removable": 1,
                "readwrite": 1,
                "discard_enable": "True",
            },
            {
                "pdev_path": "/srv/xen/web-data.img",
                "vdev": "xvdb",
                "backend": "qdisk",
                "format": "raw",
                "readwrite": True,
            },
        ],
        "nics": [
            {
                "devid": 0,
                "mac": "00:16:3e:01:02:03",
                "bridge": "xenbr0",
                "script": "/etc/xen/scripts/vif-bridge",
                "nictype": "vif",
            }
        ],
        "vfbs": [
            {"devid": 0, "vnc": {"enable": "True", "listen": "127.0.0.1", "findunused": "True"}}
        ],
        "vkbs": [{"devid": -1}],
        "on_reboot": "restart",
        "on_soft_reset": "soft_reset",
    },
}

# A PVH guest with a kernel of the host's. Nothing says what serves its disk, as xl.cfg left it.
PVH = {
    "domid": 12,
    "config": {
        "c_info": {"type": "pvh", "hap": "True", "name": "b 2 (old)", "uuid": UUID.upper()},
        "b_info": {
            "max_vcpus": 1,
            "max_memkb": 1048576,
            "target_memkb": 262144,
            "kernel": "/boot/vmlinuz-6.1.0-21-amd64",
            "ramdisk": "/boot/initrd.img-6.1.0-21-amd64",
            "cmdline": "root=/dev/xvda1 ro console=hvc0",
            "type.pvh": {"pvshim": "False"},
            "arch_x86": {"msr_relaxed": "False"},
        },
        "disks": [{"pdev_path": "/dev/zvol/tank/b2", "vdev": "xvda1", "format": "raw"}],
    },
}

# An HVM guest with an empty drive and one that holds an image.
HVM = {
    "domid": 3,
    "config": {
        "c_info": {"type": "hvm", "hap": "True", "oos": "True", "name": "win", "uuid": UUID},
        "b_info": {
            "max_vcpus": 4,
            "max_memkb": 4194304,
            "target_memkb": 4178944,
            "video_memkb": 8192,
            "device_model_version": "qemu_xen",
            "device_model_stubdomain": "False",
            "type.hvm": {
                "bios": "seabios",
                "pae": "True",
                "viridian": "True",
                "hdtype": "ide",
                "vga": {"kind": "cirrus"},
                "vnc": {"enable": "True", "listen": "0.0.0.0", "display": 3, "passwd": "s3cr3t"},
                "sdl": {"enable": "False"},
                "spice": {},
                "boot": "dc",
                "usb": "True",
                "usbdevice": "tablet",
                "serial": "pty",
                "rdm": {"strategy": "ignore"},
                "rdm_mem_boundary_memkb": 2097152,
            },
        },
        "disks": [
            {
                "pdev_path": "/dev/vg0/win",
                "vdev": "hda",
                "backend": "phy",
                "format": "raw",
                "readwrite": 1,
            },
            {
                "vdev": "hdc",
                "backend": "qdisk",
                "format": "empty",
                "removable": 1,
                "is_cdrom": 1,
            },
            {
                "pdev_path": "/srv/iso/drivers.iso",
                "vdev": "hdd",
                "backend": "qdisk",
                "format": "raw",
                "is_cdrom": True,
            },
        ],
        "nics": [
            {
                "devid": 0,
                "mac": "00:16:3e:0a:0b:0c",
                "bridge": "xenbr1",
                "model": "rtl8139",
                "nictype": "vif_ioemu",
            }
        ],
    },
}

PASSTHROUGH = copy.deepcopy(PV)
PASSTHROUGH["config"]["pcidevs"] = [
    {"func": 0, "dev": 28, "bus": 3, "domain": 0, "rdm_policy": "strict"}
]
PASSTHROUGH["config"]["usbdevs"] = [
    {"ctrl": 0, "port": 1, "type": "hostdev", "type.hostdev": {"hostbus": 2, "hostaddr": 5}}
]
PASSTHROUGH["config"]["dtdevs"] = [{"path": "/soc/ethernet@0"}]
PASSTHROUGH["config"]["b_info"]["irqs"] = [11]

SCRIPTED = copy.deepcopy(PV)
SCRIPTED["config"]["disks"] = [
    {
        "pdev_path": "iqn.2001-05.com.example:disk1,10.0.0.1",
        "vdev": "xvda",
        "backend": "phy",
        "format": "raw",
        "script": "block-iscsi",
        "readwrite": 1,
    },
    {
        "pdev_path": "/dev/vg0/remote",
        "vdev": "xvdb",
        "format": "raw",
        "backend_domname": "storage",
    },
]

# xl 4.2: c_info has no type, and the table of types is not there at all.
OLD_HVM = {
    "domid": 2,
    "config": {
        "c_info": {"hvm": True, "name": "old", "uuid": UUID},
        "b_info": {"max_memkb": 131072},
    },
}

TABLE = """\
Name                                        ID   Mem VCPUs\tState\tTime(s)
Domain-0                                     0  1024     2     r-----     142.1
web                                          7   512     2     -b----       3.4
a name with 3 5 words                        8    64     1     --p---       0.0
saving                                      11   128     1     ---ss-       0.5
saving-and-paused                           12   128     1     --pss-       0.5
off                                         13   128     1     ---s--       0.5
rebooting                                   14   128     1     ---sr-       0.5
crashed                                     15   128     1     ---sc-       0.5
(null)                                      16     0     1     --ps-d       0.5
a-very-long-name-of-a-guest-that-fills-its-column-and-more    17   128     1     ------       0.5
xm-crashed                                  18   128     1     ----c-       0.5
odd-crashed                                 19   128     1     -----c       0.5
watchdog                                    20   128     1     ---sw-   99999.5
"""

XM_TABLE = """\
Name                                        ID   Mem VCPUs      State   Time(s)
Domain-0                                     0  1024     2     r-----    142.1
web                                         15   512     1     -b----      3.4
managed                                          256     1                 0.0
stopped                                          256     1     ------      12.0
"""

XM_LIST = """\
(domain
    (domid 0)
    (uuid 00000000-0000-0000-0000-000000000000)
    (name Domain-0)
    (memory 1024)
    (state r-----)
)
(domain
    (domid 15)
    (cpu_weight 256)
    (cpu_cap 0)
    (bootloader /usr/bin/pygrub)
    (on_crash restart)
    (uuid 8f2c3c5e-7a0e-4a5c-9c0b-1f4c2f0d9e11)
    (bootloader_args '-q')
    (vcpus 1)
    (description 'Bob\\'s \\"web\\" server')
    (name web)
    (on_poweroff destroy)
    (on_reboot restart)
    (cpus (()))
    (maxmem 512)
    (memory 256)
    (shadow_memory 0)
    (features '')
    (on_xend_start ignore)
    (start_time 1388534400.25)
    (cpu_time 3.4)
    (online_vcpus 1)
    (image
        (linux
            (kernel /var/run/xend/boot/boot_kernel.lCF4FF)
            (ramdisk /var/run/xend/boot/boot_ramdisk.vY5Ub0)
            (args 'root=/dev/xvda1 ro ')
            (videoram 4)
            (device_model /usr/lib64/xen/bin/qemu-dm)
            (notes (HV_START_LOW 18446603336221196288) (FEATURES '!writable_page_tables|pae'))
        )
    )
    (status 2)
    (state -b----)
    (store_mfn 131071)
    (console_mfn 131070)
    (device
        (vif
            (bridge eth0)
            (mac 00:16:3e:11:22:33)
            (script /etc/xen/scripts/vif-bridge)
            (uuid 0b5aa6ff-7d87-1a5d-1c32-7d8ef8aeb9c2)
            (backend 0)
        )
    )
    (device (vbd (uuid 34ab) (bootable 1) (dev xvda:disk) (uname phy:/dev/vg/root) (mode w)
        (backend 0) (VDI )))
    (device (vbd (dev xvdb) (uname phy:vg/swap) (mode w)))
    (device (vbd (dev xvdc:disk) (uname file:/srv/data.img) (mode r)))
    (device (tap (dev xvdd:disk) (uname tap:aio:/srv/tap.img) (mode w) (bootable 0)))
    (device (vbd (dev hdc:cdrom) (uname '') (mode r)))
    (device (vkbd (backend 0)))
    (device (vfb (vncunused 1) (type vnc) (xauthority /root/.Xauthority) (location 0.0.0.0:5900)))
    (device (console (protocol vt100) (location 2) (uuid c5)))
)
"""


def entry(sample):
    """A copy of a sample, free to change."""
    return copy.deepcopy(sample)


def arrival(sample, **changes):
    """An arrival of the sample's domain, each of its disks on a volume of its own."""
    config = sample["config"]
    disks = {d["vdev"]: f"/dev/here/{d['vdev']}" for d in config["disks"] if d.get("pdev_path")}
    given = {"name": config["c_info"]["name"], "uuid": config["c_info"]["uuid"], "disks": disks}
    return Arrival(**(given | changes))


def header(config, flags=3, byteorder=0x01020304):
    """A save-file header."""
    raw = config if isinstance(config, bytes) else json.dumps(config, indent=2).encode() + b"\0"
    optional = struct.pack("=I", len(raw)) + raw
    magic = b"Xen saved domain, xl format\n \0 \r"
    return magic + struct.pack("=IIII", byteorder, flags, 0, len(optional)) + optional


def record(kind, body=b""):
    """A record of either stream."""
    return struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8)


def libxc(pages=b"pages and pages"):
    """The inner stream, with its own END."""
    start = b"\xff" * 8 + b"XENF" + struct.pack(">IHHI", 3, 0, 0, 0)
    start += struct.pack("<IHHII", 1, 12, 0, 4, 17)
    return start + record(0x10) + record(1, pages) + record(0)


LIBXL = b"LibxlFmt" + struct.pack(">II", 2, 0)


def stream(pages=b"pages and pages", *, end=True):
    """What follows the header."""
    emulator = record(2, b"12345") + record(3, b"qemu" * 3)
    return LIBXL + record(1) + libxc(pages) + emulator + (record(0) if end else b"")
