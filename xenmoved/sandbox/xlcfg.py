"""Domain configuration files, read into the structure that libxl prints as JSON.

Keys with their default value are left out, as libxl does. Knobs of the guest are words of its
kernel command line (`extra`), such as `sandbox.rate=2`.
"""

from __future__ import annotations

import ast
import random
import uuid as uuids

from xenmoved.sandbox.host import CommandFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FORMATS = ("raw", "qcow", "qcow2", "vhd", "empty", "qed")
_PLAIN_PREFIXES = ("phy", "file", "aio", "ioemu", "tap", "tap2", "tapdisk")
_SCRIPT_PREFIXES = ("iscsi", "nbd", "enbd", "drbd")
_WRITABLE = ("w", "rw", "")
_DISK_KEYS = (
    "pdev_path",
    "vdev",
    "backend",
    "backend_domname",
    "format",
    "script",
    "removable",
    "readwrite",
    "is_cdrom",
    "direct_io_safe",
    "discard_enable",
)


def read(path: str, extra_lines: list[str]) -> str:
    """Return the text of a configuration file, followed by lines from the command line."""
    try:
        with open(path, encoding="utf-8-sig", errors="backslashreplace") as file:
            text = file.read()
    except OSError as error:
        raise CommandFailed(f"Failed to read config file: {path}: {error.strerror}") from error
    return "\n".join([text, *extra_lines])


def parse(text: str, source: str) -> dict[str, Any]:
    """Return libxl's domain configuration for the text of a file."""
    values = assignments(text, source)
    if not values.get("name"):
        raise CommandFailed(f"{source}: Domain name must be specified.")
    kind = str(values.get("type") or ("hvm" if values.get("builder") == "hvm" else "pv"))
    memory = int(values.get("memory", values.get("maxmem", 16)))
    vcpus = int(values.get("vcpus", 1))
    build: dict[str, Any] = {
        "max_vcpus": vcpus,
        "avail_vcpus": list(range(vcpus)),
        "max_memkb": int(values.get("maxmem", memory)) * 1024,
        "target_memkb": memory * 1024,
        "shadow_memkb": 1024,
        "sched_params": {},
        "claim_mode": "True",
    }
    for key in ("kernel", "ramdisk", "bootloader"):
        if values.get(key):
            build[key] = str(values[key])
    command_line = " ".join(str(values[key]) for key in ("root", "extra") if values.get(key))
    if command_line:
        build["cmdline"] = command_line
    build |= {f"type.{kind}": {}, "arch_arm": {}, "arch_x86": {}}
    config: dict[str, Any] = {
        "c_info": {
            "type": kind,
            "name": str(values["name"]),
            "uuid": str(uuids.UUID(values["uuid"]) if values.get("uuid") else uuids.uuid4()),
            "run_hotplug_scripts": "True",
        },
        "b_info": build,
    }
    devices = {
        "disks": [parse_disk(disk) for disk in values.get("disk", [])],
        "nics": [parse_nic(nic, number) for number, nic in enumerate(values.get("vif", []))],
        "pcidevs": [parse_pci(device) for device in values.get("pci", [])],
    }
    config |= {key: devices[key] for key in devices if devices[key]}
    config |= {"on_reboot": "restart", "on_soft_reset": "soft_reset"}
    for key in ("on_poweroff", "on_reboot", "on_crash"):
        if values.get(key):
            config[key] = str(values[key]).replace("-", "_")
    if config.get("on_poweroff") == "destroy":
        del config["on_poweroff"]
    return config


def assignments(text: str, source: str) -> dict[str, Any]:
    """Read the values in a file, whose syntax is a small part of Python's."""
    values = {}
    try:
        for statement in ast.parse(text).body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=key)], value=value):
                    values[key] = ast.literal_eval(value)
                case ast.AugAssign(target=ast.Name(id=key), op=ast.Add(), value=value):
                    values[key] = values.get(key, []) + ast.literal_eval(value)
                case _:
                    raise SyntaxError("not an assignment")
    except (SyntaxError, ValueError) as error:
        raise CommandFailed(
            f"{source}:{getattr(error, 'lineno', 0)}: config parsing error near {error}\n"
            f"Failed to parse config: Invalid argument"
        ) from error
    return values


