"""Logging to stderr and, over a real datagram socket, in the journal's protocol."""

import asyncio
import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from xenmoved import logs
from xenmoved.logs import JournalHandler, log_context, printable, setup, stderr_is_journal

log = logging.getLogger("xenmoved.test")


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in (None, "asyncssh", "asyncio")]
    levels = [logger.level for logger in loggers]
    handlers = loggers[0].handlers[:]
    loggers[0].handlers.clear()
    yield
    loggers[0].handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "socket"))
        receiver.settimeout(5)
        yield receiver


def _use_journal(journal: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(journal.getsockname())
    monkeypatch.setattr(logs, "stderr_is_journal", lambda _environment: True)
    monkeypatch.setattr(logs, "JournalHandler", lambda: JournalHandler(path))
    setup("info")


def _receive(journal: socket.socket) -> dict[str, str]:
    """Parse a datagram as systemd's JOURNAL_NATIVE_PROTOCOL document says."""
    data = journal.recv(2**20)
    fields: dict[str, str] = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(data[:8], "little")
            value = data[8 : 8 + length]
            assert data[8 + length : 9 + length] == b"\n"
            data = data[9 + length :]
        assert re.fullmatch(rb"[A-Z][A-Z0-9_]*", name)
        fields[name.decode()] = value.decode()
    return fields


def test_a_line_has_time_level_and_text(capsys):
    setup("info", {})
    log.info("copied %d blocks", 5)
    log.debug("nobody wants this")
    output = capsys.readouterr().err
    assert re.fullmatch(r"\d\d:\d\d:\d\d info copied 5 blocks\n", output)


def test_a_line_has_what_it_is_about(capsys):
    setup("info", {})
    with log_context(job="m-1", domain="web"):
        with log_context(peer="host-b", domain="mail"):
            log.warning("inner")
        log.warning("outer")
    log.warning("after")
    output = capsys.readouterr().err
    assert [line.split(" ", 1)[1] for line in output.splitlines()] == [
        "warning [job=m-1 domain=mail peer=host-b] inner",
        "warning [job=m-1 domain=web] outer",
        "warning after",
    ]


async def test_the_context_follows_tasks_and_threads_and_stays_apart(capsys):
    setup("info", {})

    async def work(job: str) -> None:
        with log_context(job=job):
            await asyncio.sleep(0)
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.to_thread(log.info, "%s", job))

    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(work(f"m-{number}"))
    output = capsys.readouterr().err
    lines = output.splitlines()
    assert len(lines) == 10
    assert all(re.search(r"\[job=(m-\d)\] \1$", line) for line in lines)


def test_text_of_others_cannot_forge_lines_or_steer_a_terminal(capsys):
    setup("info", {})
    with log_context(domain="web\n12:00:00 info forged"):
        log.info("peer says: %s", "\x1b[2Jx\r\n12:00:00 error forged\u202e\u2028\x9b\udc80")
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    assert output.rstrip("\n").isprintable()
    assert "\\x1b[2Jx\\r\\n12:00:00" in output
    assert "domain=web\\n12:00:00" in output


def test_an_exception_is_shown_indented(capsys):
    setup("info", {})
    try:
        raise ValueError("bad\n12:00:00 error forged \x1b[0m")
    except ValueError:
        log.exception("failed")
    output = capsys.readouterr().err
    first, *trace = output.splitlines()
    assert first.endswith("error failed")
    assert trace[0] == "    Traceback (most recent call last):"
    assert trace[-1] == "    12:00:00 error forged \\x1b[0m"
    assert all(line.startswith("    ") for line in trace)


@pytest.mark.parametrize("text", ["", "plain text", "Grüße, 世界"])
def test_printable_text_is_left_as_it_is(text):
    assert printable(text) == text


def test_setup_again_changes_the_level_and_doubles_nothing(capsys):
    setup("error", {})
    log.info("hidden")
    setup("debug", {})
    log.debug("seen")
    output = capsys.readouterr().err
    assert len(output.splitlines()) == 1
    assert logging.getLogger("asyncssh").getEffectiveLevel() == logging.DEBUG
    setup("info", {})
    assert logging.getLogger("asyncssh").getEffectiveLevel() == logging.WARNING
    setup("error", {})
    assert logging.getLogger("asyncssh").getEffectiveLevel() == logging.ERROR


def test_the_journal_gets_fields(journal, monkeypatch):
    _use_journal(journal, monkeypatch)
    with log_context(job="m-1", domain="web", peer="host-b"):
        log.warning("copied %d", 5)
    fields = _receive(journal)
    assert fields["MESSAGE"] == "copied 5"
    assert fields["PRIORITY"] == "4"
    assert fields["SYSLOG_IDENTIFIER"] == "xenmoved"
    assert fields["LOGGER"] == "xenmoved.test"
    assert fields["XENMOVED_JOB"] == "m-1"
    assert fields["XENMOVED_DOMAIN"] == "web"
    assert fields["XENMOVED_PEER"] == "host-b"
    assert fields["CODE_FILE"] == __file__
    assert fields["CODE_FUNC"] == "test_the_journal_gets_fields"
    assert int(fields["CODE_LINE"]) > 0


def test_the_journal_gets_text_of_many_lines_whole(journal, monkeypatch):
    _use_journal(journal, monkeypatch)
    try:
        raise ValueError("bad\nPRIORITY=0\n")
    except ValueError:
        log.exception("peer says: %s", "a\nPRIORITY=0")
    fields = _receive(journal)
    assert fields["PRIORITY"] == "3"
    lines = fields["MESSAGE"].split("\n")
    assert lines[0] == "peer says: a\\nPRIORITY=0"
    assert lines[-1] == "    PRIORITY=0"


@pytest.mark.parametrize(
    ("level", "priority"),
    [("CRITICAL", "2"), ("ERROR", "3"), ("WARNING", "4"), ("INFO", "6"), ("DEBUG", "7")],
)
def test_priorities(journal, monkeypatch, level, priority):
    _use_journal(journal, monkeypatch)
    logging.getLogger().setLevel(logging.DEBUG)
    log.log(logging.getLevelNamesMapping()[level], "x")
    assert _receive(journal)["PRIORITY"] == priority


def test_an_enormous_message_is_cut(journal, monkeypatch):
    _use_journal(journal, monkeypatch)
    log.info("x" * 2**20)
    assert len(_receive(journal)["MESSAGE"]) == 2**16


def test_a_journal_that_is_away_is_not_waited_for_and_the_loss_is_told(journal, monkeypatch):
    _use_journal(journal, monkeypatch)
    path = Path(journal.getsockname())
    path.rename(path.with_name("away"))
    log.info("lost")
    log.info("lost too")
    path.with_name("away").rename(path)
    log.info("here")
    log.info("again")
    assert _receive(journal)["MESSAGE"] == "(2 messages before this one were lost) here"
    assert _receive(journal)["MESSAGE"] == "again"


def test_a_journal_that_does_not_read_is_not_waited_for(journal, monkeypatch):
    _use_journal(journal, monkeypatch)
    for number in range(5000):
        log.info("%d %s", number, "x" * 1000)
    assert _receive(journal)["MESSAGE"].startswith("0 ")


def test_the_journal_is_known_by_its_stream(monkeypatch):
    status = os.fstat(2)
    assert stderr_is_journal({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
    assert not stderr_is_journal({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"})
    assert not stderr_is_journal({"JOURNAL_STREAM": "nonsense"})
    assert not stderr_is_journal({})
