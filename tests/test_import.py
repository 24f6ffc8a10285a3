"""`import`: another server's clients stay signed in and find everything; all of it comes, or nothing does."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests import other_servers
from tests.client import World, b64
from tests.conftest import Start
from tests.importing import HOLDER, ONE, SESSION, TWO, imported, refused, signed_in
from tests.other_servers import NOW, SECRET, attachment, insert, sqlite_file, world_rows, write_files

pytestmark = pytest.mark.slow


async def sees_everything(world: World) -> None:
    """Check that a client of account one finds all that other_servers.account_rows put there."""
    alice = signed_in(world, ONE)

    sessions = (await alice.ok("GET", "/v1/sessions"))["sessions"]
    (first,) = [session for session in sessions if session["id"] == SESSION]
    assert len(sessions) == 2
    assert first == {
        "id": SESSION, "seq": 9, "createdAt": NOW - 1000, "updatedAt": NOW, "active": False, "activeAt": NOW,
        "metadata": "sealed metadata", "metadataVersion": 3, "agentState": "sealed state", "agentStateVersion": 5,
        "dataEncryptionKey": b64(b"\0key\xff"), "lastMessage": None,
        "projectId": None, "avatar": None, "avatarVersion": 0,
    }  # fmt: skip
    page = await alice.ok("GET", f"/v3/sessions/{SESSION}/messages")
    assert [(m["id"], m["seq"], m["localId"], m["content"]["c"], m["createdAt"]) for m in page["messages"]] == [
        (f"msg1-{seq}", seq, None if seq % 2 else f"local{seq}", f"cipher 1 {seq}", NOW - 1000)
        for seq in (1, 2, 3, 4, 7, 9)
    ]
    (machine,) = await alice.ok("GET", "/v1/machines")
    assert machine == {
        "id": "machine-1", "metadata": "sealed host", "metadataVersion": 2, "daemonState": "sealed daemon",
        "daemonStateVersion": 4, "dataEncryptionKey": b64(b"mk"), "seq": 6, "active": False, "activeAt": NOW,
        "createdAt": NOW - 1000, "updatedAt": NOW,
    }  # fmt: skip
    artifact = await alice.ok("GET", "/v1/artifacts/00000000-0000-4000-8000-000000000001")
    assert (artifact["header"], artifact["headerVersion"]) == (b64(b"head\0"), 2)
    assert (artifact["body"], artifact["bodyVersion"], artifact["seq"]) == (b64(b"body\xfe"), 3, 5)
    key = (await alice.ok("GET", f"/v1/access-keys/{SESSION}/machine-1"))["accessKey"]
    assert (key["data"], key["dataVersion"], key["createdAt"]) == ("sealed access", 8, NOW - 1000)
    assert (await alice.ok("GET", "/v1/kv"))["items"] == [{"key": "todo.1", "value": b64(b"\1\2"), "version": 3}]
    stale = await alice.post("/v1/kv", {"mutations": [{"key": "todo.gone", "value": "", "version": 5}]})
    assert stale.json()["errors"] == [{"key": "todo.gone", "error": "version-mismatch", "version": 6, "value": None}]
    assert await alice.ok("GET", "/v1/account/settings") == {"settings": "settings!", "settingsVersion": 7}
    usage = await alice.ok("POST", "/v1/usage/query", {"groupBy": "day"})
    assert usage["totalReports"] == 2
    assert usage["usage"][0]["tokens"] == {"total": 13, "input": 5}
    assert usage["usage"][0]["cost"] == {"total": 0.75}
    (push,) = (await alice.ok("GET", "/v1/push-tokens"))["tokens"]
    assert push == {"id": "push1", "token": "ExponentPushToken[1]", "createdAt": NOW - 1000, "updatedAt": NOW}
    assert await alice.ok("GET", "/v1/connect/anthropic/token") == {"token": "sk-ant-1"}
    (friend,) = (await alice.ok("GET", "/v1/friends"))["friends"]
    assert (friend["id"], friend["status"], friend["username"]) == (TWO, "friend", "octo2")
    (item,) = (await alice.ok("GET", "/v1/feed"))["items"]
    assert (item["id"], item["cursor"], item["repeatKey"]) == ("feed1", "0-2", "hello")
    assert item["body"] == {"kind": "text", "text": "Grüße"}

    profile = await alice.ok("GET", "/v1/account/profile")
    assert (profile["username"], profile["firstName"]) == ("octo1", "Octo")
    assert (profile["github"]["login"], profile["connectedServices"]) == ("octo1", ["anthropic"])
    assert profile["avatar"]["path"] == f"public/users/{ONE}/avatars/a.jpg"
    # The account's numbering goes on where it was.
    ui = await alice.socket()
    await alice.send(SESSION, "new")
    ((_, frame),) = await ui.heard("update")
    assert (frame["seq"], frame["body"]["message"]["seq"]) == (43, 10)


async def has_files(world: World) -> None:
    """Avatars are public; an attachment is its owner's alone."""
    alice, bob = signed_in(world, ONE), signed_in(world, TWO)
    avatar = await world.http.get(f"/files/public/users/{ONE}/avatars/a.jpg")
    assert (avatar.status_code, avatar.content) == (200, b"\xff\xd8 jpeg 1")
    body = {"ref": attachment(SESSION)}
    url = (await alice.ok("POST", f"/v1/sessions/{SESSION}/attachments/request-download", body))["downloadUrl"]
    assert (await alice.get(url)).content == f"sealed file of {SESSION}".encode()
    assert (await bob.get(url)).status_code == 404
    assert (await world.http.get(f"/files/{attachment(SESSION)}")).status_code == 404


