"""The PostgreSQL schema is derived from schema.sql, is current, and has the same tables, keys, indexes and triggers."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator

import psycopg
import pytest

from tools import postgres_schema

pytest_plugins = ["tests.service_fixtures"]

TYPES = {"TEXT": "text", "INTEGER": "bigint", "BLOB": "bytea"}
ONLY_POSTGRES = ("updates", "writers")
EXPRESSION = "(an expression)"
Index = tuple[str, bool, tuple[tuple[str, bool], ...], str]  # table, unique, columns and whether descending, predicate


@pytest.fixture
def lite() -> Iterator[sqlite3.Connection]:
    """SQLite with schema.sql, without what is only SQLite's."""
    connection = sqlite3.connect(":memory:")
    for statement in postgres_schema._statements(postgres_schema.SOURCE.read_text()):
        if "SQLite only" not in statement:
            connection.executescript(statement)
    yield connection
    connection.close()


@pytest.fixture
def postgres(database_url: str) -> Iterator[psycopg.Connection]:
    """PostgreSQL with the committed schema in the schema happy_light, and another program's table beside it."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE accounts (theirs integer); INSERT INTO accounts VALUES (1)")
        connection.execute("CREATE SCHEMA happy_light")
        connection.execute("SET search_path TO happy_light")
        connection.execute(postgres_schema.TARGET.read_text())
        yield connection


def test_the_committed_schema_is_current() -> None:
    derived = postgres_schema.derive(postgres_schema.SOURCE.read_text())
    assert postgres_schema.TARGET.read_text() == derived, "run `make schema`"


# ------------------------------------------------------------------------------------ what is the same
def test_tables_and_columns_correspond(lite: sqlite3.Connection, postgres: psycopg.Connection) -> None:
    expected = {
        (table, name): (TYPES[kind], bool(not_null or key), default)
        for table in tables(lite)
        for name, kind, not_null, default, key in lite.execute(
            'SELECT name, type, "notnull", dflt_value, pk FROM pragma_table_info(?)', (table,)
        )
    }
    found = {
        (table, name): (kind, not_null == "NO", default)
        for table, name, kind, not_null, default in postgres.execute(
            "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns "
            "WHERE table_schema = 'happy_light' AND table_name NOT IN ('updates', 'writers')"
        )
    }
    assert len(expected) > 100
    assert found == expected
    columns = postgres.execute(
        "SELECT DISTINCT data_type, collation_name FROM information_schema.columns WHERE table_schema = 'happy_light'"
    )
    assert dict(columns.fetchall()) == {"text": "C", "bigint": None, "bytea": None}


def test_foreign_keys_and_checks_correspond(lite: sqlite3.Connection, postgres: psycopg.Connection) -> None:
    expected: set[tuple[str, tuple[str, ...], str, tuple[str, ...], str]] = set()
    for table in tables(lite):
        keys: dict[int, list[tuple[str, str, str, str]]] = {}
        for number, *key in lite.execute(
            'SELECT id, "table", "from", "to", on_delete FROM pragma_foreign_key_list(?)', (table,)
        ):
            keys.setdefault(number, []).append((key[0], key[1], key[2], key[3]))
        for parts in keys.values():
            other, _, _, then = parts[0]
            expected.add((table, tuple(p[1] for p in parts), other, tuple(p[2] for p in parts), then))
    rules = {"c": "CASCADE", "n": "SET NULL", "a": "NO ACTION"}
    found = {
        (table, tuple(columns), other, tuple(others), rules[then])
        for table, columns, other, others, then in postgres.execute(
            "SELECT c.conrelid::regclass::text, "
            "ARRAY(SELECT attname::text FROM unnest(c.conkey) WITH ORDINALITY k(n, o) "
            "JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.n ORDER BY o), "
            "c.confrelid::regclass::text, "
            "ARRAY(SELECT attname::text FROM unnest(c.confkey) WITH ORDINALITY k(n, o) "
            "JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.n ORDER BY o), "
            "c.confdeltype FROM pg_constraint c WHERE c.contype = 'f'"
        )
    }
    assert len(expected) > 15
    assert found == expected
    checks = {table: sql.count("CHECK (") for table, sql in lite.execute("SELECT name, sql FROM sqlite_master") if sql}
    assert dict(
        postgres.execute(
            "SELECT conrelid::regclass::text, count(*) FROM pg_constraint WHERE contype = 'c' "
            "AND connamespace = 'happy_light'::regnamespace GROUP BY 1"
        ).fetchall()
    ) == {table: count for table, count in checks.items() if count}


def test_indexes_correspond(lite: sqlite3.Connection, postgres: psycopg.Connection) -> None:
    expected: dict[Index, str] = {}
    for table in tables(lite):
        query = 'SELECT name, "unique", origin FROM pragma_index_list(?)'
        for name, unique, origin in lite.execute(query, (table,)):
            columns = tuple(
                (EXPRESSION if column is None or collation == "NOCASE" else column, bool(descending))
                for column, descending, collation in lite.execute(
                    'SELECT name, "desc", coll FROM pragma_index_xinfo(?) WHERE key', (name,)
                )
            )
            sql = lite.execute("SELECT coalesce(max(sql), '') FROM sqlite_master WHERE name = ?", (name,)).fetchone()[0]
            predicate = sql.partition(" WHERE ")[2]
            expected[table, bool(unique), columns, predicate] = name if origin == "c" else ""
    found: dict[Index, str] = {}
    for table, name, unique, constraint, columns, options, predicate in postgres.execute(
        "SELECT indrelid::regclass::text, indexrelid::regclass::text, indisunique, "
        "EXISTS (SELECT 1 FROM pg_constraint WHERE conindid = indexrelid AND contype IN ('p', 'u')), "
        "ARRAY(SELECT pg_get_indexdef(indexrelid, n, true) FROM generate_series(1, indnkeyatts) n), "
        "indoption::int2[], pg_get_expr(indpred, indrelid) FROM pg_index "
        "JOIN pg_class ON pg_class.oid = indrelid WHERE relnamespace = 'happy_light'::regnamespace"
    ):
        if table not in ONLY_POSTGRES:
            named = tuple(
                (column if re.fullmatch(r"\w+", column) else EXPRESSION, bool(option & 1))
                for column, option in zip(columns, options, strict=True)
            )
            found[table, unique, named, (predicate or "").strip("()")] = "" if constraint else name
    assert len(expected) > 40
    assert found == expected


def test_triggers_correspond(lite: sqlite3.Connection, postgres: psycopg.Connection) -> None:
    expected = lite.execute("SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    found = postgres.execute("SELECT tgname, tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal")
    assert sorted(found.fetchall()) == sorted(expected)


# --------------------------------------------------------------------------------- how the rows behave
def test_text_is_ordered_by_bytes_and_lowered_as_ascii(postgres: psycopg.Connection, lite: sqlite3.Connection) -> None:
    names = ["Zoe", "ada", "Äda", "B", "_", "a"]
    for index, name in enumerate(names):
        row = (f"id{index}", f"key{index}", name, 0, 0)
        insert = "INSERT INTO accounts (id, public_key, username, created_at, updated_at) VALUES (?, ?, ?, ?, ?)"
        lite.execute(insert, row)
        postgres.execute(insert.replace("?", "%s"), row)
    for sql in (
        "SELECT username FROM accounts ORDER BY username",
        "SELECT username FROM accounts WHERE username > 'A' ORDER BY username DESC",
        "SELECT lower(username) FROM accounts ORDER BY lower(username)",
        "SELECT username FROM accounts WHERE lower(username) >= 'ä'",
    ):
        assert postgres.execute(sql).fetchall() == lite.execute(sql).fetchall(), sql


def test_a_report_without_a_session_is_stored_once(postgres: psycopg.Connection) -> None:
    postgres.execute("INSERT INTO accounts (id, public_key, created_at, updated_at) VALUES ('a', 'k', 0, 0)")
    insert = "INSERT INTO usage_reports VALUES (%s, 'a', NULL, 'key', '{}', '{}', 0, 0)"
    postgres.execute(insert, ("1",))
    with pytest.raises(psycopg.errors.UniqueViolation):
        postgres.execute(insert, ("2",))


def test_the_outbox_holds_a_seq_of_an_account_once(postgres: psycopg.Connection) -> None:
    insert = (
        "INSERT INTO updates (account_id, seq, audience, skip, frame, created_at) VALUES (%s, %s, 'user', NULL, %s, 0)"
    )
    postgres.execute(insert, ("a", 1, b"\x00{}"))
    postgres.execute(insert, ("b", 1, b"{}"))
    with pytest.raises(psycopg.errors.UniqueViolation):
        postgres.execute(insert, ("a", 1, b"{}"))


def test_tables_of_another_program_stay_as_they_are(postgres: psycopg.Connection) -> None:
    assert postgres.execute("SELECT theirs FROM public.accounts").fetchall() == [(1,)]
    beside = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    assert postgres.execute(beside).fetchall() == [("accounts",)]


# ------------------------------------------------------------------------------------- the derivation
def derived(source: str) -> str:
    """Return the statements that come of a source, without what is put around them."""
    text = postgres_schema.derive(f"-- top\n\n{source}")
    return text.removeprefix(postgres_schema._HEAD).removesuffix(postgres_schema._ONLY_POSTGRES).strip()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("CREATE TABLE a (n INTEGER PRIMARY KEY AUTOINCREMENT) STRICT;",
         "CREATE TABLE a (n bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY);"),
        ("CREATE TABLE a (b BLOB, t TEXT NOT NULL) STRICT, WITHOUT ROWID;",
         'CREATE TABLE a (b bytea, t text COLLATE "C" NOT NULL);'),
        ("-- TEXT and; rowid\nCREATE TABLE a (\n    t TEXT        -- a BLOB; or so\n) STRICT;",
         '-- TEXT and; rowid\nCREATE TABLE a (\n    t text COLLATE "C" -- a BLOB; or so\n);'),
        ("CREATE TABLE b (a TEXT REFERENCES a (t)) STRICT;\nCREATE TABLE a (t TEXT PRIMARY KEY) STRICT;",
         'CREATE TABLE a (t text COLLATE "C" PRIMARY KEY);\n\n'
         'CREATE TABLE b (a text COLLATE "C" REFERENCES a (t));'),
        ("-- SQLite only: a count\nCREATE TABLE a (rowid INTEGER) STRICT;", ""),
    ],
)  # fmt: skip
def test_what_is_made_of_a_statement(source: str, expected: str) -> None:
    assert derived(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "CREATE TABLE a (n REAL) STRICT;",
        "CREATE TABLE a (n INTEGER); CREATE INDEX i ON a (iif(n, 1, 2));",
        "CREATE TABLE a (n INTEGER REFERENCES b (n));",
        "CREATE TABLE a (n INTEGER",
        "CREATE TABLE a (n INTEGER); CREATE TRIGGER t INSTEAD OF INSERT ON a BEGIN SELECT 1; END;",
    ],
)
def test_what_has_no_rule_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match=r"no rule|no end|refer"):
        derived(source)


def test_triggers_run(database_url: str) -> None:
    source = """
