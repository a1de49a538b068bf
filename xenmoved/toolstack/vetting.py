"""What a domain configuration from another host may make this host do.

`xl migrate-receive` takes the domain's whole configuration from the sender and acts on it as root,
at once and again whenever the guest reboots: the monitor that `xl` leaves behind then builds the
domain anew from it, running its bootloader and opening its kernel (tools/xl/xl_vmcontrol.c,
create_domain; libxl_bootloader.c). The sender may do what its operator granted, which is to place
a guest on granted volumes: not to run a program here, nor to read or write other files of this
host, nor to take its hardware.

That the guest is the announced one, no larger and with the same disks and interfaces, is seen by
`announced`. What is let through is listed in `policy`, after libxl_types.idl of Xen 4.5 to 4.21; a
key that is not there passes only with an empty value. In particular:

- disks: only the given local paths, no script, no driver domain, format raw, as a running guest can
  have its backend open any file of this host by the header of a qcow2 or vhd image. The content of
  such an image may have come as a raw disk: of it the format is changed.
- device_model, stubdomain_*, extra*, serial, usbdevice, soundhw, keymap, vnc, spice, sdl: become
  arguments of a device model that runs as root, and can open files, sockets and host devices.
- kernel, ramdisk, firmware, pvshim: opened on reboot and shown to the guest: only from folders to
  boot from (`BOOT_FOLDERS`), and there only what everybody on this host may read (`readable`).
- bootloader: only pygrub, from this host's own folder, with arguments that choose an entry.
- interfaces: only scripts that this host allows, from its own folder (`wiring`); no name of one of
  the host's, and no address or gateway device that it does not allow.
- pcidevs, usbdevs, dtdevs, rdms, ioports, irqs, iomem, vtpms, p9s, pvcallsifs, virtios, vdispls,
  vsnds, sockets of channels, xsdata, platformdata, driver_domain, device_tree: refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import Final

from xenmoved.toolstack import policy
from xenmoved.toolstack.announced import announced_format, require_announced
from xenmoved.toolstack.domains import items, parse_disk, parse_domain
from xenmoved.toolstack.interface import Arrival, ToolstackError
from xenmoved.toolstack.policy import BOOT_FOLDERS, NOWHERE, Rule
from xenmoved.toolstack.readable import Readable
from xenmoved.toolstack.wiring import script_name

_EMPTY: Final[tuple[object, ...]] = (None, False, 0, "", "<default>", [], {})
_SCREENS: Final = ("vnc", "spice", "sdl")
_NIC: Final = "network interface"


@dataclass(slots=True)
class _Vetter:
    """Collects what is wrong, so that an operator sees all of it at once."""

    boot_folders: Readable
    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def refuse(self, where: str, why: str) -> None:
        self.problems.append(f"{where}: {why}")

    def keys(
        self,
        where: str,
        value: dict[str, object],
        find: Callable[[str], Rule | None],
        rules: Mapping[str, Callable[[str, object], None]] | None = None,
    ) -> None:
        """Check every member: by a function of its own, by its rule, or as one without a rule.

        What is to be left out is taken out of `value`, and noted.
        """
        for key, item in list(value.items()):
            check, rule = (rules or {}).get(key), find(key)
            if check is not None:
                check(f"{where}.{key}", item)
            elif rule is not None:
                if (why := objection(rule, item, self.boot_folders)) and rule.left_out:
                    self.left_out.append(policy.called(key, rule, of_nic=where.startswith(_NIC)))
                    value[key] = None  # as libxl writes a text that is not set
                    if not isinstance(item, str) or item in ("True", "False"):
                        del value[key]
                elif why:
                    self.refuse(f"{where}.{key}", why)
            elif item not in _EMPTY:
                self.refuse(f"{where}.{key}", "is not something that may come from another host")

    def action(self, event: str, action: str) -> str:
        kept, lost = policy.action_here(event, action)
        self.left_out += [lost] if lost else []
        return kept

    def pygrub_arguments(self, where: str, value: object) -> None:
        """Accept a list of arguments; what is no list might be taken apart at its blanks."""
        if isinstance(value, str) and value:
            self.refuse(where, "must be a list")
        if why := objection(policy.DOMAIN["bootloader_args"], value, NOWHERE):
            self.refuse(where, why)

    def nested(
        self,
        find: Callable[[str], Rule | None],
        rules: Mapping[str, Callable[[str, object], None]],
    ) -> Callable[[str, object], None]:
        def check(where: str, value: object) -> None:
            if isinstance(value, dict):
                self.keys(where, value, find, rules)
            elif value not in _EMPTY:
                self.refuse(where, "must be an object")

        return check

    def rdm(self, where: str, value: object) -> None:
        if isinstance(value, dict) and value.get("strategy", "ignore") != "ignore":
            self.refuse(where, "reserves memory of this host's devices")
        if why := objection(policy.PLAIN, value, NOWHERE):
            self.refuse(where, why)

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


def objection(rule: Rule, value: object, boot_folders: Readable) -> str | None:
    """Return why a value of libxl's JSON may not come from another host, None when it may."""
    if rule.path and not isinstance(value, str) and value not in _EMPTY:
        return "must be a path"
    if rule is policy.NOTHING and value not in _EMPTY:
        return "is not something that may come from another host"
    for item in _leaves(value):
        if isinstance(item, str):
            allowed = not item or rule.allows(item, boot_folders)
        elif isinstance(item, int | float) and rule.number:
            allowed = rule.allows_number(item)
        else:
            allowed = item in _EMPTY
        if not allowed:
            folders = f", in none of {', '.join(boot_folders.folders)}" if rule.path else ""
            return f"may not come from another host as {rule.shown(item)}{folders}{rule.advice}"
        if isinstance(item, str) and (why := rule.withheld(item, boot_folders)) is not None:
            return f"may not come from another host as {rule.shown(item)}: {why}"
    return None


