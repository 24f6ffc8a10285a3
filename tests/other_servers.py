"""Databases as other Happy servers leave them, built from the description of their tables."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from happy_light.auth.sealing import Vault

SECRET = "the-other-server's-secret"
NOW = 1_790_000_000_123

TIMES = "createdAt:D updatedAt:D"
TABLES = {
    "Account": f"id:S publicKey:S seq:I feedSeq:L {TIMES} settings:S settingsVersion:I githubUserId:S firstName:S "
    "lastName:S username:S avatar:J",
    "TerminalAuthRequest": f"id:S publicKey:S supportsV2:B response:S responseAccountId:S {TIMES}",
    "AccountAuthRequest": f"id:S publicKey:S response:S responseAccountId:S {TIMES}",
    "AccountPushToken": f"id:S accountId:S token:S {TIMES}",
    "Session": "id:S tag:S accountId:S metadata:S metadataVersion:I agentState:S agentStateVersion:I "
    f"dataEncryptionKey:X seq:I active:B lastActiveAt:D {TIMES}",
    "SessionMessage": f"id:S sessionId:S localId:S seq:I content:J {TIMES}",
    "GithubUser": f"id:S profile:J token:X {TIMES}",
    "RepeatKey": "key:S value:S createdAt:D expiresAt:D",
    "UsageReport": f"id:S key:S accountId:S sessionId:S data:J {TIMES}",
    "Machine": "id:S accountId:S metadata:S metadataVersion:I daemonState:S daemonStateVersion:I "
    f"dataEncryptionKey:X seq:I active:B lastActiveAt:D {TIMES}",
    "UploadedFile": f"id:S accountId:S path:S width:I height:I thumbhash:S reuseKey:S {TIMES}",
    "ServiceAccountToken": f"id:S accountId:S vendor:S token:X metadata:J lastUsedAt:D {TIMES}",
    "Artifact": f"id:S accountId:S header:X headerVersion:I body:X bodyVersion:I dataEncryptionKey:X seq:I {TIMES}",
    "AccessKey": f"id:S accountId:S machineId:S sessionId:S data:S dataVersion:I {TIMES}",
    "UserRelationship": f"fromUserId:S toUserId:S status:E {TIMES} acceptedAt:D lastNotifiedAt:D",
    "UserFeedItem": f"id:S userId:S counter:L repeatKey:S body:J {TIMES}",
    "UserKVStore": f"id:S accountId:S key:S value:X version:I {TIMES}",
}
KEYS = {
    "SessionMessage": '"sessionId", "localId"', "Session": '"accountId", tag', "UserKVStore": '"accountId", "key"',
    "UsageReport": '"accountId", "sessionId", "key"', "Machine": '"accountId", id', "Account": '"publicKey"',
}  # fmt: skip
"""Unique besides id."""

COLUMNS = {table: dict(column.split(":") for column in text.split()) for table, text in TABLES.items()}
"""Table -> column -> S text, I int, L bigint, B boolean, D date, X bytes, J JSON, E enum."""

Date = Callable[[int], Any]


def integers(ms: int) -> int:
    return ms


def iso(ms: int) -> str:
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ms % 1000:03}Z"


def sql_text(ms: int) -> str:
    whole = datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return whole if ms % 1000 == 0 else f"{whole}.{ms % 1000:03}"


def mixed() -> Date:
    """Another form with every call, as when a server's library changed under its database."""
    forms, turn = (integers, iso, sql_text), iter(range(10**9))
    return lambda ms: forms[next(turn) % 3](ms)


