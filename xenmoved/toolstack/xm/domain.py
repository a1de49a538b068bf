"""A domain as xend describes it: the S-expression of `xm list -l`, which also heads a saved image.

Shapes are those that xend wrote (xen.git before 4.5, tools/python/xen/xend: XendConfig.py,
XendDomainInfo.py, XendCheckpoint.py, server/*if.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from protocol.messages import GuestSize
from xenmoved.toolstack import policy
from xenmoved.toolstack.announced import require_announced
from xenmoved.toolstack.domains import normal_uuid
from xenmoved.toolstack.interface import Arrival, Disk, Domain, Nic, ToolstackError
from xenmoved.toolstack.policy import PYGRUB, Rule, words
from xenmoved.toolstack.readable import Readable
from xenmoved.toolstack.sizes import KEYS, complete, sized
from xenmoved.toolstack.xm.sexpr import Sexpr, child_value, children, name_of

_DISKS: Final = ("vbd", "tap", "tap2")
_ONCE: Final = words("name uuid image online_vcpus") | KEYS.keys()
_HARMLESS: Final = ("vfb", "vkbd", "console")

# xend unpacks a paravirtual guest's kernel here before it boots it.
_BOOT: Final = ("/var/run/xend/boot", "/var/lib/xend/boot", "/var/run/libxl")
_UNPACKED: Final = re.compile(r"/var/lib/xen/boot_(?:kernel|ramdisk)\.[\w-]+")
_PLAIN: Final = re.compile(r"[\w.,:+\-=<>()@*^%!| ]*", re.ASCII)
_WORD: Final = re.compile(r"[\w.:+\-@ ]*", re.ASCII)
_SHOWN: Final = words(
    "vnc vncunused vncdisplay vnclisten vncpasswd vncconsole keymap sdl opengl display"
)
"""What a screen says in the same words as a domain that has one."""
_SCREEN: Final = _SHOWN | words("type uuid devid backend location protocol")

_XEND: Final = words(
    "domid start_time cpu_time online_vcpus status state store_mfn console_mfn node cpu "
    "rtc/timeoffset isa guest_os_type notes "
    "vhpt expose_host_uuid s3_integrity machine_address_size extid actmem snapshotname watchdog "
    "watchdog_action cpuid_check"
)
"""What only xend has: its own notes of a running domain."""
_OF_ITS_HOST: Final = words("use_tmp_kernel use_tmp_ramdisk")
"""Whether xend removes the kernel when it has booted the domain."""


def _of_xend(key: str) -> Rule | None:
    if key == "monitor":
        return policy.DOMAIN["driver_domain"]  # only off
    if key in _OF_ITS_HOST:
        return policy.LEFT_OUT
    return policy.PLAIN if key in _XEND else policy.DOMAIN.get(key)


@dataclass(frozen=True, slots=True)
class _Uname:
    """What a disk's `uname` says."""

    scheme: str
    path: str
    backend: str
    format: str
    script: str | None


def _parse_uname(uname: str) -> _Uname:
    if not uname:
        return _Uname("", "", "unknown", "raw", None)
    scheme, colon, rest = uname.partition(":")
    if not colon:
        scheme, rest = "phy", uname
    if scheme == "phy":
        path = rest if rest.startswith("/") or not rest else f"/dev/{rest}"
        return _Uname(scheme, path, "phy", "raw", None)
    if scheme == "file":
        return _Uname(scheme, rest, "phy", "raw", None)
    if scheme in ("tap", "tap2"):
        driver, _, path = rest.removeprefix("tapdisk:").partition(":")
        kind = "raw" if driver in ("aio", "ram", "sync") else driver
        return _Uname(scheme, path, "tap", kind, None)
    return _Uname(scheme, rest, "phy", "raw", f"block-{scheme}")


def _devices(domain: Sexpr) -> list[list[Sexpr]]:
    found: list[list[Sexpr]] = []
    for device in children(domain, "device"):
        if len(device) != 2 or not isinstance(device[1], list) or not name_of(device[1]):
            raise ToolstackError("expected one device in each (device …) of the domain.")
        found.append(device[1])
    return found


def _vdev(body: list[Sexpr]) -> tuple[str, bool]:
    """Virtual device name and whether it is a CD drive, from `dev`, as in `xvda:disk`."""
    dev = child_value(body, "dev") or ""
    name, _, kind = dev.removeprefix("ioemu:").partition(":")
    if not name:
        raise ToolstackError("expected (dev …) in every disk of the domain.")
    return name, kind == "cdrom"


