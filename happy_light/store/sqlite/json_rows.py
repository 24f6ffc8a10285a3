"""The SQL expression that makes SQLite write a row as JSON, as msgspec would encode it.

Python's sqlite3 releases the interpreter lock for every row that it fetches, and under load waits for it as often.
A list that is only passed on need not become Python objects at all.
"""

from __future__ import annotations

import functools

import msgspec
from msgspec import inspect


@functools.cache
def expression(kind: type[msgspec.Struct]) -> str:
    """Return the SQL expression for a row whose columns are named as the fields of `kind`.

    A field that is itself a struct is one column if it has one field, else the columns `<field>_<field of it>`, and
    null if it may be that and the first of them is NULL. Raises TypeError for a type that SQLite cannot write.
    """
    struct = inspect.type_info(kind)
    assert isinstance(struct, inspect.StructType)
    return _format(struct, [field.name for field in struct.fields])


def _format(kind: inspect.StructType, columns: list[str]) -> str:
    """Return the expression of a struct; `columns` are those of its fields."""
    values: list[str] = []
    template = _template(kind, columns, values)
    # One format() instead of a || for every field: SQLite takes a lock for each allocation.
    return f"format('{template}', {', '.join(values)})"


def _template(kind: inspect.StructType, columns: list[str], values: list[str]) -> str:
    """Return the format of a struct, and append the SQL of its values to `values`."""
    members = [] if kind.tag_field is None else [f'"{kind.tag_field}":"{kind.tag}"']
    for field, column in zip(kind.fields, columns, strict=True):
        if isinstance(field.type, inspect.StructType):
            value = _template(field.type, _columns(field.type, column), values)
        else:
            value = "%s"
            values.append(_value(field.type, column))
        members.append(f'"{field.encode_name}":{value}')
    return "{" + ",".join(members) + "}"


def _columns(kind: inspect.StructType, name: str) -> list[str]:
    """Return the columns of a struct that is the field `name` of another."""
    return [name] if len(kind.fields) == 1 else [f"{name}_{field.name}" for field in kind.fields]


def _value(kind: inspect.Type, column: str) -> str:
    match kind:
        case inspect.StrType():
            return f"json_quote({column})"
        case inspect.IntType():
            return column
        case inspect.BoolType():
            return f"iif({column}, 'true', 'false')"
        case inspect.NoneType():
            return "'null'"
        case inspect.Metadata():
            return _value(kind.type, column)
        case inspect.UnionType(types=(inspect.StructType() as struct, inspect.NoneType())):
            columns = _columns(struct, column)
            return f"iif({columns[0]} IS NULL, 'null', {_format(struct, columns)})"
        case inspect.UnionType(types=(one, inspect.NoneType())):
            return f"ifnull({_value(one, column)}, 'null')"
    raise TypeError(f"{kind} cannot be written as JSON by SQLite")
