"""A folder of configurations that is empty."""

from pathlib import Path

import pytest

from xenmoved.toolstack.configs.folder import ConfigFolder
from xenmoved.toolstack.policy import BOOT_FOLDERS


@pytest.fixture
def folder(tmp_path: Path) -> ConfigFolder:
    (tmp_path / "auto").mkdir()
    return ConfigFolder(tmp_path, BOOT_FOLDERS.unseen)
