"""The bounds of the dependencies: tests/lowest.txt repeats the lower ones, and every dependency has an upper one."""

from __future__ import annotations

from tests.lowest import ROOT, bound, constraints, requirements

PRIVATE_NAMES_USED = {"aiosqlite", "hypercorn"}


def test_the_constraints_are_the_lower_bounds_of_pyproject() -> None:
    assert (ROOT / "tests" / "lowest.txt").read_text("utf-8") == constraints()


def test_libraries_whose_private_names_are_used_stay_below_their_next_minor_version() -> None:
    upper = {item.name: bound(item, "<") for item in requirements()}
    assert {name for name, version in upper.items() if "." in version} == PRIVATE_NAMES_USED
