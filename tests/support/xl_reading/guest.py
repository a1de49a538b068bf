"""What a text makes xl do: the guest that it builds, and what that takes of the host.

A normal form to compare with what was permitted: what files are opened, what is run, which
arguments the device model gets, which devices there are.
"""

import re
from dataclasses import dataclass, field

from tests.support.xl_reading import XlRefusesError, cfg, disk, words

NIC_KEYS = words(
    "type mac bridge netdev gatewaydev ip script backend vifname model rate forwarddev mtu trusted"
)
SCREEN = ["vnclisten", "vncpasswd", "keymap", "display", "xauthority"]  # the rest is numbers
OPENED = ["kernel", "ramdisk", "device_tree", "stubdomain_kernel", "stubdomain_ramdisk"]
OPENED_BY_HVM = ["firmware_override", "bios_path_override", "smbios_firmware", "acpi_firmware"]
OF_THE_HOST = words("pci dtdev usbdev ioports irqs iomem p9 vtpm vdispl pvcalls vsnd virtio")
LABELS = ["seclabel", "init_seclabel", "device_model_stubdomain_seclabel"]
EVENTS = ["on_poweroff", "on_reboot", "on_watchdog", "on_crash", "on_soft_reset"]
ACTIONS = words(
    "destroy restart rename-restart preserve coredump-destroy coredump-restart soft-reset"
)
BIOS = ("unknown", "rombios", "seabios", "ovmf")
NUMBERS = ["memory", "maxmem", "vcpus", "maxvcpus", "shadow_memory", "videoram"]
HVM_ARGUMENTS = words(
    "keymap boot soundhw spicehost spicepasswd spice_image_compression spice_streaming_video"
)
CHANNEL_KEYS = ("backend", "name", "path", "connection")


@dataclass
class Guest:
    """What xl would make: texts as they reach libxl, None where nothing is said."""

    name: str
    uuid: str | None
    kind: str
    numbers: dict = field(default_factory=dict)
    disks: list = field(default_factory=list)
    nics: list = field(default_factory=list)
    specifications: list = field(default_factory=list)
    """Those of the interfaces, as they are written."""
    opened: dict = field(default_factory=dict)
    bootloader: str | None = None
    bootloader_args: list = field(default_factory=list)
    device_model: str | None = None
    """The program, where it is not the host's own."""
    arguments: dict = field(default_factory=dict)
    """Texts that become a part of the device model's arguments, by what they are of."""
    extra_arguments: list = field(default_factory=list)
    screens: list = field(default_factory=list)
    of_the_host: dict = field(default_factory=dict)
    """Devices, ports and memory of the host, by the key that asks for them."""
    channels: list = field(default_factory=list)
    labels: dict = field(default_factory=dict)
    users: dict = field(default_factory=dict)
    switches: dict = field(default_factory=dict)
    events: dict = field(default_factory=dict)
    command_line: str | None = None


def read(text, version=21):
    """Return the Guest that xl of Xen 4.`version` would create. Raises XlRefusesError."""
    config = cfg.read(text)
    name = config.string("name")
    if name is None:
        raise XlRefusesError("Domain name must be specified.")
    guest = Guest(name, config.string("uuid"), _kind(config))
    guest.numbers = {key: value for key in NUMBERS if (value := config.long(key)) is not None}
    guest.disks = [disk.read(spec, version) for spec in config.items("disk")]
    guest.specifications = config.items("vif")
    guest.nics = [_nic(spec, version) for spec in guest.specifications]
    guest.opened = _opened(config, guest.kind)
    guest.bootloader = config.string("bootloader")
    guest.bootloader_args = _bootloader_args(config)
    guest.device_model = config.string("device_model_override")
    for suffix in ("", "_pv", "_hvm"):
        extra = config.settings.get(f"device_model_args{suffix}", ([], False))[0]
        if isinstance(extra, str):
            raise XlRefusesError("Unable to parse device_model_args")
        guest.extra_arguments += extra
    guest.arguments = _arguments(config, guest.kind)
    guest.screens = _screens(config, guest.kind)
    guest.of_the_host = {key: found for key in OF_THE_HOST if (found := config.list(key))}
    if "strategy=host" in (config.string("rdm") or "").split(","):
        guest.of_the_host["rdm"] = config.string("rdm")
    guest.channels = [_channel(spec) for spec in config.items("channel")]
    guest.labels = _texts(config, LABELS)
    guest.users = _texts(config, ["device_model_user", "bootloader_user"])
    switches = ["driver_domain", "device_model_stubdomain_override", "bootloader_restrict"]
    guest.switches = {key: config.flag(key) for key in switches}
    if guest.kind == "hvm" and (passed := config.string("gfx_passthru")) is not None:
        number = cfg.parse_long(passed)
        if number is None and passed not in ("default", "igd"):
            raise XlRefusesError("gfx_passthru")
        guest.switches["gfx_passthru"] = number != 0
    guest.events = _events(config)
    guest.command_line = _command_line(config)
    for spec in [*config.items("vkb"), *config.items("usbctrl")]:
        for token in _tokens(spec):
            if token.startswith("backend="):
                guest.of_the_host["backend"] = token
    if guest.kind != "hvm" and not guest.bootloader and "kernel" not in guest.opened:
        raise XlRefusesError("Neither kernel nor bootloader specified")
    return guest


