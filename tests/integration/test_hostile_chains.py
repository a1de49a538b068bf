"""A peer and what lies beneath the images of guests that are at home: nobody's own, and needed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.messages import Rejected
from storage.contracts import UNKNOWN
from tests.integration.test_hostile_peer import (
    SIZE,
    Target,
    running,
    saved,
    target,
    until_idle,
)
from tests.support.hostile import *

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
HOME = "name = 'home'\nuuid = '11111111-1111-1111-1111-111111111111'\nmemory = 2\n"
PRECIOUS = b"PRECIOUS"
