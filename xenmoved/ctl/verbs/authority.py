"""What `xenmovectl ca` does, without a daemon, and `xenmovectl enroll`."""

from __future__ import annotations

import getpass
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from xenmoved.control.api import Done
from xenmoved.control.peer_api import Enroll
from xenmoved.ctl.daemon import RunningDaemon
from xenmoved.ctl.exits import CommandError, Exit
from xenmoved.ctl.output import Output
from xenmoved.ctl.text import Span, Style, line
from xenmoved.ctl.views import authority as views

if TYPE_CHECKING:
    from xenmoved.trust.authority import Authority

_LARGEST: Final = 16 * 1024
"""Bytes of a request or a certificate: anything larger is another file."""


def run_init(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Make an authority."""
    with _authority(args) as authority:
        authority.require_new()
        passphrase = _new_passphrase(args)
        authority.create(passphrase)
        output.done(
            Done(f"an authority was made in {args.dir}"),
            *views.made(args.dir, authority.fleet_file, passphrase=bool(passphrase)),
        )
    return Exit.OK


def run_sign(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Sign the key of a host."""
    key, name = _request(args)
    with _authority(args) as authority:
        certificate, revoked = authority.sign(
            key, name, args.group, args.valid, replace=args.replace
        )
        file = authority.file_of(name)
        output.done(
            Done(f"{name} was signed: {file}"),
            *views.signed(certificate.name, certificate.key, certificate.valid_before, file),
            *views.revoked(revoked, authority.fleet_file),
        )
    return Exit.OK


def run_renew(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Sign certificates anew."""
    if bool(args.names) == args.all:
        raise CommandError(Exit.USAGE, ("usage", "name the hosts, or say --all", ""))
    with _authority(args) as authority:
        for one in authority.renew(args.names, args.valid):
            file = authority.file_of(one.name)
            output.done(
                Done(f"{one.name} was signed: {file}"),
                *views.signed(one.name, one.key, one.valid_before, file),
            )
    return Exit.OK


def run_revoke(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Revoke the keys of a host, or one certificate."""
    if (args.name is None) == (args.serial is None):
        raise CommandError(Exit.USAGE, ("usage", "say a NAME, or --serial and its number", ""))
    with _authority(args) as authority:
        if args.serial is not None:
            name, found = authority.revoke_serial(args.serial), [str(args.serial)]
        else:
            name, found = args.name, authority.revoke(args.name)
        text = f"revoked, of {name}: {', '.join(found)}"
        output.done(Done(text), *views.revoked(found, authority.fleet_file))
    return Exit.OK


def run_show(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Show what the authority has signed."""
    with _authority(args) as authority:
        answer = authority.report(args.name)
    output.result(answer, views.certificates(answer))
    return Exit.OK


def run_enroll(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Have this host prove itself by a certificate."""
    answer = daemon.ask(Enroll(_content(args.file)), Done)
    output.done(answer, line(Span(answer.text, Style.GOOD)))
    return Exit.OK


@contextmanager
def _authority(args: Namespace) -> Iterator[Authority]:
    """Have the authority in a folder; what it cannot do ends the command."""
    from xenmoved.config.errors import ConfigError
    from xenmoved.trust.authority import Authority, AuthorityError

    try:
        yield Authority(args.dir, lambda: _passphrase(args, "Passphrase of the authority: "))
    except AuthorityError as error:
        raise CommandError(Exit.FAILED, (error.code, str(error), error.hint)) from None
    except ConfigError as error:
        raise CommandError(Exit.FAILED, ("configuration", str(error), "correct it")) from None
    except OSError as error:
        text = f"{error.filename or args.dir}: {error.strerror}"
        raise CommandError(Exit.FAILED, ("system", text, "")) from None


def _request(args: Namespace) -> tuple[str, str]:
    """Return the key and name of a request, ``ssh-ed25519 AAAA... NAME``."""
    from xenmoved.config.keys import parse_public_key

    text = _content(args.request)
    try:
        key = parse_public_key(text)
    except ValueError as error:
        hint = "make it on that host: xenmovectl identity --request > NAME.pub"
        raise CommandError(Exit.FAILED, ("request", f"{args.request} {error}", hint)) from None
    comment = text.split()[2:]
    name = args.name or (comment[0] if len(comment) == 1 else None)
    if name is None:
        text = f"{args.request} does not say what the host is called"
        raise CommandError(Exit.USAGE, ("usage", text, "say --name NAME: the `node` of that host"))
    return key, name


def _content(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(_LARGEST + 1)
    except OSError as error:
        text = f"{file} cannot be read: {error.strerror}"
        raise CommandError(Exit.FAILED, ("system", text, "")) from None
    if len(data) > _LARGEST or not data.strip():
        text = f"{file} is {'empty' if not data.strip() else 'too large'}: it is another file"
        raise CommandError(Exit.FAILED, ("request", text, "give the file with its one line"))
    return data.decode("ascii", errors="replace")


def _new_passphrase(args: Namespace) -> bytes:
    """Return the passphrase of a new key, empty for none."""
    if args.passphrase_file is not None or not sys.stdin.isatty():
        return _passphrase(args, "") if args.passphrase_file is not None else b""
    first = getpass.getpass("Passphrase of the new authority (empty for none): ")
    if first != getpass.getpass("The same again: "):
        text = "these were not the same: nothing was made"
        raise CommandError(Exit.FAILED, ("not-confirmed", text, ""))
    return first.encode()


def _passphrase(args: Namespace, prompt: str) -> bytes:
    if args.passphrase_file is not None:
        return _content(args.passphrase_file).rstrip("\r\n").encode()
    if not sys.stdin.isatty():
        text = "the key of the authority has a passphrase, and there is no terminal to ask for it"
        raise CommandError(Exit.USAGE, ("usage", text, "say --passphrase-file FILE"))
    return getpass.getpass(prompt).encode()
