"""What is installed, built once for all tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from package import bundle, deb
from tests.roots.root import Root, copy_of, debian

OLDER = "0.1.9"
"""The version of a package of this source that the others upgrade."""


@pytest.fixture(scope="session", params=deb.RELEASES.values(), ids=lambda one: one.name)
def release(request: pytest.FixtureRequest) -> deb.Release:
    found: deb.Release = request.param
    return found


@pytest.fixture(scope="session")
def package(release: deb.Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deb.build(tmp_path_factory.mktemp("dist"), release)


@pytest.fixture(scope="session")
def older(release: deb.Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("older")
    return deb.build(folder, release, version=OLDER, compression="none")


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle.build(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def root(release: deb.Release) -> Iterator[Root]:
    with copy_of(debian(release)) as fresh:
        yield fresh


def pytest_sessionstart() -> None:
    """End at once where something is missing that every run needs."""
    missing = [one for one in ("debootstrap", "lintian", "piuparts") if shutil.which(one) is None]
    if missing:
        pytest.exit(f"this needs: apt-get install {' '.join(missing)}", 2)
    if os.geteuid() != 0:
        pytest.exit("this makes systems with debootstrap, and enters them: run it as root", 2)
