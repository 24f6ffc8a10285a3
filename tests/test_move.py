"""A server of ours that grows from a folder into PostgreSQL, and back: everything comes along, or nothing changes."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests import other_servers
from tests.client import Account, Socket, World, uid
from tests.conftest import Start
from tests.importing import ONE, SESSION, imported, refused, signed_in
from tests.s3_services import Moto
from tests.service_fixtures import database_url, databases, moto
from tests.test_bucket import environ

pytestmark = [pytest.mark.slow, pytest.mark.sqlite_only]
__all__ = ["database_url", "databases", "moto"]

FILE = "happy-server-light.sqlite"
BY_FILE = {"HANDY_MASTER_SECRET": ""}
"""The server makes or finds its secret in its folder."""
MESSAGES = 100_000
BLOB = os.urandom(50_000)


def again(world: World, account: Account) -> Account:
    """Return the same client, with the token that it has, at another server."""
    return Account(world, account.token, account.key)


def rows(url: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql.encode())
        return cursor.fetchall() if cursor.description else []


def many_messages(database: Path, session: str) -> None:
    """Fill a session of a server that does not run, as its clients would have."""
    with closing(sqlite3.connect(database)) as connection, connection:
        (seq,) = connection.execute("SELECT seq FROM sessions WHERE id = ?", (session,)).fetchone()
        new = ((f"m{n:024}", session, n, f"local {n}", f"content {n}" * 20, n, n) for n in range(seq + 1, MESSAGES + 1))
        connection.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?)", new)
        connection.execute("UPDATE sessions SET seq = ? WHERE id = ?", (MESSAGES, session))


async def use(world: World, alice: Account, ids: dict[str, str]) -> int:
    """Check that everything is there, for a client that is still signed in, and write on. Return the last seq."""
    client = again(world, alice)
    (listed,) = (await client.ok("GET", "/v1/sessions"))["sessions"]
    assert (listed["id"], listed["metadata"]) == (ids["session"], "Grüße \u2028")
    last = listed["seq"]
    page = await client.ok("GET", f"/v3/sessions/{ids['session']}/messages?after_seq={last - 2}&limit=10")
    assert [message["seq"] for message in page["messages"]] == [last - 1, last]
    assert (await client.get(f"/v1/{ids['ref']}")).content == BLOB
    assert (await client.ok("GET", "/v1/kv/key"))["value"] == "AP8="
    assert (await client.ok("GET", "/v1/account/settings"))["settings"] == "sealed"
    ui: Socket = await client.socket()
    (sent,) = await client.send(ids["session"], uid())
    assert sent["seq"] == last + 1
    (frame,) = [data for _, data in await ui.heard("update")]
    assert frame["seq"] == int(ids["seq"]) + 1
    ids["seq"] = str(frame["seq"])
    return int(sent["seq"])


async def test_a_light_server_grows_into_postgres_and_back_with_its_clients_signed_in(
    start: Start, tmp_path: Path, database_url: str
) -> None:
    light, full, third = tmp_path / "light", tmp_path / "full", tmp_path / "third"
    postgres = {"DATABASE_URL": database_url}
    server = start(folder=light, **BY_FILE)
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session(metadata="Grüße \u2028"))["id"]
        body = {"filename": "f", "size": len(BLOB)}
        target = await alice.ok("POST", f"/v1/sessions/{session}/attachments/request-upload", body)
        octets = {"Content-Type": "application/octet-stream"}
        assert (await alice.request("PUT", target["uploadUrl"], content=BLOB, headers=octets)).status_code == 200
        await alice.ok("POST", "/v1/kv", {"mutations": [{"key": "key", "value": "AP8=", "version": -1}]})
        await alice.ok("POST", "/v1/account/settings", {"settings": "sealed", "expectedVersion": 0})
        ui = await alice.socket()
        await alice.send(session, uid(), uid())
        seq = [frame["seq"] for _, frame in await ui.heard("update")][-1]
        ids = {"session": session, "ref": target["ref"], "seq": str(seq)}
        assert "A server runs on" in refused(light, "--data-dir", full, **postgres)
    assert server.stop() == 0
    many_messages(light / FILE, session)

    up = imported(light, "--data-dir", full, **postgres)

    assert up["tables"]["messages"] == {"found": MESSAGES, "taken": MESSAGES, "left": {}}
    assert up["files"] == {"public": 0, "attachments": 1, "bytes": len(BLOB), "left": 0}
    assert up["checks"]["sessions with messages"] == 1
    server = start(folder=full, **postgres, **BY_FILE)
    async with World(server.url) as world:
        assert await use(world, alice, ids) == MESSAGES + 1
        source = (database_url, "--data-dir", third, "--files", full)
        assert "A server uses the database" in refused(*source)
    assert server.stop() == 0

    down = imported(*source)

    assert down["tables"]["messages"]["taken"] == MESSAGES + 1
    assert database_url.partition("@")[2] in down["source"]
    server = start(folder=third, **BY_FILE)
    async with World(server.url) as world:
        assert await use(world, alice, ids) == MESSAGES + 2
    assert server.stop() == 0
    assert not (third / ".importing").exists() and not (full / ".importing").exists()


async def test_in_the_same_folder_only_the_database_moves(start: Start, tmp_path: Path, database_url: str) -> None:
    folder, postgres = tmp_path / "data", {"DATABASE_URL": database_url}
    server = start(**BY_FILE)
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
    assert server.stop() == 0
    secret = (folder / "handy-master-secret.txt").read_text()
    tried = imported(folder, "--data-dir", folder, "--dry-run", **postgres)
    assert tried["tables"]["sessions"]["taken"] == 1
    assert rows(database_url, "SELECT to_regclass('happy_light.meta')") == [(None,)], "a dry run leaves nothing"
    imported(folder, "--data-dir", folder, **postgres)
    assert (folder / "handy-master-secret.txt").read_text() == secret and (folder / FILE).exists()
    assert "already has 1 account. --force" in refused(folder, "--data-dir", folder, **postgres)
    imported(folder, "--data-dir", folder, "--force", **postgres)
    server = start(**postgres, **BY_FILE)
    async with World(server.url) as world:
        assert [one["id"] for one in (await again(world, alice).ok("GET", "/v1/sessions"))["sessions"]] == [session]
    assert server.stop() == 0


async def test_what_cannot_be_moved_leaves_both_as_they_were(start: Start, tmp_path: Path, database_url: str) -> None:
    light, full, postgres = tmp_path / "light", tmp_path / "full", {"DATABASE_URL": database_url}
    server = start(folder=light, **BY_FILE)
    async with World(server.url) as world:
        alice = await world.account()
        for number in range(3):
            await alice.session(tag=f"tag {number}")
    assert server.stop() == 0
    wrong = refused(light, "--data-dir", full, "--secret", "another", **postgres)
    assert "everyone would be signed out" in wrong and "--secret-file" in wrong
    for bad, said in (("a\0b", "the character U+0000, which is in tag of a row of sessions"), ("long", "too long")):
        tag = bad if "\0" in bad else os.urandom(8_000).hex()
        copy = tmp_path / f"copy {said[:3]}"
        shutil.copytree(light, copy)
        with closing(sqlite3.connect(copy / FILE)) as connection, connection:
            connection.execute("UPDATE sessions SET tag = ? WHERE tag = 'tag 2'", (tag,))
        assert said in refused(copy, "--data-dir", full, **postgres)
        assert rows(database_url, "SELECT to_regnamespace('happy_light')") == [(None,)]
    assert not (full / "handy-master-secret.txt").exists() and not (full / ".importing").exists()
    imported(light, "--data-dir", full, **postgres)
    assert rows(database_url, "SELECT count(*) FROM happy_light.sessions") == [(3,)]


async def test_the_originals_tables_in_the_same_database_come_over(
    start: Start, tmp_path: Path, database_url: str
) -> None:
    postgres = {"DATABASE_URL": database_url}
    files = tmp_path / "files"
    other_servers.write_files(files, SESSION)
    other_servers.fill_postgres(database_url, other_servers.world_rows())
    given = ("--secret", other_servers.SECRET, "--files", files, "--data-dir", tmp_path / "data")
    imported(database_url, *given, "--dry-run", **postgres)
    assert rows(database_url, "SELECT to_regnamespace('happy_light')") == [(None,)]
    summary = imported(database_url, *given, **postgres)
    assert summary["tables"]["SessionMessage"]["taken"] == 12
    assert "already has 2 accounts" in refused(database_url, *given, **postgres)
    server = start(**postgres, **BY_FILE)
    async with World(server.url) as world:
        one = signed_in(world, ONE)
        assert SESSION in [session["id"] for session in (await one.ok("GET", "/v1/sessions"))["sessions"]]
    assert server.stop() == 0
    # Into a folder: ours, unless the URL says that the original's are meant.
    ours = imported(database_url, "--data-dir", tmp_path / "ours", "--files", tmp_path / "data")
    assert "SessionMessage" not in ours["tables"] and ours["tables"]["messages"]["taken"] == 12
    theirs = (f"{database_url}?schema=public", "--secret", other_servers.SECRET, "--files", files)
    assert imported(*theirs, "--data-dir", tmp_path / "theirs")["tables"]["SessionMessage"]["taken"] == 12


def test_files_go_into_the_bucket_if_there_is_one(old: Path, tmp_path: Path, moto: Moto) -> None:
    light = tmp_path / "light"
    imported(old, "--data-dir", light)
    for source, folder in ((old, tmp_path / "theirs"), (light, tmp_path / "ours"), (light, light)):
        for key in keys(moto):
            moto.client().delete_object(Bucket=moto.bucket, Key=key)
        if folder == light:
            shutil.move(light / FILE, tmp_path / "moved.sqlite")
            source = tmp_path / "moved.sqlite"
        done = imported(source, "--data-dir", folder, "--files", old / "files" if source == old else light,
                        "--secret", other_servers.SECRET, **environ(moto))  # fmt: skip
        assert done["files"]["public"] == 2 and done["files"]["attachments"] == 1
        assert len(keys(moto)) == 3 and f"sessions/{SESSION}/attachments/" in "".join(keys(moto))
        assert folder == light or not (folder / "attachments").exists()


def keys(moto: Moto) -> list[str]:
    """Return what is in the bucket."""
    return [one["Key"] for one in moto.client().list_objects_v2(Bucket=moto.bucket).get("Contents", [])]