def _screens(vetter: _Vetter) -> dict[str, Callable[[str, object], None]]:
    """Return checks of the objects that are a screen: xl.cfg has their keys with a prefix."""

    def screen(prefix: str) -> Callable[[str, object], None]:
        return vetter.nested(lambda key: policy.of_libxl(prefix + key), {})

    return {prefix: screen(prefix) for prefix in _SCREENS}


def _build_rules(vetter: _Vetter) -> dict[str, Callable[[str, object], None]]:
    direct: dict[str, Callable[[str, object], None]] = {"bootloader_args": vetter.pygrub_arguments}
    hvm = {**_screens(vetter), "rdm": vetter.rdm}
    return {
        **direct,
        "type.hvm": vetter.nested(policy.of_libxl, hvm),
        "type.pv": vetter.nested(policy.of_libxl, direct),
        "type.pvh": vetter.nested(policy.of_libxl, {}),
    }


def _rewrite_disks(vetter: _Vetter, config: dict[str, object], arrival: Arrival) -> None:
    seen: set[str] = set()
    for item in items(config, "disks"):
        disk = parse_disk(item)
        where = f"disk {disk.vdev[:40]!r}"
        vetter.keys(where, item, policy.DISK.get, dict.fromkeys(("pdev_path", "script"), _anything))
        vetter.backend(where, item)
        if disk.vdev in seen:
            vetter.refuse(where, "appears twice")
        seen.add(disk.vdev)
        if disk.script is not None:
            vetter.refuse(where, f"needs the block script {disk.script[:80]!r}")
        item.pop("script", None)
        if disk.vdev in arrival.read_only and disk.writable:
            vetter.refuse(where, "was announced as read-only")
        local = arrival.disks.get(disk.vdev)
        if local == "" and disk.cdrom:
            item.pop("pdev_path", None)
            item.pop("backend", None)
            item["format"] = "empty"
        elif local:
            if disk.format != (announced := announced_format(disk.vdev, arrival)):
                vetter.refuse(where, f"has format {disk.format[:40]}, and {announced} is expected")
            item["format"] = arrival.formats.get(disk.vdev, "raw")
            item["pdev_path"] = local
            if disk.backend == "phy":
                # Whether blkback can serve it depends on the local volume. libxl chooses it again
                # for block devices and QEMU for files when nothing is said.
                item.pop("backend", None)
        elif disk.path or not disk.cdrom:
            vetter.refuse(where, "has no volume on this host that was agreed upon")


