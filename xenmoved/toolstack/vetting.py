"""What a domain configuration from another host may make this host do.

`xl migrate-receive` takes the domain's whole configuration from the sender and acts on it as root,
at once and again whenever the guest reboots: the monitor that `xl` leaves behind then builds the
domain anew from it, running its bootloader and opening its kernel (tools/xl/xl_vmcontrol.c,
create_domain; libxl_bootloader.c). The sender may do what its operator granted, which is to place
a guest on granted volumes: not to run a program here, nor to read or write other files of this
host, nor to take its hardware.

So this is a list of what is let through, after libxl_types.idl of Xen 4.5 to 4.21; a key that is
not on it passes only with an empty value. In particular:

- disks: only the given local paths, no script, no driver domain, format raw, as a running guest can
  have its backend open any file of this host by the header of a qcow2 or vhd image. They are those
  that were announced, each from where it was announced: nothing else was copied.
- device_model, stubdomain_*, extra*, serial, usbdevice, soundhw, keymap, vnc, spice, sdl: become
  arguments of a device model that runs as root, and can open files, sockets and host devices.
- kernel, ramdisk, firmware, pvshim: opened on reboot and shown to the guest: only from folders
  that hold nothing secret (`BOOT_FOLDERS`). bootloader: only pygrub, from this host's own folder,
  with arguments that choose an entry.
- vif scripts: only by name from this host's folder of scripts.
- pcidevs, usbdevs, dtdevs, rdms, ioports, irqs, iomem, vtpms, p9s, pvcallsifs, virtios, vdispls,
  vsnds, sockets of channels, xsdata, platformdata, driver_domain, device_tree: refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final

from xenmoved.toolstack.domains import items, normal_uuid, parse_disk, under
from xenmoved.toolstack.interface import Arrival, Disk, ToolstackError

BOOT_FOLDERS: Final = (
    "/boot",
    "/usr/lib/xen*",
    "/usr/lib64/xen*",
    "/usr/libexec/xen*",
    "/usr/local/lib/xen*",
    "/usr/local/libexec/xen*",
    "/usr/lib/debug/usr/lib/xen*",
)

_EMPTY: Final[tuple[object, ...]] = (None, False, 0, "", "0", "False", "<default>", [], {})
_PLAIN: Final = re.compile(r"[\w.,:+\-=<>() ]*", re.ASCII)
_LINE: Final = re.compile(r"[^\x00-\x1f\x7f]*")
LISTEN: Final = re.compile(r"[0-9A-Fa-f.:\[\]]*|localhost")
NIC_SCRIPT: Final = re.compile(r"(?:/etc/xen/scripts/)?(?P<name>(?:vif|colo-proxy)[\w-]*)")
PYGRUB: Final = re.compile(r"(?:/[\w./+-]*/)?pygrub")
PYGRUB_ARGUMENT: Final = re.compile(r"--(?:kernel|ramdisk|args|entry)=[^\x00-\x1f]*|--quiet|-q")


def words(text: str) -> frozenset[str]:
    """Split a list of words into a set."""
    return frozenset(text.split())


# Keys whose values are numbers, switches, words, or lists and objects of those.
_DOMAIN: Final = words(
    "c_info b_info disks nics vfbs vkbs channels usbctrls on_poweroff on_reboot on_watchdog "
    "on_crash on_soft_reset"
)
_CREATE: Final = words(
    "type hap oos ssidref ssid_label name uuid poolid pool_name run_hotplug_scripts passthrough "
    "xend_suspend_evtchn_compat"
)
_BUILD: Final = words(
    "max_vcpus avail_vcpus cpumap nodemap vcpu_hard_affinity vcpu_soft_affinity numa_placement "
    "tsc_mode max_memkb target_memkb video_memkb shadow_memkb iommu_memkb rtc_timeoffset "
    "exec_ssidref exec_ssid_label localtime disable_migrate cpuid blkdev_start vnuma_nodes "
    "max_grant_frames max_maptrack_frames max_grant_version device_model_version "
    "device_model_ssidref device_model_ssid_label sched_params llc_colors claim_mode "
    "event_channels acpi bootloader_restrict timer_mode nested_hvm apic dm_restrict tee arch_arm "
    "arch_x86 altp2m altp2m_count vmtrace_buf_kb vpmu trap_unmapped_accesses type "
    "xenstore_feature_mask xenstore_quota stubdomain_memkb type.invalid type.pv type.pvh "
    "type.hvm"
)
_HVM: Final = words(
    "firmware bios pae apic acpi acpi_s3 acpi_s4 acpi_laptop_slate nx viridian viridian_enable "
    "viridian_disable timeoffset hpet vpt_align mmio_hole_memkb timer_mode nested_hvm altp2m "
    "hdtype nographic vga usb usbversion vkb_device xen_platform_pci xen_platform_pci_bar_uc "
    "vendor_device ms_vm_genid rdm_mem_boundary_memkb mca_caps pirq gfx_passthru_kind"
)
_PV: Final = frozenset(("slack_memkb", "e820_host"))
_PVH: Final = frozenset(("pvshim",))
_DISK: Final = words(
    "backend_domid backend_domname pdev_path vdev backend format script removable readwrite "
    "is_cdrom direct_io_safe discard_enable specification transport irq base trusted "
    "grant_usage"
)
_NIC: Final = words(
    "backend_domid backend_domname devid mtu vlan model mac bridge ifname nictype "
    "rate_bytes_per_interval rate_interval_usecs gatewaydev trusted"
)
_VKB: Final = words(
    "backend_domid backend_domname devid backend_type unique_id feature_disable_keyboard "
    "feature_disable_pointer feature_abs_pointer feature_raw_pointer feature_multi_touch width "
    "height multi_touch_width multi_touch_height multi_touch_num_contacts"
)
_VFB: Final = frozenset(("backend_domid", "backend_domname", "devid"))
_CHANNEL: Final = frozenset(
    ("backend_domid", "backend_domname", "devid", "name", "connection.pty", "connection.unknown")
)
_USBCTRL: Final = words("type devid version ports backend_domid backend_domname")
_VNC: Final = frozenset(("enable", "display", "findunused"))
_SPICE: Final = words(
    "enable port tls_port disable_ticketing agent_mouse vdagent clipboard_sharing usbredirection "
    "image_compression streaming_video"
)


@dataclass(slots=True)
class _Vetter:
    """Collects what is wrong, so that an operator sees all of it at once."""

    boot_folders: tuple[str, ...]
    problems: list[str] = field(default_factory=list)

    def refuse(self, where: str, why: str) -> None:
        self.problems.append(f"{where}: {why}")

    def keys(
        self,
        where: str,
        value: Mapping[str, object],
        plain: frozenset[str],
        rules: Mapping[str, Callable[[str, object], None]] | None = None,
    ) -> None:
        """Check every member: by its rule, as a plain value, or as one that must be empty."""
        for key, item in value.items():
            rule = (rules or {}).get(key)
            if rule is not None:
                rule(f"{where}.{key}", item)
            elif key in plain:
                self.plain(f"{where}.{key}", item)
            elif item not in _EMPTY:
                self.refuse(f"{where}.{key}", "is not something that may come from another host")

    def plain(self, where: str, value: object) -> None:
        for item in _leaves(value):
            if isinstance(item, str) and not _PLAIN.fullmatch(item):
                self.refuse(where, f"has an unexpected value {item[:80]!r}")

    def matching(self, pattern: re.Pattern[str] | str) -> Callable[[str, object], None]:
        compiled = re.compile(pattern, re.ASCII) if isinstance(pattern, str) else pattern

        def check(where: str, value: object) -> None:
            if value in _EMPTY:
                return
            for item in value if isinstance(value, list) else [value]:
                if not isinstance(item, str) or not compiled.fullmatch(item):
                    self.refuse(where, f"may not come from another host as {str(item)[:80]!r}")

        return check

    def pygrub_arguments(self, where: str, value: object) -> None:
        """Accept a list of arguments; what is no list might be taken apart at its blanks."""
        if isinstance(value, str) and value:
            self.refuse(where, "must be a list")
        self.matching(PYGRUB_ARGUMENT)(where, value)

    def lines(self, where: str, value: object) -> None:
        """Accept numbers and any text without control characters."""
        for item in _leaves(value):
            if isinstance(item, str) and not _LINE.fullmatch(item):
                self.refuse(where, f"has an unexpected value {item[:80]!r}")

    def boot_file(self, where: str, value: object) -> None:
        if value in _EMPTY:
            return
        if not isinstance(value, str) or not under(value, self.boot_folders):
            self.refuse(
                where,
                f"{str(value)[:200]!r} is in none of the folders from which a guest may be booted "
                f"({', '.join(self.boot_folders)})",
            )

    def nested(
        self, plain: frozenset[str], rules: Mapping[str, Callable[[str, object], None]]
    ) -> Callable[[str, object], None]:
        def check(where: str, value: object) -> None:
            if isinstance(value, dict):
                self.keys(where, value, plain, rules)
            elif value not in _EMPTY:
                self.refuse(where, "must be an object")

        return check

    def rdm(self, where: str, value: object) -> None:
        if isinstance(value, dict) and value.get("strategy", "ignore") != "ignore":
            self.refuse(where, "reserves memory of this host's devices")
        self.plain(where, value)

    def backend(self, where: str, device: Mapping[str, object]) -> None:
        named = device.get("backend_domname")
        if device.get("backend_domid", 0) not in (0, None) or named not in (
            None,
            "",
            "0",
            "Domain-0",
        ):
            self.refuse(where, "is served by a driver domain, which does not move with it")


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _section(config: dict[str, object], key: str) -> dict[str, object]:
    value = config.setdefault(key, {})
    if not isinstance(value, dict):
        raise ToolstackError(f"expected an object as {key} in the domain's configuration.")
    return value


def _display_rules(vetter: _Vetter) -> dict[str, Callable[[str, object], None]]:
    text = vetter.matching(_LINE)
    return {
        "vnc": vetter.nested(_VNC, {"listen": vetter.matching(LISTEN), "passwd": text}),
        "sdl": vetter.nested(
            frozenset(("enable", "opengl")), {"display": vetter.matching(r"[\w.:]*")}
        ),
        "keymap": vetter.matching(r"[A-Za-z0-9-]*"),
    }


def _build_rules(vetter: _Vetter) -> dict[str, Callable[[str, object], None]]:
    text = vetter.matching(_LINE)
    hvm: dict[str, Callable[[str, object], None]] = {
        **_display_rules(vetter),
        "system_firmware": vetter.boot_file,
        "smbios_firmware": vetter.boot_file,
        "acpi_firmware": vetter.boot_file,
        "smbios": vetter.lines,
        "spice": vetter.nested(
            _SPICE,
            {
                "host": vetter.matching(LISTEN),
                "passwd": vetter.matching(r"[\w.+-]*"),
                "image_compression": vetter.matching(r"[a-z0-9_-]*"),
                "streaming_video": vetter.matching(r"[a-z0-9_-]*"),
            },
        ),
        "serial": vetter.matching(r"pty|null|none"),
        "serial_list": vetter.matching(r"pty|null|none"),
        "boot": vetter.matching(r"[a-z]{0,8}"),
        "usbdevice": vetter.matching(r"tablet|mouse|keyboard"),
        "usbdevice_list": vetter.matching(r"tablet|mouse|keyboard"),
        "soundhw": vetter.matching(r"[a-z0-9,]*"),
        "rdm": vetter.rdm,
    }
    direct: dict[str, Callable[[str, object], None]] = {
        "kernel": vetter.boot_file,
        "ramdisk": vetter.boot_file,
        "cmdline": text,
        "bootloader": vetter.matching(PYGRUB),
        "bootloader_args": vetter.pygrub_arguments,
    }
    return {
        **direct,
        "bootloader_user": vetter.matching(r"[a-z_][\w-]*"),
        "device_model_user": vetter.matching(r"[a-z_][\w-]*"),
        "type.hvm": vetter.nested(_HVM, hvm),
        "type.pv": vetter.nested(_PV, direct),
        "type.pvh": vetter.nested(
            _PVH,
            {
                "pvshim_path": vetter.boot_file,
                "pvshim_cmdline": text,
                "pvshim_extra": text,
            },
        ),
    }


def unannounced(disk: Disk, arrival: Arrival) -> list[str]:
    """Return in what a disk of an image is not the one that the peer announced and copied."""
    if (source := arrival.sources.get(disk.vdev)) is None:
        return []
    found = []
    if disk.path != source.path:
        found.append(f"is at {disk.path[:200]!r}, and was announced at {source.path[:200]!r}")
    if disk.cdrom != source.cdrom:
        found.append(f"{_is(disk.cdrom)} a CD-ROM, and was announced otherwise")
    if (disk.writable and not disk.cdrom) != source.writable:
        found.append(f"{_is(disk.writable)} writable, and was announced otherwise")
    return found


def missing(seen: Collection[str], arrival: Arrival) -> list[str]:
    """Return what is wrong with an image in which only these disks were seen."""
    left = sorted(arrival.disks.keys() - seen)
    return [f"disk {vdev!r}: was announced, and is not in the image" for vdev in left]


def _is(fact: bool) -> str:
    return "is" if fact else "is not"


def _rewrite_disks(vetter: _Vetter, config: dict[str, object], arrival: Arrival) -> None:
    seen: set[str] = set()
    for item in items(config, "disks"):
        disk = parse_disk(item)
        where = f"disk {disk.vdev[:40]!r}"
        vetter.keys(where, item, _DISK, dict.fromkeys(("pdev_path", "script"), _anything))
        vetter.backend(where, item)
        if disk.vdev in seen:
            vetter.refuse(where, "appears twice")
        seen.add(disk.vdev)
        if disk.script is not None:
            vetter.refuse(where, f"needs the block script {disk.script[:80]!r}")
        item.pop("script", None)
        for what in unannounced(disk, arrival):
            vetter.refuse(where, what)
        if disk.vdev in arrival.read_only and disk.writable:
            vetter.refuse(where, "was announced as read-only")
        local = arrival.disks.get(disk.vdev)
        if local == "" and disk.cdrom:
            item.pop("pdev_path", None)
            item.pop("backend", None)
            item["format"] = "empty"
        elif local:
            if disk.format != "raw":
                vetter.refuse(where, f"has format {disk.format}; only raw disks can be moved")
            item["pdev_path"] = local
            if disk.backend == "phy":
                # Whether blkback can serve it depends on the local volume. libxl chooses it again
                # for block devices and QEMU for files when nothing is said.
                item.pop("backend", None)
        elif disk.path or not disk.cdrom:
            vetter.refuse(where, "has no volume on this host that was agreed upon")
    vetter.problems += missing(seen, arrival)


def _anything(_where: str, _value: object) -> None:
    """Accept a value that the caller replaces or has checked."""


def _rewrite_nics(vetter: _Vetter, config: dict[str, object], bridges: Mapping[str, str]) -> None:
    for number, item in enumerate(items(config, "nics")):
        where = f"network interface {number}"
        rules = {
            # These become parts of arguments of the device model.
            **dict.fromkeys(("model", "bridge", "ifname"), vetter.matching(r"[\w.:@-]*")),
            "ip": vetter.matching(r"[0-9A-Fa-f.:/, ]*"),
            "script": vetter.matching(NIC_SCRIPT),
        }
        vetter.keys(where, item, _NIC, rules)
        vetter.backend(where, item)
        script = item.get("script")
        if isinstance(script, str) and (match := NIC_SCRIPT.fullmatch(script)):
            item["script"] = match["name"]
        bridge = item.get("bridge")
        if isinstance(bridge, str) and bridge in bridges:
            item["bridge"] = bridges[bridge]


def rewrite_config(
    config: dict[str, object],
    arrival: Arrival,
    boot_folders: tuple[str, ...] = BOOT_FOLDERS,
) -> list[str]:
    """Adapt libxl's JSON configuration, in place, to how the domain is to look on this host.

    Returns everything in it that may not come from another host, empty when it may be used.
    Raises ToolstackError when its shape is not that of a configuration.
    """
    vetter = _Vetter(boot_folders)
    for item in _leaves(config):
        if isinstance(item, str) and "\0" in item:
            raise ToolstackError("the domain's configuration has a string with a NUL in it.")
    create, build = _section(config, "c_info"), _section(config, "b_info")
    if create.get("name") != arrival.announced_name:
        vetter.refuse("c_info.name", f"is not the announced {arrival.announced_name!r}")
    create["name"] = arrival.name
    if not arrival.uuid or normal_uuid(create.get("uuid")) != normal_uuid(arrival.uuid):
        vetter.refuse("c_info.uuid", f"is not the announced {arrival.uuid}")
    create.pop("domid", None)  # ids belong to a host
    vetter.keys("domain", config, _DOMAIN - {"c_info", "b_info"}, _device_rules(vetter))
    vetter.keys("c_info", create, _CREATE, {"name": _anything})
    vetter.keys("b_info", build, _BUILD, _build_rules(vetter))
    for section in (build, build.get("type.pv")):
        if isinstance(section, dict) and section.get("bootloader"):
            section["bootloader"] = PurePosixPath(str(section["bootloader"])).name
    _rewrite_disks(vetter, config, arrival)
    _rewrite_nics(vetter, config, arrival.bridges)
    return vetter.problems


def _device_rules(vetter: _Vetter) -> dict[str, Callable[[str, object], None]]:
    def devices(
        plain: frozenset[str], rules: Mapping[str, Callable[[str, object], None]]
    ) -> Callable[[str, object], None]:
        def check(where: str, value: object) -> None:
            for item in items({"devices": value}, "devices"):
                vetter.keys(where, item, plain, rules)
                vetter.backend(where, item)

        return check

    return {
        "c_info": _anything,
        "b_info": _anything,
        "disks": _anything,
        "nics": _anything,
        "vfbs": devices(_VFB, _display_rules(vetter)),
        "vkbs": devices(_VKB, {}),
        "channels": devices(_CHANNEL, {"connection": vetter.matching(r"(?i:pty|unknown)")}),
        "usbctrls": devices(_USBCTRL, {}),
    }
