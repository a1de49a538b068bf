"""CHANGELOG.md, and what Debian's tools read of it."""

from package import tree
from package.deb import MAINTAINER, changelog
from package.wheels import ROOT

MARKDOWN = """\
# Changes

What is new.

## 0.2.0 (2026-11-28)

- One thing that takes
  two lines.
- Another.

## 0.1.0

- The first.
"""


def test_a_changelog_in_debians_form():
    assert changelog(MARKDOWN, "0.2.0~deb12", 86400).splitlines() == [
        "xenmoved (0.2.0~deb12) stable; urgency=medium",
        "",
        "  * One thing that takes two lines.",
        "  * Another.",
        "",
        f" -- {MAINTAINER}  Fri, 02 Jan 1970 00:00:00 -0000",
        "",
        "xenmoved (0.1.0) stable; urgency=medium",
        "",
        "  * The first.",
        "",
        f" -- {MAINTAINER}  Thu, 01 Jan 1970 00:00:00 -0000",
    ]


def test_the_newest_release_in_the_changelog_is_this_one():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert text.split("\n## ")[1].split()[0] == tree.version()