def _backend(body: list[Sexpr]) -> int:
    """Domain id of the backend, -1 for another domain known by name only."""
    backend = child_value(body, "backend") or "0"
    if backend == "Domain-0":
        return 0
    return int(backend) if backend.isdigit() else -1


def _parse_disk(body: list[Sexpr]) -> Disk:
    vdev, cdrom = _vdev(body)
    uname = _parse_uname(child_value(body, "uname") or "")
    return Disk(
        vdev=vdev,
        path=uname.path,
        backend=uname.backend,
        format=uname.format,
        writable=(child_value(body, "mode") or "r").startswith("w"),
        cdrom=cdrom,
        script=uname.script,
        backend_domid=_backend(body),
    )


def _number(domain: Sexpr, key: str, default: int) -> int:
    value = child_value(domain, key)
    if value is None:
        return default
    if (number := policy.number_in(value)) is None:
        raise ToolstackError(f"expected a number as ({key} …) of the domain.")
    return number


def _size(domain: Sexpr, images: list[Sexpr]) -> GuestSize:
    """How large a domain is to be. Its `vcpus` are all that it has, in use or not."""
    size = sized(lambda key: max(_number(part, key, 0) for part in (domain, *images)))
    online = _number(domain, "online_vcpus", 0)
    return complete(replace(size, vcpus=online or size.vcpus))


def _has_attributes(expression: Sexpr) -> bool:
    """Whether there is (name (@ ...) ...) anywhere, which xend passes by and `child_value` not."""
    return isinstance(expression, list) and any(
        name_of(child) == "@" or _has_attributes(child) for child in expression
    )


def parse_xm_domain(domain: Sexpr) -> Domain:
    """One `(domain …)` of `xm list -l`. Raises ToolstackError naming what was expected."""
    if name_of(domain) != "domain":
        raise ToolstackError("expected (domain …) from `xm list -l`.")
    if _has_attributes(domain):
        raise ToolstackError("the domain's description has attributes, which nothing should need.")
    for key in _ONCE:  # what is said twice may be read in two ways
        if len(list(children(domain, key))) > 1:
            raise ToolstackError(f"expected one ({key} …) of the domain.")
    name, uuid = child_value(domain, "name"), normal_uuid(child_value(domain, "uuid"))
    if not name or not uuid:
        raise ToolstackError("expected a name and a uuid in the domain's description.")
    bodies = _devices(domain)
    images = [part for image in children(domain, "image") for part in image[1:]]
    # Whatever else it says, xend gives a device model to a domain with an order to boot in.
    hvm = any(name_of(one) == "hvm" or child_value(one, "boot") is not None for one in images)
    return Domain(
        name=name,
        uuid=uuid,
        domid=_number(domain, "domid", -1),
        kind="hvm" if hvm else "pv",
        size=_size(domain, images),
        disks=tuple(_parse_disk(body) for body in bodies if name_of(body) in _DISKS),
        nics=tuple(
            Nic(
                mac=child_value(body, "mac"),
                bridge=child_value(body, "bridge"),
                script=child_value(body, "script"),
                ip=child_value(body, "ip"),
            )
            for body in bodies
            if name_of(body) == "vif"
        ),
        passthrough=tuple(
            name_of(body) for body in bodies if name_of(body) not in (*_DISKS, *_HARMLESS, "vif")
        ),
    )


def _is_pair(item: Sexpr) -> bool:
    """Whether an item is (key) or (key value), of atoms."""
    return isinstance(item, list) and len(item) in (1, 2) and all(isinstance(x, str) for x in item)


