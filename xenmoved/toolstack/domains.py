"""What `xl list` prints, as domains.

Two shapes: the table of `xl list` (and of `xm list`, which has the same columns), and the JSON of
`xl list -l`, which is libxl's own form of a domain configuration (libxl_types.idl): keys with
default values are omitted, enumerations are words, defbools are the strings "True" and "False".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

from protocol.messages import GuestSize
from xenmoved.toolstack.interface import (
    Disk,
    Domain,
    DomainState,
    DomainStatus,
    Nic,
    ToolstackError,
)
from xenmoved.toolstack.sizes import sized

_MIB: Final = 1 << 20

_LINE: Final = re.compile(
    r"(?P<name>.*?\S)\s+(?P<domid>\d+)\s+(?P<mem>\d+)\s+(?P<vcpus>\d+)\s+"
    r"(?P<state>[rbpscwdS?-]{6})\s+(?P<time>[\d.]+)\s*"
)
# A managed domain of xend that is not running is listed without an id.
_INACTIVE: Final = re.compile(r".*\S\s+\d+\s+\d+\s+[rbpscwdS?-]{0,6}\s+[\d.]+\s*")

_NAME: Final = re.compile(r"[^\s/\x00-\x1f\x7f](?:[^/\x00-\x1f\x7f]*[^\s/\x00-\x1f\x7f])?")
NAME_LIMIT: Final = 200

KINDS: Final = ("pv", "pvh", "hvm")
PASSTHROUGH: Final = ("pcidevs", "usbdevs", "dtdevs", "vtpms", "p9s", "pvcallsifs", "virtios")


def check_name(name: str) -> str:
    """Return `name` when it can name a domain on a command line and a file in a folder.

    Digits alone would be taken for a domain id (libxl_domain_qualifier_to_domid), a leading dash
    for an option. Raises ToolstackError.
    """
    if len(name) > NAME_LIMIT or _NAME.fullmatch(name) is None or name.isdigit() or name[0] in "-.":
        raise ToolstackError(
            f"{name[:NAME_LIMIT]!r} cannot be used as a domain name: it must not be a number, "
            "start with a dash or a dot, or contain slashes or control characters."
        )
    return name


def parse_state(column: str) -> DomainState:
    """State from the six letters of `xl list` or `xm list`.

    `xl` writes r, b, p, s (shut down), then the first letter of the reason (r, s for suspend,
    c, w), then d (tools/xl/xl_info.c). `xm` writes c for crashed as a state of its own. A domain
    suspended and also paused is SUSPENDED: unpausing alone would not let it run.
    """
    if len(column) != 6:
        raise ToolstackError(f"expected a six letter domain state, found {column!r}.")
    if column[5] == "d":
        return DomainState.DYING
    if "c" in column or "w" in column:
        return DomainState.CRASHED
    if column[3] == "s":
        return DomainState.SUSPENDED if column[4] == "s" else DomainState.SHUTDOWN
    if column[2] == "p":
        return DomainState.PAUSED
    return DomainState.RUNNING


def parse_table(text: str) -> list[DomainStatus]:
    """Domains of `xl list` or `xm list`, with dom0. Raises ToolstackError naming a bad line."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines or not lines[0].startswith("Name"):
        start = lines[0][:80] if lines else ""
        raise ToolstackError(f"expected the table of domains, found {start!r}.")
    found: list[DomainStatus] = []
    for line in lines[1:]:
        match = _LINE.fullmatch(line)
        if match is None:
            if _INACTIVE.fullmatch(line):
                continue
            raise ToolstackError(f"expected a line of the table of domains, found {line[:160]!r}.")
        found.append(
            DomainStatus(
                name=match["name"],
                domid=int(match["domid"]),
                memory=int(match["mem"]) * _MIB,
                state=parse_state(match["state"]),
            )
        )
    return found


def parse_info(text: str) -> dict[str, str]:
    """Parse the `key : value` lines of `xl info` or `xm info`."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def truth(value: object) -> bool:
    """Tell whether a libxl bool, integer or defbool is true."""
    if isinstance(value, str):
        return value.strip().lower() in ("true", "1", "yes")
    return bool(value)


def load_list(text: str) -> list[Mapping[str, object]]:
    """Parse `xl list -l`. Raises ToolstackError when it is not an array of objects."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ToolstackError(f"`xl list -l` gave no valid JSON: {error}.") from error
    # Old versions print one object per domain rather than an array.
    entries = [value] if isinstance(value, dict) else value
    if not isinstance(entries, list) or not all(isinstance(item, dict) for item in entries):
        raise ToolstackError("expected an array of domains from `xl list -l`.")
    return entries


def normal_uuid(value: object) -> str:
    """Bring a uuid to lower case with dashes, "" when it is none."""
    if not isinstance(value, str):
        return ""
    digits = value.lower().replace("-", "")
    if len(digits) != 32 or not set(digits) <= set("0123456789abcdef"):
        return ""
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def config_uuid(entry: Mapping[str, object]) -> str:
    """Get the uuid of an entry of `xl list -l`, "" without one."""
    config = entry.get("config")
    create = config.get("c_info") if isinstance(config, dict) else None
    return normal_uuid(create.get("uuid")) if isinstance(create, dict) else ""


