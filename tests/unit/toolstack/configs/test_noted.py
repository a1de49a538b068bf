"""The place of a file that is set aside while its guest leaves is that guest's."""

from dataclasses import replace
from pathlib import Path

import pytest

from xenmoved.toolstack.configs.noted import Notes
from xenmoved.toolstack.interface import Arrival, ToolstackError

WEB = "8f2c3c5e-7a0e-4a5c-9c0b-1f4c2f0d9e11"
SHOP = "11111111-7a0e-4a5c-9c0b-1f4c2f0d9e11"
OWN = f"name = 'web'\nuuid = '{WEB}'\nmemory = 512\ndisk = ['file:/srv/web.img,xvda,w']\n"
COMES = f"name = 'shop'\nuuid = '{SHOP}'\nmemory = 64\ndisk = ['file:/srv/shop.img,xvda,w']\n"
ARRIVAL = Arrival("shop", SHOP, {"xvda": "/srv/shop.img"}, {}, returns=False)
MIB = 1 << 20


@pytest.fixture
async def leaving(folder, tmp_path):
    """Have `web` leave, whose file is called like another guest."""
    (tmp_path / "shop.cfg").write_text(OWN)
    (tmp_path / "auto/01-shop.cfg").symlink_to("../shop.cfg")
    await folder.set_aside("web", WEB)
    assert not (tmp_path / "shop.cfg").exists()
    return folder


def listed(path):
    return sorted(str(one.relative_to(path)) for one in path.rglob("*"))


@pytest.mark.parametrize("autostart", [True, False])
async def test_what_comes_does_not_take_the_place(leaving, tmp_path, autostart):
    assert await leaving.kept_for_another("shop", SHOP) == tmp_path / "shop.cfg"
    foreseen = await leaving.foresee("shop", COMES, ARRIVAL, autostart)
    for _ in range(2):
        (remark,) = await leaving.install("shop", COMES, ARRIVAL, autostart)
    assert foreseen == (remark,)
    assert (remark.code, "kept for the configuration of web" in remark.text) == (
        "config-received",
        True,
    )
    assert (tmp_path / "shop.cfg.received").read_text() == COMES
    for _ in range(2):
        await leaving.release_autostart("web")
    assert listed(tmp_path) == ["auto", "auto/01-shop.cfg", "shop.cfg", "shop.cfg.received"]
    assert (tmp_path / "auto/01-shop.cfg").read_text() == OWN
    assert await leaving.kept_for_another("shop", SHOP) is None


async def test_a_place_is_nobody_elses_once_the_guest_has_left(leaving, tmp_path):
    await leaving.retire("web", WEB)
    assert await leaving.kept_for_another("shop", SHOP) is None
    assert await leaving.install("shop", COMES, ARRIVAL, False) == ()
    assert (tmp_path / "shop.cfg").read_text() == COMES
    assert (tmp_path / "shop.cfg.moved").read_text() == OWN


@pytest.mark.parametrize("called", ["shop", "shop.cfg", "shop.cfg.moved"])
async def test_no_name_makes_the_place_its_own(leaving, called):
    assert await leaving.kept_for_another(called, SHOP) is not None
    assert await leaving.kept_for_another("web", WEB) is None
    assert await leaving.kept_for_another("db", SHOP) is None


@pytest.mark.parametrize("where", ["auto", "held"])
async def test_what_is_set_aside_counts_whatever_is_in_its_place(leaving, tmp_path, where):
    """So does that."""
    assert (await leaving.at_boot("db", "")).memory == 512 * MIB
    (tmp_path / "shop.cfg").write_text(COMES)
    if where == "auto":
        (tmp_path / "auto/shop.cfg").symlink_to("../shop.cfg")
    assert (await leaving.at_boot("db", "")).memory == (512 + 64) * MIB
    texts = await leaving.read_all()
    assert texts[str(tmp_path / "shop.cfg.moved")] == OWN
    assert not [path for path in texts if path.endswith(".aside")]


async def test_all_stays_held_while_another_guest_has_the_place(leaving, tmp_path):
    (tmp_path / "shop.cfg").write_text(COMES)
    before = listed(tmp_path)
    for _ in range(2):
        with pytest.raises(ToolstackError, match=r"shop\.cfg is not of web.*rename"):
            await leaving.release_autostart("web")
    assert listed(tmp_path) == before
    assert not list((tmp_path / "auto").iterdir())
    (tmp_path / "shop.cfg").rename(tmp_path / "other.cfg")
    await leaving.release_autostart("web")
    assert (tmp_path / "auto/01-shop.cfg").read_text() == OWN


async def test_what_says_that_it_is_the_guests_is_used_instead(leaving, tmp_path):
    newer = OWN.replace("512", "768")
    (tmp_path / "shop.cfg").write_text(newer)
    await leaving.release_autostart("web")
    assert (tmp_path / "auto/01-shop.cfg").read_text() == newer
    assert (tmp_path / "shop.cfg.moved").read_text() == OWN