class _Vetter:
    """Checks and adapts one `(domain …)`, collecting what is wrong with it."""

    def __init__(
        self, arrival: Arrival, boot_folders: Readable, is_block: Callable[[str], bool]
    ) -> None:
        self.arrival = arrival
        self.boot_folders = boot_folders
        self.is_block = is_block
        self.problems: list[str] = []
        self.left_out: list[str] = []

    def atoms(self, where: str, value: Sexpr, pattern: re.Pattern[str] = _PLAIN) -> None:
        if isinstance(value, list):
            for child in value:
                self.atoms(where, child, pattern)
        elif not pattern.fullmatch(value):
            shown = policy.PLAIN.shown(value)
            self.problems.append(f"{where}: {shown} may not come from another host")

    def backend(self, where: str, body: list[Sexpr]) -> None:
        if _backend(body) != 0:
            self.problems.append(f"{where}: is served by a driver domain")

    def top(self, item: Sexpr) -> None:
        key = name_of(item)
        if not isinstance(item, list) or not key:
            self.problems.append("domain: has something other than (key value)")
        elif key == "image":
            for part in item[1:]:
                self.image(part)
        elif key == "bootloader":
            for path in item[1:]:
                folders = self.boot_folders.beside("/usr/bin")
                trusted = isinstance(path, str) and folders.has(path)
                if path and not (trusted and PYGRUB.fullmatch(str(path))) and path != "pygrub":
                    self.problems.append(f"bootloader: {path!r} may not come from another host")
                elif path != "pygrub":
                    self.withheld(key, str(path), policy.DOMAIN[key])
        elif key == "bootloader_args":
            for argument in " ".join(str(part) for part in item[1:]).split():
                self.judge(key, argument, policy.DOMAIN["bootloader_args"])
        elif key != "device":
            self.judged(key, item)

    def judged(self, key: str, item: list[Sexpr]) -> None:
        """Judge (key value ...) by the rule of its key; what is to be left out is emptied."""
        if (rule := _of_xend(key)) is None:
            if any(part not in ("", "0", []) for part in item[1:]):
                self.problems.append(f"{key}: is not something that may come from another host")
            item[:] = []  # off is not always what xend takes where nothing is said
            return
        if rule.left_out:
            if any(part not in ("", []) for part in item[1:]):
                self.left_out.append(policy.called(key, of_nic=False))
            item[1:] = [""]
        if key in policy.SHUTDOWN_ACTIONS:
            told = [policy.action_here(key, str(part)) for part in item[1:]]
            self.left_out += [lost for _, lost in told if lost]
            item[1:] = [kept for kept, _ in told]
        self.judge(key, item[1:], rule)

    def judge(self, where: str, value: Sexpr, rule: Rule) -> None:
        if isinstance(value, list):
            for child in value:
                self.judge(where, child, rule)
        elif value and not (
            rule.allows(value) or (rule is policy.PLAIN and _PLAIN.fullmatch(value))
        ):
            self.problems.append(f"{where}: {rule.shown(value)} may not come from another host")

    def image(self, image: Sexpr) -> None:
        if not isinstance(image, list) or name_of(image) not in ("linux", "hvm"):
            self.problems.append("image: is neither (linux …) nor (hvm …)")
            return
        for item in image[1:]:
            key = name_of(item)
            if not isinstance(item, list) or not key:
                self.problems.append("image: has something other than (key value)")
            elif key in ("kernel", "ramdisk", "loader"):
                for path in item[1:]:
                    if path and not (isinstance(path, str) and self.boots(path)):
                        self.problems.append(f"{key}: {path!r} is in no folder to boot from")
                    elif path:
                        self.withheld(key, str(path), policy.DOMAIN[key])
            elif key == "args":
                self.judge(key, item[1:], policy.TEXT)
            else:
                self.judged(key, item)
        image[:] = [item for item in image if item and name_of(item) != "xauthority"]

    def boots(self, path: str) -> bool:
        """Whether a guest may be booted from a file."""
        known = self.boot_folders.beside(*_BOOT).has(path)
        return known or _UNPACKED.fullmatch(path) is not None

    def withheld(self, where: str, path: str, rule: Rule) -> None:
        """Note it when a guest may not be given a file, such as a kernel unpacked for another."""
        unpacked = ("/var/lib/xen",) if _UNPACKED.fullmatch(path) else _BOOT
        if (why := rule.withheld(path, self.boot_folders.beside(*unpacked))) is not None:
            self.problems.append(f"{where}: {path[:80]!r} is not for a guest: {why}")

    def disk(self, body: list[Sexpr], seen: set[str]) -> None:
        disk = _parse_disk(body)
        where = f"disk {disk.vdev[:40]!r}"
        for item in body[1:]:
            if name_of(item) != "uname":
                self.atoms(where, item)
        self.backend(where, body)
        if disk.vdev in seen:
            self.problems.append(f"{where}: appears twice")
        seen.add(disk.vdev)
        if disk.script is not None:
            self.problems.append(f"{where}: needs the block script {disk.script!r}")
        if (child_value(body, "mode") or "").endswith("!"):
            self.problems.append(f"{where}: is shared with another guest (mode w!)")
        local = self.arrival.disks.get(disk.vdev)
        if disk.vdev in self.arrival.read_only and disk.writable:
            self.problems.append(f"{where}: was announced as read-only")
        if local == "" and disk.cdrom:
            body[1:] = [item for item in body[1:] if name_of(item) not in ("uname", "VDI")]
            body.append(["uname", ""])
            return
        if not local:
            if disk.path or not disk.cdrom:
                self.problems.append(f"{where}: has no volume here that was agreed upon")
            return
        if disk.format != "raw":
            self.problems.append(f"{where}: has format {disk.format}; only raw can be moved")
        block = self.is_block(local)
        scheme = "phy:" if block else "tap:aio:" if disk.backend == "tap" else "file:"
        # blktap serves files only; the class of the device has to agree with the scheme.
        body[0] = name_of(body) if scheme == "tap:aio:" else "vbd"
        body[1:] = [item for item in body[1:] if name_of(item) not in ("uname", "VDI")]
        body.append(["uname", scheme + local])

    def nic(self, body: list[Sexpr]) -> None:
        self.backend("vif", body)
        script, wiring = child_value(body, "script") or "", self.arrival.wiring
        left_out: list[tuple[Sexpr, Rule | None]] = []
        for item in body[1:]:
            key = name_of(item)
            if not isinstance(item, list) or len(item) != 2 or not isinstance(item[1], str):
                self.atoms("vif", item)
            elif key == "bridge":
                item[1] = self.arrival.bridges.get(item[1], item[1])
                self.atoms("vif bridge", item[1], _WORD)
            elif (rule := policy.nic_rule(key, self.arrival.name, script, wiring)) is None:
                left_out.append((item, rule))  # xend does nothing with it
            elif rule.allows(item[1]):
                if key == "script" and item[1]:
                    item[1] = wiring.here(item[1])
            elif rule.left_out:
                left_out.append((item, rule))
            elif item[1]:
                what = f"vif {key}: {item[1][:80]!r} may not come from another host"
                self.problems.append(f"{what}{rule.advice}")
        self.left_out += [
            policy.called(name_of(item), rule, of_nic=True) for item, rule in left_out
        ]
        gone = [item for item, _ in left_out]
        body[:] = [item for item in body if item not in gone]

    def device(self, body: list[Sexpr], seen: set[str]) -> None:
        kind = name_of(body)
        said = [name_of(item) for item in body[1:]]
        if not all(_is_pair(item) for item in body[1:]):  # xend passes it by
            self.problems.append(f"device {kind}: says something other than (key value)")
        if len(set(said)) < len(said):  # xend takes the last one
            self.problems.append(f"device {kind}: says one thing twice")
        if kind in _DISKS:
            self.disk(body, seen)
        elif kind == "vif":
            self.nic(body)
        elif kind in _HARMLESS:
            self.backend(kind, body)
            # The cookie file of a screen of the other host.
            body[:] = [item for item in body if name_of(item) != "xauthority"]
            for item in body[1:]:
                if (key := name_of(item)) not in _SCREEN:
                    self.problems.append(f"device {kind}: {key!r} may not come from another host")
                if key in _SHOWN and isinstance(item, list):
                    self.judge(f"{kind} {key}", item[1:], policy.DOMAIN[key])
                else:
                    self.atoms(kind, item, _WORD)
        else:
            self.problems.append(f"device {kind}: belongs to the other host")