def account_rows(number: int, secret: str = SECRET) -> list[tuple[str, dict[str, Any]]]:
    """(table, row) of one account that uses everything. Times in ms, JSON decoded."""
    vault, id = Vault(secret), f"cmaccount{number:016}"
    sealed = vault.seal(["user", id, "vendors", "anthropic", "token"], f"sk-ant-{number}")
    session, machine = f"cmsession{number:016}", f"machine-{number}"
    rows: list[tuple[str, dict[str, Any]]] = [
        ("GithubUser", {"id": f"gh{number}", "profile": {"login": f"octo{number}", "name": "Octo Cat"},
                        "token": vault.seal(["user", id, "github", "token"], "gho_x")}),
        ("Account", {"id": id, "publicKey": f"{number:064X}", "seq": 41 + number, "feedSeq": 2, "settings": "settings!",
                     "settingsVersion": 7, "firstName": "Octo", "lastName": "Cat", "username": f"octo{number}",
                     "githubUserId": f"gh{number}",
                     "avatar": {"path": f"public/users/{id}/avatars/a.jpg", "width": 4, "height": 3,
                                "thumbhash": "dGh1bWI="}}),
        ("AccountPushToken", {"id": f"push{number}", "accountId": id, "token": f"ExponentPushToken[{number}]"}),
        ("Session", {"id": session, "tag": "tag", "accountId": id, "metadata": "sealed metadata", "metadataVersion": 3,
                     "agentState": "sealed state", "agentStateVersion": 5, "dataEncryptionKey": b"\0key\xff", "seq": 9,
                     "active": False}),
        ("Session", {"id": f"{session}b", "tag": "second", "accountId": id, "metadata": "m2", "metadataVersion": 0,
                     "agentStateVersion": 0, "seq": 0, "active": False}),
        *[("SessionMessage", {"id": f"msg{number}-{seq}", "sessionId": session,
                              "localId": None if seq % 2 else f"local{seq}", "seq": seq,
                              "content": {"t": "encrypted", "c": f"cipher {number} {seq}"}})
          for seq in (1, 2, 3, 4, 7, 9)],
        ("Machine", {"id": machine, "accountId": id, "metadata": "sealed host", "metadataVersion": 2,
                     "daemonState": "sealed daemon", "daemonStateVersion": 4, "dataEncryptionKey": b"mk", "seq": 6,
                     "active": False}),
        ("Artifact", {"id": f"00000000-0000-4000-8000-{number:012}", "accountId": id, "header": b"head\0",
                      "headerVersion": 2, "body": b"body\xfe", "bodyVersion": 3, "dataEncryptionKey": b"ak", "seq": 5}),
        ("AccessKey", {"id": f"ak{number}", "accountId": id, "machineId": machine, "sessionId": session,
                       "data": "sealed access", "dataVersion": 8}),
        ("UserKVStore", {"id": f"kv{number}", "accountId": id, "key": "todo.1", "value": b"\1\2", "version": 3}),
        ("UserKVStore", {"id": f"kvd{number}", "accountId": id, "key": "todo.gone", "value": None, "version": 6}),
        ("UsageReport", {"id": f"u{number}", "key": "claude", "accountId": id, "sessionId": session,
                         "data": {"tokens": {"total": 12, "input": 5}, "cost": {"total": 0.25}}}),
        ("UsageReport", {"id": f"v{number}", "key": "claude", "accountId": id, "sessionId": None,
                         "data": {"tokens": {"total": 1}, "cost": {"total": 0.5}}}),
        ("ServiceAccountToken", {"id": f"sat{number}", "accountId": id, "vendor": "anthropic", "metadata": None,
                                 "lastUsedAt": NOW,
                                 "token": sealed}),
        ("UploadedFile", {"id": f"up{number}", "accountId": id, "path": f"public/users/{id}/avatars/a.jpg", "width": 4,
                          "height": 3, "thumbhash": "dGh1bWI=", "reuseKey": "github-avatar"}),
        ("UserFeedItem", {"id": f"feed{number}", "userId": id, "counter": 2, "repeatKey": "hello",
                          "body": {"kind": "text", "text": "Grüße"}}),
    ]  # fmt: skip
    return rows


def world_rows(secret: str = SECRET) -> list[tuple[str, dict[str, Any]]]:
    """Two accounts that are friends, and requests to sign in."""
    one, two = (f"cmaccount{number:016}" for number in (1, 2))
    return [
        *account_rows(1, secret),
        *account_rows(2, secret),
        *[("UserRelationship", {"fromUserId": a, "toUserId": b, "status": "friend", "acceptedAt": NOW - 5})
          for a, b in ((one, two), (two, one))],
        ("TerminalAuthRequest", {"id": "treq", "publicKey": "AB" * 32, "supportsV2": True}),
        ("AccountAuthRequest", {"id": "areq", "publicKey": "cd" * 32, "response": "sealed", "responseAccountId": one}),
        ("RepeatKey", {"key": "k", "value": "v", "expiresAt": NOW}),
    ]  # fmt: skip


def attachment(session_id: str) -> str:
    """Return the reference of the one attachment that `write_files` makes in a session."""
    return f"sessions/{session_id}/attachments/11111111-2222-4333-8444-555555555555.enc"


def write_files(folder: Path, *session_ids: str) -> Path:
    """Write a folder of files: avatars of both accounts, one attachment in each of these sessions."""
    for number in (1, 2):
        avatar = folder / f"public/users/cmaccount{number:016}/avatars/a.jpg"
        avatar.parent.mkdir(parents=True)
        avatar.write_bytes(b"\xff\xd8 jpeg %d" % number)
    for session_id in session_ids:
        file = folder / attachment(session_id)
        file.parent.mkdir(parents=True)
        file.write_bytes(f"sealed file of {session_id}".encode())
    return folder


def _completed(table: str, row: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: NOW - 1000 for name in ("createdAt",) if name in COLUMNS[table]},
        **{name: NOW for name in ("updatedAt", "lastActiveAt") if name in COLUMNS[table]},
        **row,
    }


# ------------------------------------------------------------------------------------------- SQLite
_SQLITE = {"S": "TEXT", "E": "TEXT", "I": "INTEGER", "L": "BIGINT", "B": "BOOLEAN", "D": "DATETIME", "X": "BLOB",
           "J": "JSONB"}  # fmt: skip


