"""What a guest takes where what says so leaves something out."""

import pytest

from protocol.messages import GuestSize
from xenmoved.toolstack.configs.text import describe
from xenmoved.toolstack.domains import size_of
from xenmoved.toolstack.policy import BOOT_FOLDERS
from xenmoved.toolstack.sizes import complete, weight
from xenmoved.toolstack.xm.domain import parse_xm_domain
from xenmoved.toolstack.xm.sexpr import parse_all

MIB = 1 << 20
UUID = "8f2c3c5e-7a0e-4a5c-9c0b-1f4c2f0d9e11"


def _text(said):
    keys = {"memory": "memory", "most": "maxmem"}
    return describe(
        "".join(f"{keys[key]} = {said[key]}\n" for key in said), "web", BOOT_FOLDERS
    ).size


def _json(said):
    keys = {"memory": "target_memkb", "most": "max_memkb"}
    return size_of({keys[key]: said[key] * 1024 for key in said})


def _sexpr(said):
    keys = {"memory": "memory", "most": "maxmem"}
    inside = " ".join(f"({keys[key]} {said[key]})" for key in said)
    text = f"(domain (name web) (uuid {UUID}) {inside} (image (linux (kernel /boot/x))))"
    return parse_xm_domain(parse_all(text)[0]).size


@pytest.mark.parametrize("read", [_text, _json, _sexpr])
@pytest.mark.parametrize(
    ("said", "memory", "maximum"),
    [
        ({"memory": 64}, 64, 64),
        ({"memory": 64, "most": 256}, 64, 256),
        ({"memory": 256, "most": 64}, 256, 256),
        ({"most": 15000}, 15000, 15000),
        ({"memory": 0, "most": 15000}, 15000, 15000),
        ({"memory": 0}, 128, 128),
        ({}, 128, 128),
    ],
)
def test_what_is_not_said_is_what_the_toolstacks_take(read, said, memory, maximum):
    size = read(said)
    assert (size.memory, size.maximum) == (memory * MIB, maximum * MIB)


def test_no_size_weighs_nothing():
    none = GuestSize(0, 0, 0, 1, 1)
    assert weight("pv", none) == weight("pv", complete(none)) == 128 * MIB


@pytest.mark.parametrize("kind", ["hvm", "pvh"])
def test_shadow_memory_that_is_not_said_counts_by_what_the_guest_may_grow_to(kind):
    """libxl: 1 MiB for each processor, two pages for each MiB of `maxmem`."""
    size = GuestSize(64 * MIB, 1_500_000 * MIB, 0, 1, 4)
    assert weight(kind, size) == (64 + 4) * MIB + 1_500_000 * 8192
    assert weight("pv", size) == 64 * MIB
    plain = describe(f"type = '{kind}'\nmemory = 64\nmaxmem = 1500000\n", "web", BOOT_FOLDERS)
    assert plain.memory == (64 + 1) * MIB + 1_500_000 * 8192
