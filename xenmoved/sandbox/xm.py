"""The verbs of `xm`, the toolstack of Xen before 4.5, over the same guests.

Its save file is `LinuxGuestRecord`, a big-endian length, the configuration as an S-expression,
and the image, for which the sandbox uses the libxc stream.
"""

from __future__ import annotations

import os
import stat
import struct
import sys
import time

from xenmoved.sandbox import sxp, xl
from xenmoved.sandbox.host import DOM0_MEMORY, CommandFailed, Domain, Host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from xenmoved.sandbox.sxp import Node

SIGNATURE = b"LinuxGuestRecord"
MAX_CONFIG = 1 << 20


def find(host: Host, qualifier: str) -> Domain:
    """Look a domain up by name or id. Fails as `xm` does."""
    domain = host.find(qualifier)
    if domain is None:
        raise CommandFailed(f"Error: Domain '{qualifier}' does not exist.")
    return domain


def expression(host: Host, domain: Domain) -> Node:
    """Describe the domain as xend described it."""
    config, info = domain.config, domain.config["b_info"]
    loader: list[Node] = ["linux", ["kernel", info.get("kernel", "")]]
    loader += [["ramdisk", info.get("ramdisk", "")], ["args", info.get("cmdline", "")]]
    node: list[Node] = [
        "domain",
        ["domid", str(domain.domid)],
        ["cpu_weight", "256"],
        ["cpu_cap", "0"],
        ["bootloader", ""],
        ["on_crash", "restart"],
        ["uuid", domain.uuid],
        ["bootloader_args", ""],
        ["vcpus", str(domain.vcpus)],
        ["name", domain.name],
        ["on_poweroff", config.get("on_poweroff", "destroy")],
        ["on_reboot", "restart"],
        ["cpus", [[]]],
        ["description", ""],
        ["memory", str(domain.memory)],
        ["maxmem", str(int(info["max_memkb"]) // 1024)],
        ["shadow_memory", "0"],
        ["features", ""],
        ["on_xend_start", "ignore"],
        ["on_xend_stop", "ignore"],
        ["start_time", f"{time.time():.2f}"],
        ["cpu_time", f"{xl.cpu_seconds(host, domain):.9f}"],
        ["online_vcpus", str(domain.vcpus)],
        ["image", loader],
        ["status", "2"],
        ["state", xl.state_letters(host, domain)],
        ["store_mfn", "131071"],
        ["console_mfn", "131070"],
    ]
    for nic in config.get("nics", []):
        node.append(["device", _vif(nic)])
    for number, disk in enumerate(config.get("disks", [])):
        node.append(["device", _vbd(disk, number)])
    for device in config.get("pcidevs", []):
        parts: list[Node] = [["domain", "0x0000"]]
        parts += [
            [key, f"{device.get(name, 0):#04x}"]
            for key, name in (("bus", "bus"), ("slot", "dev"), ("func", "func"))
        ]
        node.append(["device", ["pci", ["dev", *parts]]])
    node.append(["device", ["console", ["protocol", "vt100"], ["location", "2"]]])
    return node


def _vif(nic: dict[str, Any]) -> Node:
    node: list[Node] = ["vif"]
    if nic.get("bridge"):
        node.append(["bridge", nic["bridge"]])
    node += [["mac", nic["mac"]], ["script", "/etc/xen/scripts/vif-bridge"]]
    return [*node, ["backend", "0"]]


def _vbd(disk: dict[str, Any], number: int) -> Node:
    """Describe a disk. xend wrote the kind of device behind some names only."""
    kind = ":cdrom" if disk.get("is_cdrom") else ":disk" if number % 2 == 0 else ""
    return [
        "vbd",
        ["protocol", "x86_64-abi"],
        ["bootable", str(int(number == 0))],
        ["dev", disk["vdev"] + kind],
        ["uname", _uname(disk)],
        ["mode", "w" if disk.get("readwrite") else "r"],
        ["backend", "0"],
        ["VDI", ""],
    ]


def _uname(disk: dict[str, Any]) -> str:
    path = str(disk.get("pdev_path", ""))
    if not path:
        return ""
    if disk.get("backend") == "tap":
        return f"tap:aio:{path}"
    try:
        is_device = stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        is_device = False
    return ("phy:" if is_device else "file:") + path


def configuration(node: Node) -> dict[str, Any]:
    """Turn an expression into the configuration, as the rest of the sandbox wants it."""
    from xenmoved.sandbox import xlcfg

    image = sxp.child(node, "image") or []
    loader = image[1] if len(image) > 1 else []
    memory = int(sxp.value(node, "memory", "0"))
    name, uuid = sxp.value(node, "name"), sxp.value(node, "uuid")
    if not (name and uuid and memory):
        raise CommandFailed("Error: not a valid guest state file: config parse")
    text = [f"name={name!r}", f"uuid={uuid!r}", f"memory={memory}"]
    text.append(f"vcpus={int(sxp.value(node, 'vcpus', '1'))}")
    for key, child in (("kernel", "kernel"), ("ramdisk", "ramdisk"), ("extra", "args")):
        text.append(f"{key}={sxp.value(loader, child)!r}")
    disks, vifs = [], []
    for device in sxp.children(node, "device"):
        body = device[1] if len(device) > 1 else []
        if not isinstance(body, list) or not body:
            continue
        if body[0] == "vif":
            given = [(key, sxp.value(body, key)) for key in ("mac", "bridge")]
            vifs.append(",".join(f"{key}={value}" for key, value in given if value))
        elif body[0] in ("vbd", "tap"):
            target, dev = sxp.value(body, "uname"), sxp.value(body, "dev")
            disks.append(f"{target},{dev},{sxp.value(body, 'mode', 'r')}")
    config = xlcfg.parse("\n".join([*text, f"disk={disks!r}", f"vif={vifs!r}"]), "<saved>")
    _keep_taps(config, disks)
    return config


def _keep_taps(config: dict[str, Any], disks: list[str]) -> None:
    """Remember which disks went through blktap: libxl ignores that prefix, xend does not."""
    for disk, text in zip(config.get("disks", []), disks, strict=False):
        if text.startswith("tap:"):
            disk["backend"] = "tap"


def list_domains(host: Host, args: list[str]) -> int:
    """`list [-l] [DOMAIN…]`. Domains without a configuration are in the table only."""
    options, rest = xl.split_options(args, "l")
    domains = [find(host, name) for name in rest] if rest else host.domains()
    if "l" in options:
        if not rest:
            print(sxp.render(_dom0(), 0))
        for domain in domains:
            print(sxp.render(expression(host, domain), 0))
        return 0
    print(f"{'Name':<40s} {'ID':>5s} {'Mem':>5s} {'VCPUs':>5s} {'State':>10s} {'Time(s)':>9s}")
    rows = []
    if not rest:
        rows.append(("Domain-0", 0, DOM0_MEMORY, os.cpu_count() or 1, "r-----", 0.0))
    for domain in domains:
        state, seconds = xl.state_letters(host, domain), xl.cpu_seconds(host, domain)
        state = state[:4] + state[4].replace("r", "-") + state[5]  # it does not tell of reboots
        rows.append((domain.name, domain.domid, domain.memory, domain.vcpus, state, seconds))
    if not rest:
        rows += xl.bare_rows(host)
    for name, domid, memory, vcpus, state, seconds in rows:
        print(f"{name:<40s} {domid:5d} {memory:5d} {vcpus:5d} {state:>10s} {seconds:8.1f}")
    return 0


def _dom0() -> Node:
    return [
        "domain",
        ["domid", "0"],
        ["uuid", "00000000-0000-0000-0000-000000000000"],
        ["name", "Domain-0"],
        ["memory", str(DOM0_MEMORY)],
        ["state", "r-----"],
    ]


def create(host: Host, args: list[str]) -> int:
    """`create [-p] CONFIG`."""
    from xenmoved.sandbox import build, xlcfg

    options, rest = xl.split_options(args, "pq")
    print(f'Using config file "{rest[0]}".')
    text = xlcfg.read(rest[0], rest[1:])
    config = xlcfg.parse(text, rest[0])
    _keep_taps(config, xlcfg.assignments(text, rest[0]).get("disk", []))
    domain = build.create(host, config)
    if "p" not in options:
        build.ask(host, domain, "unpause")
    build.monitor(host, domain)
    print(f"Started domain {domain.name} (id={domain.domid})")
    return 0


def save(host: Host, args: list[str]) -> int:
    """`save [-c] DOMAIN FILE`: the domain is gone afterwards, and FILE is its only copy."""
    from xenmoved.sandbox import build, saving, stream

    options, rest = xl.split_options(args, "c")
    domain = find(host, rest[0])
    name = domain.name
    try:
        descriptor = os.open(rest[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise CommandFailed(f"Error: {rest[1]}: {error.strerror}") from error
    output = stream.Output(descriptor, host.faults("save"))
    text = sxp.render(expression(host, domain)).encode()
    host.rename(domain, f"migrating-{name}")
    try:
        output.write(SIGNATURE + struct.pack(">I", len(text)) + text)
        saving.write_suspended(host, domain, output, inner=True)
    except CommandFailed as error:
        print(error, file=sys.stderr)
        build.ask(host, domain, "resume")
        host.rename(domain, name)
        raise CommandFailed(
            f"Error: /usr/lib/xen/bin/xc_save 22 {domain.domid} 0 0 0 failed"
        ) from error
    os.close(descriptor)
    if "c" in options:
        build.ask(host, domain, "resume")
        host.rename(domain, name)
    else:
        host.destroy(domain)
    return 0


def restore(host: Host, args: list[str]) -> int:
    """`restore [-p] FILE`."""
    from xenmoved.sandbox import build, stream

    options, rest = xl.split_options(args, "p")
    try:
        descriptor = os.open(rest[0], os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CommandFailed(f"Error: {rest[0]}: {error.strerror}") from error
    signature = stream.read_exactly(descriptor, len(SIGNATURE), "signature")
    if signature != SIGNATURE:
        raise CommandFailed(f"Error: not a valid guest state file: found {signature!r}")
    (length,) = struct.unpack(">I", stream.read_exactly(descriptor, 4, "config size"))
    if length > MAX_CONFIG:
        raise CommandFailed("Error: not a valid guest state file: config size")
    try:
        text = stream.read_exactly(descriptor, length, "config").decode()
        config = configuration(sxp.parse(text))
    except (sxp.Malformed, ValueError) as error:
        raise CommandFailed("Error: not a valid guest state file: config parse") from error
    name = config["c_info"]["name"]
    other = host.find(name)
    if other is not None:
        raise CommandFailed(f"Error: Domain '{name}' already exists with ID '{other.domid}'")
    domain = build.restore(host, config, lambda memory: stream.read_libxc(descriptor, memory))
    os.close(descriptor)
    if "p" not in options:
        build.ask(host, domain, "unpause")
    build.monitor(host, domain)
    return 0


def _simple(operation: str) -> Callable[[Host, list[str]], int]:
    def verb(host: Host, args: list[str]) -> int:
        from xenmoved.sandbox import build

        build.ask(host, find(host, args[0]), operation)
        return 0

    return verb


def destroy(host: Host, args: list[str]) -> int:
    """`destroy DOMAIN`."""
    host.destroy(find(host, args[0]))
    return 0


def rename(host: Host, args: list[str]) -> int:
    """`rename DOMAIN NAME`."""
    host.rename(find(host, args[0]), args[1])
    return 0


def info(host: Host, _args: list[str]) -> int:
    """`info`."""
    absent = ("sharing_freed_memory", "sharing_used_memory", "outstanding_claims")
    for key, value in xl.info_lines(host):
        if key not in absent:
            print(f"{key:<23s}: {value}")
    return 0


# Verb, least number of arguments (options not counted), function.
VERBS: dict[str, tuple[int, Callable[[Host, list[str]], int]]] = {
    "create": (1, create),
    "destroy": (1, destroy),
    "info": (0, info),
    "list": (0, list_domains),
    "pause": (1, _simple("pause")),
    "rename": (2, rename),
    "restore": (1, restore),
    "save": (2, save),
    "shutdown": (1, _simple("shutdown")),
    "unpause": (1, _simple("unpause")),
}


def run(host: Host, args: list[str]) -> int:
    """Perform one `xm` command line."""
    if not args or args[0] not in VERBS:
        raise CommandFailed(f"Error: Sub Command '{' '.join(args[:1])}' not found!")
    least, verb = VERBS[args[0]]
    if len([word for word in args[1:] if not word.startswith("-")]) < least:
        raise CommandFailed(f"Error: 'xm {args[0]}' requires at least {least} argument(s)!")
    return verb(host, args[1:])
