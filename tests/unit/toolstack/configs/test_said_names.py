"""Whose a text is that says no name: nobody's but where it lies, and none comes so."""

import pytest

from xenmoved.toolstack.configs.boot_entries import BootEntries
from xenmoved.toolstack.configs.text import TEXT_LIMIT, named, with_name
from xenmoved.toolstack.interface import Arrival, ToolstackError

UUID = "8f2c3c5e-7a0e-4a5c-9c0b-1f4c2f0d9e11"
COMES = "memory = 512\ndisk = ['file:/there/root.img,xvda,w']"
HERE = COMES.replace("/there/", "/srv/here/")
ARRIVAL = Arrival("web", UUID, {"xvda": "/srv/here/root.img"}, {})
MIB = 1 << 20


@pytest.mark.parametrize("end", ["", "\n", "# \\", "\nname = ['web']\n"])
@pytest.mark.parametrize("name", ["web", "it's", 'the "one"'])
def test_a_text_gets_the_name_that_it_does_not_say(end, name):
    text = with_name(f"# coding: latin-1\n{COMES}{end}", name)
    assert (named(text), with_name(text, "other")) == (name, text)
    assert text.startswith("# coding: latin-1\n")


@pytest.mark.parametrize(("text", "name"), [("", "a\\b"), ("", "'\""), ("#" * TEXT_LIMIT, "web")])
def test_what_cannot_have_its_name_is_not_used(text, name):
    with pytest.raises(ToolstackError):
        with_name(text, name)


async def test_what_comes_says_its_name(folder, tmp_path):
    for _ in range(2):
        assert await folder.install("web", COMES, ARRIVAL, True) == ()
    assert (tmp_path / "web.cfg").read_text() == f"{HERE}\nname = 'web'\n"


async def test_one_that_is_back_has_its_own_file_that_says_none(folder, tmp_path):
    (tmp_path / "web.cfg").write_text(HERE)
    (tmp_path / "auto/07-web").symlink_to("../web.cfg")
    await folder.retire("web", UUID)
    for _ in range(2):
        assert await folder.install("web", f"{COMES}\nname = 'web'\n", ARRIVAL, True) == ()
    assert (tmp_path / "web.cfg").read_text() == HERE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["auto", "web.cfg"]
    assert [path.name for path in (tmp_path / "auto").iterdir()] == ["07-web"]


async def test_what_says_no_name_counts_for_itself_at_boot(folder, tmp_path):
    (tmp_path / "10-web.cfg").write_text(f"name = '10-web'\n{HERE}")
    (tmp_path / "web.cfg").write_text(HERE)
    (tmp_path / "auto/20-10-web.cfg").symlink_to("../10-web.cfg")
    (tmp_path / "auto/10-web.cfg").symlink_to("../web.cfg")
    assert (await folder.at_boot("db", "")).memory == 2 * 512 * MIB
    (tmp_path / "db.auto.held").mkdir()
    (tmp_path / "db.auto.held/10-web.cfg").symlink_to("../web.cfg")
    assert (await folder.at_boot("new", "")).memory == 3 * 512 * MIB, "any may be started"


@pytest.mark.parametrize(
    ("order", "others", "name"),
    [
        ("3", {"db"}, "3web.cfg"),
        ("3", {"3web"}, "web.cfg"),
        ("10-", {"10-web"}, "web.cfg"),
        ("", {"web.2"}, "web.cfg"),
    ],
)
def test_a_new_entry_is_not_called_like_another_guest(tmp_path, order, others, name):
    assert BootEntries(tmp_path).new_name("web", order, others) == name


async def test_a_new_entry_is_not_called_like_a_guest_of_the_folder(folder, tmp_path):
    """Running or not, or gone: it has its file here."""
    (tmp_path / "three.cfg.moved").write_text("name = '3web'\n")
    arrival = Arrival("web", UUID, {"xvda": "/srv/here/root.img"}, {}, boot_order="3")
    await folder.install("web", COMES, arrival, True)
    assert [path.name for path in (tmp_path / "auto").iterdir()] == ["web.cfg"]
