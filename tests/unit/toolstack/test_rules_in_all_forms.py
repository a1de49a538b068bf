"""What the table says holds in all three forms: libxl's JSON, xl.cfg and S-expressions."""

from dataclasses import dataclass

import pytest

from tests.support.toolstack_samples import HVM, UUID, arrival, entry
from xenmoved.toolstack.configs.text import adapt
from xenmoved.toolstack.interface import Arrival, ToolstackError
from xenmoved.toolstack.policy import BOOT_FOLDERS
from xenmoved.toolstack.vetting import rewrite_config
from xenmoved.toolstack.xm.domain import rewrite_xm_config
from xenmoved.toolstack.xm.sexpr import parse_all, to_string

REFUSED, LEFT_OUT, PASSES = "refused", "left out", "passes"
OPTIONS = ("keymap", "boot", "soundhw", "serial", "usbdevice")
LISTS = ("vfbs", "channels")
SPICE = ("spice_image_compression", "spice_streaming_video")


@dataclass
class Judged:
    """What becomes of a configuration: how, what is said of it, and what the toolstack gets."""

    outcome: str
    said: str
    got: str


def in_json(path, value):
    """Judge a value somewhere in a configuration of libxl."""
    config, left = entry(HVM)["config"], []
    config["nics"] = [{"mac": "00:16:3e:00:00:01"}]
    place = config
    *way, key = path.split("/")
    for step in way:
        place = place[0] if step == "0" else place.setdefault(step, [{}] if step in LISTS else {})
    place[key] = value
    problems = rewrite_config(config, arrival(HVM), left_out=left)
    return judged(problems, left, str(config))


def in_text(line, _=None):
    """Judge a line of a file."""
    left = []
    text = f"name = 'web'\ntype = 'hvm'\nmemory = 8\n{line}\n"
    try:
        adapted = adapt(text, Arrival("web", "", {}), BOOT_FOLDERS.unseen, bool, left)
    except ToolstackError as error:
        return Judged(REFUSED, str(error), "")
    return judged([], left, adapted)


def in_sexpr(item, where="domain"):
    """Judge an item of a description of xend."""
    parts = {place: item if place == where else "" for place in ("domain", "image", "vif", "vfb")}
    (domain,) = parse_all(
        f"(domain (name web) (uuid {UUID}) {parts['domain']} (image (hvm {parts['image']}))"
        f"(device (vif (mac x) {parts['vif']})) (device (vfb (vnc 1) {parts['vfb']})))"
    )
    left = []
    problems = rewrite_xm_config(domain, Arrival("web", UUID, {}), BOOT_FOLDERS.unseen, bool, left)
    return judged(problems, left, to_string(domain))


def judged(problems, left, got):
    outcome = REFUSED if problems else LEFT_OUT if left else PASSES
    return Judged(outcome, " ".join([*problems, *left]), got)


