"""The fence: only happy_light/stack/ uses private names of Hypercorn, engineio, python-socketio and aiosqlite.

Every name with an underscore that a module of the package reads from something else than `self`, `cls` or itself
has to be defined in the package, or be one of the few of the standard library below.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "happy_light"
LIBRARIES = {"hypercorn", "h11", "httptools", "wsproto", "engineio", "socketio", "aiosqlite"}
SETTERS = {"setattr", "delattr"}
STANDARD = {"os._exit", "argparse._ArgumentGroup", "argparse._SubParsersAction", "parser._actions"}


@functools.cache
def parsed() -> dict[Path, list[ast.AST]]:
    """Return the nodes of every module of the package."""
    return {
        path.relative_to(PACKAGE): list(ast.walk(ast.parse(path.read_text("utf-8"))))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def modules(outside: bool = True) -> Iterator[tuple[str, list[ast.AST]]]:
    for path, found in parsed().items():
        if not outside or "stack" not in path.parts:
            yield str(path), found


def private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def defined() -> set[str]:
    """Every private name that the package itself defines."""
    names: set[str] = set()
    for _, nodes in modules(outside=False):
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                    names.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value)  # in __slots__
    return {name for name in names if private(name)}


def test_no_private_name_of_a_library_is_used_outside_the_fence() -> None:
    own = defined()
    found = []
    for file, nodes in modules():
        for node in nodes:
            if isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in own:
                name = ast.unparse(node)
                if name not in STANDARD:
                    found.append(f"{file}: {name}")
            elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("happy_light"):
                parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                if any(map(private, parts)):
                    found.append(f"{file}: {ast.unparse(node)}")
    assert found == []


def test_nothing_of_a_library_is_assigned_to() -> None:
    """A name of a library that is set, in the fence too, changes the process for everybody in it."""
    found = []
    for file, nodes in modules(outside=False):
        imported: set[str] = set()
        for node in nodes:
            if isinstance(node, ast.Import):
                imported |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in LIBRARIES:
                imported |= {alias.asname or alias.name for alias in node.names}
        for node in nodes:
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
                root = ast.unparse(node).split(".")[0]
                if root in imported:
                    found.append(f"{file}: {ast.unparse(node)}")
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SETTERS:
                found.append(f"{file}: {ast.unparse(node)}")
    assert found == []
