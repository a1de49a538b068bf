"""The text of a configuration, as libxlu_cfg_l.l, libxlu_cfg_y.y and libxlu_cfg.c read it."""

import re
from dataclasses import dataclass, field

from tests.support.xl_reading import XlRefusesError

TOKEN = re.compile(
    r"""(?P<IDENT>[a-z][._0-9a-z]*)
      | (?P<NUMBER>[0-9][0-9a-fx]*)
      | (?P<blank>[ \t])
      | (?P<NEWLINE>\n|\#[^\n]*\n)
      | (?P<STRING>'(?:[^'\\\n]|\\[^\n])*'|"(?:[^"\\\n]|\\[^\n])*")
      | (?P<sign>\+=|[][,=;])
    """,
    re.VERBOSE,
)
ESCAPES = dict(zip("\"'\\abfnrtv", "\"'\\\a\b\f\n\r\t\v", strict=True))
LONG = re.compile(r"[ \t\n\v\f\r]*([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9]\d*)", re.ASCII)


def tokens(text):
    """Return the tokens, as (kind, value); a sign is its own kind."""
    found, position = [], 0
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None:
            raise XlRefusesError(f"lexical error at {text[position : position + 20]!r}")
        position = match.end()
        kind, value = match.lastgroup, match.group()
        if kind == "STRING":
            value = dequoted(value)
        if kind != "blank":
            found.append((value if kind == "sign" else kind, value))
    return [*found, ("", "")]


def dequoted(text):
    """Take off the quotes, and the escapes: those in digits are left out, or an error."""
    if "\0" in text:
        raise XlRefusesError("ends at a NUL")
    result, position, end = "", 1, len(text) - 1
    while position < end:
        char = text[position]
        position += 1
        if char != "\\":
            result += char
            continue
        char = text[position]
        position += 1
        if char in ESCAPES:
            result += ESCAPES[char]
        elif char in "01234567":
            digits = re.match(r"[ \t\n\v\f\r]*[+-]?\d+", text[position : position + 3], re.ASCII)
            if digits is None or digits.end() < 2:
                raise XlRefusesError("invalid digit after backslash")
            position += digits.end()
            if position > end:
                raise XlRefusesError("escape beyond the end")
        else:
            raise XlRefusesError("invalid character after backslash")
    return result


def parse_long(text):
    """Read a number as strtol does with any base, None where that is not all of the text."""
    match = LONG.fullmatch(text)
    if match is None:
        return None
    digits = match[2]
    base = 16 if digits[:2] in ("0x", "0X") else 8 if digits[0] == "0" else 10
    value = int(match[1] + digits, base)
    return value if -(1 << 63) <= value < 1 << 63 else None


@dataclass
class Config:
    """The settings: of each name the last value, a str or a list, and whether `+=` set it."""

    settings: dict = field(default_factory=dict)

    def string(self, name):
        """Return a single value, None where there is none or a list."""
        value, _ = self.settings.get(name, (None, False))
        return value if isinstance(value, str) else None

    def long(self, name):
        """Return a number, None where there is none."""
        value, added = self.settings.get(name, (None, False))
        return parse_long(value) if isinstance(value, str) and not added else None

    def flag(self, name):
        """Return a switch: True, False, or None where it is left as it is."""
        value = self.long(name)
        return None if value is None else bool(value)

    def list(self, name):
        """Return a list, None where there is none or a single value."""
        value, _ = self.settings.get(name, (None, False))
        return value if isinstance(value, list) else None

    def items(self, name):
        """Return the texts in a list: xl's loops end at a list inside it."""
        found = []
        for value in self.list(name) or []:
            if not isinstance(value, str):
                break
            found.append(value)
        return found


class _Parser:
    def __init__(self, text):
        self.tokens = tokens(text)
        self.position = 0

    @property
    def kind(self):
        return self.tokens[self.position][0]

    def take(self, *kinds):
        kind, value = self.tokens[self.position]
        if kind not in kinds:
            raise XlRefusesError(f"unexpected {value!r}")
        self.position += 1
        return value

    def newlines(self):
        while self.kind == "NEWLINE":
            self.position += 1

    def value(self):
        if self.kind != "[":
            return self.take("STRING", "NUMBER")
        self.take("[")
        self.newlines()
        values = []
        while self.kind != "]":
            if values:
                self.take(",")
                self.newlines()
                if self.kind == "]":
                    break
            values.append(self.value())
            self.newlines()
        self.take("]")
        return values


def read(text):
    """Return the Config of a text. Raises XlRefusesError."""
    parser, config = _Parser(text), Config()
    while parser.kind:
        if parser.kind in ("NEWLINE", ";"):
            parser.position += 1
            continue
        name = parser.take("IDENT")
        added = parser.take("=", "+=") == "+="
        value = parser.value()
        before, _ = config.settings.get(name, (None, False))
        if added and before is not None:
            if type(before) is not type(value):
                raise XlRefusesError("can't add [list] to string or vice versa")
            value = before + value
        config.settings[name] = value, added
        if parser.kind:
            parser.take("NEWLINE", ";")
    return config
