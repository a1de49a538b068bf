"""The manual and the help texts know everything that there is."""

import argparse
import dataclasses
import json
import re
import shutil
import subprocess
import typing
from pathlib import Path

import pytest

from protocol.messages import Mode
from storage.registry import POOL_KINDS
from tests.support.ctl import ROOT, run
from xenmoved.choices import CdromChoice, Compression
from xenmoved.config.model import DEFAULT_PORT, Config, Control, Fleet, Peer
from xenmoved.ctl import arguments, parser, transfer_options
from xenmoved.ctl.exits import MEANINGS, Exit
from xenmoved.ctl.records import RECORDS, schema
from xenmoved.ctl.verbs.table import VERBS

PAGES = sorted((ROOT / "docs" / "man").iterdir())


def _page(name: str) -> str:
    """Return a page without its markup of fonts and hyphens."""
    text = (ROOT / "docs" / "man" / name).read_text()
    text = re.sub(r"^\.(BI|BR|IR|RB|RI|B|I) ", "", text, flags=re.MULTILINE)
    return re.sub(r"\\f.", "", text).replace("\\-", "-").replace('"', "")


def _parsers(top: argparse.ArgumentParser) -> typing.Iterator[argparse.ArgumentParser]:
    yield top
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _parsers(below)


def _keys(kind: typing.Any) -> typing.Iterator[str]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        yield field.name
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _keys(hints[field.name])


def test_every_verb_and_option_is_in_the_manual():
    page = _page("xenmovectl.1")
    found = list(_parsers(parser.build_parser()))
    assert len(found) > len(VERBS)
    for each in found:
        verb = each.prog.removeprefix("xenmovectl").strip()
        assert re.search(rf"^{verb}\b", page, re.MULTILINE), verb
        for action in each._actions:
            for option in action.option_strings:
                assert re.search(rf"(?<![\w-]){option}(?![\w-])", page), option
            for choice in action.choices or () if action.option_strings else ():
                assert re.search(rf"\b{choice}\b", page), choice


def test_every_verb_is_carried_out_by_somebody():
    verbs = {each.get_default("verb") for each in _parsers(parser.build_parser())}
    assert verbs == set(VERBS)


def test_every_exit_code_is_documented():
    _, _, section = _page("xenmovectl.1").partition(".SH EXIT STATUS")
    assert set(MEANINGS) == set(Exit)
    for code in Exit:
        assert re.search(rf"^{code.value}$", section, re.MULTILINE), code


def test_every_type_of_json_output_is_documented():
    _, _, section = _page("xenmovectl.1").partition(".SH JSON OUTPUT")
    for word in RECORDS.values():
        assert re.search(rf"\b{word}\b", section), word


def test_every_option_of_the_configuration_is_in_its_manual():
    page = _page("xenmoved.yaml.5")
    keys = {*_keys(Config), *_keys(Peer), *_keys(Fleet)} - {"name", "file", "own"}
    for options, _ in POOL_KINDS.values():
        keys |= {field.name for field in dataclasses.fields(options)}
    for key in keys:
        assert re.search(rf"^(\.S[SH] )?{key}\b", page, re.MULTILINE | re.IGNORECASE), key
    assert set(re.findall(r"^\.TP\n\.B (\w+)$", page, re.MULTILINE)) <= keys
    for kind in POOL_KINDS:
        assert f".SS kind: {kind}\n" in page


@pytest.mark.parametrize("option", ["--config", "--check-config", "--version", "SIGHUP", "SIGTERM"])
def test_the_daemon_has_a_manual(option):
    assert option in _page("xenmoved.8")


def test_what_is_repeated_for_speed_is_still_right():
    assert (parser.AUTO, *Mode) == parser.MODES
    assert set(Compression) == set(transfer_options.COMPRESSIONS)
    assert set(CdromChoice) - {CdromChoice.REFUSE} == set(transfer_options.CDROM_CHOICES)
    assert arguments.DEFAULT_PORT == DEFAULT_PORT
    assert str(Control().socket) == parser.DEFAULT_SOCKET


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_has_exit_codes_and_fits_a_terminal(verb):
    chosen = next(
        each
        for each in _parsers(parser.build_parser())
        if each.prog.removeprefix("xenmovectl").strip() == verb
    )
    text = chosen.format_help()
    assert "exit codes:" in text
    assert "in doubt" in text
    assert verb == "peer list" or "examples:" in text


def test_help_is_printed():
    shown = run(Path("/nonexistent"), "migrate", "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "xenmovectl migrate web host-b --rate-limit 80MiB" in shown.stdout


def test_the_schema_is_printed_without_a_daemon():
    shown = run(Path("/nonexistent"), "schema")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert json.loads(shown.stdout) == schema()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_well_formed(page):
    checkers = (["mandoc", "-Tlint", "-Werror"], ["groff", "-ww", "-man", "-Tutf8", "-z"])
    available = [checker for checker in checkers if shutil.which(checker[0])]
    if not available:
        pytest.skip("neither mandoc nor groff is here")
    for checker in available:
        done = subprocess.run([*checker, page], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("host-b", ("host-b", 7222)),
        ("host-b:7000", ("host-b", 7000)),
        ("[::1]", ("::1", 7222)),
        ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
        ("2001:db8::7", ("2001:db8::7", 7222)),
    ],
)
def test_addresses(written, address):
    parsed = arguments.address(written)
    assert parsed == address
    assert arguments.address(str(parsed)) == address


@pytest.mark.parametrize(
    "written", ["", "a:b", "a:0", "a:65536", "[::1", "[]", "[::1]x", "a:b:c", "[a:b]", "g::1"]
)
def test_what_is_no_address(written):
    with pytest.raises(argparse.ArgumentTypeError):
        arguments.address(written)
