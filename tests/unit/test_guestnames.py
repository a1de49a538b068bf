"""Names of guests that no host can take."""

import pytest

from xenmoved.guestnames import misnamed_here, misnamed_there, proposed, unfit


@pytest.mark.parametrize("name", ["web", "web-1", "7web", "_x", "a" * 80, "web--old", "1.2"])
def test_fit_names(name):
    assert unfit(name) is None
    assert misnamed_here(name, "xl") is None
    assert misnamed_there(name) is None


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("Windows 10", "Windows-10"),
        ("K\u00fcche", "Kuche"),
        ("web(old)", "web-old"),
        ("42", "vm42"),
        ("\u0664\u0662", "guest"),
        ("web--incoming", "web"),
        ("web--migratedaway", "web"),
        ("--incoming", "guest"),
        ("a" * 90, "a" * 80),
        (".x", "x"),
        ("vm:1", "vm-1"),
    ],
)
def test_unfit_names(name, better):
    assert proposed(name) == better
    assert unfit(better) is None
    here, there = misnamed_here(name, "xl"), misnamed_there(name)
    assert here is not None
    assert there is not None
    assert here.code == there.code == "guest-name"
    assert here.hint.startswith("xl rename ")
    assert f" {better}, and name = '{better}'" in here.hint
    assert there.hint.endswith(f"--rename {better}")
