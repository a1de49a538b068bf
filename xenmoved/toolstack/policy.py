"""What a key of a domain's configuration may say when it comes from another host.

One table for all three forms: libxl's JSON, the text of xl.cfg and xend's S-expressions. A key is
found under the name that xl.cfg has for it, and under libxl's where that is another one; both
names lead to the same rule. Readers find the keys and their values; what a value may be is decided
here alone.

A value that a rule does not allow is refused, or left out where the guest runs as well without it
and another host's word must not count (`LEFT_OUT`, names of interfaces, addresses, labels).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from xenmoved.toolstack import sizes
from xenmoved.toolstack.readable import Readable
from xenmoved.toolstack.wiring import BRIDGE_SCRIPTS, Wiring, script_name

BOOT_FOLDERS: Final = Readable(
    (
        "/boot",
        "/usr/lib/xen*",
        "/usr/lib64/xen*",
        "/usr/libexec/xen*",
        "/usr/local/lib/xen*",
        "/usr/local/libexec/xen*",
        "/usr/lib/debug/usr/lib/xen*",
        "/usr/lib/grub-xen",
        "/usr/lib/grub2",
        "/usr/share/grub2",
        "/usr/share/OVMF",
        "/usr/share/ovmf",
        "/usr/share/edk2*",
        "/usr/share/qemu",
        "/usr/share/seabios",
    )
)
"""Where Xen and packages of Debian, SUSE, Fedora and Arch have kernels, boot loaders and firmware.

