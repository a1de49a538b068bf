"""Every key that a Xen reads from a domain's configuration has a rule."""

import json
from pathlib import Path

import pytest

from xenmoved.toolstack import policy
from xenmoved.toolstack.wiring import CAUTIOUS

KEYS = json.loads((Path(__file__).parents[2] / "data" / "xen_keys.json").read_text())
TABLES = {
    "domain": policy.of_libxl,
    "disk": policy.DISK.get,
    "nic": lambda key: policy.nic_rule(key, "web", "vif-bridge", CAUTIOUS),
    "vkb": policy.VKB.get,
    "vfb": policy.VFB.get,
    "usbctrl": policy.USBCTRL.get,
}
# Objects and lists whose members are judged one by one, and what is set from what was agreed.
OF_PARTS = policy.words(
    "b_info c_info channels disks hvm invalid pv rdm u usbctrls vfbs vkbs sdl vnc spice domid "
    "pdev_path script sve_vl"
)
VERSIONS = [f"stable-4.{minor}" for minor in range(17, 22)]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_key_has_a_rule(version):
    keys = KEYS[version]
    cfg = policy.DOMAIN.keys() | policy.SPECIFICATIONS.keys()
    assert len(keys["cfg"]) > 150 and len(keys["vif"]) > 10
    assert set(keys["cfg"]) - cfg == set()
    assert {one for one in keys["vif"] if TABLES["nic"](one) is None} == set()
    for table, names in keys["idl"].items():
        without = {one for one in names if TABLES[table](one) is None}
        assert without <= OF_PARTS, f"{table}: {without - OF_PARTS}"
    assert keys["idl"].keys() == TABLES.keys()


@pytest.mark.parametrize("key", ["vncpasswd", "spicepasswd"])
def test_passwords_are_secret(key):
    assert policy.DOMAIN[key].secret
    assert "hunter2" not in policy.DOMAIN[key].shown("hunter2")


def test_an_interface_has_the_whole_name_of_its_guest():
    def allows(guest, name):
        return policy.nic_rule("vifname", guest, "", CAUTIOUS).allows(name)

    assert allows("web", "vif-web.0")
    assert not any(
        allows("web", name) for name in ("eth0", "web.0", "vif-web", "vif-webb.0", "vif1.0")
    )
    assert not allows("a-long-name", "vif-a-long-name.0")


def test_a_key_has_one_rule():
    keys = [key for group, _ in policy._EACH for key in set(group.split())]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    "key",
    [
        *("memory", "maxmem", "shadow_memory", "max_memkb", "target_memkb", "vmtrace_buf_kb"),
        *("vcpus", "maxvcpus", "max_vcpus", "max_grant_frames", "max_maptrack_frames"),
        *("event_channels", "max_event_channels", "altp2m_count", "nr_spis"),
    ],
)
def test_what_a_host_sets_aside_is_a_number_with_an_end(key):
    rule = policy.DOMAIN[key]
    assert rule.most is not None
    assert rule.allows_number(1) and rule.allows_number(rule.most)
    assert not rule.allows_number(-1) and not rule.allows_number(rule.most + 1)
    assert all(map(rule.allows, ("", "1", "0x10", str(rule.most), hex(rule.most))))
    numbers = (str(rule.most + 1), hex(rule.most + 1), "-1", "+1", " 1", "01", "1k", "1.5", "1e9")
    assert not any(map(rule.allows, numbers))


@pytest.mark.parametrize("key", ["avail_vcpus", "cpumap", "vcpu_hard_affinity", "xenstore_quota"])
def test_other_numbers_that_make_a_host_set_something_aside_have_an_end(key):
    assert policy.DOMAIN[key].allows("0-3,^1")
    assert not policy.DOMAIN[key].allows_number(1 << 25)
