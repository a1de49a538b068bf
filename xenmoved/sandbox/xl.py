"""The verbs of `xl`."""

from __future__ import annotations

import os
import sys
import time

from xenmoved.sandbox.host import (
    CRASHED,
    DOM0_MEMORY,
    NOT_SHUT_DOWN,
    POWERED_OFF,
    CommandFailed,
    Domain,
    Host,
    process_status,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

DOM0 = 0
VERSION = "4.17.3"
CAPABILITIES = "xen-3.0-x86_64 hvm-3.0-x86_32 hvm-3.0-x86_32p hvm-3.0-x86_64"
PROCESSOR = "178bf3ff:76f8320b:2e500800:244037ff:0000000f:219c91a9:00400004:00000500"


def split_options(
    args: list[str], plain: str, valued: str = ""
) -> tuple[dict[str, str], list[str]]:
    """Options (with their values) and the rest, as getopt does. Long options must be `--known`."""
    long_names = {"--long": "-l", "--live": "", "--debug": "", "--wait": "-w", "--force": "-f"}
    options: dict[str, str] = {}
    rest = list(args)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        word = long_names.get(word, word)
        for at, letter in enumerate(word[1:], 1):
            if letter in valued:
                options[letter] = word[at + 1 :] or (rest.pop(0) if rest else "")
                break
            if letter not in plain:
                raise CommandFailed(f"xl: invalid option -- '{letter}'", 2)
            options[letter] = ""
    return options, rest


def find(host: Host, qualifier: str) -> Domain:
    """Look a domain up by name or id. Fails as `xl` does."""
    domain = host.find(qualifier)
    if domain is None:
        raise CommandFailed(f"{qualifier} is an invalid domain identifier (rc=-6)")
    return domain


def state_letters(host: Host, domain: Domain) -> str:
    """Return the state column of `list`."""
    paused, shutdown = host.flags(domain.domid)
    running = blocked = False
    if not paused and shutdown == NOT_SHUT_DOWN:
        pid = host.process(domain.domid)
        status = process_status(pid) if pid is not None else None
        running = bool(status and status[0] == "R")
        blocked = not running
    reason = "-" if shutdown == POWERED_OFF else shutdown
    return (
        ("r" if running else "-")
        + ("b" if blocked else "-")
        + ("p" if paused else "-")
        + ("s" if shutdown != NOT_SHUT_DOWN else "-")
        + reason
        + "-"
    )


def cpu_seconds(host: Host, domain: Domain) -> float:
    """Measure the processor time that the guest has used."""
    pid = host.process(domain.domid)
    status = process_status(pid) if pid is not None else None
    if status is None:
        return 0.0
    return (int(status[11]) + int(status[12])) / os.sysconf("SC_CLK_TCK")


def list_domains(host: Host, args: list[str]) -> int:
    """`list [-l] [DOMAIN]`.

    Domains without a configuration, `bare_domains` in the settings of the host, are in the table
    only: libxl leaves them out of `-l`.
    """
    options, rest = split_options(args, "lvZcn")
    bare = host.settings().get("bare_domains", [])
    if "l" in options:
        if rest and any(rest[0] in (str(one["domid"]), one["name"]) for one in bare):
            print("[]")
            return 0
        domains = [find(host, rest[0])] if rest else host.domains()
        entries: list[dict[str, Any]] = [] if rest else [_dom0_entry()]
        entries += [{"domid": domain.domid, "config": domain.config} for domain in domains]
        import json

        print(json.dumps(entries, indent=4))
        return 0
    print("Name                                        ID   Mem VCPUs\tState\tTime(s)")
    if not rest or rest[0] in ("0", "Domain-0"):
        row = ("Domain-0", DOM0, DOM0_MEMORY, os.cpu_count() or 1, "r-----", time.process_time())
        print(format_row(row))
    if rest and rest[0] in ("0", "Domain-0"):
        return 0
    for domain in [find(host, rest[0])] if rest else host.domains():
        state, seconds = state_letters(host, domain), cpu_seconds(host, domain)
        row = (domain.name, domain.domid, domain.memory, domain.vcpus, state, seconds)
        print(format_row(row))
    for row in () if rest else bare_rows(host):
        print(format_row(row))
    return 0


Row = tuple[str, int, int, int, str, float]


def bare_rows(host: Host) -> list[Row]:
    """Return the rows of domains without a configuration."""
    bare = host.settings().get("bare_domains", [])
    return [(one["name"], one["domid"], 0, 1, one.get("state", "------"), 0.0) for one in bare]


def format_row(row: Row) -> str:
    """Format one line of `list`."""
    name, domid, memory, vcpus, state, seconds = row
    return f"{name:<40s} {domid:5d} {memory:5d} {vcpus:5d}     {state}  {seconds:8.1f}"


def _dom0_entry() -> dict[str, Any]:
    memory = DOM0_MEMORY * 1024
    return {
        "domid": DOM0,
        "config": {
            "c_info": {"type": "pv", "name": "Domain-0"},
            "b_info": {
                "max_memkb": memory,
                "target_memkb": memory,
                "sched_params": {},
                "type.pv": {},
                "arch_arm": {},
                "arch_x86": {},
            },
        },
    }


def create(host: Host, args: list[str]) -> int:
    """`create [-p] CONFIG [LINE…]`."""
    from xenmoved.sandbox import build, xlcfg

    # Options may follow the name of the file.
    flags = [word for word in args if word.startswith("-")]
    options, _ = split_options(flags, "pqeFd")
    rest = [word for word in args if not word.startswith("-")]
    if not rest:
        raise CommandFailed("'xl create' requires a configuration file.", 2)
    print(f"Parsing config from {rest[0]}", file=sys.stderr)
    domain = build.create(host, xlcfg.parse(xlcfg.read(rest[0], rest[1:]), rest[0]))
    if "p" not in options:
        build.ask(host, domain, "unpause")
    if "e" not in options:
        build.monitor(host, domain)
    return 0


def save(host: Host, args: list[str]) -> int:
    """`save [-c|-p] DOMAIN FILE`."""
    from xenmoved.sandbox import build, saving, stream

    options, rest = split_options(args, "cpD")
    domain, path = find(host, rest[0]), rest[1]
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        raise CommandFailed(f"Failed to open temp file {path} for writing") from error
    output = stream.Output(descriptor, host.faults("save"))
    stream.write_header(output, domain.config, path)
    try:
        saving.write_suspended(host, domain, output, inner=False)
    except CommandFailed as error:
        print(error, file=sys.stderr)
        print("Failed to save domain, resuming domain", file=sys.stderr)
        build.ask(host, domain, "resume")
        return 1
    os.close(descriptor)
    if "p" in options or "c" in options:
        if "p" in options:
            build.ask(host, domain, "pause")
        build.ask(host, domain, "resume")
    else:
        host.destroy(domain)
    return 0


def restore(host: Host, args: list[str]) -> int:
    """`restore [-p] FILE`."""
    from xenmoved.sandbox import build, saving

    options, rest = split_options(args, "peFd")
    try:
        descriptor = os.open(rest[0], os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CommandFailed(f"Can't open restore file: {error.strerror}") from error
    domain = saving.read_domain(host, descriptor, rest[0])
    os.close(descriptor)
    if "p" not in options:
        build.ask(host, domain, "unpause")
    if "e" not in options:
        build.monitor(host, domain)
    return 0


def migrate(host: Host, args: list[str]) -> int:
    """`migrate [-s SSH] DOMAIN HOST`, where an empty SSH makes HOST the command to run."""
    from xenmoved.sandbox import migrate as migration

    options, rest = split_options(args, "epFD", "sC")
    domain = find(host, rest[0])
    rune = rest[1]
    ssh = options.get("s", "ssh")
    if ssh:
        flags = " -e" * ("e" in options) + " -p" * ("p" in options)
        rune = f"exec {ssh} {rest[1]} xl migrate-receive{flags}"
    return migration.send(host, domain, rune, host.faults("migrate"))


def migrate_receive(host: Host, args: list[str]) -> int:
    """`migrate-receive [-p] [-e]`."""
    from xenmoved.sandbox import migrate as migration

    options, _ = split_options(args, "Fedrp")
    return migration.receive(
        host,
        host.faults("migrate-receive"),
        leave_paused="p" in options,
        watched="e" not in options,
    )


def block_attach(host: Host, args: list[str]) -> int:
    """`block-attach DOMAIN DISK`."""
    from xenmoved.sandbox import xlcfg

    disk = xlcfg.parse_disk(args[1])
    return _change_disks(host, args[0], lambda disks: [*disks, disk])


def block_detach(host: Host, args: list[str]) -> int:
    """`block-detach DOMAIN VDEV`."""
    return _change_disks(
        host, args[0], lambda disks: [disk for disk in disks if disk["vdev"] != args[1]]
    )


def _change_disks(
    host: Host, qualifier: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
) -> int:
    from xenmoved.sandbox import build

    with host.locked():
        domain = find(host, qualifier)
        domain.config["disks"] = change(domain.config.get("disks", []))
        host.store(domain)
    build.ask(host, domain, "disks")
    return 0


def mem_set(host: Host, args: list[str]) -> int:
    """`mem-set DOMAIN MEM`, in MiB. The guest takes no notice of it."""
    with host.locked():
        domain = find(host, args[0])
        build = domain.config["b_info"]
        if int(args[1]) * 1024 > build["max_memkb"]:
            raise CommandFailed(
                "libxl: error: libxl_mem.c:296:libxl_set_memory_target: "
                f"Domain {domain.domid}:memory_dynamic_max must be less than or equal to "
                f"memory_static_max\ncannot set domid {domain.domid} dynamic max memory to : "
                f"{args[1]}"
            )
        build["target_memkb"] = int(args[1]) * 1024
        host.store(domain)
    return 0


def network_attach(host: Host, args: list[str]) -> int:
    """`network-attach DOMAIN KEY=VALUE...`."""
    from xenmoved.sandbox import xlcfg

    with host.locked():
        domain = find(host, args[0])
        nics = domain.config.setdefault("nics", [])
        nics.append(xlcfg.parse_nic(",".join(args[1:]), len(nics)))
        host.store(domain)
    return 0


def _simple(operation: str) -> Callable[[Host, list[str]], int]:
    def verb(host: Host, args: list[str]) -> int:
        from xenmoved.sandbox import build

        _, rest = split_options(args, "")
        build.ask(host, find(host, rest[0]), operation)
        return 0

    return verb


def destroy(host: Host, args: list[str]) -> int:
    """`destroy DOMAIN`."""
    _, rest = split_options(args, "f")
    if rest[0] in ("0", "Domain-0"):
        raise CommandFailed("Not destroying domain 0; use -f to force.")
    host.destroy(find(host, rest[0]))
    return 0


def shutdown(host: Host, args: list[str]) -> int:
    """`shutdown [-w] DOMAIN`."""
    from xenmoved.sandbox import build

    flags = [word for word in args if word.startswith("-")]
    options, _ = split_options(flags, "wF")
    rest = [word for word in args if not word.startswith("-")]
    if not rest:
        raise CommandFailed("You must specify -a or a domain id.\n")
    domain = find(host, rest[0])
    print(f"Shutting down domain {domain.domid}", file=sys.stderr)
    if "F" not in options and host.faults("shutdown").get("no_drivers"):
        raise CommandFailed(
            "PV control interface not available: external graceful shutdown not possible.\n"
            'Use "-F" to fallback to ACPI power event.\nshutdown failed (rc=-9)'
        )
    build.ask(host, domain, "shutdown")
    while "w" in options and host.find(str(domain.domid)) is not None:
        if host.flags(domain.domid)[1] == CRASHED:
            break
        time.sleep(0.05)
    return 0


def rename(host: Host, args: list[str]) -> int:
    """`rename DOMAIN NAME`."""
    domain = find(host, args[0])
    try:
        host.rename(domain, args[1])
    except CommandFailed as error:
        raise CommandFailed(f"{error}\nCan't rename domain '{args[0]}'.") from error
    return 0


def domid(host: Host, args: list[str]) -> int:
    """`domid NAME`."""
    domain = next((one for one in host.domains() if one.name == args[0]), None)
    if domain is None:
        raise CommandFailed(
            f"Can't get domid of domain name '{args[0]}', maybe this domain does not exist."
        )
    print(domain.domid)
    return 0


def domname(host: Host, args: list[str]) -> int:
    """`domname ID`."""
    domain = host.find(args[0]) if args[0].isdecimal() else None
    if domain is None:
        raise CommandFailed(
            f"Can't get domain name of domain id '{args[0]}', maybe this domain does not exist."
        )
    print(domain.name)
    return 0


def info_lines(host: Host) -> list[tuple[str, str]]:
    """Return what `info` tells of the host."""
    system = os.uname()
    version = str(host.settings().get("xen_version", VERSION))
    major, minor, extra = version.split(".", 2)
    return [
        ("host", system.nodename),
        ("release", system.release),
        ("version", system.version),
        ("machine", system.machine),
        ("nr_cpus", str(os.cpu_count())),
        ("max_cpu_id", str((os.cpu_count() or 1) - 1)),
        ("nr_nodes", "1"),
        ("cores_per_socket", str(os.cpu_count())),
        ("threads_per_core", "1"),
        ("cpu_mhz", "2000.000"),
        ("hw_caps", str(host.settings().get("hw_caps", PROCESSOR))),
        ("virt_caps", str(host.settings().get("virt_caps", "pv hvm hap shadow"))),
        ("total_memory", str(host.total_memory())),
        ("free_memory", str(host.free_memory(host.domains()))),
        ("sharing_freed_memory", "0"),
        ("sharing_used_memory", "0"),
        ("outstanding_claims", "0"),
        ("free_cpus", "0"),
        ("xen_major", major),
        ("xen_minor", minor),
        ("xen_extra", f".{extra}"),
        ("xen_version", version),
        ("xen_caps", str(host.settings().get("xen_caps", CAPABILITIES))),
        ("xen_scheduler", "credit2"),
        ("xen_pagesize", "4096"),
        ("platform_params", "virt_start=0xffff800000000000"),
        ("xen_changeset", ""),
        ("xen_commandline", "placeholder"),
        ("xend_config_format", "4"),
    ]


def info(host: Host, args: list[str]) -> int:
    """`info [KEY]`."""
    _, rest = split_options(args, "n")
    for key, value in info_lines(host):
        if not rest:
            print(f"{key:<23s}: {value}")
        elif key.startswith(rest[0]):
            print(value)
    return 0


# Verb, least number of arguments (options not counted), function.
VERBS: dict[str, tuple[int, Callable[[Host, list[str]], int]]] = {
    "block-attach": (2, block_attach),
    "block-detach": (2, block_detach),
    "create": (0, create),
    "destroy": (1, destroy),
    "domid": (1, domid),
    "domname": (1, domname),
    "info": (0, info),
    "list": (0, list_domains),
    "mem-set": (2, mem_set),
    "migrate": (2, migrate),
    "migrate-receive": (0, migrate_receive),
    "network-attach": (1, network_attach),
    "pause": (1, _simple("pause")),
    "rename": (2, rename),
    "restore": (1, restore),
    "resume": (1, _simple("resume")),
    "save": (2, save),
    "shutdown": (0, shutdown),
    "unpause": (1, _simple("unpause")),
}


def run(host: Host, args: list[str]) -> int:
    """Perform one `xl` command line."""
    if not args or args[0] == "help":
        print("Usage xl [-vfNtT] <subcommand> [args]\n\nxl full list of subcommands:\n")
        print("\n".join(f" {verb}" for verb in VERBS))
        return 0 if args else 1
    if args[0] not in VERBS:
        raise CommandFailed("command not implemented")
    least, verb = VERBS[args[0]]
    if len([word for word in args[1:] if word == "" or not word.startswith("-")]) < least:
        raise CommandFailed(
            f"'xl {args[0]}' requires at least {least} argument{'s'[: least > 1]}.", 2
        )
    return verb(host, args[1:])