def parse_disk(text: str) -> dict[str, Any]:
    """Read one disk: `phy:/dev/x,xvda,w`, or `format=raw,vdev=xvda,access=rw,target=/path`."""
    words, given, target = text.partition("target=")
    disk: dict[str, Any] = {"pdev_path": target.strip()} if given else {}
    if not given:
        words = _strip_prefixes(disk, words)
    positional = [word for word in map(str.strip, words.split(",")) if not _keyed(disk, word, text)]
    _take_positional(disk, positional)
    return _in_order(disk, text)


def _strip_prefixes(disk: dict[str, Any], text: str) -> str:
    """Take `phy:`, `tap:aio:` and such off the front; no format is among the words after them."""
    prefix, colon, rest = text.partition(":")
    while colon and prefix in (*_PLAIN_PREFIXES, *_FORMATS, *_SCRIPT_PREFIXES):
        if prefix in _SCRIPT_PREFIXES:
            disk["script"] = f"block-{prefix}"
        disk["format"] = prefix if prefix in _FORMATS else disk.get("format", "raw")
        text = rest
        prefix, colon, rest = text.partition(":")
    return text


def _keyed(disk: dict[str, Any], word: str, text: str) -> bool:
    """Take a word that names what it sets; tells whether it was one."""
    key, equals, value = word.partition("=")
    match key, equals:
        case "cdrom", "":
            disk["is_cdrom"] = 1
        case "devtype", "=":
            disk["is_cdrom"] = int(value == "cdrom")
        case "access", "=":
            disk["readwrite"] = int(value in _WRITABLE)
        case ("format" | "vdev" | "script", "="):
            disk[key] = value
        case "backendtype", "=":
            disk["backend"] = value
        case "backend", "=":
            disk["backend_domname"] = value
        case ("discard" | "no-discard", ""):
            disk["discard_enable"] = str(key == "discard")
        case "direct-io-safe", "":
            disk["direct_io_safe"] = True
        case _ if equals:
            raise CommandFailed(f"{text}: config parsing error: unknown parameter: {word}")
        case _:
            return False
    return True


def _take_positional(disk: dict[str, Any], words: list[str]) -> None:
    """Fill in target, format, vdev and access from their places."""
    if words and "pdev_path" not in disk:
        disk["pdev_path"] = words.pop(0)
    if words and "format" not in disk:
        if disk.get("pdev_path") == "" and ":" in words[0]:
            disk["format"] = "empty"
        else:
            disk["format"] = words.pop(0) or "raw"
    if words and "vdev" not in disk:
        disk["vdev"], _, devtype = words.pop(0).partition(":")
        disk.setdefault("is_cdrom", int(devtype == "cdrom"))
    if words and words[0]:
        disk["readwrite"] = int(words[0] in _WRITABLE)


def _in_order(disk: dict[str, Any], text: str) -> dict[str, Any]:
    """Check a disk and bring it into the order and shape of libxl's JSON."""
    disk.setdefault("format", "raw")
    disk.setdefault("readwrite", 1)
    if disk.get("is_cdrom"):
        disk |= {"removable": 1, "readwrite": 0}
        if not disk.get("pdev_path"):
            disk["format"] = "empty"
    if disk["format"] not in _FORMATS or not disk.get("vdev"):
        raise CommandFailed(f"config parsing error in disk specification: `{text}'")
    return {key: disk[key] for key in _DISK_KEYS if disk.get(key)}


def parse_nic(text: str, number: int) -> dict[str, Any]:
    """Read one network interface: `mac=..,bridge=..`."""
    given = dict(part.strip().partition("=")[::2] for part in text.split(",") if part.strip())
    mac = given.get("mac") or ":".join(
        ["00", "16", "3e", *(f"{random.randrange(256):02x}" for _ in range(3))]
    )
    nic: dict[str, Any] = {"devid": number} if number else {}
    nic["mac"] = mac
    for key in ("bridge", "vifname", "script", "ip", "gatewaydev"):
        if given.get(key):
            nic["ifname" if key == "vifname" else key] = given[key]
    return nic


def parse_pci(text: str) -> dict[str, Any]:
    """Read one passed-through device: `0000:03:00.1`."""
    *_, bus, rest = text.partition(",")[0].split(":")
    slot, _, function = rest.partition(".")
    device = {"func": int(function or "0", 16), "dev": int(slot, 16), "bus": int(bus, 16)}
    return {key: value for key, value in device.items() if value}
