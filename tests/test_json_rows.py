"""Lists that SQLite writes as JSON are what msgspec would have written."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from happy_light import json_codec
from happy_light.domains.avatar import avatar_of
from happy_light.domains.messages import Content, Message
from happy_light.domains.sessions.queries import ListedSession, Session
from happy_light.errors import ServiceUnavailable
from happy_light.store import ReadTransaction, SizeLimit
from happy_light.store.sqlite.dialect import DIALECT
from happy_light.store.sqlite.json_rows import expression

NASTY = [
    "", '"', "\\", "\\u0000", "a\x00b", "\x1f\x7f\x80", "\b\f\n\r\t", "/</script>", "\u2028\u2029", "\ufeff",
    "🙂\U0010ffff",    "'; DROP TABLE t; --", "{}", "[1]", "null", "é" * 3000,
]  # fmt: skip
# What UTF-8 cannot hold does not come this far.
texts = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(NASTY)
numbers = st.integers(-(2**53), 2**53)


def columns_of(kind: type[Any]) -> list[str]:
    """Return the names of the columns of a session or message."""
    names = [field.name for field in msgspec.structs.fields(kind) if field.name not in ("avatar", "last_message")]
    return [*names, "avatar_ref", "avatar_preview"] if "avatar_version" in names else names


def written(kind: type[Any], rows: list[tuple[Any, ...]], **options: Any) -> tuple[bytes, Any]:
    connection = sqlite3.connect(":memory:")
    for key, value in options.items():
        connection.setlimit(getattr(sqlite3, key), value)
    names = columns_of(kind)
    connection.execute(f"CREATE TABLE t ({', '.join(names)})")
    connection.executemany(f"INSERT INTO t VALUES ({', '.join('?' * len(names))})", rows)
    found, count, last = ReadTransaction(connection, DIALECT).fetch_small_json(
        kind, "*", "FROM t ORDER BY rowid", (), SizeLimit("0", 0), "max(seq)"
    )
    assert count == len(rows)
    return json_codec.encode(found), last


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(st.lists(st.tuples(texts, numbers, texts, st.none() | texts, numbers, numbers), max_size=5))
def test_messages(rows: list[tuple[Any, ...]]) -> None:
    structs = [Message(id, seq, Content(content), *rest) for id, seq, content, *rest in rows]
    found, last = written(Message, rows)
    assert msgspec.json.decode(found) == msgspec.json.decode(json_codec.encode(structs))
    assert last == max((row[1] for row in rows), default=None)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(
    st.lists(
        st.tuples(
            texts, numbers, numbers, numbers, st.booleans(), numbers, texts, numbers, st.none() | texts, numbers,
            st.none() | texts, st.none() | texts, numbers, st.none() | texts, texts,
        ),
        max_size=5,
    ),
    st.sampled_from([Session, ListedSession]),
)  # fmt: skip
def test_sessions(rows: list[tuple[Any, ...]], kind: type[Any]) -> None:
    structs = [
        kind(*rest, project_id, avatar_of(ref, preview, version), version)
        for *rest, project_id, version, ref, preview in rows
    ]
    found, _ = written(kind, rows)
    assert msgspec.json.decode(found) == msgspec.json.decode(json_codec.encode(structs))


def test_what_json_keeps_apart_stays_apart() -> None:
    found, _ = written(Message, [(text, 1, text, text, 0, 0) for text in NASTY])
    assert [(one["id"], one["content"]["c"]) for one in msgspec.json.decode(found)] == [(text, text) for text in NASTY]


def test_none_is_an_empty_list() -> None:
    assert written(Message, []) == (b"[]", None)


def test_more_than_sqlite_can_hold_is_said() -> None:
    with pytest.raises(ServiceUnavailable):
        written(Message, [("i", 1, "x" * 900, None, 0, 0)] * 3, SQLITE_LIMIT_LENGTH=2000)


def test_a_type_that_sqlite_cannot_write_is_refused() -> None:
    class Blob(msgspec.Struct):
        value: bytes

    with pytest.raises(TypeError):
        expression(Blob)
