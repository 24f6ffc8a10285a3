"""docs/architecture.md shows the code as it is."""

from __future__ import annotations

from tools import code_tree


def test_the_tree_is_current() -> None:
    text = code_tree.PAGE.read_text("utf-8")
    assert code_tree.page(text) == text, "run `make tree`"


def test_every_module_is_in_the_tree() -> None:
    lines = code_tree.tree().splitlines()
    modules = [path for path in (code_tree.ROOT / "happy_light").rglob("*.py") if path.name != "__init__.py"]
    assert len([line for line in lines if ".py" in line.split()[0]]) == len(modules)
    assert all(len(line.split(None, 1)) == 2 for line in lines[1:-1]), "every module says what it is for"
