"""An import believes nothing: crafted export files, and rows that an earlier import may have let in."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from happy_light import config
from happy_light.auth import derivation
from happy_light.config import Settings
from happy_light.errors import OperatorError
from happy_light.importing import account_export, account_import, rows
from happy_light.importing.relationships import possible_sides
from tests.importing import imported
from tests.other_servers import insert

ALICE, BOB = "calice", "cbob"
KEYS = {ALICE: "AA" * 32, BOB: "BB" * 32}
UUID = "11111111-2222-4333-8444-555555555555"
TIMES = {"created_at": 1, "updated_at": 1}
SESSION = {
    "id": "cs1", "account_id": ALICE, "tag": "t", "seq": 2, "metadata": "m", "metadata_version": 1,
    "agent_state": None, "agent_state_version": 0, "data_encryption_key": "a2V5", "active": 0, "active_at": 1, **TIMES,
}  # fmt: skip


def account(id: str, **more: Any) -> dict[str, Any]:
    return {
        "id": id, "public_key": KEYS[id], "seq": 3, "feed_seq": 1, "settings": None, "settings_version": 0,
        "first_name": "A", "last_name": None, "username": None, "avatar": None, "github_user_id": None,
        "tokens_since": 0, **TIMES, **more,
    }  # fmt: skip


ROWS: dict[str, dict[str, Any]] = {
    "github_users": {"id": "7", "profile": '{"login":"octo","name":null}', "token": None, **TIMES},
    "accounts": account(ALICE, username="octo", github_user_id="7",
                        avatar=json.dumps({"path": f"public/users/{ALICE}/avatars/a.png", "width": 1, "height": 1})),
    "sessions": SESSION,
    "messages": {"id": "cm1", "session_id": "cs1", "seq": 2, "local_id": "l", "content": "c", **TIMES},
    "machines": {"account_id": ALICE, "id": "my machine", "metadata": "m", "metadata_version": 1, "daemon_state": None,
                 "daemon_state_version": 0, "data_encryption_key": None, "seq": 0, "active": 0, "active_at": 1,
                 **TIMES},
    "artifacts": {"id": UUID, "account_id": ALICE, "session_id": None, "header": "aA==", "header_version": 1,
                  "body": "", "body_version": 1, "data_encryption_key": "aw==", "seq": 0, **TIMES},
    "access_keys": {"account_id": ALICE, "session_id": "cs1", "machine_id": "my machine", "data": "d",
                    "data_version": 1, **TIMES},
    "kv": {"account_id": ALICE, "key": "k", "value": "aA==", "version": 1, **TIMES},
    "usage_reports": {"id": "cu1", "account_id": ALICE, "session_id": "cs1", "key": "k", "tokens": '{"total":1}',
                      "cost": '{"total":0.5}', **TIMES},
    "push_tokens": {"id": "cp1", "account_id": ALICE, "token": "ExponentPushToken[x]", **TIMES},
    "vendor_tokens": {"account_id": ALICE, "vendor": "openai", "token": "AAAA", **TIMES},
    "uploaded_files": {"id": "cf1", "account_id": ALICE, "path": f"public/users/{ALICE}/avatars/a.png", "width": 1,
                       "height": 1, "thumbhash": None, "reuse_key": "github-avatar", **TIMES},
    "feed_items": {"id": "ci1", "account_id": ALICE, "counter": 1, "repeat_key": None,
                   "body": '{"kind":"friend_request","uid":"cbob"}', **TIMES},
    "voice_sessions": {"id": "cv1", "account_id": ALICE, "room": "r", "created_at": 1},
}  # fmt: skip
"""An export that is taken: a row of each table."""

ATTACKS: list[tuple[str, str, list[Any]]] = [
    ("accounts", "id", [BOB, "..", "", "a/b", "calice\n", 5, None]),
    ("accounts", "public_key", ["aa" * 32, "AA" * 31, "AA" * 33, "XX" * 32, "BB" * 32, "deleted calice",
                                "AA" * 32 + "\n"]),
    ("accounts", "seq", [-1, 2**53 + 1, 2**63, 1.5, "1", True, None]),
    ("accounts", "settings_version", [-1, 2**60]),
    ("accounts", "feed_seq", [-1, "x"]),
    ("accounts", "tokens_since", [-1, 2**62]),
    ("accounts", "avatar", [
        "x", "{}", "[]", "null", '"x"', '{"path":5}', '{"path":"../handy-master-secret.txt"}',
        '{"path":"public/users/cbob/avatars/a.png"}', '{"path":"public/users/calice/../cbob/a.png"}',
        '{"path":"public/users/calice/a.png","width":"1"}', '{"path":"public/users/calice/a.png","width":-1}',
        '{"path":"public/users/calice/a.png","thumbhash":5}']),
    ("accounts", "username", ["", "x" * 1001, 5]),
    ("accounts", "created_at", [-1, 2**62, "now", 1e300]),
    ("github_users", "profile", ["x", "{}", "[]", '{"login":5}', '{"login":""}', '{"login":"o","bio":{}}']),
    ("sessions", "id", ["../..", "..", "", "a/b", "a\0", "x" * 257]),
    ("sessions", "active", [2, "1", True]),
    ("sessions", "metadata", [None, 5, {}]),
    ("sessions", "metadata_version", [-1]),
    ("sessions", "agent_state_version", [2**60]),
    ("sessions", "data_encryption_key", ["!", "", "a", "ä"]),
    ("sessions", "seq", [-1, 1]),  # 1: behind the message's
    ("sessions", "account_id", [BOB]),
    ("messages", "seq", [0, -1, 2**60]),
    ("messages", "session_id", ["cs2", "..", None]),
    ("messages", "local_id", ["", 5]),
    ("messages", "content", [None, {"t": "encrypted", "c": "x"}]),
    ("machines", "id", ["", None]),
    ("machines", "daemon_state_version", [-1]),
    ("artifacts", "id", ["x", "", "../x"]),
    ("artifacts", "header", ["!", 5, None]),
    ("artifacts", "body_version", [-1]),
    ("access_keys", "session_id", ["cs2"]),
    ("access_keys", "data_version", [-1]),
    ("kv", "value", ["!", 5]),
    ("kv", "version", [-1]),
    ("usage_reports", "tokens", ["x", "[]", '{"total":"x"}', '{"total":null}', "null"]),
    ("usage_reports", "cost", ["{", '{"total":[]}']),
    ("push_tokens", "token", ["", None]),
    ("vendor_tokens", "vendor", ["evil", ""]),
    ("uploaded_files", "path", [
        "../handy-master-secret.txt", "../happy-server-light.sqlite", "../attachments", "..", ".", "", "/etc/passwd",
        "public/users/cbob/avatars/a.png", "public/users/calice/../cbob/a.png", "public/users/calice", "public",
        "public/users/calice/", "public/users/calice/.a", "public/users/calice/a\0", "public\\users\\calice\\a",
        f"sessions/cs1/attachments/{UUID}.enc"]),
    ("uploaded_files", "width", [-1, "1", 2**40]),
    ("feed_items", "body", ["x", "{}", "[]", '{"kind":"other"}', '{"kind":"text"}',
                            '{"kind":"friend_request","uid":5}']),
    ("feed_items", "counter", [0, -1, 2**60]),
    ("voice_sessions", "created_at", [-1]),
]  # fmt: skip

FILES = [
    "../handy-master-secret.txt", "handy-master-secret.txt", "files/../handy-master-secret.txt", "/etc/passwd",
    f"files/public/users/{ALICE}/../../../../handy-master-secret.txt", f"files/public/users/{BOB}/a.png",
    f"files/public/users/{ALICE}", f"files/public/users/{ALICE}/", f"files/public/users/{ALICE}/.part",
    f"files/public/users/{ALICE}/a\0", f"attachments/sessions/cs1/../cs2/{UUID}.enc",
    f"attachments/sessions/cs2/{UUID}.enc",
    "attachments/sessions/cs1/x.enc", f"attachments/sessions/cs1/{'-' * 36}.enc", f"files/sessions/cs1/{UUID}.enc",
    f"attachments/sessions/cs1/attachments/{UUID}.enc", f"sessions/cs1/attachments/{UUID}.enc", "", 5,
]  # fmt: skip


def export(path: Path, *lines: dict[str, Any], head: dict[str, Any] | None = None) -> Path:
    """Write an export with these lines and a right checksum."""
    counts = Counter("files" if "file" in line else line["table"] for line in lines)
    first = {"happyServerLight": 1, "schema": 1, "account": ALICE, "publicKey": KEYS[ALICE]}
    text = b"".join(json.dumps(line).encode() + b"\n" for line in ({**first, **(head or {})}, *lines))
    end = {"end": counts, "sha256": hashlib.sha256(text).hexdigest()}
    path.write_bytes(text + json.dumps(end).encode() + b"\n")
    return path


def lines_of(changed: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """ROWS as lines, with some columns changed."""
    return [{"table": table, "row": {**row, **changed.get(table, {})}} for table, row in ROWS.items()]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return a server's folder with the account of Bob in it, who has a file, and a session with an attachment."""
    monkeypatch.setattr(derivation, "_ROUNDS", 1)  # keys are derived hundreds of times
    monkeypatch.setattr(os, "sync", lambda: None)
    settings = config.load({"HANDY_MASTER_SECRET": ""}, {"data_dir": str(tmp_path / "data")})
    settings.data_dir.mkdir()
    settings.secret_file.write_text("the master secret")
    bob: list[dict[str, Any]] = [
        {"table": "accounts", "row": account(BOB)},
        {"table": "sessions", "row": {**SESSION, "id": "cs2", "account_id": BOB}},
        {"file": f"files/public/users/{BOB}/a.png", "bytes": "Ym9i"},
        {"file": f"attachments/sessions/cs2/{UUID}.enc", "bytes": "Ym9i"},
    ]
    take(export(tmp_path / "bob", *bob, head={"account": BOB, "publicKey": KEYS[BOB]}), settings)
    return settings