# ------------------------------------------------------------------------------------ light servers
@pytest.mark.parametrize("form", ["integers", "iso", "sql_text", "mixed"])
async def test_clients_of_a_light_server_stay_signed_in_and_find_everything(
    form: str, old: Path, tmp_path: Path, start: Start
) -> None:
    database = old / "happy-server-light.sqlite"
    database.unlink()
    date = other_servers.mixed() if form == "mixed" else getattr(other_servers, form)
    sqlite_file(database, world_rows(), date).close()
    before = database.read_bytes()

    summary = imported(old, "--data-dir", tmp_path / "data")

    assert database.read_bytes() == before
    assert summary["tables"]["SessionMessage"] == {"found": 12, "taken": 12, "left": {}}
    assert {name: table["left"] for name, table in summary["tables"].items() if table["left"]} == {}
    assert summary["files"] == {"public": 2, "attachments": 1, "bytes": 58, "left": 0}
    assert summary["checks"] == {"tables": 16, "accounts": 2, "sessions": 2, "contents": 12, "sealed tokens": 4}
    assert not (tmp_path / "data/.importing").exists()
    assert (tmp_path / "data/handy-master-secret.txt").read_text() == SECRET
    assert (tmp_path / "data/handy-master-secret.txt").stat().st_mode & 0o777 == 0o600
    async with World(start(**HOLDER).url) as world:
        await sees_everything(world)
        await has_files(world)