RULES = {
    "another interface's name": (
        LEFT_OUT,
        in_json("nics/0/ifname", "eth0"),
        in_text("vif = ['vifname=eth0']"),
        in_sexpr("(vifname eth0)", "vif"),
    ),
    "the guest's own name": (
        PASSES,
        in_json("nics/0/ifname", "vif-win.0"),
        in_text("vif = ['vifname=vif-web.0']"),
        in_sexpr("(vifname vif-web.0)", "vif"),
    ),
    "labels": (
        LEFT_OUT,
        in_json("c_info/ssid_label", "system_u:system_r:dom0_t"),
        in_json("b_info/exec_ssid_label", "system_u:system_r:dom0_t"),
        in_json("b_info/device_model_ssid_label", "system_u:system_r:dom0_t"),
        in_json("c_info/ssidref", 5),
        in_text("seclabel = 'system_u:system_r:dom0_t'"),
        in_text("init_seclabel = 'system_u:system_r:dom0_t'"),
        in_text("device_model_stubdomain_seclabel = 'system_u:system_r:dom0_t'"),
        in_sexpr("(security_label ACM:policy:label)"),
        in_sexpr("(security ((access_control (policy x) (label y))))"),
        in_sexpr("(label x)", "vif"),
        in_sexpr("(policy x)", "vif"),
    ),
    "labels of an interface": (
        LEFT_OUT,
        in_text("vif = ['policy=x']"),
        in_text("vif = ['label=x']"),
        in_text("vif = ['security_label=x']"),
        in_sexpr("(security_label x)", "vif"),
    ),
    "COLO and filters": (
        REFUSED,
        in_json("nics/0/coloft_forwarddev", "eth0"),
        in_json("nics/0/colo_sock_mirror_ip", "0.0.0.0"),
        in_json("nics/0/colo_filter_redirector0_indev", "x"),
        in_json("disks/0/active_disk", "/etc/shadow"),
        in_text("vif = ['forwarddev=eth0']"),
        in_text("vif = ['colo_sock_mirror_ip=0.0.0.0']"),
        in_text("vif = ['colo_filter_redirector0_indev=x']"),
        in_sexpr("(forwarddev eth0)", "vif"),
        in_sexpr("(colo_sock_mirror_ip 0.0.0.0)", "vif"),
    ),
    "another script": (
        REFUSED,
        in_json("nics/0/script", "vif-route"),
        in_text("vif = ['script=vif-route']"),
        in_sexpr("(script vif-route)", "vif"),
    ),
    "addresses and gateways": (
        LEFT_OUT,
        in_json("nics/0/ip", "192.0.2.1"),
        in_json("nics/0/gatewaydev", "eth0"),
        in_text("vif = ['ip=192.0.2.1']"),
        in_text("vif = ['gatewaydev=eth0']"),
        in_sexpr("(ip 192.0.2.1)", "vif"),
        in_sexpr("(gatewaydev eth0)", "vif"),
    ),
    "core dumps": (
        LEFT_OUT,
        in_json("on_crash", "coredump_restart"),
        in_json("on_poweroff", "Coredump-Destroy"),
        in_text("on_crash = 'coredump-restart'"),
        in_text("on_watchdog = 'coredump-destroy'"),
        in_sexpr("(on_crash coredump-restart)"),
        in_sexpr("(on_poweroff coredump-destroy)"),
    ),
    "domains kept beside the one that takes their place": (
        LEFT_OUT,
        in_json("on_reboot", "restart_rename"),
        in_json("on_crash", "Rename-Restart"),
        in_text("on_reboot = 'rename-restart'"),
        in_sexpr("(on_reboot rename-restart)"),
    ),
    "what its host did with the kernel": (
        LEFT_OUT,
        *(in_sexpr(f"(use_tmp_{what} 1)", "image") for what in ("kernel", "ramdisk")),
        *(in_sexpr(f"(use_tmp_{what} 1)") for what in ("kernel", "ramdisk")),
    ),
    "sound cards": (
        PASSES,
        in_json("b_info/type.hvm/soundhw", "ac97,es1370"),
        in_text("soundhw = 'all'"),
        in_sexpr("(soundhw sb16,es1370)", "image"),
    ),
    "no path where one belongs": (
        REFUSED,
        *(in_json(f"b_info/{key}", "0") for key in ("kernel", "ramdisk", "device_model")),
        *(in_json(f"b_info/{key}", "False") for key in ("kernel", "ramdisk", "device_model")),
        *(in_json(f"b_info/type.hvm/{key}", "0") for key in ("system_firmware", "smbios_firmware")),
        *(in_json(f"b_info/{key}", True) for key in ("kernel", "ramdisk")),
        *(in_text(f"{key} = '0'") for key in ("kernel", "ramdisk", "firmware_override")),
        *(in_text(f"{key} = 0") for key in ("kernel", "ramdisk", "firmware_override")),
        *(in_text(f"{key} = 'False'") for key in ("kernel", "device_model_override", "bootloader")),
        *(in_sexpr(f"({key} 0)", "image") for key in ("kernel", "ramdisk", "loader")),
        *(in_sexpr(f"({key} False)", "image") for key in ("kernel", "device_model")),
        in_sexpr("(bootloader 0)"),
    ),
    "more parts of an option of the device model": (
        REFUSED,
        *(
            in_json("b_info/type.hvm/spice", {"enable": "True", key: value})
            for key in ("image_compression", "streaming_video", "host")
            for value in ("off,unix", "off=on")
        ),
        *(in_json(f"b_info/type.hvm/{key}", "a,b=c") for key in OPTIONS),
        in_json("b_info/type.hvm/vnc", {"enable": "True", "listen": "0,to=9"}),
        in_json("b_info/type.hvm/vga", {"kind": "std,x=y"}),
        in_json("b_info/kernel", "/boot/a,/etc/shadow"),
        in_json("b_info/ramdisk", "/boot/a,/etc/shadow"),
        in_json("channels/0/name", "a,b=c"),
        in_json("nics/0/model", "e1000,x=y"),
        *(in_text(f"{key} = 'off,{more}'") for key in SPICE for more in ("unix", "x=y")),
        *(in_text(f"{key} = 'a,b=c'") for key in OPTIONS),
        *(in_text(f"{key} = 'std,x=y'") for key in ("vga", "vnclisten", "spicehost")),
        in_text("ramdisk = '/boot/a,/etc/shadow'"),
        in_text("channel = ['name=a=b']"),
        in_text("vfb = ['vnclisten=0=1']"),
        *(in_sexpr(f"({key} 'a,b=c')", "image") for key in (*OPTIONS, *SPICE, "vga")),
        in_sexpr("(ramdisk '/boot/a,/etc/shadow')", "image"),
        in_sexpr("(keymap 'a,b=c')", "vfb"),
    ),
    "passwords": (
        REFUSED,
        in_json("b_info/type.hvm/vnc", {"enable": "True", "passwd": "hunter2,a"}),
        in_json("b_info/type.hvm/spice", {"enable": "True", "passwd": "hunter2,a"}),
        in_json("vfbs/0/vnc", {"passwd": "hunter2,a"}),
        in_json("b_info/extra_hvm", ["-spice", "port=1,password=hunter2"]),
        in_text("vncpasswd = 'hunter2,a'"),
        in_text("spicepasswd = 'hunter2,a'"),
        in_text("vfb = ['vncpasswd=\\'hunter2']"),
        in_text("device_model_args = ['-spice', 'port=1,password=hunter2']"),
        in_sexpr("(vncpasswd 'hunter2,a')", "image"),
        in_sexpr("(vncpasswd 'hunter2,a')", "vfb"),
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_one_in_all_forms(rule):
    wanted, *found = RULES[rule]
    assert [one.outcome for one in found] == [wanted] * len(found), found


@pytest.mark.parametrize("rule", RULES)
def test_what_is_left_out_is_in_no_form(rule):
    for one in RULES[rule][1:]:
        if one.outcome == LEFT_OUT:
            values = ("eth0", "dom0_t", "192.0.2.1", "coredump", "Coredump")
            assert not any(f"{value}'" in one.got or f"{value})" in one.got for value in values)


def test_no_password_is_shown():
    for one in RULES["passwords"][1:]:
        assert "hunter2" not in one.said
