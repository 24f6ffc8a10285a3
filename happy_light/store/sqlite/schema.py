"""The database file: created from schema.sql, migrated after a copy, refused if another program made it."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from happy_light import wire
from happy_light.errors import OperatorError
from happy_light.store.sqlite.dialect import DIALECT
from happy_light.store.transaction import ReadTransaction
from happy_light.store.version import SCHEMA_VERSION

log = logging.getLogger(__name__)

APPLICATION_ID: Final = 0x48617079  # "Hapy"; marks a SQLite file as one of this program
_KEYS_AS_TEXT: Final = """
ALTER TABLE {0} RENAME COLUMN data_encryption_key TO key_bytes;
ALTER TABLE {0} ADD COLUMN data_encryption_key TEXT;
UPDATE {0} SET data_encryption_key = base64(key_bytes);
ALTER TABLE {0} DROP COLUMN key_bytes;
"""
_PORTABLE_INDEXES: Final = """
DROP INDEX accounts_by_username;
CREATE INDEX accounts_by_username ON accounts (lower(username));
DROP INDEX usage_reports_by_key;
CREATE UNIQUE INDEX usage_reports_by_key ON usage_reports (account_id, coalesce(session_id, ''), key);
DROP TRIGGER accounts_deleted;
DROP TRIGGER sessions_deleted;
DROP TRIGGER messages_deleted;
DROP TRIGGER machines_deleted;
DROP TABLE free_rows;
"""
_PROJECTS: Final = """
CREATE TABLE projects (
    id                  TEXT PRIMARY KEY,
    account_id          TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    external_id         TEXT NOT NULL,
    metadata            TEXT NOT NULL,
    metadata_version    INTEGER NOT NULL DEFAULT 1,
    data_encryption_key TEXT,
    avatar_ref          TEXT,
    avatar_preview      TEXT,
    avatar_version      INTEGER NOT NULL DEFAULT 0,
    seq                 INTEGER NOT NULL DEFAULT 0,
    created_at          INTEGER NOT NULL,
    updated_at          INTEGER NOT NULL,
    UNIQUE (account_id, external_id)
) STRICT;
CREATE INDEX projects_by_change ON projects (account_id, updated_at DESC, id);
ALTER TABLE sessions ADD COLUMN project_id TEXT REFERENCES projects (id) ON DELETE SET NULL;
ALTER TABLE sessions ADD COLUMN machine_id TEXT;
ALTER TABLE sessions ADD COLUMN avatar_ref TEXT;
ALTER TABLE sessions ADD COLUMN avatar_preview TEXT;
ALTER TABLE sessions ADD COLUMN avatar_version INTEGER NOT NULL DEFAULT 0;
CREATE INDEX sessions_by_project ON sessions (project_id) WHERE project_id IS NOT NULL;
CREATE INDEX sessions_by_machine ON sessions (account_id, machine_id) WHERE machine_id IS NOT NULL;
CREATE TABLE deleted_machines (
    account_id TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    machine_id TEXT NOT NULL,
    deleted_at INTEGER NOT NULL,
    PRIMARY KEY (account_id, machine_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX deleted_machines_by_age ON deleted_machines (account_id, deleted_at DESC, machine_id);
"""
_DEVICES: Final = """
CREATE TABLE devices (
    account_id   TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    id           TEXT NOT NULL,
    kind         TEXT NOT NULL CHECK (kind IN ('signature', 'terminal', 'link', 'import', 'older', 'secret')),
    approved_by  TEXT,
    client       TEXT,
    address      TEXT,
    created_at   INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL,
    PRIMARY KEY (account_id, id)
) STRICT, WITHOUT ROWID;
INSERT INTO devices (account_id, id, kind, created_at, last_seen_at)
SELECT id, 'unknown', 'older', created_at, CAST(strftime('%s', 'now') AS INTEGER) * 1000 FROM accounts;
ALTER TABLE accounts ADD COLUMN device_sign_outs INTEGER NOT NULL DEFAULT 0;
ALTER TABLE auth_requests ADD COLUMN approved_by TEXT;
ALTER TABLE auth_requests ADD COLUMN device_id TEXT;
"""
MIGRATIONS: Final[dict[int, str]] = {
    1: _KEYS_AS_TEXT.format("sessions") + _KEYS_AS_TEXT.format("machines"),
    2: _PORTABLE_INDEXES,
    3: _PROJECTS,
    4: "ALTER TABLE accounts ADD COLUMN token_generation INTEGER NOT NULL DEFAULT 0;",
    5: "ALTER TABLE accounts ADD COLUMN label TEXT;",
    6: _DEVICES,
}
"""The SQL that leads from version n to n + 1. Append only; schema.sql is the result of all of them."""


def schema_sql() -> str:
    """Return the text of schema.sql, which is in the wheel's package or beside the package of a checkout."""
    package = Path(__file__).parent.parent.parent
    for folder in (package, package.parent):
        if (file := folder / "schema.sql").is_file():
            return file.read_text("utf-8")
    raise OperatorError("schema.sql is missing from the installation; install happy-server-light again.")


@contextlib.contextmanager
def open_readonly(path: Path) -> Iterator[ReadTransaction]:
    """Open a database for reading, whether or not a server runs on it.

    Raises OperatorError if it is not a database of this program and version, or cannot be read.
    """
    if not path.is_file():
        raise OperatorError(f"There is no database {path}; choose the data folder with --data-dir.")
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    except sqlite3.Error as error:
        raise OperatorError(f"The database {path} cannot be opened: {error}.") from error
    try:
        connection.execute("PRAGMA busy_timeout = 5000")
        (owner,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if owner != APPLICATION_ID:
            raise OperatorError(f"{path} is not a database of happy-server-light.")
        if version != SCHEMA_VERSION:
            newer = "install that version" if version > SCHEMA_VERSION else "run `happy-server-light migrate` first"
            raise OperatorError(f"{path} has schema {version}, this version knows {SCHEMA_VERSION}; {newer}.")
        connection.execute("BEGIN")  # one snapshot
        yield ReadTransaction(connection, DIALECT)
    except sqlite3.Error as error:
        raise _unusable(path, error) from error
    finally:
        connection.close()


def create_or_migrate(path: Path) -> None:
    """Create the database, or bring it to the current schema after copying it.

    Raises OperatorError if another program or a newer version made it, and does not touch it then.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        head = b""
        with contextlib.suppress(OSError):  # connecting, below, says what is wrong
            path.touch(mode=0o600)
    except OSError as error:
        raise OperatorError(f"The database {path} cannot be read: {error.strerror}.") from error
    if head and head != b"SQLite format 3\0":
        raise OperatorError(f"{path} is not a SQLite database; move it away or choose another data folder.")
    try:
        version = _version_of(path) if head else 0
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            _migrate(connection, path, version)
    except sqlite3.Error as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: sqlite3.Error) -> OperatorError:
    """Return the sentence about a database that cannot be used, for the operator."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return OperatorError(
            f"The database {path} is damaged ({error}). Restore a backup: happy-server-light restore ARCHIVE --force."
        )
    return OperatorError(f"The database {path} cannot be used: {error}.")


def _version_of(path: Path) -> int:
    """Return the schema's version, 0 for an empty database. Raises OperatorError if it is not one to work with.

    Opens it read-only, since even closing another program's database would fold its write-ahead log into it.
    """
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        connection.execute("PRAGMA busy_timeout = 5000")
        owner: int = connection.execute("PRAGMA application_id").fetchone()[0]
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if owner != APPLICATION_ID and tables:
        if {"Account", "SessionMessage"} <= tables:
            raise OperatorError(
                f"{path} was made by another Happy server and was not touched. Move it to another place and "
                "take it over with: happy-server-light import <that file>"
            )
        raise OperatorError(f"{path} belongs to another program and was not touched; choose another data folder.")
    if version > SCHEMA_VERSION:
        raise OperatorError(
            f"{path} was written by a newer happy-server-light (schema {version}, this one knows "
            f"{SCHEMA_VERSION}); install that version or restore an older backup."
        )
    return version if tables else 0


def _migrate(connection: sqlite3.Connection, path: Path, version: int) -> None:
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.create_function("base64", 1, wire.base64_text)  # SQLite has none of its own
    if not version:
        # This order: WAL writes the first page, and after that SQLite ignores auto_vacuum.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        _in_one_transaction(connection, schema_sql(), SCHEMA_VERSION)
        return
    if version < SCHEMA_VERSION:
        copy = path.with_name(f"{path.name}.before-{SCHEMA_VERSION}")
        with sqlite3.connect(copy) as target:
            connection.backup(target)
        target.close()
        log.info("copied the database to %s before migrating it", copy)
    while version < SCHEMA_VERSION:
        _in_one_transaction(connection, MIGRATIONS[version], version + 1)
        version += 1


def _in_one_transaction(connection: sqlite3.Connection, script: str, version: int) -> None:
    """Run a script and set the version that it leads to, all or nothing."""
    try:
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{script}\nPRAGMA application_id = {APPLICATION_ID};\n"
            f"PRAGMA user_version = {version};\nCOMMIT;"
        )
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
