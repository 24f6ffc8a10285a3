"""Print the lowest allowed version of every dependency, as pip constraints.

`python -m tests.lowest > tests/lowest.txt` after a lower bound changes in pyproject.toml. `make test-lowest` installs
these versions; tests/test_lowest.py fails while file and pyproject disagree.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
TOOLS = {"dev"}
"""Extras whose lower bounds are not tested: they are for contributors, who install the newest versions."""


def requirements() -> list[Requirement]:
    """Return what the package and its extras require, tools for contributors left out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    texts: list[str] = list(project["dependencies"])
    for extra, more in project["optional-dependencies"].items():
        if extra not in TOOLS:
            texts += more
    return [Requirement(text) for text in texts]


def bound(requirement: Requirement, operator: str) -> str:
    """Return the version after `operator` (">=" or "<"). Raise ValueError unless there is exactly one."""
    versions = [part.version for part in requirement.specifier if part.operator == operator]
    if len(versions) != 1:
        raise ValueError(f"{requirement} needs exactly one {operator} bound")
    return versions[0]


def constraints() -> str:
    """Return the text of tests/lowest.txt: one `name==version` a line, in alphabetical order."""
    lines = sorted(f"{item.name}=={bound(item, '>=')}" for item in requirements())
    return "# Written by `python -m tests.lowest > tests/lowest.txt`.\n" + "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    print(constraints(), end="")
