"""Who may import whom, read from the source without running it."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support import rooms

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
_ABOVE = ("", "xenmoved", "xenmoved/migration")
PACKAGES = ("xenmoved", "protocol", "storage")
LONGEST = 500
RUNS_COMMANDS = (
    "xenmoved.toolstack",
    "xenmoved.sandbox",
    "xenmoved.hooks.running",
    "xenmoved.hooks.keeper",
    "storage.commands",
    "storage.pipes",
)
HAVE_WORDS = ("xenmoved.tasks", "storage.qemu.monitor")
PROCESS_MODULES = {"subprocess", "multiprocessing", "pty", "_posixsubprocess"}
PROCESS_CALLS = {
    "create_subprocess_exec",
    "create_subprocess_shell",
    "subprocess_exec",
    "subprocess_shell",
    "system",
    "popen",
    "fork",
    "forkpty",
    "posix_spawn",
    "posix_spawnp",
    *(f"exec{how}" for how in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")),
    *(f"spawn{how}" for how in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")),
}


@cache
def _modules() -> dict[str, Path]:
    modules = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return modules


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_modules()[module].read_text(encoding="utf-8"))


def _run_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _run_nodes(child)


@cache
def _imports(module: str) -> frozenset[str]:
    """Names of modules that `module` imports anywhere in it, as well as their parents."""
    package = module
    if _modules()[module].name != "__init__.py":
        package = module.rpartition(".")[0]
    found = set()
    for node in _run_nodes(_tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            found.add(base)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    with_parents = set()
    for name in found:
        parts = name.split(".")
        with_parents |= {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
    return frozenset(with_parents)


def _reached(start: str) -> dict[str, str]:
    """What importing the package `start` may load, and a chain of imports that leads there."""
    waiting = {name: name for name in _modules() if _within(name, start)}
    reached = {}
    while waiting:
        module, chain = waiting.popitem()
        reached[module] = chain
        if module in _modules():
            for name in _imports(module) - reached.keys():
                waiting.setdefault(name, f"{chain} -> {name}")
    return reached


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_the_source_is_found():
    assert {"protocol.schema", "storage.contracts", "xenmoved.logs"} <= _modules().keys()
    assert "xenmoved.config.errors" in _reached("xenmoved.config.loader")


@pytest.mark.parametrize(
    ("package", "others"),
    [("protocol", ("storage", "xenmoved")), ("storage", ("protocol", "xenmoved"))],
)
def test_the_lower_packages_know_nothing_of_others(package, others):
    wrong = [
        f"{module} imports {name}"
        for module in _modules()
        if _within(module, package)
        for name in _imports(module)
        if name in others
    ]
    assert wrong == []


def test_the_protocol_touches_no_socket_file_thread_or_clock():
    outside = {"socket", "ssl", "asyncio", "threading", "concurrent", "os", "io", "pathlib", "time"}
    wrong = [
        f"{module} imports {name}"
        for module in _modules()
        if _within(module, "protocol")
        for name in _imports(module) & outside
    ]
    assert wrong == []


def test_the_client_loads_no_network_library():
    reached = _reached("xenmoved.ctl")
    assert [reached[name] for name in ("asyncssh", "uvloop") if name in reached] == []


@pytest.mark.parametrize("package", ["protocol", "storage", "xenmoved.config", "xenmoved.logs"])
def test_what_the_client_shares_loads_no_network_library(package):
    reached = _reached(package)
    assert [reached[name] for name in ("asyncssh", "uvloop") if name in reached] == []


def test_only_toolstack_sandbox_hooks_and_storage_commands_run_commands():
    wrong = []
    for module in _modules():
        if any(_within(module, allowed) for allowed in RUNS_COMMANDS):
            continue
        wrong += [f"{module} imports {name}" for name in _imports(module) & PROCESS_MODULES]
        wrong += [
            f"{module}, line {node.lineno}: calls {ast.unparse(node.func)}"
            for node in _run_nodes(_tree(module))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in PROCESS_CALLS
        ]
    assert wrong == []


def test_whatever_is_waited_for_with_a_limit_has_words_for_its_end():
    """`asyncio.timeout` ends in an exception without a text: `xenmoved.tasks` gives it one.

    So does the monitor, which is below it.
    """
    wrong = []
    for module in _modules():
        if module in HAVE_WORDS or _within(module, "xenmoved.sandbox"):
            continue
        for node in _run_nodes(_tree(module)):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            limited = any(keyword.arg == "timeout" for keyword in node.keywords)
            if called in ("asyncio.timeout", "asyncio.timeout_at", "asyncio.wait_for") or (
                called == "asyncio.wait" and limited
            ):
                wrong.append(f"{module}, line {node.lineno}: {called}")
        wrong += [
            f"{module} imports {name} from asyncio"
            for name in ("asyncio.timeout", "asyncio.timeout_at", "asyncio.wait_for")
            if name in _imports(module)
        ]
    assert wrong == []


def test_hooks_know_nothing_of_moves():
    """And nothing that is run there is told more than `about` has: no arguments, no environment."""
    wrong = [
        f"{module} imports {name}"
        for module in _modules()
        if _within(module, "xenmoved.hooks")
        for name in _imports(module)
        if _within(name, "xenmoved.migration") or _within(name, "xenmoved.link")
    ]
    assert wrong == []
    alone = {name for name in _imports("xenmoved.hooks.keeper") if name in _modules()}
    assert alone == set(), "it has to start at once, and to depend on nothing"


@pytest.mark.parametrize(("one", "other"), [("source", "target"), ("target", "source")])
def test_source_and_target_know_nothing_of_each_other(one, other):
    wrong = [
        f"{module} imports {name}"
        for module in _modules()
        if _within(module, f"xenmoved.migration.{one}")
        for name in _imports(module)
        if _within(name, f"xenmoved.migration.{other}")
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "package", ["hooks", "jobs", "migration", "evacuation", "sync", "toolstack", "link", "journal"]
)
def test_the_core_knows_nothing_of_the_control_socket(package):
    wrong = [
        f"{module} imports {name}"
        for module in _modules()
        if _within(module, f"xenmoved.{package}")
        for name in _imports(module)
        if _within(name, "xenmoved.control")
    ]
    assert wrong == []


def test_the_contracts_of_storage_know_nothing_of_it_but_errors():
    known = {name for name in _imports("storage.contracts") if name in _modules()}
    assert known <= {"storage", "storage.errors"}


@pytest.mark.parametrize("report", ["jobs.report", "jobs.options", "migration.report"])
def test_what_the_client_is_shown_is_quick_to_import(report):
    wrong = [
        f"{report} imports {name}"
        for name in _imports(f"xenmoved.{report}") & _modules().keys()
        if not _within(name, "protocol")
        and name not in ("xenmoved", "xenmoved.jobs")
        and name not in ("xenmoved.jobs.report", "xenmoved.choices")
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "package", [name for name, file in _modules().items() if file.name == "__init__.py"]
)
def test_every_guide_lists_the_modules_of_its_package(package):
    """One a line, with a word on it: all that are there, and none that is not."""
    guide = ast.get_docstring(_tree(package)) or ""
    there = {name.rpartition(".")[2] for name in _modules() if name.rpartition(".")[0] == package}
    listed = re.findall(r"^ *([a-z_]+) {2,}\S", guide, re.MULTILINE)
    assert sorted(listed) == sorted(there - {"__main__"})


def test_no_two_public_classes_have_the_same_name():
    """But in the sandbox, which has a world of its own."""
    homes = defaultdict(list)
    for module in _modules():
        if not _within(module, "xenmoved.sandbox"):
            for node in _tree(module).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    homes[node.name].append(module)
    assert {name: modules for name, modules in homes.items() if len(modules) > 1} == {}


def test_no_module_is_long():
    lengths = {name: len(file.read_text("utf-8").splitlines()) for name, file in _modules().items()}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_the_map_of_the_rooms_is_drawn_from_the_imports():
    text = rooms.DOCUMENT.read_text(encoding="utf-8")
    assert rooms.drawn(text) == rooms.drawing(), (
        "docs/development.md is out of date; run: python -m tests.support.rooms"
    )


def test_every_module_that_the_documents_name_is_there():
    """In docs/development.md and CONTRIBUTING.md, which leave out `xenmoved/` in front."""
    for document in (rooms.DOCUMENT, ROOT / "CONTRIBUTING.md"):
        named = re.findall(r"`([a-z_]+(?:/[a-z_]+)+(?:\.py|\.md)?)`", document.read_text("utf-8"))
        missing = [
            name for name in named if not any((ROOT / above / name).exists() for above in _ABOVE)
        ]
        assert missing == [], document
