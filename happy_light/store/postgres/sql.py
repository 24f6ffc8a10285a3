"""The portable SQL as PostgreSQL takes it, and how values travel."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.adapt import AdaptersMap, Dumper
from psycopg.types.numeric import Int8BinaryDumper
from psycopg.types.string import BytesBinaryDumper

_QUOTED_OR_VALUE: Final = re.compile(r"'[^']*'|\"[^\"]*\"|\?")
_READS: Final = re.compile(r"\s*(SELECT|VALUES)\b", re.I)
_INSERT: Final = re.compile(r"INSERT INTO \w+ \([\w, ]+\) VALUES \([?, ]+\)")
_BATCHES: Final = (64, 16, 4, 1)  # rows of an INSERT
_STATEMENTS: Final = 1024  # texts remembered


class Statement(NamedTuple):
    """SQL with `$1`, `$2`, …; `writes`: it may change rows."""

    text: bytes
    writes: bool


@functools.lru_cache(_STATEMENTS)
def translate(sql: str) -> Statement:
    """Return portable SQL, which has `?` for a value, as PostgreSQL takes it."""
    count = 0

    def numbered(match: re.Match[str]) -> str:
        nonlocal count
        if match[0] != "?":
            return match[0]
        count += 1
        return f"${count}"

    return Statement(_QUOTED_OR_VALUE.sub(numbered, sql).encode(), _READS.match(sql) is None)


def batches(sql: str, rows: int) -> Iterator[int]:
    """Yield how many rows each statement takes for `rows` rows of a statement: few texts, so that all are prepared."""
    for size in _BATCHES if _INSERT.fullmatch(sql) else (1,):
        while rows >= size:
            yield size
            rows -= size


@functools.lru_cache(_STATEMENTS)
def repeated(sql: str, rows: int) -> Statement:
    """Return an INSERT of one row as one of so many rows; any statement if it is one."""
    if rows == 1:
        return translate(sql)
    head, values = sql[: sql.rindex("(")], sql[sql.rindex("(") :]
    return translate(head + ", ".join([values] * rows))


class _BoolAsIntDumper(Dumper):
    """Sends a bool as 0 or 1: the columns are integers, as in SQLite."""

    oid = psycopg.adapters.types["int8"].oid

    def dump(self, obj: Any) -> bytes:
        return b"1" if obj else b"0"


def _adapters() -> AdaptersMap:
    """Return psycopg's adapters with one type for all integers, so that a statement is prepared once."""
    adapters = AdaptersMap(psycopg.adapters)
    adapters.register_dumper(int, Int8BinaryDumper)
    adapters.register_dumper(bool, _BoolAsIntDumper)
    adapters.register_dumper(bytes, BytesBinaryDumper)
    return adapters


ADAPTERS: Final = _adapters()
