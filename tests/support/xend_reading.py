"""What xend makes of a domain's S-expression, in so far as it reaches beyond the guest.

A port of its reading (tools/python/xen/xend of Xen 4.4: sxp.py, XendConfig.py, server/blkif.py and
netif.py), with what looks odd: an element `(@ ...)` right behind a name is passed by, a member of a
device counts only if it can be unpacked into two, the last one of a name wins there and the first
one elsewhere, and any image with a boot order is that of a guest with a device model.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, field

from tests.support.xl_reading import words

ESCAPES = dict(zip("abtnvfr\\'\"", "\a\b\t\n\v\f\r\\'\"", strict=True))
SEPARATORS = "{}()<>[];"
SPACE = " \t\n\v\f\r"
PLATFORM = words(
    "acpi apic boot device_model loader display fda fdb keymap isa localtime monitor monitor_path "
    "nographic nomigrate pae rtc_timeoffset parallel serial sdl opengl soundhw stdvga videoram usb "
    "usbdevice hpet vnc vncconsole vncdisplay vnclisten timer_mode tsc_mode vpt_align viridian "
    "vncpasswd vncunused xauthority pci vhpt guest_os_type hap nestedhvm xen_extended_power_mgmt "
    "pci_msitranslate pci_power_mgmt xen_platform_pci gfx_passthru oos"
)
OF_THE_API = words(
    "PV_bootloader PV_kernel PV_ramdisk PV_args PV_bootloader_args HVM_boot HVM_boot_policy "
    "HVM_boot_params platform other_config target memory_static_min memory_static_max "
    "memory_dynamic_min memory_dynamic_max VCPUs_max VCPUs_at_startup vcpus_params PCI_bus pci "
    "actions_after_shutdown actions_after_reboot actions_after_crash name_label restart"
)
DEVICES = words("vbd vif tap tap2 vfb vkbd console pci ioports irq usb vscsi vusb vtpm vif2")


class XendRefusesError(Exception):
    """What xend does not take."""


def parse(text):
    """Return the first expression of a text, as `Parser` does."""
    found, position = [], 0
    while position < len(text) and text[position] != "\4" and not found:
        position = _start(text, position, found)
    if not found:
        raise XendRefusesError("nothing")
    return found[0]


def _start(text, position, values):
    char = text[position]
    if char in SPACE:
        return position + 1
    if char == "#":
        end = text.find("\n", position)
        return len(text) if end < 0 else end + 1
    if char == "(":
        return _list(text, position + 1, values)
    if char in "\"'":
        return _string(text, position + 1, char, values)
    if char == ")" or char not in string.printable:
        raise XendRefusesError(char)
    end = position + 1
    while end < len(text) and text[end] not in SEPARATORS + SPACE + "#":
        end += 1
    values.append(text[position:end])
    return end


def _list(text, position, values):
    members = []
    while position < len(text) and text[position] != ")":
        if text[position] == "\4":
            raise XendRefusesError("end")
        position = _start(text, position, members)
    if position >= len(text):
        raise XendRefusesError("end")
    values.append(members)
    return position + 1


def _string(text, position, delimiter, values):
    said = ""
    while text[position : position + 1] != delimiter:
        char = text[position : position + 1]
        if char == "\\":
            char, position = _escape(text, position + 1)
        elif char:
            position += 1
        else:
            raise XendRefusesError("end")
        said += char
    values.append(said)
    return position + 1


def _escape(text, position):
    char = text[position : position + 1]
    if char in ESCAPES and char:
        return ESCAPES[char], position + 1
    digits, base, most = "", 8, 3
    if char == "x":
        position, base, most = position + 1, 16, 2
    elif not char or char not in string.octdigits:
        return "\\", position + 1  # and the character is gone
    known = string.hexdigits if base == 16 else string.octdigits
    while len(digits) < most and text[position : position + 1] in known and position < len(text):
        digits += text[position]
        position += 1
    if (base == 16 and len(digits) < 2) or not digits or int(digits, base) > 0xFF:
        raise XendRefusesError("escape")
    return chr(int(digits, base)), position


def children(expression):
    """Return the members of an expression behind its name, and behind its attributes."""
    behind = expression[1:] if isinstance(expression, list) else []
    return behind[1:] if behind and _is_element(behind[0], "@") else behind


def _is_element(expression, name):
    return isinstance(expression, list) and bool(expression) and expression[0] == name


def values(expression, name):
    """Return the value of each element of a name; None for one without."""
    found = (one for one in children(expression) if _is_element(one, name))
    return [next(iter(children(one)), None) for one in found]


def value(expression, name, default=None):
    """Return what the first element of a name says."""
    said = values(expression, name)
    return default if not said or said[0] is None else said[0]


def number(said):
    """Return what int() makes of a text: blanks, signs and leading zeros too."""
    if not isinstance(said, str):
        raise XendRefusesError(said)
    try:
        return int(said)
    except ValueError:
        raise XendRefusesError(said) from None


@dataclass
class Made:
    """A domain that xend would make."""

    name: object = None
    uuid: object = None
    numbers: dict = field(default_factory=dict)
    hvm: bool = False
    boot: dict = field(default_factory=dict)
    platform: dict = field(default_factory=dict)
    actions: dict = field(default_factory=dict)
    devices: list = field(default_factory=list)
    of_the_api: dict = field(default_factory=dict)
    backends: list = field(default_factory=list)
    label: object = None


def read(expression):
    """Return the domain of an expression. Raises XendRefusesError."""
    made = Made(value(expression, "name"), value(expression, "uuid"))
    for key in ("memory", "maxmem", "vcpus", "shadow_memory"):
        if (said := value(expression, key)) is not None:
            made.numbers[key] = number(said)
    image = value(expression, "image", [])
    for key in ("kernel", "ramdisk", "args", "root", "ip"):
        made.boot[key] = value(image, key, "")
    if (said := value(image, "vcpus")) is not None:
        made.numbers["vcpus"] = number(said)
    made.boot |= {key: value(expression, key, "") for key in ("bootloader", "bootloader_args")}
    for key in PLATFORM:
        said = value(image, key)
        if said not in (None, ""):
            made.platform[key] = said
        if (said := value(expression, f"platform_{key}")) is not None:
            made.platform[key] = said
    if not all(isinstance(said, str) for said in (*made.boot.values(), *made.platform.values())):
        raise XendRefusesError("what goes to a program as an argument is a text")
    made.hvm = value(image, "boot") is not None or (image or [""])[0] == "hvm"
    made.actions = {key: value(expression, f"on_{key}") for key in ("poweroff", "reboot", "crash")}
    said = {key: value(expression, key) for key in OF_THE_API}
    made.of_the_api = {key: one for key, one in said.items() if one not in (None, "", [])}
    made.backends = values(expression, "backend")
    made.label = value(expression, "security_label") or value(expression, "security")
    made.devices = [_device(one) for one in children(expression) if _is_element(one, "device")]
    return made


def _device(expression):
    config = next(iter(children(expression)), None)
    if not isinstance(config, list) or not config or config[0] not in DEVICES:
        raise XendRefusesError(config)
    info = {}
    for member in config[1:]:
        if len(member) == 2 and isinstance(member[0], str):
            info[member[0]] = member[1]
    if config[0] in ("vbd", "tap", "tap2") and (
        not all(isinstance(info.get(key, ""), str) for key in ("dev", "uname", "bootable"))
        or info.get("mode", "r") not in ("r", "w", "w!")
    ):
        raise XendRefusesError(info)
    return config[0], info
