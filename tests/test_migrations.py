"""Databases at the start: made, migrated after a copy, refused and left alone."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from happy_light import store
from happy_light.errors import OperatorError
from happy_light.store.sqlite import schema


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def execute(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return a database of the schema of today with something in it."""
    path = tmp_path / "happy-server-light.sqlite"
    store.create_or_migrate(path)
    execute(path, "INSERT INTO meta (key, value) VALUES ('kept', 'yes')")
    return path


@pytest.fixture
def next_version(monkeypatch: pytest.MonkeyPatch) -> int:
    """Make this a program whose schema is one version newer, with a table and a column that this one does not have."""
    version = store.SCHEMA_VERSION
    monkeypatch.setattr(schema, "SCHEMA_VERSION", version + 1)
    script = "CREATE TABLE later (id TEXT PRIMARY KEY) STRICT; ALTER TABLE meta ADD COLUMN note TEXT;"
    monkeypatch.setitem(store.MIGRATIONS, version, script)
    return version + 1


def test_a_new_database_is_ours_and_of_this_version(database: Path) -> None:
    assert rows(database, "PRAGMA application_id") == [(store.APPLICATION_ID,)]
    assert rows(database, "PRAGMA user_version") == [(store.SCHEMA_VERSION,)]
    assert rows(database, "PRAGMA journal_mode") == [("wal",)]
    store.create_or_migrate(database)
    assert rows(database, "SELECT value FROM meta WHERE key = 'kept'") == [("yes",)]


def test_a_migration_follows_a_copy(database: Path, next_version: int) -> None:
    store.create_or_migrate(database)
    assert rows(database, "PRAGMA user_version") == [(next_version,)]
    assert rows(database, "SELECT value, note FROM meta WHERE key = 'kept'") == [("yes", None)]
    assert rows(database, "SELECT count(*) FROM later") == [(0,)]
    copy = database.with_name(f"{database.name}.before-{next_version}")
    assert rows(copy, "PRAGMA user_version") == [(next_version - 1,)]
    assert rows(copy, "SELECT value FROM meta WHERE key = 'kept'") == [("yes",)]
    assert rows(copy, "PRAGMA integrity_check") == [("ok",)]