def _section(config: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = config.get(key, {})
    if not isinstance(value, dict):
        raise ToolstackError(f"expected an object as {key} in the domain's configuration.")
    return value


def items(config: Mapping[str, object], key: str) -> list[dict[str, object]]:
    """Get a list of devices, empty when absent. Raises ToolstackError on another shape."""
    value = config.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ToolstackError(f"expected an array of objects as {key} in the configuration.")
    return value


def _text(item: Mapping[str, object], key: str, default: str = "") -> str:
    value = item.get(key)
    if value is None:
        return default
    if not isinstance(value, str):
        raise ToolstackError(f"expected a string as {key} in the domain's configuration.")
    return value


def integer(item: Mapping[str, object], key: str, default: int = 0) -> int:
    """Get an integer member. Raises ToolstackError on another type."""
    value = item.get(key)
    if value is None:
        return default
    if not isinstance(value, int):
        raise ToolstackError(f"expected an integer as {key} in the domain's configuration.")
    return int(value)


def standard_block_script(script: str) -> bool:
    """Whether a disk's script is only the one that every plain disk uses."""
    return script in ("", "block", "/etc/xen/scripts/block")


def parse_disk(item: Mapping[str, object]) -> Disk:
    """Parse a member of `config.disks`."""
    vdev = _text(item, "vdev")
    if not vdev:
        raise ToolstackError("expected a vdev in every disk of the domain's configuration.")
    script = _text(item, "script")
    backend_name = _text(item, "backend_domname")
    domid = integer(item, "backend_domid")
    if domid == 0 and backend_name not in ("", "0", "Domain-0"):
        domid = -1  # some other domain, known by name only
    return Disk(
        vdev=vdev,
        path=_text(item, "pdev_path"),
        backend=_text(item, "backend", "unknown").lower(),
        format=_text(item, "format", "unknown").lower(),
        writable=truth(item.get("readwrite", 0)),
        cdrom=truth(item.get("is_cdrom", 0)),
        script=None if standard_block_script(script) else script,
        backend_domid=domid,
    )


def _kind(create: Mapping[str, object], build: Mapping[str, object]) -> str:
    named = create.get("type", build.get("type"))
    known = {kind for kind in KINDS if f"type.{kind}" in build}
    if isinstance(named, str) and named.lower() in KINDS:
        known.add(named.lower())
    if len(known) > 1:
        both = " and ".join(sorted(known))
        raise ToolstackError(f"the domain's configuration is of more than one type: {both}.")
    if known:
        kind = known.pop()
        # Of Xen before 4.10: such a guest has the tables of one that is not `pv`.
        return "pvh" if kind == "pv" and truth(create.get("pvh")) else kind
    if "hvm" in create:
        return "hvm" if truth(create["hvm"]) else "pv"
    raise ToolstackError("expected a type (pv, pvh or hvm) in the domain's configuration.")


def _passthrough(config: Mapping[str, object]) -> tuple[str, ...]:
    found: list[str] = []
    for key in PASSTHROUGH:
        for item in items(config, key):
            if key == "pcidevs":
                slot = (integer(item, part) for part in ("domain", "bus", "dev", "func"))
                found.append("pci {:04x}:{:02x}:{:02x}.{:x}".format(*slot))
            elif key == "dtdevs":
                found.append(f"device tree node {_text(item, 'path')}")
            elif key == "p9s":
                found.append(f"9p share of {_text(item, 'path')}")
            elif key == "usbdevs":
                host = _section(item, "type.hostdev")
                found.append(f"usb {integer(host, 'hostbus')}.{integer(host, 'hostaddr')}")
            else:
                found.append(key.removesuffix("s"))
    build = _section(config, "b_info")
    found += [key for key in ("ioports", "irqs", "iomem") if build.get(key)]
    return tuple(found)


def size_of(build: Mapping[str, object], passthrough: str = "") -> GuestSize:
    """How large a domain is to be, from its build information. Raises ToolstackError.

    Some members are in the section of its type, in one release or another.
    """
    sections = [build, *(_section(build, f"type.{kind}") for kind in KINDS)]

    def number(key: str) -> int:
        if key == "vcpus":
            online = build.get("avail_vcpus") or []
            if not isinstance(online, list):
                text = "expected an array as avail_vcpus in the domain's configuration."
                raise ToolstackError(text)
            return len(online)
        said = [integer(section, key) for section in sections]
        if min(said) < 0:
            raise ToolstackError(f"expected a size as {key} in the domain's configuration.")
        return max(said)

    return sized(number, passthrough)


def parse_domain(entry: Mapping[str, object]) -> Domain:
    """One entry of `xl list -l`. Raises ToolstackError naming what was expected."""
    config = entry.get("config")
    if not isinstance(config, dict):
        raise ToolstackError("expected `config` in the output of `xl list -l`.")
    create, build = _section(config, "c_info"), _section(config, "b_info")
    uuid = normal_uuid(create.get("uuid"))
    name = _text(create, "name")
    if not uuid or not name:
        raise ToolstackError("expected a name and a uuid in the domain's configuration.")
    return Domain(
        name=name,
        uuid=uuid,
        domid=integer(entry, "domid", -1),
        kind=_kind(create, build),
        size=size_of(build, _text(create, "passthrough")),
        disks=tuple(parse_disk(item) for item in items(config, "disks")),
        nics=tuple(
            Nic(
                mac=_text(item, "mac") or None,
                bridge=_text(item, "bridge") or None,
                script=_text(item, "script") or None,
                ip=_text(item, "ip") or None,
            )
            for item in items(config, "nics")
        ),
        passthrough=_passthrough(config),
    )
