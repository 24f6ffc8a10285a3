"""`export` and `import` of one account: from a server that runs to another that has accounts of its own."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from happy_light.auth.sealing import Vault
from tests.client import Account, World, b64, uid
from tests.conftest import SECRET, Start
from tests.importing import command, imported, refused
from tests.service_fixtures import database_url, databases

pytestmark = pytest.mark.slow
__all__ = ["database_url", "databases"]

OTHER = "another-secret"


def database(folder: Path) -> sqlite3.Connection:
    return sqlite3.connect(folder / "happy-server-light.sqlite", isolation_level=None)


def columns(table: str) -> str:
    """Return what to compare. When devices were last seen is written at the end of a server, after the export."""
    return "account_id, id, kind, approved_by, client, address, created_at" if table == "devices" else "*"


def dump(folder: Path, account_id: str) -> dict[str, Any]:
    """Everything of an account in a folder's database, except its vendor tokens."""
    from happy_light.importing.account_export import TABLES

    with closing(database(folder)) as connection:
        return {
            table: sorted(
                connection.execute(f"SELECT {columns(table)} FROM {table} WHERE {where}", {"id": account_id}).fetchall()
            )
            for table, where in TABLES.items()
            if table != "vendor_tokens"
        }


async def fill(alice: Account, folder: Path) -> str:
    """Give the account something of everything and return its session with the attachment."""
    session = (await alice.session(metadata="sealed", dataEncryptionKey=b64(b"key")))["id"]
    empty = (await alice.session())["id"]
    await alice.send(session, "a", "b", "c", content="Grüße \u2028 \U0001f600")
    await alice.send(empty, "a")
    machine = (await alice.machine(daemonState="state"))["id"]
    await alice.ok("POST", f"/v1/access-keys/{session}/{machine}", {"data": "sealed access"})
    await alice.ok("POST", "/v1/artifacts", {"id": uid(), "header": b64(b"\0h"), "body": b64(b"\xff"),
                                             "dataEncryptionKey": b64(b"k")})  # fmt: skip
    await alice.ok("POST", "/v1/kv", {"mutations": [{"key": "k", "value": b64(b"\1"), "version": -1},
                                                    {"key": "gone", "value": None, "version": -1}]})  # fmt: skip
    await alice.ok("POST", "/v1/account/settings", {"settings": "sealed settings", "expectedVersion": 0})
    file = {"filename": "f", "size": 5}
    url = (await alice.ok("POST", f"/v1/sessions/{session}/attachments/request-upload", file))["uploadUrl"]
    octets = {"Content-Type": "application/octet-stream"}
    assert (await alice.request("PUT", url, content=b"\0five", headers=octets)).status_code == 200
    sealed = Vault(SECRET).seal(["user", alice.id, "vendors", "openai", "token"], "sk-openai")
    with closing(database(folder)) as connection:
        connection.execute("INSERT INTO vendor_tokens VALUES (?, 'openai', ?, 1, 2)", (alice.id, sealed))
    return str(session)


def exported(folder: Path, account: str, file: Path) -> dict[str, int]:
    """Return the counts of an export that must succeed."""
    done = command("export", account, file, "--data-dir", folder, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout)["counts"])


@pytest.fixture
async def moved(tmp_path: Path, start: Start) -> tuple[Account, str, Path]:
    """Return an account, its session and its export, written while its server ran in `first` with SECRET."""
    server = start(folder=tmp_path / "first")
    async with World(server.url) as world:
        alice, bob = await world.account(), await world.account()
        session = await fill(alice, server.folder)
        await bob.session()
        for one, two in ((alice, bob), (bob, alice)):
            await one.ok("POST", "/v1/friends/add", {"uid": two.id})
        counts = exported(server.folder, alice.id, tmp_path / "alice.jsonl")
    assert counts == {
        "accounts": 1, "sessions": 2, "messages": 4, "machines": 1, "artifacts": 1, "access_keys": 1, "kv": 2,
        "vendor_tokens": 1, "relationships": 2, "feed_items": 1, "devices": 2, "files": 1,
    }  # fmt: skip
    assert server.stop() == 0
    return alice, session, tmp_path / "alice.jsonl"


