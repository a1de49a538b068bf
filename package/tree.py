"""An installation in a folder: the environment, and what belongs to the system.

The environment is what `python -m venv` makes, without pip: its `bin/python` finds the packages
beside it, and no others. So nothing of it is on the path of any other program.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from package.wheels import ROOT, BuildError

_PACKAGES: Final = ("xenmoved", "protocol", "storage")
_COMMANDS: Final = {"xenmoved": "xenmoved.main", "xenmovectl": "xenmoved.ctl.main"}
_COMPLETIONS: Final = {
    "bash": "usr/share/bash-completion/completions/xenmovectl",
    "zsh": "usr/share/zsh/vendor-completions/_xenmovectl",
    "fish": "usr/share/fish/vendor_completions.d/xenmovectl.fish",
}
_SYSTEMD: Final = {
    "xenmoved.service": "usr/lib/systemd/system/xenmoved.service",
    "xenmoved.sysusers": "usr/lib/sysusers.d/xenmoved.conf",
    "xenmoved.tmpfiles": "usr/lib/tmpfiles.d/xenmoved.conf",
}

_WATCHING: Final = {
    "prometheus/xenmoved.rules.yml": "usr/share/xenmoved/prometheus/xenmoved.rules.yml",
    "grafana/xenmoved.json": "usr/share/xenmoved/grafana/xenmoved.json",
}
"""For monitoring systems, which may be on other hosts: from here they are copied."""


def version() -> str:
    """Return the version that the source says it has."""
    text = (ROOT / "xenmoved" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if found is None:
        raise BuildError("xenmoved/__init__.py has no __version__")
    return found[1]


def source_time() -> int:
    """Return when the source was changed last, in seconds since 1970: the time of all files.

    It is $SOURCE_DATE_EPOCH, or that of the last commit.
    """
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    git = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    try:
        return int(subprocess.run(git, capture_output=True, text=True, check=True).stdout)
    except (OSError, ValueError, subprocess.CalledProcessError):
        text = "this is no git repository: set SOURCE_DATE_EPOCH to the seconds since 1970"
        raise BuildError(text) from None


def put(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Write a file, making its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)


def add_program(site: Path) -> None:
    """Put the program itself beside the packages that it needs."""
    for package in _PACKAGES:
        ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(ROOT / package, site / package, ignore=ignore)


def add_commands(folder: Path, python: str) -> None:
    """Write the commands, which run with the interpreter `python` of an environment."""
    for name, module in _COMMANDS.items():
        # -I: nothing in the environment of whoever calls it changes what is imported.
        lines = (f"#!{python} -I", "import sys", "", f"from {module} import main", "")
        put(folder / name, "\n".join((*lines, "sys.exit(main())", "")), 0o755)


def add_system_files(root: Path, site: Path, python: str) -> None:
    """Put units, manuals, completions, alerts, hooks and the configuration where they belong."""
    for name, place in _SYSTEMD.items():
        put(root / place, (ROOT / "systemd" / name).read_bytes())
    for manual in sorted((ROOT / "docs" / "man").iterdir()):
        put(root / f"usr/share/man/man{manual.suffix[1:]}" / manual.name, manual.read_bytes())
    for shell, place in _COMPLETIONS.items():
        put(root / place, _completion(shell, site))
    for name, place in _WATCHING.items():
        put(root / place, (ROOT / "etc" / name).read_bytes())
    for file in sorted((ROOT / "share" / "hooks").iterdir()):
        text, installed = file.read_text(), root / "usr/share/xenmoved/hooks" / file.name
        if file.suffix:
            put(installed, text)
        else:  # runs with the interpreter `python` that is certain to be there
            put(installed, text.replace("#!/usr/bin/python3", f"#!{python}", 1), 0o755)
    put(root / "etc/xenmoved/xenmoved.yaml", (ROOT / "etc" / "xenmoved.yaml").read_bytes())


def _completion(shell: str, site: Path) -> str:
    """Return the set-up of a shell, by the release of argcomplete that is shipped."""
    code = "import sys; from xenmoved.ctl.completion import shell_code; "
    command = [sys.executable, "-S", "-B", "-c", f"{code}print(shell_code(sys.argv[1]))", shell]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"the completions for {shell} cannot be made:\n{done.stderr}")
    return done.stdout


def finish(root: Path, when: int) -> None:
    """Give everything below `root` the same times, and folders the same mode."""
    for path in (root, *everything(root)):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
        os.utime(path, (when, when), follow_symlinks=False)


def everything(root: Path) -> Iterable[Path]:
    """Return what is below a folder, in an order that is always the same."""
    return sorted(root.rglob("*"))
