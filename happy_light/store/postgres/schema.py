"""The schema happy_light of a PostgreSQL database: created, migrated, refused if it is newer or another program's."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import errors

from happy_light.config import PostgresUrl
from happy_light.errors import OperatorError
from happy_light.store.postgres.connection import APPLICATION, SCHEMA, PostgresConnection, connect
from happy_light.store.postgres.dialect import DIALECT
from happy_light.store.postgres.errors import reason
from happy_light.store.transaction import ReadTransaction
from happy_light.store.version import SCHEMA_VERSION

log = logging.getLogger(__name__)

SERVER_MIN: Final = 14
FIRST_VERSION: Final = 4
"""The first schema that there was on PostgreSQL."""
_DEVICES: Final = """
CREATE TABLE devices (
    account_id   text COLLATE "C" NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    id           text COLLATE "C" NOT NULL,
    kind         text COLLATE "C" NOT NULL CHECK (kind IN ('signature', 'terminal', 'link', 'import', 'older')),
    approved_by  text COLLATE "C",
    client       text COLLATE "C",
    address      text COLLATE "C",
    created_at   bigint NOT NULL,
    last_seen_at bigint NOT NULL,
    PRIMARY KEY (account_id, id)
);
INSERT INTO devices (account_id, id, kind, created_at, last_seen_at)
SELECT id, 'unknown', 'older', created_at, extract(epoch FROM now())::bigint * 1000 FROM accounts;
ALTER TABLE accounts ADD COLUMN device_sign_outs bigint NOT NULL DEFAULT 0;
ALTER TABLE auth_requests ADD COLUMN approved_by text COLLATE "C";
ALTER TABLE auth_requests ADD COLUMN device_id text COLLATE "C";
"""
MIGRATIONS: Final[dict[int, str]] = {
    4: "ALTER TABLE accounts ADD COLUMN token_generation bigint NOT NULL DEFAULT 0;",
    5: 'ALTER TABLE accounts ADD COLUMN label text COLLATE "C";',
    6: _DEVICES,
}
"""The SQL that leads from version n to n + 1. Append only; schema_postgres.sql is the result of all of them."""
_LOCK: Final = 0x48617079  # "Hapy": the advisory lock under which one process creates or migrates
VERSION_KEY: Final = "schema-version"  # key in `meta`


def schema_sql() -> str:
    """Return the text of schema_postgres.sql."""
    return (Path(__file__).parent.parent / "schema_postgres.sql").read_text("utf-8")


def create_or_migrate(url: PostgresUrl) -> None:
    """Create the schema, or bring it to the current version, in one transaction; wait for another process that does.

    Raises OperatorError in one sentence if that is impossible, and changes nothing then.
    """
    try:
        connection = connect(url.text, lock_timeout="0", statement_timeout="0", idle_in_transaction_session_timeout="0")
    except psycopg.Error as error:
        raise OperatorError(f"The database {url} cannot be reached: {reason(error)}.") from None
    try:
        check_server(connection, url)
        with connection.transaction():
            migrate_inside(connection, url)
    except errors.InsufficientPrivilege as error:
        user, database = connection.info.user, connection.info.dbname
        cure = f'let its owner run: GRANT CREATE ON DATABASE "{database}" TO "{user}"'
        if _one(connection, "SELECT to_regnamespace($1) IS NOT NULL", SCHEMA)[0]:
            cure = f"name the user in DATABASE_URL who has made the schema {SCHEMA}"
        raise OperatorError(
            f"The user of the database {url} lacks a right ({error.diag.message_primary}); {cure}."
        ) from None
    except psycopg.Error as error:
        raise OperatorError(f"The database {url} cannot be used: {reason(error)}.") from None
    finally:
        connection.close()


@contextlib.contextmanager
def open_readonly(url: PostgresUrl, *, alone: bool = False) -> Iterator[ReadTransaction]:
    """Open the database for reads that see one moment, however long they take; `alone` if no server may use it.

    Raises OperatorError if it has no schema of this program and version, or cannot be read.
    """
    connection = PostgresConnection(
        url.text, readonly=True, default_transaction_isolation="repeatable read", statement_timeout="0",
        idle_in_transaction_session_timeout="0",
    )  # fmt: skip
    try:
        connection.connect()
        version = version_of(connection.raw)
        if version != SCHEMA_VERSION:
            newer = "install that version" if version and version > SCHEMA_VERSION else "start the server once"
            found = "no tables of happy-server-light" if not version else f"schema {version}"
            raise OperatorError(f"The database {url} has {found}, this version knows {SCHEMA_VERSION}; {newer}.")
        if alone:
            refuse_servers(connection, url)
        with connection.raw.transaction():
            yield ReadTransaction(connection, DIALECT)
    except psycopg.Error as error:
        raise OperatorError(f"The database {url} cannot be read: {reason(error)}.") from None
    finally:
        connection.close()


def check_server(connection: psycopg.Connection[Any], url: PostgresUrl) -> None:
    """Raise OperatorError if the server is too old, or the database has another encoding than UTF-8."""
    version = connection.info.server_version // 10_000
    if version < SERVER_MIN:
        raise OperatorError(f"The database {url} is PostgreSQL {version}; install {SERVER_MIN} or newer.")
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise OperatorError(
            f"The database {url} has the encoding {encoding}; create one with: CREATE DATABASE … ENCODING 'UTF8' "
            "TEMPLATE template0."
        )
    if connection.execute(b"SELECT pg_is_in_recovery()").fetchone() == (True,):
        raise OperatorError(f"The database {url} is a standby, which cannot be written; name the primary.")


def refuse_servers(connection: PostgresConnection, url: PostgresUrl) -> None:
    """Raise OperatorError if servers of this program are connected to the database."""
    (others,) = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = ? "
        "AND pid <> pg_backend_pid()",
        (APPLICATION,),
    ).fetchone()
    if others:
        raise OperatorError(f"A server uses the database {url}; stop it first.")


def version_of(connection: psycopg.Connection[Any]) -> int | None:
    """Return the version of the schema; None if there is none, 0 if it is not one of this program."""
    (tables,) = _one(connection, "SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace($1)", SCHEMA)
    if not tables:
        return None
    if _one(connection, "SELECT to_regclass($1)", f"{SCHEMA}.meta") == (None,):
        return 0
    row = connection.execute(b"SELECT value FROM meta WHERE key = $1", (VERSION_KEY,)).fetchone()
    return int(row[0]) if row else 0


def migrate_inside(connection: psycopg.Connection[Any], url: PostgresUrl) -> None:
    """Do what `create_or_migrate` does, inside the open transaction. Raises OperatorError, psycopg.Error."""
    connection.execute(b"SELECT pg_advisory_xact_lock($1)", (_LOCK,))
    version = version_of(connection)
    if version is None:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}".encode())
        _run(connection, schema_sql())
        connection.execute(b"INSERT INTO meta (key, value) VALUES ($1, $2)", (VERSION_KEY, str(SCHEMA_VERSION)))
        log.info("created the schema %s in %s", SCHEMA, url)
        return
    if version == 0:
        raise OperatorError(
            f"The schema {SCHEMA} of the database {url} belongs to another program and was not touched; "
            "choose another database."
        )
    if version > SCHEMA_VERSION:
        raise OperatorError(
            f"The database {url} was written by a newer happy-server-light (schema {version}, this one knows "
            f"{SCHEMA_VERSION}); install that version."
        )
    for number in range(version, SCHEMA_VERSION):
        _run(connection, MIGRATIONS[number])
    if version < SCHEMA_VERSION:
        connection.execute(b"UPDATE meta SET value = $2 WHERE key = $1", (VERSION_KEY, str(SCHEMA_VERSION)))
        log.info("migrated the database from schema %d to %d", version, SCHEMA_VERSION)


def _run(connection: psycopg.Connection[Any], script: str) -> None:
    """Run several statements."""
    psycopg.ClientCursor(connection).execute(script.encode())


def _one(connection: psycopg.Connection[Any], sql: str, *args: Any) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = connection.execute(sql.encode(), args).fetchone()
    assert row is not None
    return row