def sqlite_file(
    path: Path, rows: list[tuple[str, dict[str, Any]]], date: Date = integers, without: tuple[str, ...] = ()
) -> sqlite3.Connection:
    """Make a light server's file with these rows; the connection stays open so that a test can write more."""
    connection = sqlite3.connect(path, isolation_level=None)
    for table, columns in COLUMNS.items():
        if table not in without:
            lines = ", ".join(f'"{name}" {_SQLITE[kind]}' for name, kind in columns.items())
            key = ', PRIMARY KEY ("id")' if "id" in columns else ""
            unique = f", UNIQUE ({KEYS[table]})" if table in KEYS else ""
            connection.execute(f'CREATE TABLE "{table}" ({lines}{key}{unique})')
    insert(connection, [row for row in rows if row[0] not in without], date)
    return connection


def insert(connection: sqlite3.Connection, rows: list[tuple[str, dict[str, Any]]], date: Date = integers) -> None:
    """More rows into such a file."""
    connection.execute("BEGIN")
    for table, row in rows:
        full = {
            name: None if value is None
            else date(value) if COLUMNS[table][name] == "D" and isinstance(value, int)
            else json.dumps(value) if COLUMNS[table][name] == "J" and not isinstance(value, str)
            else value
            for name, value in _completed(table, row).items()
        }  # fmt: skip
        names = ", ".join(f'"{name}"' for name in full)
        connection.execute(f'INSERT INTO "{table}" ({names}) VALUES ({", ".join("?" * len(full))})', [*full.values()])
    connection.execute("COMMIT")


# --------------------------------------------------------------------------------------- PostgreSQL
_POSTGRES = {"S": "TEXT", "I": "INTEGER", "L": "BIGINT", "B": "BOOLEAN", "D": "TIMESTAMP(3)", "X": "BYTEA",
             "J": "JSONB", "E": '"RelationshipStatus"'}  # fmt: skip


def postgres_programs() -> Path | None:
    """Debian's folder of PostgreSQL's server programs, if it is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@contextmanager
def postgres(programs: Path) -> Iterator[str]:
    """Run a PostgreSQL on a free port, as its own user where the tests run as root, and return its URL."""
    root = Path(tempfile.mkdtemp(prefix="happy-postgres-"))
    as_user = []
    if subprocess.run(["id", "-u"], capture_output=True, check=True, text=True).stdout.strip() == "0":
        shutil.chown(root, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def call(name: str, *arguments: str) -> None:
        # Not to a pipe: the server inherits it, and a reader would wait for its end.
        with (root.parent / f"{root.name}.log").open("ab") as log:
            subprocess.run([*as_user, str(programs / name), *arguments], check=True, cwd="/", stdout=log, stderr=log)

    data = str(root / "data")
    try:
        call("initdb", "-D", data, "-U", "happy", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={root} -c fsync=off"
        call("pg_ctl", "-D", data, "-w", "-t", "60", "-o", options, "start")
        try:
            yield f"postgresql://happy@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(root, ignore_errors=True)
        (root.parent / f"{root.name}.log").unlink(missing_ok=True)


def fill_postgres(url: str, rows: list[tuple[str, dict[str, Any]]]) -> None:
    """Create the original's tables with these rows, and a table that is unknown here."""
    import psycopg
    from psycopg.types.json import Jsonb

    def value(kind: str, given: Any) -> Any:
        if given is None:
            return None
        if kind == "D":
            return datetime.fromtimestamp(given // 1000, UTC).replace(tzinfo=None, microsecond=given % 1000 * 1000)
        return Jsonb(given) if kind == "J" else given

    with psycopg.connect(url) as connection:
        connection.execute(
            "CREATE TYPE \"RelationshipStatus\" AS ENUM ('none', 'requested', 'pending', 'friend', 'rejected')"
        )
        for table, columns in COLUMNS.items():
            lines = ", ".join(f'"{name}" {_POSTGRES[kind]}' for name, kind in columns.items())
            key = ', PRIMARY KEY ("id")' if "id" in columns else ""
            unique = f", UNIQUE ({KEYS[table]})" if table in KEYS else ""
            connection.execute(f'CREATE TABLE "{table}" ({lines}{key}{unique})'.encode())
        connection.execute('CREATE TABLE "AccountChange" (id TEXT)')
        connection.execute('CREATE INDEX ON "SessionMessage" ("sessionId", seq)')
        for table, row in rows:
            full = _completed(table, row)
            names = ", ".join(f'"{name}"' for name in full)
            marks = ", ".join(["%s"] * len(full))
            values = [value(COLUMNS[table][name], given) for name, given in full.items()]
            connection.execute(f'INSERT INTO "{table}" ({names}) VALUES ({marks})'.encode(), values)


def b64(value: bytes) -> str:
    return base64.b64encode(value).decode()
