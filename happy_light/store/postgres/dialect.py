"""What PostgreSQL does in its own way."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
from msgspec import inspect

from happy_light import json_codec
from happy_light.store.postgres.connection import PostgresConnection
from happy_light.store.transaction import Connection, Cursor, Row, SizeLimit

_ESTIMATE_FROM: Final = 50_000  # rows from which a count is PostgreSQL's own estimate


class PostgresDialect:
    """The differences that operations see; PostgreSQL otherwise takes the portable SQL."""

    def fetch_json(self, connection: Connection, kind: type[msgspec.Struct], sql: str, args: Sequence[Any]) -> bytes:
        """Encode the rows here: PostgreSQL's own JSON functions take twice as long, both processes together."""
        cursor = connection.execute(sql, args)
        return _encode(kind, cursor, cursor.fetchall())

    def fetch_small_json(
        self,
        connection: Connection,
        kind: type[msgspec.Struct],
        columns: str,
        source: str,
        args: Sequence[Any],
        limit: SizeLimit,
        last: str,
    ) -> tuple[bytes | None, int, Any]:
        """Look at the sizes in the same statement, which has one row without the columns if one is too large."""
        cursor = connection.execute(
            f"WITH listed AS (SELECT {columns}, {limit.size} AS size {source}), "
            f"totals AS (SELECT max(size) AS largest, {last} AS last FROM listed) "
            f"SELECT {columns}, largest, last FROM totals LEFT JOIN listed ON largest <= {limit.most}",
            args,
        )
        rows = cursor.fetchall()
        largest, found = rows[0][-2:]
        if largest is None:
            return b"[]", 0, None
        if largest > limit.most:
            return None, 0, None
        return _encode(kind, cursor, rows), len(rows), found

    def stream(self, connection: Connection, sql: str, args: Sequence[Any]) -> Iterator[Row]:
        """Yield the rows of a cursor of PostgreSQL's, which is there in a transaction."""
        assert isinstance(connection, PostgresConnection)
        return connection.stream(sql, args)

    def size_of(self, *columns: str) -> str:
        """Return the SQL for the bytes of texts."""
        return " + ".join(f"coalesce(octet_length({column}), 0)" for column in columns)

    def count(self, connection: Connection, table: str) -> int:
        """Return how many rows a table has; of a large one, what the last vacuum or analyze found."""
        (estimate,) = connection.execute(
            "SELECT CAST(reltuples AS bigint) FROM pg_class WHERE oid = to_regclass(?)", (table,)
        ).fetchone()
        if estimate >= _ESTIMATE_FROM:
            return int(estimate)
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def _encode(kind: type[msgspec.Struct], cursor: Cursor, rows: Sequence[Row]) -> bytes:
    """Return rows as a JSON list."""
    build = _builder(kind, tuple(column[0] for column in cursor.description))
    return json_codec.encode([build(row) for row in rows])


@functools.cache
def _builder(kind: type[msgspec.Struct], columns: tuple[str, ...]) -> Callable[[Row], msgspec.Struct]:
    """Return a function that makes a `kind` of a row with these columns.

    A field that is itself a struct is one column if it has one field, else the columns `<field>_<field of it>`, and
    null if the first of them is NULL.
    """
    described = inspect.type_info(kind)
    assert isinstance(described, inspect.StructType)
    positions: list[int] = []
    makers: list[tuple[int, Callable[[Row], Any]]] = []
    for number, field in enumerate(described.fields):
        if isinstance(field.type, inspect.NoneType):
            positions.append(len(columns))  # the None behind the columns
        elif (struct := _wide(field.type)) is not None:
            parts = [columns.index(f"{field.name}_{part.name}") for part in struct.fields]
            positions.append(parts[0])
            makers.append((number, _struct_maker(struct.cls, operator.itemgetter(*parts))))
        else:
            positions.append(columns.index(field.name))
            if (convert := _conversion(field.type)) is not None:
                makers.append((number, _maker(convert, positions[-1])))
    assert len(positions) > 1  # of one, itemgetter makes no tuple
    pick = operator.itemgetter(*positions)

    def build(row: Row) -> msgspec.Struct:
        values = list(pick((*row, None)))
        for number, make in makers:
            if values[number] is not None:
                values[number] = make(row)
        return kind(*values)

    return build


def _wide(kind: inspect.Type) -> inspect.StructType | None:
    """Return the struct of a field that has several columns, None for any other field."""
    if isinstance(kind, inspect.UnionType) and len(kind.types) == 2:
        kind = next((one for one in kind.types if not isinstance(one, inspect.NoneType)), kind)
    return kind if isinstance(kind, inspect.StructType) and len(kind.fields) > 1 else None


def _struct_maker(kind: type[Any], pick: Callable[[Row], tuple[Any, ...]]) -> Callable[[Row], Any]:
    return lambda row: kind(*pick(row))


def _maker(convert: Callable[[Any], Any], at: int) -> Callable[[Row], Any]:
    return lambda row: convert(row[at])


def _conversion(kind: inspect.Type) -> Callable[[Any], Any] | None:
    """Return what makes a field's value of a column's; None if they are the same."""
    match kind:
        case inspect.BoolType():
            return bool
        case inspect.StructType(cls=one):
            return one
        case inspect.Metadata():
            return _conversion(kind.type)
        case inspect.UnionType(types=(one, inspect.NoneType())):
            return _conversion(one)
    return None


DIALECT: Final = PostgresDialect()