def _kind(config):
    """Return the type: xl compares as many letters as there are, so that none is `hvm`."""

    def named(key, words):
        said = config.string(key)
        if said is None:
            return None
        for word, kind in words.items():
            if word.startswith(said):
                return kind
        raise XlRefusesError(f"Invalid domain type {said}.")

    kind = named("type", {"hvm": "hvm", "pv": "pv", "pvh": "pvh"})
    built = named("builder", {"hvm": "hvm", "generic": "pv"})
    if kind and built and kind != built:
        raise XlRefusesError("Contradicting builder and type")
    return kind or built or "pv"


def _texts(config, keys):
    return {key: value for key in keys if (value := config.string(key)) is not None}


def _tokens(spec):
    """Split as strtok does, and take off the blanks before each part."""
    return [part.lstrip(" ") for part in spec.split(",") if part]


def _nic(spec, version):
    nic = {}
    for token in _tokens(spec):
        key, equals, value = token.partition("=")
        known = key in NIC_KEYS or key.startswith("colo_") or (key == "vlan" and version > 18)
        if equals and known:
            nic["gatewaydev" if key == "netdev" else key] = value
    return nic


def _opened(config, kind):
    opened = _texts(config, OPENED)
    if kind == "hvm":
        opened |= _texts(config, OPENED_BY_HVM)
        if opened.get("kernel", "").rpartition("/")[2] == "hvmloader":
            del opened["kernel"]
        firmware = config.string("firmware")
        words = [*BIOS, *("uefi"[:end] for end in range(5)), *("bios"[:end] for end in range(5))]
        if firmware is not None and firmware not in words:
            opened["firmware"] = firmware
    elif (firmware := config.string("firmware")) is not None:
        if "kernel" in opened:
            raise XlRefusesError("both kernel and firmware specified")
        if not ("pvgrub32".startswith(firmware) or "pvgrub64".startswith(firmware)):
            raise XlRefusesError("only pvgrub{32|64} supported")
        opened["kernel"] = f"/usr/lib/xen/boot/{firmware}.bin"
    if kind == "pvh":
        opened |= _texts(config, ["pvshim_path"])
    return opened


def _bootloader_args(config):
    value, _ = config.settings.get("bootloader_args", ([], False))
    if isinstance(value, str):
        return [part for part in re.split(r"[ \t\n]+", value) if part]
    return [item if isinstance(item, str) else None for item in value]


def _arguments(config, kind):
    found = {}
    if kind == "hvm":
        found |= _texts(config, HVM_ARGUMENTS)
        for key in ("serial", "usbdevice"):
            value, _ = config.settings.get(key, ([], False))
            for number, item in enumerate([value] if isinstance(value, str) else value):
                if isinstance(item, str):
                    found[f"{key}.{number}"] = item
    return found


def _screens(config, kind):
    screens = []
    for spec in config.items("vfb"):
        screen = {}
        for token in _tokens(spec):
            key, equals, value = token.partition("=")
            if not equals:
                break
            if key in SCREEN:
                screen[key] = value
        screens.append(screen)
    if kind != "pv" or (not screens and config.long("vnc")):
        screens.append(_texts(config, SCREEN))
    return screens


def _channel(spec):
    channel = {}
    for pair in filter(None, spec.split(",")):
        key, equals, value = pair.partition("=")
        if not equals or not value:
            raise XlRefusesError("failed to parse channel configuration")
        if key.strip() in CHANNEL_KEYS:
            channel[key.strip()] = value.strip()
    if channel.get("connection") not in ("pty", "socket"):
        raise XlRefusesError("unknown channel connection")
    return channel


def _events(config):
    events = _texts(config, EVENTS)
    for key, action in events.items():
        if action not in ACTIONS:
            raise XlRefusesError(f"Unknown {key} action")
    return events


def _command_line(config):
    if (line := config.string("cmdline")) is not None:
        return line
    root, extra = config.string("root"), config.string("extra")
    parts = [f"root={root}"] if root is not None else []
    parts += [extra] if extra is not None else []
    return " ".join(parts) if parts else None