CREATE TABLE items (id TEXT PRIMARY KEY, size INTEGER NOT NULL) STRICT;
CREATE TABLE totals (name TEXT PRIMARY KEY, size INTEGER NOT NULL DEFAULT 0) STRICT, WITHOUT ROWID;
INSERT INTO totals (name) VALUES ('items');
CREATE TRIGGER items_added AFTER INSERT ON items BEGIN
    UPDATE totals SET size = size + new.size WHERE name = 'items';
END;
CREATE TRIGGER items_removed AFTER DELETE ON items WHEN old.size > 1 BEGIN
    UPDATE totals SET size = size - old.size WHERE name = 'items';
END;
"""
    steps = ["INSERT INTO items VALUES ('a', 5), ('b', 1)", "DELETE FROM items WHERE id = 'a'", "DELETE FROM items"]
    lite = sqlite3.connect(":memory:")
    lite.executescript(source)
    with psycopg.connect(database_url, autocommit=True) as postgres:
        postgres.execute(derived(source))
        for step in steps:
            lite.execute(step)
            postgres.execute(step)
            sizes = [one.execute("SELECT size FROM totals").fetchall() for one in (lite, postgres)]
            assert sizes[0] == sizes[1], step
    assert sizes[0] == [(1,)]
    lite.close()


def tables(lite: sqlite3.Connection) -> list[str]:
    """Their names."""
    return [
        name
        for (name,) in lite.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    ]
