"""What is found in a text is remembered, for texts of a bounded length together."""

from __future__ import annotations

import pytest

from xenmoved.toolstack.configs import opened, per_text, text
from xenmoved.toolstack.configs.folder import ConfigFolder

UUID = "12345678-1234-1234-1234-123456789abc"


async def test_a_file_is_taken_apart_once_however_often_it_is_looked_at(tmp_path, monkeypatch):
    taken = []

    def counted(said, statements=text.statements):
        taken.append(said)
        return statements(said)

    for module in (text, opened):
        monkeypatch.setattr(module, "statements", counted)
    folder = ConfigFolder(tmp_path, ())
    lines = f"name = 'web'\nuuid = '{UUID}'\ndisk = ['/x/{tmp_path.name},raw,xvda,w']\n"
    for _ in range(3):
        (tmp_path / "web.cfg").write_text(lines)
        (said,) = (await folder.read_all()).values()
        (file,) = await folder.files("web", UUID)
        assert (text.named(said), text.uuid_in(said), file.uuid) == ("web", UUID, UUID)
        disks = frozenset({f"/x/{tmp_path.name}"})
        assert (text.own_disks(said), opened.written(said)) == (disks, disks)
        assert opened.opened(said).paths == disks
    assert len(taken) == 2  # what it tells, and what is opened
    (tmp_path / "web.cfg").write_text(lines.replace("web", "db"))
    (said,) = (await folder.read_all()).values()
    assert text.named(said) == "db"


@pytest.mark.parametrize("said", ["", "name = 'a'\nimport os\n", "\udcff", "name = \udcff"])
def test_texts_of_any_kind_are_remembered(said):
    assert [text.named(said) for _ in range(2)] == ["a" if "name = '" in said else None] * 2


def test_what_was_asked_for_last_is_remembered(monkeypatch):
    monkeypatch.setattr(per_text, "_MOST_CHARACTERS", 3 * 2000)
    asked = []

    @per_text.per_text
    def length(said):
        asked.append(said[0])
        return len(said)

    for letter in "abcacdacb":
        assert length(letter * 900) == 900
    assert asked == [*"abcdb"]
    assert length("e" * 10000) == 10000
    assert length("a" * 900) == 900
    assert asked == [*"abcdbea"]
