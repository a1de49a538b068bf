"""Write the names of the keys that Xen's tools read from a domain's configuration.

    python tests/xen_keys.py XEN.git stable-4.17 ... >tests/data/xen_keys.json

XEN.git is the git directory of a Xen checkout. For each branch: `idl`, the members of the
structures that a domain's configuration consists of (tools/libs/light/libxl_types.idl); `cfg`, the
keys that xl looks up (tools/xl/xl_parse.c) or that docs/man/xl.cfg.5.pod.in has a heading for;
`vif`, those in an interface's specification (docs/man/xl-network-configuration.5.pod.in).
"""

import json
import re
import subprocess
import sys

STRUCTURES = {
    "domain_create_info": "domain",
    "domain_build_info": "domain",
    "domain_config": "domain",
    "device_disk": "disk",
    "device_nic": "nic",
    "device_vkb": "vkb",
    "device_vfb": "vfb",
    "device_usbctrl": "usbctrl",
}
LOOKUP = re.compile(
    r"(?:xlu_cfg_\w+|parse_extra_args|replace_string)\s*\((?:config|&config),\s*\"(\w+)\""
)


def shown(git: str, branch: str, path: str) -> str:
    """Return the text of a file in a branch."""
    command = ["git", "-C", git, "show", f"{branch}:{path}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def members(idl: str) -> dict[str, list[str]]:
    """Return the members of the structures, by the group that the policy has for them."""
    found: dict[str, set[str]] = {}
    for struct in re.split(r"^libxl_\w+ = ", idl, flags=re.MULTILINE)[1:]:
        name = re.match(r"Struct\(\"(\w+)\"", struct)
        if name and name[1] in STRUCTURES:
            lines = "\n".join(line.partition("#")[0] for line in struct.splitlines())
            keys = set(re.findall(r"\(\"(\w+)\",", lines)) - {name[1]}
            found.setdefault(STRUCTURES[name[1]], set()).update(keys)
    return {name: sorted(keys) for name, keys in sorted(found.items())}


def headings(manual: str) -> set[str]:
    """Keys of the file itself: parts of specifications have deeper headings."""
    depth, found = 0, set()
    for line in manual.splitlines():
        depth += line.startswith("=over") - line.startswith("=back")
        key = re.match(r"=item B<(\w+)=[^>]", line)
        if key and depth == 1:
            found.add(key[1])
    return found


def keys_of(git: str, branch: str) -> dict[str, object]:
    """Return the keys that one branch has."""
    idl = shown(git, branch, "tools/libs/light/libxl_types.idl")
    looked_up = set(LOOKUP.findall(shown(git, branch, "tools/xl/xl_parse.c")))
    manual = shown(git, branch, "docs/man/xl.cfg.5.pod.in")
    network = shown(git, branch, "docs/man/xl-network-configuration.5.pod.in")
    nic = re.findall(r"^=head2 (\w+)$", network, re.MULTILINE)
    return {
        "idl": members(idl),
        "cfg": sorted(looked_up | headings(manual)),
        "vif": sorted(set(nic)),
    }


if __name__ == "__main__":
    json.dump({one: keys_of(sys.argv[1], one) for one in sys.argv[2:]}, sys.stdout, indent=1)
    print()
