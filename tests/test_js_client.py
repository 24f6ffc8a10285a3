"""The official JavaScript client (npm socket.io-client), cut off again and again while updates arrive."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.client import Account, World
from tests.conftest import Start

SCRIPTS = Path(__file__).parent / "js"
CUTS = 1_000


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the scripts, with the client that they need installed beside them."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        if os.environ.get("CI"):
            pytest.fail("node and npm are missing")
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("js")
    shutil.copytree(SCRIPTS, folder, dirs_exist_ok=True)
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--silent"], cwd=folder, check=True, capture_output=True
    )
    return folder


async def write(alice: Account, session: str, stop: asyncio.Event) -> int:
    """Send messages one after the other; return how many were acknowledged."""
    count = 0
    while not stop.is_set():
        await alice.send(session, str(count))
        count += 1
    return count


async def test_the_official_client_misses_nothing(start: Start, scripts: Path) -> None:
    """It recovers every time, and sees every update once and in order."""
    process = start()
    async with World(process.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        client = await asyncio.create_subprocess_exec(
            "node", "cut_off.mjs", process.url, alice.token, str(CUTS),
            cwd=scripts, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert client.stdin is not None and client.stdout is not None
        stop = asyncio.Event()
        writing = asyncio.create_task(write(alice, session, stop))
        try:
            async with asyncio.timeout(240):
                assert await client.stdout.readline() == b"settled\n"
                stop.set()
                written = await writing
                client.stdin.write(b"stop\n")
                seen = json.loads(await client.stdout.readline())
        finally:
            stop.set()
            if client.returncode is None:
                client.kill()
            await client.wait()
    first = seen["seqs"][0]
    assert seen["seqs"] == list(range(first, written + 2))  # the session's own update is the first of the account
    assert (seen["connects"], seen["recovered"]) == (CUTS + 1, CUTS)
