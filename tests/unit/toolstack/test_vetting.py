"""What a configuration from another host may contain."""

from dataclasses import replace

import pytest

from tests.support.toolstack_samples import HVM, PASSTHROUGH, PV, PVH, SCRIPTED, arrival, entry
from xenmoved.toolstack import policy
from xenmoved.toolstack.domains import parse_domain
from xenmoved.toolstack.interface import NotAnnounced, SourceDisk, ToolstackError
from xenmoved.toolstack.readable import Readable
from xenmoved.toolstack.vetting import rewrite_config


def refused(sample, change=lambda config: None, **arriving):
    config = entry(sample)["config"]
    wanted = arrival(sample, **arriving)
    change(config)
    try:
        return " ".join(rewrite_config(config, wanted))
    except NotAnnounced as error:
        return str(error)


@pytest.mark.parametrize("sample", [PV, PVH, HVM], ids=["pv", "pvh", "hvm"])
def test_ordinary_guests_pass(sample):
    assert refused(sample) == ""


def test_rewriting():
    config = entry(PV)["config"]
    config["c_info"]["domid"] = 7
    config["disks"][0]["script"] = "/etc/xen/scripts/block"
    assert rewrite_config(config, arrival(PV, bridges={"xenbr0": "br-lan"})) == []
    root, data = config["disks"]
    assert root["pdev_path"] == "/dev/here/xvda"
    assert "backend" not in root and "script" not in root
    assert (data["pdev_path"], data["backend"]) == ("/dev/here/xvdb", "qdisk")
    assert config["nics"][0]["bridge"] == "br-lan"
    assert config["nics"][0]["script"] == "vif-bridge"
    assert config["b_info"]["bootloader"] == "pygrub"
    assert "domid" not in config["c_info"]


def test_empty_drive_stays_and_image_in_a_drive_needs_a_volume():
    config = entry(HVM)["config"]
    assert rewrite_config(config, arrival(HVM)) == []
    assert "pdev_path" not in config["disks"][1]
    assert "'hdd'" in refused(HVM, disks={"hda": "/dev/here/hda"})


def test_a_drive_that_is_to_be_empty():
    config = entry(HVM)["config"]
    wanted = arrival(HVM, disks={"hda": "/dev/here/hda", "hdd": ""})
    assert rewrite_config(config, wanted) == []
    assert config["disks"][2] == {"vdev": "hdd", "format": "empty", "is_cdrom": True}
    assert "'hda': has no volume" in refused(HVM, disks={"hda": "", "hdd": ""})


def test_another_name():
    config = entry(PV)["config"]
    assert rewrite_config(config, arrival(PV, name="shop", source_name="web")) == []
    assert config["c_info"]["name"] == "shop"
    said = refused(PV, name="shop", source_name="db")
    assert said == "db is not what was announced: its name is 'web'."


def test_what_was_announced_as_read_only():
    vdev = entry(PV)["config"]["disks"][0]["vdev"]
    assert f"'{vdev}': was announced as read-only" in refused(PV, read_only=frozenset({vdev}))
    assert refused(HVM, read_only=frozenset({"hdd"})) == ""


def sources(sample, **changed):
    """What was announced of each disk of a sample: as it is there, but for one."""
    disks = [disk for disk in parse_domain(entry(sample)).disks if disk.path]
    said = {
        disk.vdev: SourceDisk(disk.path, disk.writable and not disk.cdrom, disk.cdrom)
        for disk in disks
    }
    first = disks[0].vdev
    return said | {first: replace(said[first], **changed)}


def test_disks_are_those_that_were_announced():
    assert refused(PV, sources=sources(PV)) == ""
    said = refused(PV, sources=sources(PV, path="/dev/vg/other"))
    assert "disk 'xvda' is at" in said and "announced at '/dev/vg/other'" in said
    said = refused(PV, sources=sources(PV, writable=False))
    assert "disk 'xvda' is writable, and was announced otherwise" in said
    assert "is not a CD-ROM" in refused(PV, sources=sources(PV, cdrom=True))


def test_an_image_whose_content_has_come_is_raw():
    config = entry(PV)["config"]
    config["disks"][0]["format"] = "qcow2"
    assert rewrite_config(config, arrival(PV, sources=sources(PV, format="qcow2"))) == []
    assert config["disks"][0]["format"] == "raw"
    for other in ("raw", "vhd", None):
        said = refused(
            PV,
            lambda config, other=other: config["disks"][0].update(format=other),
            sources=sources(PV, format="qcow2"),
        )
        assert "and qcow2 is expected" in said


def test_a_disk_that_was_announced_is_in_the_image():
    assert "disk 'xvda' was announced, and is not there" in refused(
        PV, lambda config: config["disks"].pop(0)
    )


def test_everything_is_reported_at_once():
    text = refused(PASSTHROUGH)
    for what in ("pcidevs", "usbdevs", "dtdevs", "irqs"):
        assert what in text
    text = refused(PV, name="other", uuid="")
    assert "its name is 'web'; its uuid is" in text and "none was announced" in text


