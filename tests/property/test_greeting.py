"""Which releases speak with each other, in which version, and what is said of those that do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Code, ReleasesDiffer
from protocol.messages import (
    CAPABILITIES,
    EQUAL,
    OLDEST,
    VERSION,
    Hello,
    agreed_version,
    common_capabilities,
    greeting,
    newest,
)

OURS = greeting("xenmoved 2", "near")


def release(version, oldest=None, capabilities=CAPABILITIES, to=None):
    """Return the greeting of a release; without `oldest` it speaks its own version only."""
    told = () if oldest is None else (f"from-{oldest}",)
    told += () if to is None else (f"to-{to}",)
    return Hello(version, f"xenmoved of {version}", "far", (*capabilities, *told))


def refusal(theirs, ours=OURS):
    with pytest.raises(ReleasesDiffer) as caught:
        common_capabilities(ours, theirs, "host-b")
    assert caught.value.code is Code.VERSION
    return caught.value


def test_this_release_tells_its_range():
    told = (*CAPABILITIES, f"from-{OLDEST}", f"to-{VERSION}")
    assert Hello(EQUAL if OLDEST <= EQUAL else VERSION, "xenmoved 2", "near", told) == OURS
    assert OLDEST <= VERSION == newest(OURS)


@pytest.mark.parametrize(
    ("one", "other", "agreed"),
    [
        (release(8, 7), release(8, 7), 8),
        (release(8, 7), release(9, 8), 8),
        (release(8, 7), release(9, 7), 8),
        (release(8, 7), release(7, 7), 7),
        (release(8, 7), release(10, 9), None),
        (release(8, 8), release(7, 7), None),
        (release(8, 7), release(8), 8),
        (release(8, 7), release(7), None),  # which takes no other version than its own
        (release(7), release(7), 7),
        (release(8, 7), release(9), None),
        (release(8, 7), release(8, 7, ("zstd",)), None),
        (release(8, 7), release(9, 12), None),  # no such range: its own only
        (release(7, 7, to=8), release(7), 7),
        (release(7, 7, to=8), release(7, 7, to=9), 8),
        (release(7, 7, to=8), release(7, 7), 7),
        (release(7, 7, to=8), release(9, 8), 8),
        (release(7, 7, to=8), release(9, 9, to=10), None),
        (release(7, 7, to=8), release(8), None),
        (release(7, 7, to=8), release(7, to=8), 7),  # no range: its own only
        (release(9, 8, to=7), release(9), 9),  # it is not later
    ],
)
def test_two_releases_speak_the_older_of_their_newest_versions(one, other, agreed):
    assert agreed_version(one, other) == agreed_version(other, one) == agreed


@pytest.mark.parametrize("name", ["from-", "from-x", "from-7 ", "from-123456", "from-\u0667"])
def test_what_is_no_range_says_none(name):
    assert agreed_version(release(8, 7), Hello(7, "x", "y", (*CAPABILITIES, name))) is None


releases = st.builds(
    release,
    st.integers(0, 12),
    st.none() | st.integers(0, 14),
    st.sampled_from([CAPABILITIES, CAPABILITIES[:1], CAPABILITIES[1:]]),
    st.none() | st.integers(0, 14),
)


@given(releases, releases)
def test_both_sides_find_the_same(one, other):
    assert agreed_version(one, other) == agreed_version(other, one)
    assert agreed_version(one, other) in (None, min(newest(one), newest(other)))


@given(releases)
def test_whatever_greets_is_spoken_with_or_told_why_not(theirs):
    """Which of the two is to be upgraded follows from the versions, or from what it lacks."""
    try:
        common = common_capabilities(OURS, theirs, "host-b")
    except ReleasesDiffer as error:
        assert agreed_version(OURS, theirs) is None
        assert error.needed
    else:
        assert agreed_version(OURS, theirs) is not None
        assert common == set(CAPABILITIES) & set(theirs.capabilities)


def test_an_older_peer_is_said_to_be_so_with_both_versions():
    ours = release(9, 8)
    older = refusal(release(7, 6), ours)
    assert older.peer_is_older
    assert older.needed == "that speaks version 8"
    said = "host-b (xenmoved of 7) speaks versions 6 to 7 of the protocol"
    assert older.reason == f"{said}, this host (xenmoved of 9) versions 8 to 9"
    before_ranges = refusal(release(8), ours)
    assert before_ranges.peer_is_older
    assert before_ranges.needed == "that speaks version 9"
    assert "speaks version 8 of the protocol" in before_ranges.reason


def test_a_newer_peer_is_said_to_be_so():
    newer = refusal(release(VERSION + 2, VERSION + 1))
    assert not newer.peer_is_older
    assert newer.needed == f"that speaks version {VERSION + 1}"
    assert f"versions {VERSION + 1} to {VERSION + 2}" in newer.reason


@pytest.mark.parametrize("capabilities", [(), ("zstd",), ("BLAKE3-64K",)])
def test_what_a_peer_lacks_is_said(capabilities):
    lacking = refusal(release(VERSION, OLDEST, capabilities))
    assert lacking.reason == f"host-b (xenmoved of {VERSION}) lacks blake3-64k"
    assert (lacking.peer_is_older, lacking.needed) == (True, "that has blake3-64k")
    newer = refusal(release(VERSION + 1, OLDEST, capabilities))
    assert (newer.peer_is_older, newer.needed) == (False, "that can do without blake3-64k")


def test_what_only_one_of_them_has_is_not_used():
    assert common_capabilities(OURS, OURS, "b") == set(CAPABILITIES)
    more = release(VERSION, OLDEST, (*CAPABILITIES, "new"))
    assert common_capabilities(OURS, more, "b") == set(CAPABILITIES)
    assert common_capabilities(OURS, release(EQUAL, None, ("blake3-64k",)), "b") == {"blake3-64k"}
