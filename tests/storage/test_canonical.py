"""What kinds of pools call one volume, and the one form of it."""

from __future__ import annotations

import pytest

from storage.canonical import as_if_whole, canonical, wholes

GROUP = "a" * 32
FILE = "inode 12 of 1764367771000001 and handle 1:0c00000001"
LV = ("zZ3aEo", "Ym7t", "Abcd", "efgh", "Ijkl", "0123", "QRstuv")
BY_LVM, OF_DEVICE = "-".join(LV), f"LVM-{GROUP}{''.join(LV)}"


@pytest.mark.parametrize(
    ("called", "expected"),
    [
        (OF_DEVICE, BY_LVM),
        (BY_LVM, BY_LVM),
        (f"CRYPT-LUKS2-12-name on {OF_DEVICE}", f"CRYPT-LUKS2-12-name on {BY_LVM}"),
        (f"loop on {OF_DEVICE} from 0", f"loop on {BY_LVM} from 0"),
    ],
)
def test_one_volume_is_called_the_same(called: str, expected: str) -> None:
    assert canonical(called) == expected
    assert canonical(expected) == expected


@pytest.mark.parametrize(
    "called",
    [
        f"{OF_DEVICE}-real",  # what is beneath a volume that has snapshots
        f"{OF_DEVICE}-tpool",
        "LVM-abcdef",
        f"loop on {FILE} from 0",  # earlier releases did not say to where
        f"loop on {FILE} from 4096",
        f"loop on {FILE} from 0 to 4096",
        f"loop on {FILE} from 0 to 4096 partition ab-1",
        FILE,
        "naa.6001",
        "guid 17",
        "",
    ],
)
def test_a_part_of_one_is_another(called: str) -> None:
    assert canonical(called) == called


def test_what_has_none() -> None:
    assert canonical(None) == as_if_whole(None) == ""


@pytest.mark.parametrize(
    ("noted", "expected"),
    [
        (f"loop on {FILE} from 0", FILE),
        (f"loop on {FILE} from 4096 to 8192", FILE),
        (f"loop on {FILE} from 4096 partition ab-1", f"{FILE} partition ab-1"),
        (f"CRYPT-LUKS2-12-name on loop on {FILE} from 0", f"CRYPT-LUKS2-12-name on {FILE}"),
        (f"loop on loop on {FILE} from 0 to 4096 from 512", FILE),
        ("loop on loop on naa.6001 partition ab-1 from 0 from 1", "naa.6001 partition ab-1"),
        (FILE, FILE),
        (BY_LVM, BY_LVM),
    ],
)
def test_what_may_have_to_be_left_alone(noted: str, expected: str) -> None:
    assert as_if_whole(noted) == expected


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("naa.6001 partition ab-1", ["naa.6001"]),
        (
            "CRYPT-LUKS2-12-name on naa.6001 partition ab-1",
            ["naa.6001 partition ab-1", "naa.6001"],
        ),
        (f"loop on {FILE} from 0 to 4096", [FILE]),
        (
            f"loop on {FILE} from 4096 partition ab-1",
            [f"loop on {FILE} from 4096", FILE],
        ),
        ("loop on naa.6001 partition ab-1 from 4096", ["naa.6001 partition ab-1", "naa.6001"]),
        (FILE, []),
        (BY_LVM, []),
    ],
)
def test_what_a_part_is_of(part: str, expected: list[str]) -> None:
    assert list(wholes(part)) == expected