def test_a_failed_migration_changes_nothing_and_can_be_repeated(
    database: Path, next_version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = store.MIGRATIONS[next_version - 1]
    monkeypatch.setitem(store.MIGRATIONS, next_version - 1, f"{good} INSERT INTO nowhere VALUES (1);")
    with pytest.raises(OperatorError, match=r"cannot be used: no such table: nowhere\.$"):
        store.create_or_migrate(database)
    assert rows(database, "PRAGMA user_version") == [(next_version - 1,)]
    assert not rows(database, "SELECT name FROM sqlite_master WHERE name = 'later'")
    monkeypatch.setitem(store.MIGRATIONS, next_version - 1, good)
    store.create_or_migrate(database)
    assert rows(database, "PRAGMA user_version") == [(next_version,)]


def test_every_version_has_its_migration() -> None:
    assert sorted(store.MIGRATIONS) == list(range(1, store.SCHEMA_VERSION))


def beside_it(path: Path) -> set[str]:
    """Return the files of its folder, without those that SQLite needs to read a database with a write-ahead log."""
    return {file.name for file in path.parent.iterdir()} - {f"{path.name}-wal", f"{path.name}-shm"}


def refused(path: Path) -> str:
    """Return the sentence that refuses it, and check that the file and its folder stay as they are."""
    before, beside = path.read_bytes(), beside_it(path)
    with pytest.raises(OperatorError) as error:
        store.create_or_migrate(path)
    assert path.read_bytes() == before
    assert beside_it(path) == beside
    return str(error.value)


def test_a_newer_database_is_refused(database: Path) -> None:
    execute(database, "PRAGMA user_version = 99")
    assert f"written by a newer happy-server-light (schema 99, this one knows {store.SCHEMA_VERSION})" in refused(
        database
    )


def test_another_happy_servers_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "happy-server-light.sqlite"
    execute(path, 'CREATE TABLE "Account" (id TEXT PRIMARY KEY); CREATE TABLE "SessionMessage" (id TEXT PRIMARY KEY);')
    text = refused(path)
    assert "made by another Happy server and was not touched" in text
    assert "happy-server-light import" in text


def test_another_servers_write_ahead_log_is_left_alone(tmp_path: Path) -> None:
    living = tmp_path / "living.sqlite"
    path = tmp_path / "data" / "happy-server-light.sqlite"
    path.parent.mkdir()
    with closing(sqlite3.connect(living, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute('CREATE TABLE "Account" (id TEXT PRIMARY KEY)')
        connection.execute('CREATE TABLE "SessionMessage" (id TEXT PRIMARY KEY)')
        for end in ("", "-wal"):  # as a server that was killed leaves them
            shutil.copy(f"{living}{end}", f"{path}{end}")
    wal = Path(f"{path}-wal")
    before = path.read_bytes(), wal.read_bytes()
    assert before[1]
    with pytest.raises(OperatorError, match="made by another Happy server"):
        store.create_or_migrate(path)
    assert (path.read_bytes(), wal.read_bytes()) == before


def test_another_programs_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "happy-server-light.sqlite"
    execute(path, "CREATE TABLE notes (text TEXT)")
    assert "belongs to another program" in refused(path)
    path.write_bytes(b"PGDMP\x01\x0e\x00 a dump of something else")
    assert "is not a SQLite database" in refused(path)


def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    path = tmp_path / "happy-server-light.sqlite"
    path.touch()
    store.create_or_migrate(path)
    assert rows(path, "PRAGMA user_version") == [(store.SCHEMA_VERSION,)]


def test_a_folder_that_is_missing_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"cannot be used: unable to open database file\.$"):
        store.create_or_migrate(tmp_path / "nowhere" / "x.sqlite")


def test_a_damaged_database_is_a_sentence(database: Path) -> None:
    content = bytearray(database.read_bytes())
    content[100:4096] = b"\xff" * 3996
    database.write_bytes(content)
    with pytest.raises(OperatorError, match=r"is damaged .*malformed.*Restore a backup"):
        store.create_or_migrate(database)


@pytest.fixture
def first_version(tmp_path: Path) -> Path:
    """Return a database of the first schema with an account, sessions, a machine and usage reports."""
    path = tmp_path / "first" / "happy-server-light.sqlite"
    path.parent.mkdir()
    execute(path, (Path(__file__).parent / "schemas" / "1.sql").read_text("utf-8"))
    execute(
        path,
        f"PRAGMA application_id = {store.APPLICATION_ID}; PRAGMA user_version = 1;"
        "INSERT INTO accounts (id, public_key, username, created_at, updated_at) VALUES ('a', 'K', 'Ann', 1, 1);"
        "INSERT INTO machines (account_id, id, metadata, data_encryption_key, active_at, created_at, updated_at)"
        " VALUES ('a', 'm', 'x', x'00ff10', 1, 1, 1);"
        "INSERT INTO sessions (id, account_id, tag, metadata, data_encryption_key, active_at, created_at, updated_at)"
        " VALUES ('s1', 'a', 's1', 'x', x'00fbff', 1, 1, 1), ('s2', 'a', 's2', 'x', NULL, 1, 1, 1),"
        " ('s3', 'a', 's3', 'x', x'', 1, 1, 1);"
        "INSERT INTO usage_reports (id, account_id, session_id, key, tokens, cost, created_at, updated_at)"
        " VALUES ('u1', 'a', NULL, 'k', '{}', '{}', 1, 1), ('u2', 'a', 's1', 'k', '{}', '{}', 1, 1);"
        "DELETE FROM sessions WHERE id = 's2';",
    )
    return path


def test_keys_of_the_first_schema_become_text(first_version: Path) -> None:
    store.create_or_migrate(first_version)
    assert rows(first_version, "PRAGMA user_version") == [(store.SCHEMA_VERSION,)]
    sql = "SELECT id, data_encryption_key FROM {} ORDER BY id"
    assert rows(first_version, sql.format("sessions")) == [("s1", "APv/"), ("s3", None)]
    assert rows(first_version, sql.format("machines")) == [("m", "AP8Q")]
    assert rows(first_version, "PRAGMA integrity_check") == [("ok",)]


def test_migrations_lead_to_the_schema_of_a_new_database(first_version: Path, database: Path) -> None:
    """Tables, columns, indexes, and no trigger; the order of the columns may differ."""
    store.create_or_migrate(first_version)
    columns = (
        'SELECT t.name, c.name, c.type, c."notnull", c.dflt_value, c.pk FROM pragma_table_list t '
        "JOIN pragma_table_info(t.name) c WHERE t.schema = 'main' ORDER BY t.name, c.name"
    )
    assert rows(first_version, columns) == rows(database, columns)
    others = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE type <> 'table' ORDER BY name"
    assert rows(first_version, others) == rows(database, others)