def test_scripts_and_driver_domains():
    text = refused(SCRIPTED)
    assert "block-iscsi" in text
    assert "driver domain" in text


BUILD = [
    ("device_model", "/bin/sh"),
    ("device_model", "0"),
    ("kernel", "False"),
    ("device_model_stubdomain", "True"),
    ("stubdomain_kernel", "/boot/x"),
    ("stubdomain_cmdline", "x"),
    ("extra", ["-drive", "file=/etc/shadow"]),
    ("extra_pv", ["x"]),
    ("extra_hvm", ["x"]),
    ("kernel", "/etc/shadow"),
    ("ramdisk", "/boot/../etc/shadow"),
    ("ramdisk", ["/boot/x"]),
    ("bootloader", "/bin/sh"),
    ("bootloader", "../pygrub"),
    ("bootloader_args", ["--output=/etc/cron.d/x"]),
    ("bootloader_args", "x"),
    ("device_tree", "/boot/x"),
    ("ioports", [{"first": 1, "number": 1}]),
    ("iomem", [{"start": 1, "number": 1}]),
    ("something_new", "x"),
    ("tsc_mode", "/etc/passwd"),
    ("cmdline", "two\nlines"),
    ("type.pv", {"kernel": "/etc/shadow"}),
    ("type.pv", {"bootloader": "/bin/sh"}),
    ("u", {"hvm": {}}),
]


@pytest.mark.parametrize(("key", "value"), BUILD)
def test_build_information_that_runs_or_opens_something(key, value):
    assert f"b_info.{key.split('.')[0]}" in refused(PV, lambda c: c["b_info"].update({key: value}))


HVM_ONLY = [
    ("serial", "file:/etc/passwd"),
    ("serial_list", ["pty", "unix:/run/x"]),
    ("usbdevice", "host:1234:5678"),
    ("usbdevice_list", ["disk:/dev/sda"]),
    ("soundhw", "hda,/x"),
    ("keymap", "../../etc/passwd"),
    ("boot", "-kernel"),
    ("vnc", {"listen": "unix:/run/x"}),
    ("vnc", {"listen": "127.0.0.1,password"}),
    ("spice", {"host": "a b"}),
    ("sdl", {"display": "unix:/run/x"}),
    ("system_firmware", "0"),
    ("acpi_firmware", "False"),
    ("firmware", "/etc/shadow"),
    ("system_firmware", "/etc/shadow"),
    ("acpi_firmware", "/etc/shadow"),
    ("smbios", [{"key": "oem", "value": "a\nb"}]),
    ("gfx_passthru", "True"),
    ("rdm", {"strategy": "host"}),
    ("unknown", 1),
]


@pytest.mark.parametrize(("key", "value"), HVM_ONLY)
def test_arguments_of_the_device_model(key, value):
    def change(config):
        config["b_info"]["type.hvm"][key] = value

    assert f"type.hvm.{key}" in refused(HVM, change)


DEVICES = [
    ("p9s", [{"tag": "x", "path": "/"}]),
    ("vtpms", [{"devid": 0}]),
    ("virtios", [{"type": "virtio,device"}]),
    ("rdms", [{"start": 1}]),
    ("pvcallsifs", [{"devid": 0}]),
    ("vdispls", [{"devid": 0}]),
    ("vsnds", [{"devid": 0}]),
    ("channels", [{"connection": "socket", "connection.socket": {"path": "/run/x"}}]),
    ("channels", [{"connection.socket": {"path": "/run/x"}}]),
    ("vfbs", [{"vnc": {"listen": "unix:/x"}}]),
    ("vkbs", [{"backend_domid": 3}]),
    ("usbctrls", [{"backend_domname": "usb"}]),
    ("something_new", [1]),
]


@pytest.mark.parametrize(("key", "value"), DEVICES)
def test_devices_of_the_host(key, value):
    assert f"domain.{key}" in refused(PV, lambda c: c.update({key: value}))


@pytest.mark.parametrize(
    "change",
    [
        {"format": "qcow2"},
        {"format": "vhd"},
        {"format": None},
        {"backend_domid": 1},
        {"backend_domname": "storage"},
        {"script": "block-evil"},
        {"colo_host": "10.0.0.1"},
        {"active_disk": "/etc/shadow"},
        {"vdev": "xvdb"},
        {"vdev": "xvdz"},
        {"specification": "/x"},
    ],
)
def test_disks(change):
    assert "disk" in refused(PV, lambda c: c["disks"][0].update(change))


