"""The example file shows every option, and each at its default."""

import dataclasses
import itertools
import re
import shutil
import typing
from pathlib import Path

import pytest
import yaml

from storage.registry import POOL_KINDS
from xenmoved.config.loader import load
from xenmoved.config.model import Allow, Config, Peer

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "etc" / "xenmoved.yaml"


@pytest.fixture
def uncommented(tmp_path: Path) -> Path:
    file = tmp_path / "xenmoved.yaml"
    lines = EXAMPLE.read_text().splitlines()
    # "#key: ..." and "#  key: ..." are options, "# Text" is text.
    kept = [re.sub(r"^#(?! \S)(?=.*\S)", "", line) for line in lines]
    file.write_text("\n".join(kept))
    file.chmod(0o644)
    return file


def _keys(kind: typing.Any) -> typing.Iterator[tuple[str, ...]]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        yield (field.name,)
        if dataclasses.is_dataclass(hints[field.name]):
            yield from ((field.name, *rest) for rest in _keys(hints[field.name]))


def _has(data: typing.Any, path: tuple[str, ...]) -> bool:
    for key in path:
        if key not in data:
            return False
        data = data[key]
    return True


def test_as_it_is_it_changes_nothing(tmp_path):
    file = tmp_path / "xenmoved.yaml"
    shutil.copyfile(EXAMPLE, file)
    file.chmod(0o644)
    assert load(file) == Config()


def test_every_option_is_in_it(uncommented):
    data = yaml.safe_load(uncommented.read_text())
    missing = [path for path in _keys(Config) if not _has(data, path)]
    (peer,) = data["peers"].values()
    missing += [
        ("peers", *path) for path in _keys(Peer) if path != ("name",) and not _has(peer, path)
    ]
    assert missing == []
    assert {pool["kind"] for pool in data["pools"].values()} == set(POOL_KINDS)
    for pool in data["pools"].values():
        options = dataclasses.fields(POOL_KINDS[pool["kind"]][0])
        assert set(pool) == {"kind", *(option.name for option in options)}


def test_every_option_is_at_its_default_unless_it_is_an_example(uncommented):
    config = load(uncommented)
    examples = {"node", "pools", "default_pool", "peers"}
    for field in dataclasses.fields(Config):
        if field.name not in examples:
            assert getattr(config, field.name) == getattr(Config(), field.name), field.name
    peer = config.peers["host-b"]
    assert peer.port == Peer(name="b", address="b", key=peer.key).port
    assert peer.allow != Allow()
    for pool in config.pools.values():
        for option in dataclasses.fields(pool.options):
            if option.default is not dataclasses.MISSING:
                assert getattr(pool.options, option.name) == option.default


def test_every_option_is_explained():
    lines = EXAMPLE.read_text().splitlines()
    unexplained = [
        line
        for before, line in itertools.pairwise(lines)
        if re.match(r"#\w", line) and not before.startswith("# ")
    ]
    assert unexplained == []