`grub-xen-host` (/usr/lib/grub-xen), `grub2-x86_64-xen` (/usr/share/grub2, in older releases
/usr/lib/grub2), `ovmf`, `edk2-ovmf`, `qemu-ovmf-x86_64` (/usr/share/qemu), `seabios`.
"""


def boot_folders(more: Iterable[Path], root: Path) -> Readable:
    """Return what guests may be booted from on a host: the usual folders, and more."""
    return Readable((*BOOT_FOLDERS.folders, *map(str, more)), root)


NOWHERE: Final = Readable(())
_PROGRAMS: Final = ("/usr",)


def words(text: str) -> frozenset[str]:
    """Split a list of words into a set."""
    return frozenset(text.split())


_PASSWORD: Final = re.compile(r"pass(?:word|wd|phrase)|secret|ticket", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Rule:
    """What a value may be: text that `pattern` matches, or a path in a folder to boot from.

    `number`: a number may stand there, which may be up to `most`: of what the host sets aside.
    `program`: a path is that of a program of this host, which is run for the guest.
    `left_out`: what is not allowed is dropped, not refused. `secret`: the value is never shown.
    `by`: the key of a peer's `allow` that has what is allowed beyond the pattern, as `takes` tells.
    """

    pattern: re.Pattern[str]
    path: bool = False
    number: bool = False
    left_out: bool = False
    secret: bool = False
    most: int | None = None
    by: str = ""
    takes: Callable[[str], bool] | None = None
    program: bool = False

    def allows(self, value: str, boot_folders: Readable = NOWHERE) -> bool:
        """Whether a text may come from another host; of a path, wherever it leads (`withheld`)."""
        if self.takes is not None and self.takes(value):
            return True
        if self.pattern.fullmatch(value):
            number = number_in(value) if self.most is not None else None
            return number is None or self.allows_number(number)
        return self.path and boot_folders.has(value)

    def withheld(self, value: str, boot_folders: Readable) -> str | None:
        """Return why a guest may not be given the file of this host that a text is the path of.

        With what to do about it; None when it may, or the text is none. Blocks.
        """
        if not value.startswith("/") or not (self.path or self.program):
            return None
        folders = replace(boot_folders, folders=_PROGRAMS) if self.program else boot_folders
        return folders.why_not(value)

    def allows_number(self, value: float) -> bool:
        """Whether a number may come from another host."""
        return self.number and (self.most is None or 0 <= value <= self.most)

    def shown(self, value: object) -> str:
        """Return the value as a message may have it: without a password, whatever the key is."""
        text = str(value)
        return "(a password)" if self.secret or _PASSWORD.search(text) else repr(text[:80])

    @property
    def advice(self) -> str:
        """Where the receiver may allow it, to go behind what was not allowed; "" for nowhere."""
        return f" (on the target, see `{self.by}` in `allow` of the source)" if self.by else ""


def number_in(text: str) -> int | None:
    """Return the number that a text is, None when it is none that all toolstacks read alike.

    To xl and to Python's literals a number that begins with 0 is octal, to xend's texts it is not.
    """
    if re.fullmatch(r"0|[1-9][0-9]*", text):
        return int(text)
    return int(text, 16) if re.fullmatch(r"0[xX][0-9A-Fa-f]+", text) else None


def _rule(
    pattern: str,
    *,
    path: bool = False,
    number: bool = False,
    left_out: bool = False,
    secret: bool = False,
) -> Rule:
    return Rule(re.compile(pattern, re.ASCII), path, number, left_out, secret)


def _count(most: int) -> Rule:
    """Return the rule for what a host counts or sets aside: a number, and nothing else."""
    return Rule(re.compile(r"(?:0|[1-9]\d*|0[xX][0-9A-Fa-f]+)?", re.ASCII), number=True, most=most)


PYGRUB: Final = re.compile(r"(?:/usr/(?!.*\.\.)[\w./+-]*/)?pygrub", re.ASCII)
_LINE: Final = r"[^\x00-\x1f\x7f]*"
_NUMBER: Final = _rule(r"-?(?:0[xX][0-9A-Fa-f]+|\d*)", number=True)
PLAIN: Final = _rule(r"[\w.,:+\-=()<>@*^!%| ]*", number=True)
TEXT: Final = _rule(_LINE)
_SECRET: Final = _rule(r"[^\x00-\x1f\x7f,'\"\\]*", secret=True)
"""QEMU's options end at a comma; a password goes through xenstore or QMP."""
_SPICE_SECRET: Final = _rule(r"[\w.+-]*", secret=True)  # is a part of an argument of QEMU
_PATH: Final = _rule(r"(?:hvmloader)?", path=True)
_FIRMWARE: Final = _rule(r"[a-z0-9]*", path=True)
_LISTEN: Final = _rule(r"[0-9A-Fa-f.:\[\]]*|localhost")
_USER: Final = _rule(r"(?!root$)(?:[a-z_][\w-]*)?")
_WORD: Final = _rule(r"(?:[A-Za-z0-9_-]*|<default>)")
"""libxl pastes it into an option of QEMU, where a comma begins another part and "=" a value."""
_SOUND_CARDS: Final = r"(?:ac97|adlib|all|cs4231a|es1370|gus|hda|pcspk|sb16)"
_OFF: Final = _rule(r"0?|[Ff]alse|<default>")
NOTHING: Final = _rule("")
LEFT_OUT: Final = _rule("", left_out=True)
_IGNORED: Final = _rule(r"[^\x00\x7f]*", number=True)
"""No toolstack does anything with it."""

MOST_VCPUS: Final = 8192
MOST_DEVICES: Final = {
    **dict.fromkeys(("disk", "vbd", "tap", "tap2"), 128),  # empty drives are not announced
    **dict.fromkeys(("nic", "vif"), 64),
    **dict.fromkeys(("vfb", "vkb", "vkbd"), 4),
    **dict.fromkeys(("console", "channel"), 16),
    "usbctrl": 8,
}
"""How many devices of a kind may come: each makes processes of this host work for the guest."""

