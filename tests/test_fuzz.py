"""The short form of `make fuzz`: the same steps each time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.hardness.fuzz import fuzz
from tests.hardness.fuzz_target import Field


@pytest.mark.parametrize("number", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_whatever_arrives_is_answered_and_leaves_nothing_behind(tmp_path: Path, number: int) -> None:
    field = Field(tmp_path / "data")
    with asyncio.Runner() as runner:
        runner.run(field.__aenter__())
        try:
            fuzz(runner, field, 20 * number, number)
            print(runner.run(field.nothing_left()))
        finally:
            runner.run(field.__aexit__(None, None, None))
    assert field.requests > 15 and field.events > 5 and field.packets > 15
