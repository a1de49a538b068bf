"""What xl reads in a disk specification: its scanner's rules (libxlu_disk_l.l), as data."""

import re

# The longest match wins, the earlier rule of two as long: a prefix counts as the whole rest.
KEYS = {
    "format": "format",
    "access": "access",
    "backend": "backend",
    "backendtype": "backendtype",
    "vdev": "vdev",
    "script": "script",
}
PREFIX = re.compile(r"(raw|qcow2?|vhd|iscsi|e?nbd|drbd|tapdisk|tap2?|aio|ioemu|file|phy):")
FORMATS = {
    "raw": "raw",
    "aio": "raw",
    "": "raw",
    "qcow": "qcow",
    "qcow2": "qcow2",
    "vhd": "vhd",
    "qed": "qed",
    "empty": "empty",
}
ACCESS = {"rw": True, "w": True, "r": False, "ro": False, "": False}


class XlRefusesError(Exception):
    """Xl would not take the specification."""


def read(spec):
    """Return what xl would do: path, vdev, format, writable, cdrom, script, backend."""
    disk = {"cdrom": False, "writable": True}
    prefixed = access_set = False
    rest = spec
    while rest.strip(" \t\n"):
        rest = rest.lstrip(" \t\n")
        if rest.startswith("target="):
            _save(disk, "path", rest[7:].removesuffix(","))
            break
        if found := PREFIX.match(rest):
            prefixed, rest = True, rest[found.end() :]
            if found[1] in ("raw", "qcow", "qcow2", "vhd"):
                disk["format"] = FORMATS[found[1]]
            elif found[1] in ("iscsi", "nbd", "enbd", "drbd"):
                _save(disk, "script", f"block-{found[1]}")
            continue
        part, _, rest = rest.partition(",")
        key, equals, value = part.partition("=")
        if part in ("cdrom", "devtype=cdrom"):
            disk["cdrom"] = True
        elif part == "devtype=disk":
            disk["cdrom"] = False
        elif part in ("direct-io-safe", "discard", "no-discard", "trusted", "untrusted"):
            pass
        elif equals and key == "format":
            disk["format"] = _one_of(FORMATS, value)
        elif equals and key == "access":
            disk["writable"] = _one_of(ACCESS, value)
        elif equals and key in KEYS:
            _save(disk, key, value)
        elif equals:
            raise XlRefusesError(part)
        elif "path" not in disk:
            _save(disk, "path", part)
        elif not prefixed and "format" not in disk:
            if not disk["path"] and _vdev(disk, part):
                disk["format"] = "empty"
            else:
                disk["format"] = _one_of(FORMATS, part)
        elif "vdev" not in disk:
            if not _vdev(disk, part):
                disk["vdev"] = part
        elif not access_set:
            access_set, disk["writable"] = True, _one_of(ACCESS, part)
        else:
            raise XlRefusesError(part)
    return disk


def _save(disk, key, value):
    if disk.get(key) not in (None, value):
        raise XlRefusesError(f"{key} respecified")
    disk[key] = value


def _one_of(known, value):
    if value not in known:
        raise XlRefusesError(value)
    return known[value]


def _vdev(disk, part):
    name, colon, kind = part.rpartition(":")
    if not colon:
        return False
    _save(disk, "vdev", name)
    if kind not in ("cdrom", "disk"):
        raise XlRefusesError(kind)
    disk["cdrom"] = kind == "cdrom"
    return True
