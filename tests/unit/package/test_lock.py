"""requirements.lock: what is shipped is what the program asks for."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from package.wheels import LOCK, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WANTED = [Requirement(text) for text in PROJECT["dependencies"]]


def locked():
    """The version and the hashes of each package in the lock."""
    entries = re.split(r"^(?=[a-z])", LOCK.read_text(), flags=re.MULTILINE)[1:]
    found = {}
    for entry in entries:
        name, version = re.match(r"([a-z0-9.-]+)==(\S+)", entry).groups()
        found[canonicalize_name(name)] = version, re.findall(r"--hash=sha256:[0-9a-f]{64}", entry)
    return found


@pytest.mark.parametrize("wanted", WANTED, ids=lambda wanted: wanted.name)
def test_the_lock_has_what_the_program_asks_for(wanted):
    version, hashes = locked()[canonicalize_name(wanted.name)]
    assert wanted.specifier.contains(version)
    assert hashes


@pytest.mark.parametrize("name", locked())
def test_the_lock_has_what_its_packages_ask_for(name):
    assert locked()[name][1], "no hash"
    try:
        asked = [Requirement(text) for text in requires(name) or ()]
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed here")
    needed = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    assert {canonicalize_name(one.name) for one in needed} <= locked().keys()


def test_a_library_whose_internals_are_used_has_an_upper_bound():
    [asyncssh] = [one for one in WANTED if one.name == "asyncssh"]
    assert not asyncssh.specifier.contains("3.0")


def test_the_copyright_file_names_every_package():
    text = (ROOT / "package/debian/copyright").read_text()
    named = {canonicalize_name(name) for name in re.findall(r"site-packages/([\w.]+)\*", text)}
    missing = {name for name in locked() if not any(name.startswith(one) for one in named)}
    assert missing == set()