async def test_an_account_joins_another_server_and_its_token_stays_good_under_one_secret(
    moved: tuple[Account, str, Path], tmp_path: Path, start: Start
) -> None:
    alice, session, file = moved
    second = start(folder=tmp_path / "second")
    async with World(second.url) as world:
        carol = await world.account()
        kept = (await carol.session())["id"]
    assert "pid" in refused(file, "--data-dir", second.folder, HANDY_MASTER_SECRET=SECRET)
    second.stop()

    summary = imported(file, "--data-dir", second.folder, HANDY_MASTER_SECRET=SECRET)

    assert summary["tables"]["messages"] == {"found": 4, "taken": 4, "left": {}}
    assert summary["tables"]["relationships"]["left"] == {"not for this server": 2}
    assert (summary["files"], summary["notes"]) == ({"taken": 1}, [])
    before, after = dump(tmp_path / "first", alice.id), dump(second.folder, alice.id)
    assert before.pop("relationships") != after.pop("relationships")
    assert before == after
    async with World(start(folder=second.folder).url) as world:
        again = Account(world, alice.token, alice.key)
        page = await again.ok("GET", f"/v3/sessions/{session}/messages")
        assert [m["content"]["c"] for m in page["messages"]] == ["Grüße \u2028 \U0001f600"] * 3
        with closing(database(second.folder)) as connection:
            (sealed,) = connection.execute("SELECT token FROM vendor_tokens").fetchone()
        assert Vault(SECRET).open(["user", alice.id, "vendors", "openai", "token"], sealed) == "sk-openai"
        (attachment,) = (second.folder / "attachments/sessions" / session).iterdir()
        got = await again.get(f"/v1/sessions/{session}/attachments/{attachment.name}")
        assert got.content == b"\0five"
        carol = await world.account(carol.key)
        assert [s["id"] for s in (await carol.ok("GET", "/v1/sessions"))["sessions"]] == [kept]


