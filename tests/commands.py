"""The program's commands as an operator runs them: in a process of their own."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from tests import databases, programs
from tests.conftest import SECRET


class Result(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment(folder: Path, **environ: str) -> dict[str, str]:
    """Return the environment of a command on a data folder."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    given = {"HANDY_MASTER_SECRET": SECRET, "PYTHONWARNINGS": "default", "XDG_CONFIG_HOME": str(folder)}
    return {**kept, **given, **databases.environ(folder), **environ}


async def run(folder: Path, *arguments: str, **environ: str) -> Result:
    """`happy-server-light <arguments>` on a data folder. stdin is empty."""
    given = (*arguments, "--data-dir", str(folder))
    ended = await asyncio.to_thread(programs.run, given, environment(folder, **environ))
    assert "Traceback" not in ended.stderr, ended.stderr
    return Result(ended.returncode, ended.stdout, ended.stderr)


async def ok(folder: Path, *arguments: str, **environ: str) -> Any:
    """Return the JSON that a command prints, which must succeed."""
    result = await run(folder, *arguments, "--json", **environ)
    assert result.status == 0, result
    return result.json
