"""A configuration file (xl.cfg) for a domain that has none, from how it runs.

A guest may have been created from a file elsewhere, or from none. The other host would then have
nothing to start it from, once it has shut down. What `xl list -l` tells of it is nearly all of a
file; what has no place here is named in a comment, for a human to look at.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from xenmoved.toolstack.domains import integer, items, parse_disk, size_of, truth
from xenmoved.toolstack.interface import ToolstackError
from xenmoved.toolstack.policy import words

_HEAD: Final = """\
# Written by xenmoved from how the domain ran, as no configuration file of it was found.
# If there is one elsewhere, compare the two and keep the better one.
"""
_EVENTS: Final = ("on_poweroff", "on_reboot", "on_watchdog", "on_crash", "on_soft_reset")
_BOOT: Final = ("kernel", "ramdisk", "cmdline", "bootloader", "bootloader_args")
_SWITCHES: Final = {
    **{key: key for key in ("pae", "acpi", "apic", "nx", "hpet", "viridian", "usb", "localtime")},
    "xen_platform_pci": "xen_platform_pci",
    "nested_hvm": "nestedhvm",
}
_HVM_TEXTS: Final = ("bios", "boot", "serial", "usbdevice", "hdtype", "soundhw", "keymap")
_VNC: Final = {"listen": "vnclisten", "passwd": "vncpasswd"}
_IMPLIED: Final = words(
    "max_vcpus avail_vcpus max_memkb target_memkb video_memkb shadow_memkb iommu_memkb "
    "sched_params claim_mode device_model_version rdm rdm_mem_boundary_memkb sdl spice vga vnc "
    "type numa_placement nodemap"
)
_EMPTY: Final[tuple[object, ...]] = (
    None,
    "",
    0,
    {},
    [],
    "False",
    "default",
    "unknown",
    "<default>",
)
_UNSET: Final[tuple[object, ...]] = (None, "", "<default>")
_RATE: Final = ("rate_bytes_per_interval", "rate_interval_usecs")
_DISK_KEYS: Final = words(
    "vdev pdev_path backend backend_domid backend_domname format script removable readwrite "
    "is_cdrom direct_io_safe discard_enable transport irq base"
)
"""What a disk's specification has, or what follows from it."""
_USUAL: Final[Mapping[str, tuple[object, ...]]] = {
    "specification": (*_UNSET, "unknown", "xen"),
    "trusted": (*_UNSET, "True"),
}
"""What libxl says of devices though nobody has said it."""
_UNQUOTABLE: Final = frozenset("'\\\n\r\0")


def compose(config: Mapping[str, object]) -> str:
    """Return the text of a file for a domain, of the `config` that `xl list -l` has of it.

    Raises ToolstackError when it is not of the shape of a configuration.
    """
    create, build = _section(config, "c_info"), _section(config, "b_info")
    kind = _kind(create, build)
    special = _section(build, f"type.{kind}")
    left: list[str] = []
    lines = [
        *_identity(create, kind),
        *_resources(build),
        *_booting(build, special, left),
        *(_hvm(build, special, left) if kind == "hvm" else ()),
        *(
            f"{key} = {_quoted(str(config[key]).replace('_', '-'))}"
            for key in _EVENTS
            if config.get(key)
        ),
        _list("vif", (_vif(nic, left) for nic in items(config, "nics"))),
        _list("disk", (_disk(disk, left) for disk in items(config, "disks"))),
    ]
    known = {"c_info", "b_info", "disks", "nics", "vkbs", *_EVENTS}
    left += sorted(key for key, value in config.items() if key not in known and value)
    ignored = _IMPLIED | {*_BOOT, *_SWITCHES, *_HVM_TEXTS, "arch_arm", "arch_x86"}
    left += sorted(
        key
        for section in (build, special)
        for key, value in section.items()
        if key not in ignored and not key.startswith("type.") and value not in _EMPTY
    )
    missing = f"# Not taken over: {', '.join(dict.fromkeys(left))}\n" if left else ""
    return _HEAD + missing + "".join(f"{line}\n" for line in lines)


def is_composed(text: str) -> bool:
    """Whether a text is one that `compose` made, here or on another host."""
    return text.startswith(_HEAD)


def may_be_composed(text: str) -> bool:
    """Whether `is_composed` may be true of a text when lines of it were left out."""
    return _HEAD in text


