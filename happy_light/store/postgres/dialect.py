"""What PostgreSQL does in its own way."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
from msgspec import inspect

from happy_light import json_codec
from happy_light.store.postgres.connection import PostgresConnection
from happy_light.store.transaction import Connection, Row

_ESTIMATE_FROM: Final = 50_000  # rows from which a count is PostgreSQL's own estimate


class PostgresDialect:
    """The differences that operations see; PostgreSQL otherwise takes the portable SQL."""

    def fetch_json(
        self, connection: Connection, kind: type[msgspec.Struct], sql: str, args: Sequence[Any], last: str
    ) -> tuple[bytes, Any]:
        """Encode the rows here: PostgreSQL's own JSON functions take twice as long, both processes together."""
        if last != "NULL":
            sql = f"SELECT listed.*, {last} OVER () AS last FROM ({sql}) AS listed"
        cursor = connection.execute(sql, args)
        rows = cursor.fetchall()
        columns = tuple(column[0] for column in cursor.description)
        found = rows[0][-1] if rows and last != "NULL" else None
        build = _builder(kind, columns)
        return json_codec.encode([build(row) for row in rows]), found

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


@functools.cache
def _builder(kind: type[msgspec.Struct], columns: tuple[str, ...]) -> Callable[[Row], msgspec.Struct]:
    """Return a function that makes a `kind` of a row with these columns.

    A field that is itself a struct is one column if it has one field, else the columns `<field>_<field of it>`, and
    null if the first of them is NULL.
    """
    described = inspect.type_info(kind)
    assert isinstance(described, inspect.StructType)
    wide = {field.name: struct for field in described.fields if (struct := _wide(field.type)) is not None}
    if wide:
        return _wide_builder(kind, described, wide, columns)
    fields = [(_position(field, columns), _conversion(field.type)) for field in described.fields]
    if all(conversion is None for _, conversion in fields):
        positions = [position for position, _ in fields]
        if positions == list(range(len(columns))):
            return lambda row: kind(*row)

    def build(row: Row) -> msgspec.Struct:
        return kind(
            *[
                None if at is None else row[at] if convert is None or row[at] is None else convert(row[at])
                for at, convert in fields
            ]
        )

    return build


def _wide(kind: inspect.Type) -> inspect.StructType | None:
    """Return the struct of a field that has several columns, None for any other field."""
    if isinstance(kind, inspect.UnionType) and len(kind.types) == 2:
        kind = next((one for one in kind.types if not isinstance(one, inspect.NoneType)), kind)
    return kind if isinstance(kind, inspect.StructType) and len(kind.fields) > 1 else None


def _wide_builder(
    kind: type[msgspec.Struct],
    described: inspect.StructType,
    wide: dict[str, inspect.StructType],
    columns: tuple[str, ...],
) -> Callable[[Row], msgspec.Struct]:
    """Return what `_builder` does, for a struct with fields that have several columns."""
    makers: list[Callable[[Row], Any]] = []
    for field in described.fields:
        struct = wide.get(field.name)
        if struct is None:
            makers.append(_value(_position(field, columns), _conversion(field.type)))
        else:
            positions = [columns.index(f"{field.name}_{part.name}") for part in struct.fields]
            makers.append(_struct_value(struct.cls, positions))

    return lambda row: kind(*[make(row) for make in makers])


def _value(at: int | None, convert: Callable[[Any], Any] | None) -> Callable[[Row], Any]:
    return lambda row: None if at is None else row[at] if convert is None or row[at] is None else convert(row[at])


def _struct_value(kind: type[msgspec.Struct], positions: list[int]) -> Callable[[Row], Any]:
    return lambda row: None if row[positions[0]] is None else kind(*[row[at] for at in positions])


def _position(field: inspect.Field, columns: tuple[str, ...]) -> int | None:
    """Return the column of a field; None for a field that is always null."""
    return None if isinstance(field.type, inspect.NoneType) else columns.index(field.name)


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
