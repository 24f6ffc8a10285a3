"""The part of `doctor` that is about a PostgreSQL server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from happy_light.admin.finding import Finding
from happy_light.config import PostgresUrl
from happy_light.store import ReadTransaction

_CONNECTIONS: Final = 4  # that one process keeps
_AGE_MAX: Final = 3600  # s of the longest transaction of others: it keeps dead rows from being removed


def check(tx: ReadTransaction, url: PostgresUrl) -> Iterator[Finding]:
    """Check the server, which answered already: its version, encoding and schema are right."""
    row = tx.fetch_one(
        "SELECT current_setting('server_version'), current_setting('server_encoding'), "
        "CAST(current_setting('max_connections') AS bigint), "
        "CAST(current_setting('superuser_reserved_connections') AS bigint), "
        "(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), "
        "current_setting('fsync'), current_setting('full_page_writes')"
    )
    assert row is not None
    version, encoding, most, reserved, used, fsync, pages = row
    yield Finding("database", "ok", f"{url} is PostgreSQL {version} with encoding {encoding}.")
    yield _connections(int(used), int(most) - int(reserved))
    if "off" in (fsync, pages):
        yield Finding(
            "durability", "problem", f"PostgreSQL has fsync {fsync} and full_page_writes {pages}: a crash of the "
            "computer may damage the database.", "Set both to on in postgresql.conf, and restart PostgreSQL.",
        )  # fmt: skip
    yield _transactions(tx)


def _connections(used: int, most: int) -> Finding:
    text = f"{used} of {most} connections are in use; a server needs {_CONNECTIONS}."
    if used + _CONNECTIONS > most:
        return Finding("connections", "problem", text, "Raise max_connections, or close what others keep open.")
    return Finding("connections", "ok", text)


def _transactions(tx: ReadTransaction) -> Finding:
    row = tx.fetch_one(
        "SELECT CAST(coalesce(max(extract(epoch FROM now() - xact_start)), 0) AS bigint) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    assert row is not None
    if row[0] > _AGE_MAX:
        text = f"A transaction has been open for {row[0]} s: until it ends, no space is used again."
        return Finding("transactions", "warning", text, "Find it in pg_stat_activity, and end what it belongs to.")
    return Finding("transactions", "ok", "No transaction has been open for long.")
