"""A disk specification, as libxlu_disk_l.l and libxlu_disk.c read it."""

import re

from tests.support.xl_reading import XlRefusesError

# A prefix counts as if it matched the whole rest, so that it wins over all other rules.
PREFIX = re.compile(r"(raw|qcow2?|vhd|iscsi|e?nbd|drbd|tapdisk|tap2?|aio|ioemu|file|phy):")
ODD_PREFIX = re.compile(r"[a-z][a-z0-9]*:(?:[^a-z0-9]|$)")
FORMATS = {word: word or "raw" for word in ("", "raw", "qcow", "qcow2", "vhd", "qed", "empty")}
ACCESS = {"r": False, "ro": False, "rw": True, "w": True, "": True}
SWITCHES = {
    "cdrom": ("cdrom", True),
    "devtype=cdrom": ("cdrom", True),
    "devtype=disk": ("cdrom", False),
    "direct-io-safe": ("direct-io-safe", True),
    "discard": ("discard", True),
    "no-discard": ("discard", False),
    "colo": ("colo", True),
    "no-colo": ("colo", False),
    "trusted": ("trusted", True),
    "untrusted": ("trusted", False),
    "grant_usage=1": ("grant_usage", True),
    "grant_usage=0": ("grant_usage", False),
}
BACKENDS = ("phy", "tap", "qdisk", "standalone")
STRINGS = ("backend", "vdev", "script", "colo-host", "colo-export", "active-disk", "hidden-disk")
VDEV = re.compile(r"(?:xvd|hd|sd|vd)[a-z]+\d*|d\d+(?:p\d+)?|0x[0-9a-f]+|\d+", re.ASCII)


def read(spec, version=21):
    """Return what xl would do: path, vdev, format, writable, cdrom, and all else that is said."""
    disk = {"cdrom": False, "writable": True}
    prefixed = access_set = False
    rest = spec
    while rest := rest.lstrip(" \t\n"):
        if rest.startswith("target="):
            _save(disk, "path", rest[7:].removesuffix(","))
            break
        if found := PREFIX.match(rest):
            prefixed, rest = True, rest[found.end() :]
            if found[1] in FORMATS:
                _save(disk, "format", found[1])
            elif found[1] in ("iscsi", "nbd", "enbd", "drbd"):
                _save(disk, "script", f"block-{found[1]}")
            continue
        if ODD_PREFIX.match(rest):
            raise XlRefusesError("unknown deprecated disk prefix")
        part, _, rest = rest.partition(",")
        key, equals, value = part.partition("=")
        if part in SWITCHES and (version > 18 or key != "grant_usage"):
            name, value = SWITCHES[part]
            disk[name] = value
        elif equals:
            _named(disk, key, value)
        elif "path" not in disk:
            disk["path"] = part
        elif not prefixed and "format" not in disk:
            if not disk["path"] and _vdev_and_type(disk, part):
                disk["format"] = "empty"
            else:
                disk["format"] = _one_of(FORMATS, part)
        elif "vdev" not in disk:
            if not _vdev_and_type(disk, part):
                disk["vdev"] = part
        elif not access_set:
            access_set, disk["writable"] = True, _one_of(ACCESS, part)
        else:
            raise XlRefusesError("too many positional parameters")
    return _finished(disk)


def _finished(disk):
    disk.setdefault("format", "raw")
    if disk["cdrom"]:
        disk["writable"] = False
        if not disk.get("path"):
            disk["format"] = "empty"
    # The device's number is looked up by libxl (libxl__device_disk_dev_number).
    if VDEV.fullmatch(disk.get("vdev", "")) is None:
        raise XlRefusesError("no vdev")
    if "path" not in disk and not disk["cdrom"]:
        raise XlRefusesError("no target")
    return disk


def _named(disk, key, value):
    if key == "format":
        _save(disk, "format", _one_of(FORMATS, value))
    elif key == "access":
        disk["writable"] = _one_of(ACCESS, value)
    elif key == "backendtype" and value in BACKENDS:
        _save(disk, key, value)
    elif key == "specification" and value in ("xen", "virtio"):
        disk[key] = value
    elif key in STRINGS:
        _save(disk, key, value)
    else:
        raise XlRefusesError(f"{key}={value}")


def _save(disk, key, value):
    same = key in ("format", "backendtype") and disk.get(key) == value
    if disk.get(key) and not same:
        raise XlRefusesError(f"{key} respecified")
    disk[key] = value


def _one_of(known, value):
    if value not in known:
        raise XlRefusesError(value)
    return known[value]


def _vdev_and_type(disk, part):
    name, colon, kind = part.rpartition(":")
    if not colon:
        return False
    _save(disk, "vdev", name)
    if kind not in ("cdrom", "disk"):
        raise XlRefusesError(kind)
    disk["cdrom"] = kind == "cdrom"
    return True