_EACH: Final[tuple[tuple[str, Rule], ...]] = (
    (
        "vcpu_avail cpus cpus_soft cpuid pool on_poweroff "
        "on_reboot on_watchdog on_crash on_soft_reset localtime tsc_mode timer_mode "
        "hdtype stdvga viridian viridian_enable viridian_disable sched device_model_version "
        "features nestedhvm nested_hvm hap altp2m altp2mhvm passthrough "
        "max_grant_version xen_platform_pci vendor_device vnuma vnuma_nodes cpu_weight cap "
        "ms_vm_genid tee arch_arm arch_x86 llc_colors mca_caps "
        "sched_params claim_mode bios hap oos poolid pool_name run_hotplug_scripts "
        "xend_suspend_evtchn_compat numa_placement rtc_timeoffset disable_migrate blkdev_start "
        "acpi apic dm_restrict vpmu trap_unmapped_accesses "
        "xenstore_feature_mask type.invalid pae acpi_s3 acpi_s4 acpi_laptop_slate nx "
        "timeoffset hpet vpt_align mmio_hole_memkb nographic usb usbversion vkb_device "
        "xen_platform_pci_bar_uc rdm_mem_boundary_memkb rdm_mem_boundary pirq hvm_pirq "
        "gfx_passthru_kind e820_host gic_version vuart sve msr_relaxed",
        PLAIN,
    ),
    ("name uuid builder type", Rule(PLAIN.pattern)),
    # What it may be is announced (see `announced`): these only see that it is a number, and one
    # that is read in one way.
    (f"{sizes.keys_in(1 << 20)} videoram stubdomain_memory", _count(1 << 31)),
    (f"{sizes.keys_in(1 << 10)} video_memkb stubdomain_memkb", _count(1 << 41)),
    (sizes.keys_in(1), _count(MOST_VCPUS)),
    # Memory of Xen's own, for each domain.
    ("max_grant_frames", _count(1024)),
    ("max_maptrack_frames", _count(4096)),
    ("event_channels max_event_channels", _count(1 << 17)),
    ("altp2m_count", _count(512)),
    ("nr_spis", _count(1024)),
    ("xenstore_quota", Rule(PLAIN.pattern, number=True, most=1 << 24)),  # bytes, of xenstore
    (
        "avail_vcpus cpumap nodemap vcpu_hard_affinity vcpu_soft_affinity",
        Rule(PLAIN.pattern, number=True, most=MOST_VCPUS),
    ),
    (
        "vnc vncdisplay vncunused vncconsole vncfindunused vncenable sdl "
        "opengl sdlenable sdlopengl nomigrate mmio_hole pvh pvshim spice "
        "spiceenable spiceport spicetls_port spicedisable_ticketing spice_disable_ticketing "
        "spiceagent_mouse "
        "spicevdagent spice_clipboard_sharing spiceusbredirection latency extratime period slice "
        "budget superpages memory_sharing xen_extended_power_mgmt suppress_spurious_page_faults "
        "nodes",
        _rule(r"-?(?:0[xX][0-9A-Fa-f]+|\d*)|[Tt]rue|[Ff]alse|<default>", number=True),
    ),
    ("extra root cmdline description pvshim_cmdline pvshim_extra smbios", TEXT),
    (
        "kernel ramdisk loader firmware_override pvshim_path system_firmware bios_path_override "
        "smbios_firmware acpi_firmware",
        _PATH,
    ),
    ("firmware", _FIRMWARE),
    ("bootloader", Rule(PYGRUB, program=True)),
    (
        "bootloader_args bootargs",
        _rule(r"--(?:kernel|ramdisk|args|entry)=[^\x00-\x1f]*|--quiet|-q"),
    ),
    ("bootloader_restrict", _rule(r"1|[Tt]rue|<default>", left_out=True)),
    ("bootloader_user", _USER),
    ("device_model_user vncviewer", LEFT_OUT),
    ("boot", _rule(r"[a-z]{0,8}")),
    ("keymap", _rule(r"[A-Za-z0-9-]*")),
    ("soundhw", _rule(rf"(?:{_SOUND_CARDS}(?:,{_SOUND_CARDS})*)?")),
    ("vnclisten spicehost", _LISTEN),
    ("vncpasswd", _SECRET),
    ("spicepasswd", _SPICE_SECRET),
    ("spice_image_compression spice_streaming_video vga", _WORD),
    ("display sdldisplay", _rule(r"[\w.:]*")),
    ("serial serial_list", _rule(r"pty|null|none|")),
    ("parallel", _rule(r"null|none|")),
    ("usbdevice usbdevice_list", _rule(r"tablet|mouse|keyboard|")),
    ("device_model", _rule(r"(?:(?:/usr/lib(?:64)?/xen[\w.-]*/bin/)?qemu-dm)?")),
    (
        "seclabel init_seclabel device_model_stubdomain_seclabel ssidref ssid_label exec_ssidref "
        "exec_ssid_label device_model_ssidref device_model_ssid_label security "
        "security_label xauthority",
        LEFT_OUT,
    ),
    (
        "gfx_passthru driver_domain device_model_stubdomain_override device_model_stubdomain "
        "pci_permissive pci_seize",
        _OFF,
    ),
    (
        "device_model_override device_model_args device_model_args_pv device_model_args_hvm "
        "stubdomain_kernel stubdomain_cmdline stubdomain_ramdisk extra_pv extra_hvm "
        "device_tree pci pcidevs usbdev usbdevs dtdev dtdevs rdms ioports irqs iomem vtpm vtpms "
        "p9 p9s pvcalls pvcallsifs virtio virtios vdispl vdispls vsnd vsnds xsdata "
        "platform platformdata arm_sci",
        NOTHING,
    ),
    (
        # Of xend, of tools that make guests, or for `xl create` on the terminal only.
        "dhcp xen_shell hostname ip netmask gateway nics nfs_root nfs_server "
        "on_xend_start on_xend_stop iomem_policy acpi_firmware_mode pci_msitranslate "
        "pci_power_mgmt",
        _IGNORED,
    ),
)

