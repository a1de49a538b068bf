"""The part of the command line that is about certificates."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from xenmoved.ctl import arguments, completion

DEFAULT_FOLDER: Final = "~/xenmoved-ca"
_YEAR: Final = 365 * 86400.0

AddVerb = Callable[..., Any]


def add_trust_verbs(verbs: Any, add_verb: AddVerb, parser_class: type[ArgumentParser]) -> None:
    """Add `ca` and what is below it, and `enroll`."""
    ca = add_verb(
        verbs,
        "ca",
        "sign certificates, by which hosts trust each other without keys for every pair",
        verb="ca show",
    )
    ca.set_defaults(name=None, dir=Path(DEFAULT_FOLDER).expanduser())
    _add_folder(ca)
    of_ca = ca.add_subparsers(title="verbs", metavar="VERB", parser_class=parser_class)
    init = add_verb(
        of_ca,
        "init",
        "make an authority: a key, and a fleet file that names it; on any machine",
        verb="ca init",
        examples="xenmovectl ca init\nxenmovectl ca init --dir /media/usb/ca",
    )
    _add_folder(init)
    _add_passphrase(init)
    _add_sign(of_ca, add_verb)
    _add_renew_and_revoke(of_ca, add_verb)
    show = add_verb(
        of_ca,
        "show",
        "show what was signed, until when it is valid, and what is revoked",
        verb="ca show",
        examples="xenmovectl ca show\nxenmovectl ca show host-b --json",
    )
    name = show.add_argument("name", metavar="NAME", nargs="?", help="of this host only")
    completion.offer(name, completion.signed)
    _add_folder(show)
    enroll = add_verb(
        verbs,
        "enroll",
        "have this host prove itself by a certificate that was signed for it; also a newer one",
        examples="xenmovectl enroll host-a-cert.pub",
    )
    enroll.add_argument("file", metavar="FILE", type=Path, help="the certificate")


def _add_sign(verbs: Any, add_verb: AddVerb) -> None:
    sign = add_verb(
        verbs,
        "sign",
        "sign the key of a host, so that all hosts trust it",
        verb="ca sign",
        examples="xenmovectl ca sign host-a.pub --group hosts\n"
        "xenmovectl ca sign host-a.pub --group web --group spare --valid 90d",
    )
    sign.add_argument(
        "request",
        metavar="REQUEST",
        type=Path,
        help="what 'xenmovectl identity --request' printed on that host",
    )
    sign.add_argument(
        "--group",
        metavar="GROUP",
        action="append",
        required=True,
        help="a group of the fleet file, which says what the host may do; may be said again",
    )
    sign.add_argument(
        "--name", metavar="NAME", help="what the host is called (default: as the request says)"
    )
    sign.add_argument(
        "--replace",
        action="store_true",
        help="if that name has another key, or that key another name, revoke that",
    )
    _add_validity(sign)
    _add_folder(sign)
    _add_passphrase(sign)


def _add_renew_and_revoke(verbs: Any, add_verb: AddVerb) -> None:
    renew = add_verb(
        verbs,
        "renew",
        "sign the newest certificates of hosts anew, with the same keys and groups",
        verb="ca renew",
        examples="xenmovectl ca renew host-a host-b\nxenmovectl ca renew --all --valid 365d",
    )
    names = renew.add_argument("names", metavar="NAME", nargs="*", help="hosts")
    completion.offer(names, completion.signed)
    renew.add_argument("--all", action="store_true", help="of all hosts that are not revoked")
    _add_validity(renew)
    _add_folder(renew)
    _add_passphrase(renew)
    revoke = add_verb(
        verbs,
        "revoke",
        "revoke the keys of a host, or one certificate, in the fleet file",
        verb="ca revoke",
        examples="xenmovectl ca revoke host-b\nxenmovectl ca revoke --serial 66773222389370",
    )
    name = revoke.add_argument("name", metavar="NAME", nargs="?", help="every key that it ever had")
    completion.offer(name, completion.signed)
    revoke.add_argument(
        "--serial", metavar="N", type=arguments.serial, help="this certificate, and no other"
    )
    _add_folder(revoke)


def _add_folder(parser: ArgumentParser) -> None:
    action = parser.add_argument(
        "--dir",
        metavar="FOLDER",
        type=Path,
        default=SUPPRESS,  # it may stand before the second verb, too
        help=f"where the authority is (default: {DEFAULT_FOLDER})",
    )
    completion.offer(action, completion.folders)


def _add_validity(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--valid",
        metavar="DURATION",
        type=arguments.validity,
        default=_YEAR,
        help="for how long, such as 90d (default: 365d)",
    )


def _add_passphrase(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--passphrase-file",
        metavar="FILE",
        type=Path,
        help="the file with the passphrase of the key (default: it is asked for)",
    )
