"""The domains of a host, by a program that answers like `xl`."""

import copy
import json
import sys

import pytest

from tests.support.toolstack_samples import PV
from xenmoved.toolstack.interface import Domain, ToolstackError
from xenmoved.toolstack.xl.driver import XlToolstack

pytestmark = pytest.mark.long

XL = """
import json, sys
texts = json.load(open(__file__ + ".json"))
text = texts.get(" ".join(sys.argv[1:]))
if text is None:
    sys.exit("no such domain")
print(text)
"""

TABLE = """\
Name                                        ID   Mem VCPUs	State	Time(s)
Domain-0                                     0  1024     2     r-----     142.1
web                                          7   512     2     -b----       1.0
mute                                         8   512     2     -b----       1.0
late                                         9   512     2     -b----       1.0
"""


def described(name, domid):
    domain = copy.deepcopy(PV)
    domain["domid"] = domid
    domain["config"]["c_info"]["name"] = name
    return domain


WEB, LATE = described("web", 7), described("late", 9)


@pytest.fixture
def answer(tmp_path):
    """Return an `xl` that gives these answers, by its arguments, and fails on all others."""

    def answering(texts):
        script = tmp_path / "xl.py"
        script.write_text(XL)
        (tmp_path / "xl.py.json").write_text(json.dumps(texts))
        return XlToolstack((sys.executable, str(script)))

    return answering


@pytest.mark.parametrize(
    "everything",
    [json.dumps([described("Domain-0", 0), WEB]), f"{json.dumps(WEB)}\n{json.dumps(LATE)}", None],
    ids=["one began meanwhile", "not an array", "fails"],
)
async def test_all_are_described_or_it_is_said_why_not(answer, everything):
    texts = {"list": TABLE, "list -l 7": json.dumps([WEB]), "list -l 9": json.dumps([LATE])}
    if everything is not None:
        texts["list -l"] = everything
    xl = answer(texts)
    found = await xl.describe_all()
    assert [status for status, _ in found] == await xl.domains()
    web, mute, late = (domain for _, domain in found)
    assert isinstance(web, Domain)
    assert web == await xl.describe(found[0][0])
    assert isinstance(late, Domain)
    assert (late.name, late.domid) == ("late", 9)
    assert isinstance(mute, ToolstackError)
    assert "mute cannot be described" in str(mute)


async def test_one_that_goes_away_meanwhile_is_left_out(answer):
    xl = answer({"list": TABLE, "list -l": json.dumps([WEB])})
    lookup = xl._lookup
    listed = lookup.all
    calls = 0

    async def fewer_each_time():
        nonlocal calls
        calls += 1
        return [status for status in await listed() if calls == 1 or status.name == "web"]

    lookup.all = fewer_each_time
    assert [status.name for status, _ in await xl.describe_all()] == ["web"]