DOMAIN: Final[Mapping[str, Rule]] = {key: rule for keys, rule in _EACH for key in keys.split()}
"""Keys of the domain itself, in all forms."""

_LIBXL: Final[Mapping[str, str]] = {
    "extra": "device_model_args",
    "device_model": "device_model_override",
    "spiceclipboard_sharing": "spice_clipboard_sharing",
    "spiceimage_compression": "spice_image_compression",
    "spicestreaming_video": "spice_streaming_video",
    "sdlxauthority": "xauthority",
}
"""Keys of libxl that have another name in xl.cfg, or mean something else there."""


def of_libxl(key: str) -> Rule | None:
    """Return the rule for a key of libxl's JSON, None for one that no Xen is known to have."""
    return DOMAIN.get(_LIBXL.get(key, key))


_BACKEND: Final = words("backend_domid backend_domname devid")
DISK: Final[Mapping[str, Rule]] = (
    dict.fromkeys(
        _BACKEND
        | words(
            "vdev backend format removable readwrite is_cdrom direct_io_safe discard_enable "
            "specification transport irq base trusted grant_usage"
        ),
        PLAIN,
    )
    | dict.fromkeys(words("colo_enable colo_restore_enable colo_port"), _OFF)
    | dict.fromkeys(words("colo_host colo_export active_disk hidden_disk"), NOTHING)
)
VKB: Final[Mapping[str, Rule]] = dict.fromkeys(
    _BACKEND
    | words(
        "backend_type unique_id feature_disable_keyboard feature_disable_pointer "
        "feature_abs_pointer feature_raw_pointer feature_multi_touch width height "
        "multi_touch_width multi_touch_height multi_touch_num_contacts"
    ),
    PLAIN,
)
VFB: Final[Mapping[str, Rule]] = dict.fromkeys(_BACKEND, PLAIN) | {"keymap": DOMAIN["keymap"]}
CHANNEL: Final[Mapping[str, Rule]] = dict.fromkeys(
    _BACKEND | words("connection.pty connection.unknown"), PLAIN
) | {
    "name": _rule(r"[\w.-]*"),
    "connection": _rule(r"(?i:pty|unknown)?"),
    "connection.socket": NOTHING,
}
USBCTRL: Final[Mapping[str, Rule]] = dict.fromkeys(
    _BACKEND | words("type devid version ports"), PLAIN
)

