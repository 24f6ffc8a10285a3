"""`secret rotate`, and a start whose secret is lost."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from happy_light.auth.keys import Keys
from tests.client import World
from tests.commands import ok, run
from tests.conftest import SECRET, Start
from tests.test_start import refused

pytestmark = pytest.mark.slow
OWN = {"HANDY_MASTER_SECRET": ""}


def contents(folder: Path) -> dict[str, bytes]:
    names = ("server.pid", "happy-server-light.sqlite")  # the lock, and what SQLite checkpoints
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in names}


async def test_everybody_is_signed_out_and_vendor_tokens_stay(start: Start) -> None:
    server = start(**OWN)
    file = server.folder / "handy-master-secret.txt"
    old = file.read_text()
    async with World(server.url) as world:
        alice = await world.account()
        await alice.ok("POST", "/v1/connect/openai/register", {"token": "vendor-token"})
    refused_while_running = await run(server.folder, "secret", "rotate", "--yes", **OWN)
    assert refused_while_running.status == 2 and "Another server" in refused_while_running.err
    assert server.stop() == 0
    not_asked = await run(server.folder, "secret", "rotate", **OWN)
    assert not_asked.status == 2 and "--yes" in not_asked.err and file.read_text() == old

    done = await ok(server.folder, "secret", "rotate", "--yes", **OWN)
    assert (done["accounts"], done["resealed"], done["lost"]) == (1, 1, 0)
    assert len(file.read_text()) == 43 and file.read_text() != old
    assert file.stat().st_mode & 0o777 == 0o600
    async with World(start(**OWN).url) as world:
        token = alice.token
        answer = await world.http.get("/v1/account/profile", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 401
        again = await world.account(alice.key)
        assert again.id == alice.id
        assert (await again.ok("GET", "/v1/connect/openai/token"))["token"] == "vendor-token"


async def test_a_secret_of_the_environment_gives_way_to_the_file(start: Start) -> None:
    server = start()
    assert server.stop() == 0
    told = await run(server.folder, "secret", "rotate", "--yes")
    assert told.status == 0 and "HANDY_MASTER_SECRET still has the old secret: remove it" in told.out
    assert "is not the one" in refused(server.folder, HANDY_MASTER_SECRET=SECRET)
    assert start(**OWN).stop() == 0


async def test_a_start_without_the_secret_writes_nothing_and_rotate_is_a_way_out(start: Start) -> None:
    server = start(**OWN)
    async with World(server.url) as world:
        alice = await world.account()
        await alice.ok("POST", "/v1/connect/openai/register", {"token": "vendor-token"})
    assert server.stop() == 0
    (server.folder / "handy-master-secret.txt").unlink()
    before = contents(server.folder)
    text = refused(server.folder)
    assert text.startswith("The master secret is missing: ") and "`happy-server-light secret rotate`" in text
    assert contents(server.folder) == before

    done = await ok(server.folder, "secret", "rotate", "--yes", **OWN)
    assert (done["accounts"], done["resealed"], done["lost"]) == (1, 0, 1)
    async with World(start(**OWN).url) as world:
        again = await world.account(alice.key)
        assert (await again.ok("GET", "/v1/connect/openai/token"))["token"] is None


async def test_a_rotation_that_was_cut_off_is_finished_or_undone(start: Start) -> None:
    server = start(**OWN)
    assert server.stop() == 0
    file = server.folder / "handy-master-secret.txt"
    pending = server.folder / "handy-master-secret.txt.new"
    pending.write_text("never committed")
    assert start(**OWN).stop() == 0
    assert not pending.exists(), "the database has the old secret"

    connection = sqlite3.connect(server.folder / "happy-server-light.sqlite")
    connection.execute("UPDATE meta SET value = ? WHERE key = 'secret_check'", (Keys("committed").check_value(),))
    connection.commit()
    connection.close()
    pending.write_text("committed")
    assert start(**OWN).stop() == 0
    assert (file.read_text(), pending.exists()) == ("committed", False)