def _section(values: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = values.get(key) or {}
    if not isinstance(value, dict):
        raise ToolstackError(f"expected an object as {key} in the domain's configuration.")
    return value


def _kind(create: Mapping[str, object], build: Mapping[str, object]) -> str:
    named = str(create.get("type", "")).lower()
    found = (kind for kind in ("hvm", "pvh", "pv") if f"type.{kind}" in build)
    return named if named in ("hvm", "pvh", "pv") else next(found, "pv")


def _identity(create: Mapping[str, object], kind: str) -> Iterator[str]:
    yield f"name = {_quoted(str(create.get('name', '')))}"
    yield f"uuid = {_quoted(str(create.get('uuid', '')))}"
    # Before Xen 4.10 a builder was named, and every release since then knows both.
    yield "builder = 'hvm'" if kind == "hvm" else f"type = {_quoted(kind)}"


def _resources(build: Mapping[str, object]) -> Iterator[str]:
    size = size_of(build)
    memory = min(size.memory + integer(build, "video_memkb") * 1024, size.maximum)
    yield f"memory = {memory >> 20}"
    if size.maximum > memory:
        yield f"maxmem = {size.maximum >> 20}"
    processors = integer(build, "max_vcpus", 1)
    online = build.get("avail_vcpus")
    count = len(online) if isinstance(online, list) and online else processors
    yield f"vcpus = {count}"
    if processors > count:
        yield f"maxvcpus = {processors}"


def _booting(
    build: Mapping[str, object], special: Mapping[str, object], left: list[str]
) -> Iterator[str]:
    values = {key: build.get(key) or special.get(key) for key in _BOOT}
    if values["bootloader"]:
        values["kernel"] = values["ramdisk"] = None  # what it unpacked for this boot
    for key, value in values.items():
        texts = [str(one) for one in value] if isinstance(value, list) else [str(value or "")]
        if any(_UNQUOTABLE & set(text) for text in texts):
            left.append(key)
        elif isinstance(value, list) and value:
            yield _list(key, iter(texts))
        elif value:
            yield f"{key} = {_quoted(texts[0])}"


def _hvm(
    build: Mapping[str, object], special: Mapping[str, object], left: list[str]
) -> Iterator[str]:
    for key, option in _SWITCHES.items():
        value = special.get(key, build.get(key))
        if value is not None:
            yield f"{option} = {int(truth(value))}"
    for key in _HVM_TEXTS:
        if isinstance(value := special.get(key), str) and value and not _UNQUOTABLE & set(value):
            yield f"{key} = {_quoted(value)}"
        elif value not in _EMPTY:
            left.append(key)
    if _section(special, "vga").get("kind") == "std":
        yield "stdvga = 1"
    vnc = _section(special, "vnc")
    if vnc:
        yield f"vnc = {int(truth(vnc.get('enable', 'True')))}"
    if integer(vnc, "display"):
        yield f"vncdisplay = {integer(vnc, 'display')}"
    for key, option in _VNC.items():
        if isinstance(value := vnc.get(key), str) and value and not _UNQUOTABLE & set(value):
            yield f"{option} = {_quoted(value)}"
    left += [key for key in ("sdl", "spice") if truth(_section(special, key).get("enable"))]


def _vif(nic: Mapping[str, object], left: list[str]) -> str:
    script = str(nic.get("script") or "").rpartition("/")[2]
    pairs = {
        "type": str(nic.get("nictype") or "").lower().removeprefix("vif_"),
        "mac": nic.get("mac"),
        "bridge": nic.get("bridge"),
        "model": nic.get("model"),
        "ip": nic.get("ip"),
        "vifname": nic.get("ifname"),
        "gatewaydev": nic.get("gatewaydev"),
        "mtu": nic.get("mtu"),
        "vlan": nic.get("vlan"),
        "rate": _rate(nic, left),
        "backend": _backend(nic),
        "script": script,
    }
    taken = {"devid", "backend_domid", "backend_domname", "nictype", "ifname", *_RATE}
    left += _rest("network interface", nic, taken | pairs.keys())
    if any("," in str(value) for value in pairs.values()):
        left.append(f"a comma in network interface {pairs['mac']}")
    return ",".join(
        f"{key}={value}" for key, value in pairs.items() if value and "," not in str(value)
    )


def _rest(what: str, device: Mapping[str, object], taken: Collection[str]) -> list[str]:
    """Name what is set of a device and has no place in the file."""
    return [
        f"{key} of a {what}"
        for key, value in device.items()
        if key not in taken and value not in _USUAL.get(key, _EMPTY)
    ]


def _rate(nic: Mapping[str, object], left: list[str]) -> str:
    """Return a limit of the rate such that xl comes to the same bytes in each interval."""
    size, interval = (integer(nic, key) for key in _RATE)
    if not size or not interval:
        return ""
    rate, unit, factor = -(-size * 1_000_000 // interval), "", 1
    if rate >= 1 << 32:  # xl takes 32 bits before the unit
        rate, unit, factor = -(-rate // 1000), "K", 1000
    if rate * factor * interval // 1_000_000 != size:
        left.append(f"the exact rate of a network interface, {size} bytes in {interval} us")
    return f"{rate}{unit}B/s@{interval}us"


def _backend(device: Mapping[str, object]) -> str:
    """Return the domain that serves a device, "" for dom0."""
    return str(device.get("backend_domname") or device.get("backend_domid") or "")


def _disk(item: Mapping[str, object], left: list[str]) -> str:
    disk = parse_disk(dict(item))
    parts = [f"vdev={disk.vdev}", f"access={'rw' if disk.writable else 'ro'}"]
    parts += ["devtype=cdrom"] if disk.cdrom else []
    if disk.format not in ("empty", "unknown"):
        parts.insert(0, f"format={disk.format}")
    if backend := _backend(item):
        parts.append(f"backend={backend}")
    if disk.script is not None:
        parts.append(f"script={disk.script}")
    if (discard := item.get("discard_enable")) not in _UNSET:
        parts.append("discard" if truth(discard) else "no-discard")
    if truth(item.get("direct_io_safe")):
        parts.append("direct-io-safe")
    left += _rest("disk", item, _DISK_KEYS)
    if disk.path:
        parts.append(f"target={disk.path}")  # takes the rest, commas and all
    return ",".join(parts)


def _list(key: str, values: Iterator[str]) -> str:
    return f"{key} = [{', '.join(map(_quoted, values))}]"


def _quoted(text: str) -> str:
    if _UNQUOTABLE & set(text):
        raise ToolstackError(f"{text[:80]!r} cannot be written into a configuration file.")
    return f"'{text}'"
