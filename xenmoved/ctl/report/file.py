"""Writing a page: all of it or nothing, and nothing that is there by accident."""

from __future__ import annotations

import secrets
from pathlib import Path

from xenmoved.ctl.exits import CommandError, Exit


def write(path: Path, page: str, *, replace: bool) -> None:
    """Write a page to a file, which must not be there unless it may be replaced.

    Raises CommandError.
    """
    if path.exists() and not path.is_file():
        raise _failed(f"{path} is no file", "name another one with -o")
    new = path.with_name(f".xenmoved-{secrets.token_hex(4)}.tmp")
    try:
        if not replace:
            path.open("x").close()  # so that nobody else takes the name meanwhile
        try:
            new.write_text(page, encoding="utf-8")
            new.replace(path)
        except OSError:
            for half in (new, path) if not replace else (new,):
                half.unlink(missing_ok=True)
            raise
    except FileExistsError:
        hint = "name another file with -o, or replace it with --force"
        raise _failed(f"{path} is there already", hint) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise _failed(f"cannot write {path}: {reason}", "name another file with -o") from None


def _failed(text: str, hint: str) -> CommandError:
    return CommandError(Exit.FAILED, ("file", text, hint))
