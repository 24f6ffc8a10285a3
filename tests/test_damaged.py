"""Damaged pages of the database: every command that needs them says so in one sentence, and so does a start."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.client import World
from tests.conftest import SECRET, Start
from tests.test_start import command

pytestmark = [pytest.mark.slow, pytest.mark.sqlite_only]


async def damaged(start: Start) -> Path:
    """Return the folder of a server whose schema can be read, but not its accounts, sessions and messages."""
    server = start()
    async with World(server.url) as world:
        account = await world.account()
        await account.send((await account.session())["id"], "text")
    assert server.stop() == 0
    file = server.folder / "happy-server-light.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        pages = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE tbl_name IN ('accounts', 'sessions', 'messages') AND rootpage > 0"
        ).fetchall()
    with file.open("r+b") as content:
        for (page,) in pages:
            content.seek((page - 1) * size)
            content.write(b"\xff" * 200)
    return server.folder


async def test_every_command_says_it_in_one_sentence(start: Start, tmp_path: Path) -> None:
    folder = await damaged(start)
    for words in (
        "serve --port 0", "accounts list", "accounts show x", "accounts delete x --yes", "stats", "secret rotate --yes",
        f"backup {tmp_path / 'a.tar.gz'}", f"export x {tmp_path / 'x'}", f"import {folder} --data-dir {tmp_path / 'n'}",
    ):  # fmt: skip
        there = () if "--data-dir" in words else ("--data-dir", str(folder))
        ended = command(tmp_path, *words.split(), *there, HANDY_MASTER_SECRET=SECRET)
        last = ended.stderr.strip().splitlines()[-1]
        assert ended.returncode == 2 and "Traceback" not in ended.stderr, (words, ended.stderr)
        assert last.startswith("happy-server-light: ") and ("damaged" in last or "malformed" in last), (words, last)
    assert not (tmp_path / "a.tar.gz").exists()
    examined = command(tmp_path, "doctor", "--push-enabled", "false", "--data-dir", str(folder))
    assert examined.returncode == 1 and "PROBLEM  integrity: " in examined.stdout