def rewrite_xm_config(
    domain: Sexpr,
    arrival: Arrival,
    boot_folders: Readable,
    is_block: Callable[[str], bool],
    left_out: list[str] | None = None,
) -> list[str]:
    """Adapt xend's description, in place, to how the domain is to look on this host.

    The same rules as for `xl` (see `vetting`). Returns everything in it that may not come from
    another host; what it goes without is added to `left_out`. Raises NotAnnounced when it is of
    another guest than the announced one, ToolstackError when its shape is not that of a domain.
    """
    if not isinstance(domain, list) or name_of(domain) != "domain":
        raise ToolstackError("the domain's description is not (domain …).")
    require_announced(parse_xm_domain(domain), arrival)
    vetter = _Vetter(arrival, boot_folders, is_block)
    if left_out is not None:
        vetter.left_out = left_out
    for item in domain[1:]:
        if name_of(item) not in ("name", "uuid"):
            vetter.top(item)
    domain[1:] = [["name", arrival.name] if name_of(i) == "name" else i for i in domain[1:] if i]
    seen: set[str] = set()
    kinds = Counter(name_of(body) for body in _devices(domain))
    for kind, most in policy.MOST_DEVICES.items():
        if kinds[kind] > most:
            vetter.problems.append(
                f"device {kind}: there are {kinds[kind]}, at most {most} may come"
            )
    for body in _devices(domain):
        vetter.device(body, seen)
    return vetter.problems
