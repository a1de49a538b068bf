"""What interfaces of a guest from elsewhere may have of this host, in all three forms."""

import pytest

from tests.support.toolstack_samples import PV, arrival, entry
from xenmoved.toolstack.configs.device_text import adapt_vif
from xenmoved.toolstack.interface import Arrival, ToolstackError
from xenmoved.toolstack.vetting import rewrite_config
from xenmoved.toolstack.wiring import CAUTIOUS, UNKNOWN, Wiring
from xenmoved.toolstack.xm.domain import rewrite_xm_config
from xenmoved.toolstack.xm.sexpr import parse_all, to_string

UUID = "8f2c3c5e-7a0e-4a5c-9c0b-1f4c2f0d9e11"
LAB = Wiring(
    ("vif-bridge", "vif-lab"), ("192.0.2.0/24", "2001:db8::/64"), ("eth0",), "/srv/scripts"
)


def in_json(said, wiring):
    """What libxl gets of an interface, None when it is refused."""
    config = entry(PV)["config"]
    config["nics"] = [{"mac": "00:16:3e:00:00:01", "bridge": "xenbr0", **said}]
    if rewrite_config(config, arrival(PV, wiring=wiring, announced=None)):
        return None
    (nic,) = config["nics"]
    return {key: nic[key] for key in said if nic.get(key)}


def in_text(said, wiring):
    """What xl reads of it."""
    spec = ",".join(f"{key}={value}" for key, value in said.items())
    try:
        adapted = adapt_vif(spec, Arrival("web", "", {}, wiring=wiring))
    except ToolstackError:
        return None
    return dict(part.split("=") for part in adapted.split(",") if part)


def in_sexpr(said, wiring):
    """What xend gets of it."""
    pairs = " ".join(to_string([key, value]) for key, value in said.items())
    (domain,) = parse_all(f"(domain (name web) (uuid {UUID}) (device (vif {pairs})))")
    if rewrite_xm_config(domain, Arrival("web", UUID, {}, wiring=wiring), (), bool):
        return None
    return dict(domain[-1][1][1:])


FORMS = [in_json, in_text, in_sexpr]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("script", "wiring", "there"),
    [
        ("vif-bridge", CAUTIOUS, "vif-bridge"),
        ("vif-openvswitch", CAUTIOUS, "vif-openvswitch"),
        ("vif-lab", LAB, "vif-lab"),
        ("/etc/xen/scripts/vif-lab", LAB, "vif-lab"),
        ("/usr/local/etc/xen/scripts/vif-lab", LAB, "vif-lab"),
        ("vif-elsewhere", UNKNOWN, "vif-elsewhere"),
        *((script, CAUTIOUS, None) for script in ("vif-route", "vif-nat", "vif-lab", "block")),
        *(
            (script, LAB, None)
            for script in ("vif-openvswitch", "vif-route", "vif-lab2", "xvif-lab")
        ),
        *((f"{folder}/vif-lab", LAB, None) for folder in ("", "/tmp", "/srv/scripts", "..", ".")),
        *((f"/etc/{way}/xen/scripts/vif-lab", LAB, None) for way in ("..", "a/../b", "./.")),
        ("../scripts/vif-lab", LAB, None),
        ("/etc/xen/scripts/../vif-lab", LAB, None),
        ("/etc/xen/scripts/..", UNKNOWN, None),
        ("/etc/xen/scripts/a b", UNKNOWN, None),
    ],
)
def test_scripts(form, script, wiring, there):
    assert form({"script": script}, wiring) == (None if there is None else {"script": there})


def test_a_path_that_is_right_here_stays_as_it_is_written():
    spec = "mac=00:16:3e:00:00:01, script=/etc/xen/scripts/vif-bridge"
    assert adapt_vif(spec, Arrival("web", "", {})) == spec


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("address", "passes"),
    [
        *((one, True) for one in ("192.0.2.7", "192.0.2.7 192.0.2.9", "192.0.2.8/29")),
        *((one, True) for one in ("2001:db8::7", "192.0.2.7/24", "192.0.2.0/24")),
        *((one, False) for one in ("198.51.100.1", "192.0.2.7 198.51.100.1", "0.0.0.0/0")),
        *((one, False) for one in ("192.0.2.0/23", "::/0", "2001:db8:0:1::1", "0/0", "default")),
        *((one, False) for one in ("192.0.2.7/255.255.255.0", "192.0.2.07", "any", "192.0.2")),
        *(
            (one, False)
            for one in ("192.0.2.7/-1", "192.0.2.7/0x18", "192.0.2.7;id", "fe80::1%eth0")
        ),
    ],
)
def test_addresses_that_a_script_may_route(form, address, passes):
    said = {"script": "vif-lab", "ip": address}
    assert form(said, LAB) == {"script": "vif-lab"} | ({"ip": address} if passes else {})
    assert form(said, Wiring(("vif-lab",))) == {"script": "vif-lab"}


@pytest.mark.parametrize("form", FORMS)
def test_addresses_that_are_a_filter_of_a_bridge(form):
    said = {"script": "vif-bridge", "ip": "198.51.100.1"}
    assert form(said, CAUTIOUS) == said
    # Which script it then is, is in xl.conf of the target.
    assert form({"ip": "198.51.100.1"}, CAUTIOUS) == {}


@pytest.mark.parametrize("form", FORMS)
def test_devices_to_go_out_by(form):
    assert form({"gatewaydev": "eth0"}, LAB) == {"gatewaydev": "eth0"}
    assert form({"gatewaydev": "eth1"}, LAB) == {}
    assert form({"gatewaydev": "eth0"}, CAUTIOUS) == {}
    assert form({"netdev": "eth0"}, LAB) == {}


def test_what_is_refused_says_what_to_allow():
    with pytest.raises(ToolstackError, match="see `scripts` in `allow` of the source"):
        adapt_vif("script=vif-route", Arrival("web", "", {}))