@pytest.mark.parametrize(
    "change",
    [
        {"script": "/tmp/evil"},
        {"script": "/etc/xen/scripts/../../tmp/vif-x"},
        {"script": "qemu-ifup"},
        {"model": "e1000,file=/x"},
        {"bridge": "x;y"},
        {"backend_domid": 2},
        {"coloft_forwarddev": "eth0"},
        {"script": "vif-route"},
        {"colo_sock_mirror_id": "x"},
        {"colo_filter_redirector0_indev": "x"},
    ],
)
def test_network_interfaces(change):
    assert "network interface 0" in refused(PV, lambda c: c["nics"][0].update(change))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ifname", "eth0"),
        ("ifname", "vif1.0"),
        ("ifname", "$(reboot)"),
        ("ip", "0.0.0.0/0"),
        ("ip", "$(reboot)"),
        ("gatewaydev", "eth0"),
    ],
)
def test_what_is_left_out_of_network_interfaces(key, value):
    config = entry(PV)["config"]
    config["nics"][0][key] = value
    assert rewrite_config(config, arrival(PV)) == []
    assert config["nics"][0][key] is None


def test_an_interface_with_the_name_of_its_guest_keeps_it():
    config = entry(PV)["config"]
    config["nics"][0]["ifname"] = f"vif-{arrival(PV).name}.0"
    assert rewrite_config(config, arrival(PV)) == []
    assert config["nics"][0]["ifname"] == f"vif-{arrival(PV).name}.0"


def test_labels_are_left_out_and_memory_is_not_dumped():
    config = entry(PV)["config"]
    config["on_crash"] = "coredump_restart"
    config["c_info"] |= {"ssidref": 7, "ssid_label": "system_u:system_r:dom0_t"}
    config["b_info"]["device_model_user"] = "root"
    config["nics"][0]["ifname"] = "uplink"
    left: list[str] = []
    assert rewrite_config(config, arrival(PV), left_out=left) == []
    assert left == [
        *("the core dump of on_crash", "ssidref", "ssid_label", "device_model_user"),
        "vifname of a network interface",
    ]
    assert config["on_crash"] == "restart"
    assert "ssidref" not in config["c_info"] and config["c_info"]["ssid_label"] is None
    assert config["b_info"]["device_model_user"] is None


def test_a_boot_loader_stays_confined():
    config = entry(PV)["config"]
    config["b_info"]["bootloader_restrict"] = "False"
    assert rewrite_config(config, arrival(PV)) == []
    assert "bootloader_restrict" not in config["b_info"]


def test_a_password_is_not_shown():
    def change(config):
        config["b_info"]["type.hvm"]["vnc"] = {"passwd": "hunter2,x"}

    said = refused(HVM, change)
    assert "vnc.passwd" in said and "hunter2" not in said


@pytest.mark.parametrize(
    ("key", "value"),
    [("xsdata", {"x": "y"}), ("platformdata", {"x": "y"}), ("driver_domain", "True"), ("new", 1)],
)
def test_creation(key, value):
    assert f"c_info.{key}" in refused(PV, lambda c: c["c_info"].update({key: value}))


def test_unknown_keys_with_empty_values_pass():
    assert refused(PV, lambda c: c.update(news=[], b=None, d="<default>")) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"disks": "x"},
        {"nics": [1]},
        {"c_info": 7},
        {"b_info": []},
        {"disks": [{"vdev": ""}]},
        {"vfbs": [7]},
        {"b_info": {"type.pv": "x"}},
        {"b_info": {"type.pv": {}, "type.pvh": {"kernel": "/etc/shadow"}}},
        {"on_crash": "a\0b"},
        {"a\0b": 1},
    ],
)
def test_wrong_shapes(change):
    with pytest.raises(ToolstackError):
        refused(PV, lambda c: c.update(change))


def test_other_folders_to_boot_from():
    config = entry(PVH)["config"]
    config["b_info"]["kernel"] = "/srv/kernels/6.1"
    assert len(rewrite_config(config, arrival(PVH))) == 1
    assert rewrite_config(config, arrival(PVH), Readable(("/srv/kernels", "/boot"))) == []


@pytest.mark.parametrize("key", ["vfbs", "vkbs", "channels", "usbctrls"])
def test_not_any_number_of_devices(key):
    kind = key.removesuffix("s")
    most = policy.MOST_DEVICES[kind]
    assert refused(PV, lambda c: c.update({key: [{}] * most})) == ""
    text = refused(PV, lambda c: c.update({key: [{}] * (most + 1)}))
    assert text == f"domain.{key}: there are {most + 1}, and at most {most} may come"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("max_grant_frames", 100_000), ("max_maptrack_frames", 1 << 20), ("altp2m_count", 9999)),
        *(("event_channels", 1 << 20), ("vcpu_hard_affinity", [[0, 1 << 30]])),
    ],
)
def test_numbers_for_which_xen_sets_memory_aside(key, value):
    assert f"b_info.{key}: may not come" in refused(PV, lambda c: c["b_info"].update({key: value}))


def test_not_any_number_of_empty_drives():
    drives = [{"vdev": f"xvdb{n}", "is_cdrom": 1, "format": "empty"} for n in range(128)]
    text = refused(HVM, lambda c: c["disks"].extend(drives))
    assert "domain.disks: there are 131, and at most 128 may come" in text


def test_a_pvshim_of_this_host():
    build = {"type.pvh": {"pvshim_path": "/etc/shadow"}}
    assert "b_info.type.pvh.pvshim_path" in refused(PVH, lambda c: c["b_info"].update(build))
