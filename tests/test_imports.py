"""How the house is built, kept true: imports point one way, files are short, what is public says what it does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "happy_light"
LINES_MAX = 410
# A row may import from the rows below it, and from its own where a package is meant (domains, commands, …).
ORDER = (
    {"__main__"},
    {"cli", "pytest_plugin"},
    {"commands", "testing"},
    {"importing"},
    {"server"},
    {"app"},
    {"stack"},
    {"admin", "ui"},
    {"domains"},
    {"openapi"},
    {"live"},
    {"http", "http_client"},
    {"auth", "context"},
    {"store"},
    {"bus", "blobs", "data_dir", "images"},
    {"config"},
    {"wire", "errors", "counters", "log_setup", "atomic_write"},
)
ONLY = {
    "hypercorn": {"stack/hypercorn_server.py"},
    "socketio": {"live/stack.py"},
    "aiosqlite": {"store/writer.py", "store/reader.py", "store/thread.py"},
}
# Known to point the other way until the packages are taken apart.
KNOWN = ("auth/authentication.py", "context.py", "store/writer.py")


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield str(path.relative_to(PACKAGE)), ast.parse(path.read_text("utf-8"))


def imported(tree: ast.Module) -> Iterator[str]:
    """The full names of what a module imports, those for type checking left out."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped |= set(ast.walk(node))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_point_one_way() -> None:
    level = {name: index for index, row in enumerate(ORDER) for name in row}
    wrong = []
    for name, tree in modules():
        here = name.removesuffix(".py").split("/")[0]
        if here == "__init__":
            continue
        assert here in level, f"where does {name} stand in the order of imports?"
        for full in imported(tree):
            parts = full.split(".")
            if parts[0] != "happy_light" or parts[1] in (here, "__version__"):
                continue
            if level[parts[1]] <= level[here] and name not in KNOWN:
                wrong.append(f"{name} imports {full}")
    assert wrong == []


def test_only_named_files_know_the_large_libraries() -> None:
    for name, tree in modules():
        for full in imported(tree):
            library = full.split(".")[0]
            assert library not in ONLY or name in ONLY[library], f"{name} imports {full}"


def test_files_can_be_read_in_one_sitting() -> None:
    for root in (PACKAGE, Path(__file__).parent):
        for path in sorted(root.rglob("*.py")):
            count = len(path.read_text("utf-8").splitlines())
            assert count <= LINES_MAX, f"{path} has {count} lines"


def test_what_is_public_says_what_it_does() -> None:
    silent = []
    for name, tree in modules():
        if tree.body and not ast.get_docstring(tree):
            silent.append(name)
        handlers = set()  # endpoints and handlers: their row and the struct that they take say what they do
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                handlers |= {argument.id for argument in node.args if isinstance(argument, ast.Name)}
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if not node.name.startswith("_") and node.name not in handlers and not ast.get_docstring(node):
                silent.append(f"{name}: {node.name}")
    assert silent == []


def test_no_name_says_nothing() -> None:
    for name, _ in modules():
        assert not {"utils", "helpers", "common", "manager", "service"} & set(name.removesuffix(".py").split("/")), name