def _anything(_where: str, _value: object) -> None:
    """Accept a value that the caller replaces or has checked."""


def _rewrite_nics(vetter: _Vetter, config: dict[str, object], arrival: Arrival) -> None:
    for number, item in enumerate(items(config, "nics")):
        where = f"{_NIC} {number}"
        script = str(item.get("script") or "")
        find = partial(policy.nic_rule, guest=arrival.name, script=script, wiring=arrival.wiring)
        vetter.keys(where, item, find)
        vetter.backend(where, item)
        if arrival.wiring.runs(script):
            item["script"] = script_name(script)
        bridge = item.get("bridge")
        if isinstance(bridge, str) and bridge in arrival.bridges:
            item["bridge"] = arrival.bridges[bridge]


def rewrite_config(
    config: dict[str, object],
    arrival: Arrival,
    boot_folders: Readable = BOOT_FOLDERS,
    left_out: list[str] | None = None,
) -> list[str]:
    """Adapt libxl's JSON configuration, in place, to how the domain is to look on this host.

    Returns everything in it that may not come from another host, empty when it may be used; what
    it goes without is added to `left_out`. Raises NotAnnounced when it is of another guest than the
    announced one, ToolstackError when its shape is not that of a configuration.
    """
    vetter = _Vetter(boot_folders, left_out=[] if left_out is None else left_out)
    for item in _leaves(config):
        if isinstance(item, str) and "\0" in item:
            raise ToolstackError("the domain's configuration has a string with a NUL in it.")
    require_announced(parse_domain({"config": config}), arrival)
    create, build = _section(config, "c_info"), _section(config, "b_info")
    create["name"] = arrival.name
    create.pop("domid", None)  # ids belong to a host
    for action in policy.SHUTDOWN_ACTIONS & config.keys():
        if isinstance(said := config[action], str):
            config[action] = vetter.action(action, said)
    for kind, most in policy.MOST_DEVICES.items():
        if (count := len(items(config, f"{kind}s"))) > most:
            vetter.refuse(f"domain.{kind}s", f"there are {count}, and at most {most} may come")
    vetter.keys("domain", config, policy.of_libxl, _device_rules(vetter))
    vetter.keys("c_info", create, policy.of_libxl, {"name": _anything})
    vetter.keys("b_info", build, policy.of_libxl, _build_rules(vetter))
    for section in (build, build.get("type.pv")):
        if isinstance(section, dict) and isinstance(named := section.get("bootloader"), str):
            section["bootloader"] = PurePosixPath(named).name
    _rewrite_disks(vetter, config, arrival)
    _rewrite_nics(vetter, config, arrival)
    return vetter.problems


def _device_rules(vetter: _Vetter) -> dict[str, Callable[[str, object], None]]:
    def devices(
        find: Callable[[str], Rule | None],
        rules: Mapping[str, Callable[[str, object], None]] | None = None,
    ) -> Callable[[str, object], None]:
        def check(where: str, value: object) -> None:
            for item in items({"devices": value}, "devices"):
                vetter.keys(where, item, find, rules)
                vetter.backend(where, item)

        return check

    return {
        "c_info": _anything,
        "b_info": _anything,
        "disks": _anything,
        "nics": _anything,
        "vfbs": devices(policy.VFB.get, _screens(vetter)),
        "vkbs": devices(policy.VKB.get),
        "channels": devices(policy.CHANNEL.get),
        "usbctrls": devices(policy.USBCTRL.get),
    }