def test_what_lies_in_the_write_ahead_log_comes_too(old: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(old / "happy-server-light.sqlite", isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        row = {"id": "late", "sessionId": SESSION, "seq": 10, "content": {"t": "encrypted", "c": "in the log"}}
        insert(writer, [("SessionMessage", row)])
        # As a server that was killed leaves it: the log beside the file, no shared memory.
        killed = tmp_path / "killed"
        killed.mkdir()
        for name in ("happy-server-light.sqlite", "happy-server-light.sqlite-wal"):
            shutil.copy(old / name, killed / name)
    log = (killed / "happy-server-light.sqlite-wal").read_bytes()

    summary = imported(killed, "--secret", SECRET, "--data-dir", tmp_path / "data")

    assert summary["tables"]["SessionMessage"]["taken"] == 13
    assert (killed / "happy-server-light.sqlite-wal").read_bytes() == log
    with closing(sqlite3.connect(tmp_path / "data/happy-server-light.sqlite")) as database:
        assert database.execute("SELECT content FROM messages WHERE id = 'late'").fetchone() == ("in the log",)
        assert database.execute("SELECT seq FROM sessions WHERE id = ?", (SESSION,)).fetchone() == (10,)
    assert any("sessions.seq was behind" in note for note in summary["notes"])


def test_two_messages_of_one_seq_keep_their_order_and_others_their_seq(old: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(old / "happy-server-light.sqlite", isolation_level=None)) as writer:
        content = {"t": "encrypted", "c": "double"}
        insert(
            writer,
            [
                ("SessionMessage", {"id": id, "sessionId": SESSION, "seq": seq, "content": content, "createdAt": at})
                for id, seq, at in (("z", 2, NOW - 2000), ("y", 2, NOW - 1000), ("x", 2, NOW - 1000), ("w", 9, NOW))
            ],
            other_servers.mixed(),
        )
        writer.execute(f"UPDATE SessionMessage SET createdAt = {NOW - 3000} WHERE id = 'msg1-2'")

    summary = imported(old, "--data-dir", tmp_path / "data")

    with closing(sqlite3.connect(tmp_path / "data/happy-server-light.sqlite")) as database:
        rows = database.execute("SELECT id, seq FROM messages WHERE session_id = ? ORDER BY seq", (SESSION,)).fetchall()
        (seq,) = database.execute("SELECT seq FROM sessions WHERE id = ?", (SESSION,)).fetchone()
    assert rows == [
        ("msg1-1", 1), ("msg1-2", 2), ("z", 3), ("x", 4), ("y", 5), ("msg1-3", 6), ("msg1-4", 7),
        ("msg1-7", 8), ("msg1-9", 9), ("w", 10),
    ]  # fmt: skip
    assert seq == 10
    assert summary["renumbered"] == {SESSION: 7}
    assert any("two had the same one" in note for note in summary["notes"])


def test_missing_and_unknown_tables_are_said(old: Path, tmp_path: Path) -> None:
    (old / "happy-server-light.sqlite").unlink()
    with closing(
        sqlite_file(old / "happier-server-light.sqlite", world_rows(), without=("UserFeedItem", "UserKVStore"))
    ) as database:
        database.execute('ALTER TABLE "Account" ADD COLUMN contentPublicKey TEXT')
        database.execute('ALTER TABLE "Session" DROP COLUMN agentStateVersion')
        database.execute("CREATE TABLE SessionShare (id TEXT)")
        database.execute("CREATE TABLE _prisma_migrations (id TEXT)")

    summary = imported(old, "--data-dir", tmp_path / "data")

    assert summary["tables"]["Session"]["taken"] == 4
    assert "UserFeedItem" not in summary["tables"]
    assert [note for note in summary["notes"] if "secret" not in note] == [
        "The source has no table Project: no projects.",
        "The source has no table UserKVStore: no key-value pairs.",
        "The source has no table UserFeedItem: no feed items.",
        "Columns of Account that are unknown here were left: contentPublicKey.",
        "Tables that are unknown here were left: SessionShare.",
    ]


def test_rows_that_cannot_be_kept_are_counted_and_the_rest_comes(old: Path, tmp_path: Path) -> None:
    message = {"sessionId": SESSION, "seq": 20, "content": {"t": "encrypted", "c": "x"}}
    usage = {"key": "claude", "accountId": ONE, "sessionId": None}
    with closing(sqlite3.connect(old / "happy-server-light.sqlite", isolation_level=None)) as writer:
        insert(
            writer,
            [
                ("SessionMessage", {**message, "id": "bad1", "content": "not JSON"}),
                ("SessionMessage", {**message, "id": "bad2", "createdAt": "yesterday"}),
                ("SessionMessage", {**message, "id": "bad3", "seq": "many"}),
                ("SessionMessage", {**message, "id": "bad4", "content": '{"t":"encrypted","c":"\\ud800"}'}),
                ("SessionMessage", {**message, "id": "lost", "sessionId": "deleted"}),
                ("AccessKey", {"id": "lost", "accountId": ONE, "machineId": "machine-2", "sessionId": SESSION,
                               "data": "x", "dataVersion": 1}),
                ("UsageReport", {**usage, "id": "newer", "updatedAt": NOW + 1,
                                 "data": {"tokens": {"total": 7}, "cost": {"total": 1}}}),
                ("UsageReport", {**usage, "id": "older", "updatedAt": NOW - 500,
                                 "data": {"tokens": {"total": 99}, "cost": {"total": 9}}}),
            ],
            other_servers.mixed(),
        )  # fmt: skip

    summary = imported(old, "--data-dir", tmp_path / "data")

    tables = summary["tables"]
    assert tables["SessionMessage"] == {"found": 17, "taken": 12, "left": {"damaged": 4, "without sessions": 1}}
    assert tables["AccessKey"]["left"] == {"without machines": 1}
    assert tables["UsageReport"] == {"found": 6, "taken": 4, "left": {"already there": 2}}
    assert any("SessionMessage bad1: not JSON" in note for note in summary["notes"])
    with closing(sqlite3.connect(tmp_path / "data/happy-server-light.sqlite")) as database:
        kept = database.execute(
            "SELECT id, tokens FROM usage_reports WHERE account_id = ? AND session_id IS NULL", (ONE,)
        ).fetchall()
        assert kept == [("newer", '{"total":7}')]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_files_that_belong_to_nobody_stay_behind(old: Path, tmp_path: Path) -> None:
    write_files(tmp_path / "files", SESSION, "deleted")
    (tmp_path / "files/notes.txt").write_text("?")
    (tmp_path / "files/public/link").symlink_to("/etc/hostname")

    summary = imported(old, "--files", tmp_path / "files", "--data-dir", tmp_path / "data")

    assert summary["files"] == {"public": 2, "attachments": 1, "bytes": 58, "left": 2}
    found = [str(file.relative_to(tmp_path / "data")) for file in (tmp_path / "data").rglob("*") if file.is_file()]
    assert sorted(file for file in found if "/" in file) == [
        f"attachments/{attachment(SESSION).replace('/attachments/', '/')}",
        f"files/public/users/{ONE}/avatars/a.jpg",
        f"files/public/users/{TWO}/avatars/a.jpg",
    ]


# --------------------------------------------------------------------------------------- PostgreSQL
async def test_postgresql_comes_over_in_the_same_way(tmp_path: Path, start: Start) -> None:
    programs = other_servers.postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    write_files(tmp_path / "files", SESSION)
    with other_servers.postgres(programs) as url:
        other_servers.fill_postgres(url, world_rows())
        locked = re.sub("happy@", "happy:pass-word@", url)

        summary = imported(locked, "--secret", SECRET, "--files", tmp_path / "files", "--data-dir", tmp_path / "data")

        assert "pass-word" not in json.dumps(summary)
        assert summary["source"] == re.sub("happy@", "", url)
        assert "Tables that are unknown here were left: AccountChange." in summary["notes"]
        unreachable = re.sub(r":\d+/", ":1/", locked)
        assert "pass-word" not in refused(unreachable, "--secret", SECRET, "--data-dir", tmp_path / "x")
    assert summary["checks"] == {"tables": 16, "accounts": 2, "sessions": 2, "contents": 12, "sealed tokens": 4}
    async with World(start(**HOLDER).url) as world:
        await sees_everything(world)
        await has_files(world)
