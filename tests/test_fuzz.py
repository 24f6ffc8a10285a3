"""The short form of `make fuzz`: the same steps each time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.hardness.fuzz import fuzz
from tests.hardness.fuzz_target import FuzzedServer


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_whatever_arrives_is_answered_and_leaves_nothing_behind(tmp_path: Path, number: int) -> None:
    fuzzed = FuzzedServer(tmp_path / "data")
    with asyncio.Runner() as runner:
        runner.run(fuzzed.__aenter__())
        try:
            fuzz(runner, fuzzed, 20 * number, number)
            print(runner.run(fuzzed.wait_for_cleanup()))
        finally:
            runner.run(fuzzed.__aexit__(None, None, None))
    assert fuzzed.requests > 15 and fuzzed.events > 5 and fuzzed.packets > 15
