"""What a configuration has a toolstack open, and what is only written in it."""

from __future__ import annotations

import pytest

from xenmoved.toolstack import policy
from xenmoved.toolstack.configs.opened import opened
from xenmoved.toolstack.configs.text import adapt
from xenmoved.toolstack.interface import Arrival, ToolstackError
from xenmoved.toolstack.readable import Readable

VOLUME = "/srv/images/db-root"
ARRIVAL = Arrival("web", "", {"xvda": "/srv/web"}, {"xenbr0": "xenbr0"})
WAYS = (
    *("{0}", "phy:{0}", "phy:sdb", "file={0}", "--args={0}", "--kernel={0}", "a {0}", "mac={0}"),
    *("bridge={0}", "model={0}", "vncpasswd={0}", "keymap={0}", "name={0}", "qcow2:{0}"),
)


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("phy:vg/db,xvda,w", "/dev/vg/db"),
        (f"file:{VOLUME},xvda,w", VOLUME),
        (f"{VOLUME},raw,xvda,rw", VOLUME),
        ("format=raw,vdev=xvda,access=rw,target=/srv/a b,c", "/srv/a b,c"),
        (f"tap2:qcow2:{VOLUME},xvda,w", VOLUME),
        (f"nonsense,{VOLUME},xvda,w,w", VOLUME),
    ],
)
def test_the_disks_of_a_readable_text(spec: str, path: str) -> None:
    assert opened(f'disk = ["{spec}"]\n').paths == {path}


def test_an_empty_drive_opens_nothing() -> None:
    assert opened("disk = [',hdc:cdrom,r']\n").paths == set()


def test_other_keys_that_have_a_file_opened_count_unless_anything_may_stand_there() -> None:
    text = f"kernel = '/boot/k'\ndevice_model_args = ['-drive', 'file={VOLUME}']\nfda = '/srv/f'\n"
    assert opened(text).paths == {"/boot/k", VOLUME, "/srv/f"}
    for key in ("extra", "root", "description", "vncpasswd", "bootargs", "hostname"):
        assert opened(f"{key} = '{VOLUME} qcow2' # {VOLUME}\n").paths == set()
        assert not opened(f"{key} = '{VOLUME} qcow2'\n").formats


def test_in_a_program_all_that_looks_like_a_path_counts() -> None:
    found = opened(f"import os\nextra = '{VOLUME}'\ndisk = ['phy:vg/' + name, 'vhd:/srv/a b']\n")
    assert {VOLUME, "/dev/vg/"} <= found.paths
    assert found.formats == {"vhd"}
    assert any("/srv/a b" in text for text in found.doubtful)


def test_no_text_that_may_come_from_a_peer_opens_what_was_not_agreed_upon() -> None:
    """Whatever the key is that it stands at."""
    taken = 0
    for key in (*policy.DOMAIN, *policy.SPECIFICATIONS, "of_no_xen"):
        for way in WAYS:
            value = way.format(VOLUME)
            for form in ('{0} = "{1}"', '{0} = ["{1}"]'):
                try:
                    text = adapt(
                        form.format(key, value), ARRIVAL, Readable(("/boot",)), lambda _: True
                    )
                except ToolstackError:
                    continue
                taken += value in text
                found = opened(text)
                assert not found.paths & {VOLUME, "/dev/sdb"}, text
                assert not any(value in one for one in found.doubtful), text
    assert taken > 100