async def test_under_another_secret_it_signs_in_again_and_vendor_tokens_are_sealed_anew(
    moved: tuple[Account, str, Path], tmp_path: Path, start: Start
) -> None:
    alice, session, file = moved
    folder = tmp_path / "second"
    assert "not that of the server" in refused(file, "--secret", "wrong", "--data-dir", folder,
                                               HANDY_MASTER_SECRET=OTHER)  # fmt: skip
    summary = imported(file, "--data-dir", folder, HANDY_MASTER_SECRET=OTHER)
    assert summary["tables"]["vendor_tokens"] == {"found": 1, "taken": 0, "left": {"not for this server": 1}}
    assert "sign in again" in summary["notes"][0]

    (tmp_path / "secret").write_text(SECRET)
    with closing(database(folder)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("DELETE FROM accounts")
    summary = imported(file, "--secret-file", tmp_path / "secret", "--data-dir", folder, HANDY_MASTER_SECRET=OTHER)

    assert summary["tables"]["vendor_tokens"]["taken"] == 1
    with closing(database(folder)) as connection:
        (sealed,) = connection.execute("SELECT token FROM vendor_tokens").fetchone()
    assert Vault(OTHER).open(["user", alice.id, "vendors", "openai", "token"], sealed) == "sk-openai"
    async with World(start(folder=folder, HANDY_MASTER_SECRET=OTHER).url) as world:
        assert (await Account(world, alice.token, alice.key).get("/v1/sessions")).status_code == 401
        again = await world.account(alice.key)
        assert again.id == alice.id
        assert session in [s["id"] for s in (await again.ok("GET", "/v1/sessions"))["sessions"]]


async def test_an_account_that_is_there_is_replaced_only_by_force_and_whole(
    moved: tuple[Account, str, Path], tmp_path: Path, start: Start
) -> None:
    alice, session, file = moved
    second = start(folder=tmp_path / "second")
    async with World(second.url) as world:
        fresh = await world.account(alice.key)
        old = await fill(fresh, second.folder)
    second.stop()
    target = {"HANDY_MASTER_SECRET": SECRET}
    before = dump(second.folder, fresh.id)

    assert "--force replaces it" in refused(file, "--data-dir", second.folder, **target)
    imported(file, "--force", "--dry-run", "--data-dir", second.folder, **target)
    assert dump(second.folder, fresh.id) == before
    assert (second.folder / "attachments/sessions" / old).exists()
    assert not (second.folder / "attachments/sessions" / session).exists()
    imported(file, "--force", "--data-dir", second.folder, **target)

    assert dump(second.folder, fresh.id)["accounts"] == []
    assert len(dump(second.folder, alice.id)["messages"]) == 4
    assert not (second.folder / "attachments/sessions" / old).exists()
    assert (second.folder / "attachments/sessions" / session).exists()


async def test_a_file_that_is_not_whole_or_speaks_of_others_changes_nothing(
    moved: tuple[Account, str, Path], tmp_path: Path
) -> None:
    alice, _, file = moved
    folder = tmp_path / "second"
    lines = file.read_text().split("\n")[:-1]
    rows = [json.loads(line) for line in lines]
    message = next(i for i, row in enumerate(rows) if row.get("table") == "messages")
    attached = next(i for i, row in enumerate(rows) if "file" in row)

    def damaged(changed: list[str]) -> str:
        (tmp_path / "damaged").write_text("\n".join(changed) + "\n")
        text = refused(tmp_path / "damaged", "--data-dir", folder, HANDY_MASTER_SECRET=SECRET)
        assert [path.name for path in folder.iterdir()] == ["server.pid"]
        return text

    def changed(index: int, **fields: Any) -> list[str]:
        row = {**rows[index], **fields}
        return [*lines[:index], json.dumps(row), *lines[index + 1 :]]

    assert "cut off" in damaged(lines[:-1])
    assert "checksum" in damaged([*lines[:message], *lines[message + 1 :]])
    assert "checksum" in damaged(changed(message, row={**rows[message]["row"], "content": "other"}))
    assert "not of account" in damaged(changed(message, row={**rows[message]["row"], "session_id": "x"}))
    assert "does not know" in damaged(changed(message, table="meta"))
    assert "does not know" in damaged(changed(message, row={"id) VALUES (1); --": 1}))
    assert "is not a file of the account" in damaged(changed(attached, file="files/public/users/other/a.jpg"))
    up = f"files/public/users/{alice.id}/../../../../handy-master-secret.txt"
    assert "is not a file of the account" in damaged(changed(attached, file=up))
    assert "line 3 is not JSON" in damaged([*lines[:2], "{", *lines[3:]])
    assert "newer" in damaged(changed(0, schema=99))


def test_what_cannot_be_exported_is_refused(moved: tuple[Account, str, Path], tmp_path: Path) -> None:
    alice, _, file = moved
    first = tmp_path / "first"
    for account, target, said in (
        ("nobody", tmp_path / "new", "no account 'nobody'"),
        (alice.id, file, "exists already"),
        (alice.id, tmp_path / "missing/file", "cannot be written"),
    ):
        done = command("export", account, target, "--data-dir", first)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert "no database" in command("export", "x", tmp_path / "new", "--data-dir", tmp_path / "none").stderr
    assert not (tmp_path / "new").exists()
    # By public key as well; and nobody else may read it.
    exported(first, bytes(alice.key.verify_key).hex(), tmp_path / "by-key")
    assert stat.S_IMODE((tmp_path / "by-key").stat().st_mode) == 0o600


# ----------------------------------------------------------------------------------------- PostgreSQL
def stored(url: str, account_id: str) -> dict[str, Any]:
    """Everything of an account in a PostgreSQL database, except its relationships, as `dump` has it."""
    from happy_light.importing.account_export import TABLES

    with psycopg.connect(url, options="-c search_path=happy_light") as connection:
        return {
            table: sorted(connection.execute(f"SELECT {columns(table)} FROM {table} WHERE {where}"
                                             .replace(":id", "%(id)s").encode(), {"id": account_id}).fetchall())
            for table, where in TABLES.items()
            if table not in ("vendor_tokens", "relationships")
        }  # fmt: skip


async def test_an_account_joins_a_server_on_postgres_and_comes_back(
    moved: tuple[Account, str, Path], tmp_path: Path, start: Start, database_url: str
) -> None:
    alice, session, file = moved
    full, third = tmp_path / "full", tmp_path / "third"
    postgres = {"DATABASE_URL": database_url, "HANDY_MASTER_SECRET": SECRET}
    server = start(folder=full, **postgres)
    async with World(server.url) as world:
        carol = await world.account()
        kept = (await carol.session())["id"]
        message = refused(file, "--data-dir", tmp_path / "other", **postgres)
        assert "A server uses the database" in message and "happy@" not in message
    server.stop()
    before = dump(tmp_path / "first", alice.id)
    del before["relationships"]

    imported(file, "--dry-run", "--data-dir", full, **postgres)
    assert stored(database_url, alice.id)["accounts"] == [] and not (full / "attachments").exists()
    summary = imported(file, "--data-dir", full, **postgres)

    assert summary["tables"]["messages"] == {"found": 4, "taken": 4, "left": {}}
    assert (summary["files"], summary["notes"]) == ({"taken": 1}, [])
    assert stored(database_url, alice.id) == before
    assert "--force replaces it" in refused(file, "--data-dir", full, **postgres)
    imported(file, "--force", "--data-dir", full, **postgres)
    assert stored(database_url, alice.id) == before
    server = start(folder=full, **postgres)
    async with World(server.url) as world:
        again = Account(world, alice.token, alice.key)
        page = await again.ok("GET", f"/v3/sessions/{session}/messages")
        assert [m["content"]["c"] for m in page["messages"]] == ["Grüße \u2028 \U0001f600"] * 3
        (attachment,) = (full / "attachments/sessions" / session).iterdir()
        assert (await again.get(f"/v1/sessions/{session}/attachments/{attachment.name}")).content == b"\0five"
        carol = await world.account(carol.key)
        assert [s["id"] for s in (await carol.ok("GET", "/v1/sessions"))["sessions"]] == [kept]
        (sent,) = await again.send(session, uid())
        assert sent["seq"] == 4
        done = command("export", alice.id, tmp_path / "back.jsonl", "--data-dir", full, "--json", **postgres)
        assert done.returncode == 0, done.stderr
        after = stored(database_url, alice.id)
    server.stop()

    summary = imported(tmp_path / "back.jsonl", "--data-dir", third, HANDY_MASTER_SECRET=SECRET)

    assert summary["tables"]["messages"]["taken"] == 5 and summary["files"] == {"taken": 1}
    back = dump(third, alice.id)
    assert back.pop("relationships") == [] and back == after
    with closing(database(third)) as connection:
        (sealed,) = connection.execute("SELECT token FROM vendor_tokens").fetchone()
    assert Vault(SECRET).open(["user", alice.id, "vendors", "openai", "token"], sealed) == "sk-openai"


async def test_the_first_account_of_a_postgres_brings_its_secret_and_what_it_cannot_store_changes_nothing(
    moved: tuple[Account, str, Path], tmp_path: Path, start: Start, database_url: str
) -> None:
    alice, session, file = moved
    full, postgres = tmp_path / "full", {"DATABASE_URL": database_url, "HANDY_MASTER_SECRET": ""}
    lines = [json.loads(line) for line in file.read_text().split("\n")[:-1]]
    message = next(line for line in lines if line.get("table") == "messages")
    long = os.urandom(4500).hex()
    for content, local_id, said in (("\0", message["row"]["local_id"], "NUL"), ("x", long, "too long")):
        changed = {**message, "row": {**message["row"], "content": content, "local_id": local_id}}
        text = "".join(json.dumps(changed if line is message else line) + "\n" for line in lines[:-1])
        end = {"end": lines[-1]["end"], "sha256": hashlib.sha256(text.encode()).hexdigest()}
        (tmp_path / "changed").write_text(text + json.dumps(end) + "\n")
        assert said in refused(tmp_path / "changed", "--data-dir", full, **postgres)
        with psycopg.connect(database_url) as connection:
            assert connection.execute("SELECT to_regclass('happy_light.meta')").fetchone() == (None,)
        assert [path.name for path in full.iterdir()] == ["server.pid"]

    imported(file, "--data-dir", full, "--secret", SECRET, **postgres)

    async with World(start(folder=full, **postgres).url) as world:
        again = Account(world, alice.token, alice.key)
        assert session in [s["id"] for s in (await again.ok("GET", "/v1/sessions"))["sessions"]]
    missing = refused(file, "--force", "--data-dir", tmp_path / "without", **postgres)
    assert "A server uses the database" in missing