def take(path: Path, settings: Settings, **flags: bool) -> Any:
    return account_import.import_account(path, settings, None, lambda *_: None, **flags)


def open_database(settings: Settings) -> sqlite3.Connection:
    return sqlite3.connect(settings.database, isolation_level=None)


def state(settings: Settings) -> tuple[dict[str, bytes], list[str]]:
    """Return what is in the folder: its files without the database's, and the database's rows."""
    files = {
        str(path.relative_to(settings.data_dir)): path.read_bytes()
        for path in settings.data_dir.rglob("*")
        if path.is_file() and ".sqlite" not in path.name and path.name != "server.pid"
    }
    with closing(open_database(settings)) as connection:
        return files, list(connection.iterdump())


def test_every_column_has_a_type(settings: Settings) -> None:
    with closing(open_database(settings)) as connection:
        for table in [*account_export.TABLES, "auth_requests"]:
            columns = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
            assert set(rows.TYPES[table].__struct_fields__) == columns, table


def test_a_whole_export_is_taken_as_it_is(settings: Settings, tmp_path: Path) -> None:
    files = [{"file": f"files/public/users/{ALICE}/avatars/a.png", "bytes": "AAAA"},
             {"file": f"attachments/sessions/cs1/{UUID}.enc", "bytes": "AAAA"}]  # fmt: skip
    report = take(export(tmp_path / "alice", *lines_of({}), *files), settings)
    left = {name: counts.left for name, counts in report.tables.items() if counts.left}
    assert left == {"vendor_tokens": {"not for this server": 1}}
    stored, _ = state(settings)
    assert stored.keys() == {
        "handy-master-secret.txt", f"files/public/users/{BOB}/a.png", f"attachments/sessions/cs2/{UUID}.enc",
        *(str(file["file"]) for file in files),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("table", "column", "values"), ATTACKS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_value_that_no_server_stores_is_refused(
    settings: Settings, tmp_path: Path, table: str, column: str, values: list[Any]
) -> None:
    before = state(settings)
    for value in values:
        with pytest.raises(OperatorError, match="damaged or forged, and nothing was changed"):
            take(export(tmp_path / "forged", *lines_of({table: {column: value}})), settings)
        assert state(settings) == before, value


def test_half_of_a_surrogate_pair_is_refused(settings: Settings, tmp_path: Path) -> None:
    before = state(settings)
    for table, column in (("sessions", "metadata"), ("messages", "content"), ("kv", "key"), ("machines", "id")):
        with pytest.raises(OperatorError, match="is not JSON"):
            take(export(tmp_path / "forged", *lines_of({table: {column: "\ud800"}})), settings)
    assert state(settings) == before


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_not_the_accounts_own_is_refused(settings: Settings, tmp_path: Path, file: Any) -> None:
    before = state(settings)
    with pytest.raises(OperatorError, match="damaged or forged"):
        take(export(tmp_path / "forged", *lines_of({}), {"file": file, "bytes": "AAAA"}), settings)
    assert state(settings) == before


@pytest.mark.parametrize(
    "head", [{"account": "../x"}, {"account": ""}, {"account": BOB}, {"publicKey": "aa" * 32}, {"publicKey": KEYS[BOB]},
             {"publicKey": "x"}, {"secretCheck": 5}],
)  # fmt: skip
def test_a_head_that_does_not_fit_is_refused(settings: Settings, tmp_path: Path, head: dict[str, Any]) -> None:
    before = state(settings)
    with pytest.raises(OperatorError):
        take(export(tmp_path / "forged", *lines_of({}), head=head), settings)
    assert state(settings) == before
    with pytest.raises(OperatorError):  # also with --force, so that nobody else's account is replaced
        take(export(tmp_path / "forged", *lines_of({}), head=head), settings, force=True)
    assert state(settings) == before


def test_the_name_of_somebody_here_is_not_taken_in_any_case(settings: Settings, tmp_path: Path) -> None:
    with closing(open_database(settings)) as connection:
        connection.execute("UPDATE accounts SET username = 'OCTO' WHERE id = ?", (BOB,))
    report = take(export(tmp_path / "alice", *lines_of({})), settings)
    with closing(open_database(settings)) as connection:
        names = dict(connection.execute("SELECT id, username FROM accounts").fetchall())
    assert names == {ALICE: None, BOB: "OCTO"}
    assert any("belongs to another account" in note for note in report.notes)


# ------------------------------------------------------------------------------------ relationships
def side(from_id: str, to_id: str, status: str) -> dict[str, Any]:
    row = {"from_id": from_id, "to_id": to_id, "status": status, "accepted_at": None, "last_notified_at": None, **TIMES}
    return {"table": "relationships", "row": row}


def relationships(settings: Settings) -> set[tuple[str, str, str]]:
    with closing(open_database(settings)) as connection:
        return set(connection.execute("SELECT from_id, to_id, status FROM relationships").fetchall())


def test_a_friendship_that_the_other_side_does_not_know_is_left_out(settings: Settings, tmp_path: Path) -> None:
    forged = [side(ALICE, BOB, "friend"), side(BOB, ALICE, "friend")]
    report = take(export(tmp_path / "alice", *lines_of({}), *forged), settings)
    assert relationships(settings) == set()
    assert report.tables["relationships"].left == {"not for this server": 2}
    for mine, theirs in (("pending", "requested"), ("friend", "none"), ("requested", "pending")):
        forged = [side(ALICE, BOB, mine), side(BOB, ALICE, theirs)]
        take(export(tmp_path / "alice", *lines_of({}), *forged), settings, force=True)
        assert relationships(settings) == set()


@pytest.mark.parametrize(
    ("here", "file", "kept"),
    [
        (("friend", "friend"), ("friend", "friend"), True),
        (("requested", "pending"), ("requested", "pending"), True),
        (("pending", "requested"), ("friend", "friend"), False),
        (("friend", "friend"), ("friend", "none"), False),
        (("rejected", "rejected"), ("friend", "friend"), False),
        (("none", "rejected"), ("friend", "rejected"), False),
        (("friend", "friend"), None, False),
    ],
)
def test_an_account_that_replaces_itself_keeps_what_both_sides_say(
    settings: Settings, tmp_path: Path, here: tuple[str, str], file: tuple[str, str] | None, kept: bool
) -> None:
    take(export(tmp_path / "alice", *lines_of({})), settings)
    with closing(open_database(settings)) as connection:
        for a, b, status in ((ALICE, BOB, here[0]), (BOB, ALICE, here[1])):
            connection.execute("INSERT INTO relationships VALUES (?, ?, ?, NULL, NULL, 1, 1)", (a, b, status))
    told = [] if file is None else [side(ALICE, BOB, file[0]), side(BOB, ALICE, file[1])]
    take(export(tmp_path / "alice", *lines_of({}), *told), settings, force=True)
    assert relationships(settings) == ({(ALICE, BOB, here[0]), (BOB, ALICE, here[1])} if kept else set())


@pytest.mark.parametrize("status", ["lover", "", None])
def test_a_status_that_is_none_is_refused(settings: Settings, tmp_path: Path, status: Any) -> None:
    for told in (
        side(ALICE, BOB, status),
        side(BOB, BOB, "friend"),
        side(ALICE, ALICE, "friend"),
        side(BOB, "cx", "friend"),
    ):
        with pytest.raises(OperatorError, match="damaged or forged"):
            take(export(tmp_path / "alice", *lines_of({}), told), settings)


# ------------------------------------------------------------------------------------- at the use
def test_an_export_reads_no_file_but_the_accounts_own(settings: Settings, tmp_path: Path) -> None:
    """Rows as an import that believed its file has left them."""
    files = [{"file": f"files/public/users/{ALICE}/avatars/a.png", "bytes": "AAAA"}]
    take(export(tmp_path / "alice", *lines_of({}), *files), settings)
    (settings.files / f"public/users/{ALICE}/link.png").symlink_to(settings.secret_file)
    (settings.attachments / "sessions/cs1").symlink_to(settings.attachments / "sessions/cs2")
    paths = ["../handy-master-secret.txt", str(settings.secret_file), f"public/users/{BOB}/a.png",
             f"public/users/{ALICE}/link.png", f"public/users/{ALICE}/../{BOB}/a.png"]  # fmt: skip
    with closing(open_database(settings)) as connection:
        for number, path in enumerate(paths):
            connection.execute("INSERT INTO uploaded_files VALUES (?, ?, ?, 1, 1, NULL, NULL, 1, 1)",
                               (f"x{number}", ALICE, path))  # fmt: skip
        for id in ("..", "../..", "cs1/../cs2"):
            values = {**SESSION, "id": id, "tag": id}
            connection.execute(
                f"INSERT INTO sessions ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})",
                [*values.values()],
            )
    with (tmp_path / "out").open("wb") as out:
        counts = account_export.write(settings, ALICE, out)
    lines = [json.loads(line) for line in (tmp_path / "out").read_bytes().splitlines()]
    assert [line["file"] for line in lines if "file" in line] == [files[0]["file"]]
    assert counts["files"] == 1
    assert b"the master secret" not in (tmp_path / "out").read_bytes()


# --------------------------------------------------------------------------- databases of others
@pytest.mark.slow
def test_another_servers_database_is_not_believed_either(old: Path, tmp_path: Path) -> None:
    one, two, three = "cmaccount0000000000000001", "cmaccount0000000000000002", "cmaccount0000000000000003"
    public = f"public/users/{one}"
    with closing(sqlite3.connect(old / "happy-server-light.sqlite", isolation_level=None)) as writer:
        writer.execute("UPDATE Account SET avatar = ?, username = '' WHERE id = ?",
                       (json.dumps({"path": "../handy-master-secret.txt"}), two))  # fmt: skip
        bad: list[tuple[str, dict[str, Any]]] = [
            ("Account", {"id": "../x", "publicKey": "CC" * 32}),
            ("Account", {"id": "cbadkey1", "publicKey": "CC" * 31}),
            ("Account", {"id": "cbadkey2", "publicKey": "XX" * 32}),
            ("Account", {"id": "cbadseq", "publicKey": "DD" * 32, "seq": -1}),
            ("Account", {"id": three, "publicKey": "ee" * 32}),
            ("Session", {"id": "../..", "tag": "x", "accountId": one, "metadata": "m", "active": False}),
            ("UploadedFile", {"id": "f1", "accountId": one, "path": "../handy-master-secret.txt"}),
            ("UploadedFile", {"id": "f2", "accountId": one, "path": f"public/users/{two}/avatars/a.jpg"}),
            ("UploadedFile", {"id": "f3", "accountId": one, "path": f"{public}/../{two}/a.jpg"}),
            ("UploadedFile", {"id": "f4", "accountId": one, "path": "../attachments", "reuseKey": "github-avatar"}),
            ("UserFeedItem", {"id": "i1", "userId": one, "counter": 7, "body": {"kind": "evil"}}),
            ("ServiceAccountToken", {"id": "t1", "accountId": one, "vendor": "evil", "token": b"x"}),
            ("UserRelationship", {"fromUserId": one, "toUserId": three, "status": "friend"}),
            ("UserRelationship", {"fromUserId": three, "toUserId": two, "status": "requested"}),
            ("UserRelationship", {"fromUserId": two, "toUserId": three, "status": "friend"}),
            ("GithubUser", {"id": "gh9", "profile": []}),
        ]
        insert(writer, bad)
    (old / "files/public/users/nobody").mkdir()
    (old / "files/public/users/nobody/a.png").write_bytes(b"x")

    summary = imported(old, "--data-dir", tmp_path / "data")

    left = {name: table["left"] for name, table in summary["tables"].items() if table["left"]}
    assert left == {
        "Account": {"damaged": 4}, "Session": {"damaged": 1}, "UploadedFile": {"damaged": 4},
        "UserFeedItem": {"damaged": 1}, "ServiceAccountToken": {"damaged": 1}, "GithubUser": {"damaged": 1},
        "UserRelationship": {"not confirmed by the other side": 3},
    }  # fmt: skip
    assert "The avatar of 1 accounts cannot be used and was left out." in summary["notes"]
    assert summary["files"]["left"] == 1
    with closing(sqlite3.connect(tmp_path / "data/happy-server-light.sqlite")) as database:
        found = database.execute("SELECT id, public_key, avatar, username FROM accounts ORDER BY id").fetchall()
        assert [row[0] for row in found] == [one, two, three]
        assert (found[1][2:], found[2][1]) == ((None, None), "EE" * 32)
        assert {row[0] for row in database.execute("SELECT path FROM uploaded_files")} == {
            f"public/users/{id}/avatars/a.jpg" for id in (one, two)
        }
        pairs = database.execute("SELECT from_id, to_id, status FROM relationships").fetchall()
        assert set(pairs) == {(one, two, "friend"), (two, one, "friend")}


def test_relationships_are_possible_from_both_sides_or_from_none() -> None:
    sides = possible_sides()
    assert all((theirs, mine) in sides for mine, theirs in sides)
    assert {mine for mine, theirs in sides if theirs == "friend"} == {"friend"}
    assert ("requested", "none") not in sides