_COLO: Final = re.compile(r"colo(?:ft)?_\w+|forwarddev")
_NIC_PLAIN: Final = words(
    "backend_domid backend_domname devid mtu vlan model mac bridge nictype type rate "
    "rate_bytes_per_interval rate_interval_usecs trusted uuid"
)
_NIC: Final[Mapping[str, Rule]] = {
    **dict.fromkeys(_NIC_PLAIN, _rule(r"[\w.:@/ <>-]*", number=True)),
    "ip": _rule(r"[0-9A-Fa-f.:, ]*", left_out=True),
    **dict.fromkeys(words("netdev accel policy label"), LEFT_OUT),
    "backend": _rule("(?:0|Domain-0)?"),
}


def nic_rule(key: str, guest: str, script: str, wiring: Wiring) -> Rule | None:
    """Return the rule for a key of a network interface of a guest, None for an unknown one.

    The scripts of a bridge take an interface of the host that has the given name for the guest's:
    only a name passes that has the guest's own in it. To other scripts an address is a route of
    this host, which has to allow that, as it does scripts and devices.
    """
    if key in ("ifname", "vifname"):
        return _rule(rf"vif-{re.escape(guest)}\.\d+" if len(guest) < 9 else "", left_out=True)
    if key == "script":
        return replace(NOTHING, by="scripts", takes=wiring.runs)
    if key == "gatewaydev":
        return replace(LEFT_OUT, by="gatewaydev", takes=wiring.goes_by)
    if key == "ip" and script_name(script) not in BRIDGE_SCRIPTS:
        return replace(LEFT_OUT, by="ip", takes=wiring.routes)
    return NOTHING if _COLO.fullmatch(key) else _NIC.get(key)


_DUMP: Final = re.compile(r"coredump[-_](?=.)", re.IGNORECASE)  # as libxl compares
_RENAMED: Final = re.compile(r"(?:rename[-_])?restart(?:[-_]rename)?", re.IGNORECASE)


def action_here(event: str, action: str) -> tuple[str, str]:
    """Return what to do when a guest ends, and in words what is left out of it, if anything.

    Its memory is not kept: not in a file of this host, and not beside that of the guest that is
    started in its place, each time anew (`rename-restart`, to libxl `restart_rename`).
    """
    if dump := _DUMP.match(action):
        return action[dump.end() :], f"the core dump of {event}"
    if _RENAMED.fullmatch(action) and action.lower() != "restart":
        return "restart", f"the domain kept by {event}"
    return action, ""


def called(key: str, rule: Rule | None = None, *, of_nic: bool) -> str:
    """Name something that is left out by a rule, in the same words for all three forms."""
    if not of_nic:
        return key[:80]
    advice = rule.advice if rule is not None else ""
    return f"{'vifname' if key == 'ifname' else key[:80]} of a network interface{advice}"


SHUTDOWN_ACTIONS: Final = words("on_poweroff on_reboot on_watchdog on_crash on_soft_reset")

SPECIFICATIONS: Final[Mapping[str, Rule]] = {
    **dict.fromkeys(("disk", "vif", "vif2", "vfb"), NOTHING),  # have readers of their own
    "channel": _rule(r"(?: *(?:connection *= *(?i:pty)|name *= *[\w.-]+) *(?:,(?!$)|$))*"),
    "usbctrl": _rule(r"(?: *(?:type|version|ports)=\w+(?:,(?!$)|$))*"),
    "vkb": _rule(r"(?: *(?!backend=)[\w-]+=[\w.-]*(?:,(?!$)|$))*"),
    "rdm": _rule(r"(?:(?:strategy=ignore|policy=\w+)(?:,(?!$)|$))*"),
}
"""Keys of xl.cfg whose values have parts."""
