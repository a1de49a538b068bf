"""Releases that are too far apart: both are told so, and nobody else is concerned."""

import json

import pytest

from protocol.messages import OLDEST, VERSION
from tests.support.crash import GUEST, SETTINGS
from tests.support.releases import FAR, PRESENT, ReleaseHost, earlier_releases
from xenmoved.sandbox.harness import make_image

TOO_OLD = [one.name for one in earlier_releases() if one.version < OLDEST]
SPOKEN = {one.name: one.version for one in earlier_releases()}
REFUSED = 3


def reasons(ended):
    """Return code, text and hint of every reason for which `xenmovectl --json` has ended."""
    (failure,) = (json.loads(line) for line in ended.stdout.splitlines()[-1:])
    return [(each["code"], each["text"], each["hint"]) for each in failure["problems"]]


def expected(other):
    """Return the code, what the text has of both, and whom the hint has upgraded."""
    if other == FAR:
        theirs, host = f"versions {VERSION + 1} to {VERSION + 2} of the protocol", "this host"
        return "peer-too-new", theirs, f"on {host} to a release that speaks version {VERSION + 1}"
    theirs = f"version {SPOKEN[other]} of the protocol"
    return "peer-too-old", theirs, f"on host-b to a release that speaks version {OLDEST}"


def assert_told(found, other):
    """Check that of a refusal one reason names both releases and what to do."""
    code, theirs, upgrade = expected(other)
    ((_, text, hint),) = [each for each in found if each[0] == code]
    assert text.startswith("host-b (xenmoved ")
    assert theirs in text
    assert "this host (xenmoved " in text
    assert f"version {VERSION}" in text or f"to {VERSION}" in text
    assert upgrade in hint


@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.parametrize("other", [FAR, *TOO_OLD])
def test_a_peer_that_is_too_old_or_too_new_is_said_to_be_so(world_of, other, tmp_path):
    world = world_of(PRESENT, other)
    present, far = world.pair
    make_image(present.images / "spare", 1)
    for command in (
        ("peer", "ping", "host-b"),
        ("migrate", GUEST, "host-b"),
        ("sync", "images:spare", "host-b"),
        ("evacuate", "host-b"),
        ("evacuate", "host-b", "--dry-run"),
    ):
        ended = present.ctl(*command, "--json")
        assert ended.returncode != 0
        assert_told(reasons(ended), other)
    planned = present.ctl("plan", GUEST, "host-b", "--json")
    assert planned.returncode == REFUSED
    plan = json.loads(planned.stdout.splitlines()[-1])
    assert_told([(one["code"], one["text"], one["hint"]) for one in plan["problems"]], other)
    there = far.ctl("peer", "ping", "host-a")  # in its own words
    assert there.returncode != 0
    assert "version" in there.stderr
    assert present.domains().keys() == {GUEST}
    (present.images / "spare").unlink()

    third = ReleaseHost(tmp_path, "host-c", present._trees, PRESENT, SETTINGS)
    try:
        third.start()
        third.trust(present)
        present.trust(third)
        for mode in ("--dry-run", "--quiet"):
            ended = present.ctl("evacuate", "host-b", "host-c", mode)
            assert ended.returncode == 0, ended
            said = ended.stdout + ended.stderr
            assert "no guest goes to a peer that could not be asked" in said
            assert expected(other)[1] in said
        assert third.check()["ok"]
        assert present.domains() == {}
    finally:
        third.close()
