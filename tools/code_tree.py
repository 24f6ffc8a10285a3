"""Write the tree of the code into docs/architecture.md: one line for each module, from its docstring (`make tree`)."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = ROOT / "docs" / "architecture.md"
_TREE: Final = re.compile(r"(<!-- tree.*?-->\n).*?(<!-- end of tree -->)", re.DOTALL)


def tree() -> str:
    """Return the tree as a block of Markdown."""
    package = ROOT / "happy_light"
    lines = [_line(package / "__init__.py", "happy_light/", 0)]
    for path in sorted(package.rglob("*.py"), key=lambda path: (path.parent, path.name != "__init__.py", path.name)):
        depth = len(path.relative_to(package).parts)
        if path.name != "__init__.py":
            lines.append(_line(path, path.name, depth))
        elif depth > 1:
            lines.append(_line(path, f"{path.parent.relative_to(package)}/", depth - 1))
    return "```\n" + "\n".join(lines) + "\n```\n"


def page(text: str) -> str:
    """Return the text of the page with the current tree in it."""
    return _TREE.sub(lambda found: found[1] + tree() + found[2], text)


def _line(path: Path, name: str, depth: int) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    summary = docstring.partition("\n")[0].rstrip(".")
    return f"{'  ' * depth}{name:<{32 - 2 * depth}}{summary}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