@pytest.mark.parametrize("step", ["set_aside", "retire"])
async def test_another_guest_that_leaves_from_there_takes_another_name(leaving, tmp_path, step):
    """Nothing is put over what is set aside, nor does either come back as the other's."""
    (tmp_path / "shop.cfg").write_text(COMES)
    (tmp_path / "shop.2.cfg").write_text("name = 'shop.2'\n")
    for _ in range(2):
        await getattr(leaving, step)("shop", SHOP)
    assert (tmp_path / "shop.cfg.moved").read_text() == OWN
    assert (tmp_path / "shop.3.cfg.moved").read_text() == COMES
    await leaving.release_autostart("shop")
    if step == "set_aside":
        assert (tmp_path / "shop.cfg").read_text() == COMES
        (tmp_path / "shop.cfg").unlink()
    await leaving.release_autostart("web")
    assert (tmp_path / "shop.cfg").read_text() == OWN
    assert not list(tmp_path.glob("*.replaced"))
    if step == "retire":
        await leaving.restore("shop", SHOP)
        assert (tmp_path / "shop.3.cfg").read_text() == COMES


@pytest.mark.parametrize("step", ["set_aside", "retire"])
async def test_a_guest_that_leaves_takes_no_other_ones_file_from_its_place(leaving, tmp_path, step):
    (tmp_path / "shop.cfg").write_text(COMES)
    await getattr(leaving, step)("web", WEB)
    assert (tmp_path / "shop.cfg").read_text() == COMES
    assert (tmp_path / "shop.cfg.moved").read_text() == OWN


async def test_only_what_was_set_aside_comes_back(leaving, tmp_path):
    """Whatever is called so by then."""
    (tmp_path / "shop.cfg.moved").rename(tmp_path / "kept.cfg.moved")
    (tmp_path / "shop.cfg.moved").write_text(COMES)
    await leaving.release_autostart("web")
    assert (tmp_path / "shop.cfg").read_text() == OWN
    assert (tmp_path / "shop.cfg.moved").read_text() == COMES


async def test_what_was_only_held_takes_nothing_back(folder, tmp_path):
    (tmp_path / "web.cfg").write_text(OWN)
    (tmp_path / "web.cfg.moved").write_text(OWN.replace("512", "1"))
    await folder.hold_autostart("web", WEB)
    (tmp_path / "web.cfg").unlink()
    await folder.release_autostart("web")
    assert listed(tmp_path) == ["auto", "web.cfg.moved"]


@pytest.mark.parametrize("place", ["free", "taken"])
async def test_what_an_earlier_release_set_aside_comes_back(folder, tmp_path, place):
    """It noted the place alone."""
    (tmp_path / "web.auto.held").mkdir()
    (tmp_path / "web.auto.held/.file").symlink_to(tmp_path / "shop.cfg")
    (tmp_path / "shop.cfg.moved").write_text(OWN if place == "free" else COMES)
    assert await folder.kept_for_another("shop", SHOP) == tmp_path / "shop.cfg"
    await folder.release_autostart("web")
    assert (tmp_path / "shop.cfg").exists() == (place == "free")


async def test_a_link_is_set_aside_as_it_is(folder, tmp_path):
    (tmp_path / "git").mkdir()
    (tmp_path / "git/web.cfg").write_text(OWN)
    (tmp_path / "web.cfg").symlink_to("git/web.cfg")
    for _ in range(2):
        await folder.set_aside("web", WEB)
    assert (tmp_path / "web.cfg.moved").readlink() == Path("git/web.cfg")
    await folder.release_autostart("web")
    assert listed(tmp_path) == ["auto", "git", "git/web.cfg", "web.cfg"]


async def test_a_crash_before_it_is_renamed_changes_nothing(folder, tmp_path, monkeypatch):
    (tmp_path / "web.cfg").write_text(OWN)
    (tmp_path / "auto/web.cfg").symlink_to("../web.cfg")
    with monkeypatch.context() as patched:
        patched.setattr(Notes, "_name_aside", lambda *_: tmp_path / "no" / "such" / "folder")
        with pytest.raises(ToolstackError):
            await folder.set_aside("web", WEB)
    await folder.release_autostart("web")
    assert listed(tmp_path) == ["auto", "auto/web.cfg", "web.cfg"]


@pytest.mark.parametrize("arrival", [None, replace(ARRIVAL, returns=True)])
async def test_what_was_set_aside_before_does_not_take_the_place(leaving, tmp_path, arrival):
    """Of a guest that left from there before, and comes back."""
    (tmp_path / "shop.cfg.moved").rename(tmp_path / "web.moved")
    (tmp_path / "shop.cfg.moved").write_text(COMES)
    await leaving.restore("shop", SHOP, arrival)
    assert not (tmp_path / "shop.cfg").exists()
    (remark,) = await leaving.install("shop", COMES, replace(ARRIVAL, returns=True), False)
    assert remark.code == "config-received"


async def test_what_is_in_the_way_of_a_file_that_comes_back_is_told(folder, tmp_path):
    (tmp_path / "shop.cfg").write_text(OWN)
    await folder.retire("web", WEB)
    (tmp_path / "shop.cfg").write_text(COMES)
    with pytest.raises(ToolstackError, match=r"shop\.cfg is not of web"):
        await folder.restore("web", WEB)
    assert (tmp_path / "shop.cfg").read_text() == COMES
    assert (tmp_path / "shop.cfg.moved").read_text() == OWN
