"""Runs the program's commands as an operator does: in a process of their own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tests import databases
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
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "happy_light", *arguments, "--data-dir", str(folder),
        env=environment(folder, **environ),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    assert "Traceback" not in err.decode(), err.decode()
    return Result(process.returncode, out.decode(), err.decode())


async def ok(folder: Path, *arguments: str, **environ: str) -> Any:
    """Return the JSON that a command prints, which must succeed."""
    result = await run(folder, *arguments, "--json", **environ)
    assert result.status == 0, result
    return result.json
