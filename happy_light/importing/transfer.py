"""Copy everything from one database of ours to another, and compare the two row by row."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from happy_light.errors import OperatorError
from happy_light.importing.own_tables import OwnTable, own_tables
from happy_light.importing.report import ProgressCallback, Report, TableReport
from happy_light.importing.targets import Target
from happy_light.store import ReadTransaction, Row

_STEP: Final = 1_000  # rows between two calls of the progress callback
_MASK: Final = 2**64 - 1

_encode = msgspec.msgpack.Encoder().encode


class _Sums:
    """How many rows each account or session has in a table, and the sum of their checksums, in whatever order."""

    def __init__(self, group: int | None) -> None:
        self._group = group
        self.found: dict[str, tuple[int, int]] = {}

    def add(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield the rows, each added to the sums of its group."""
        found, group = self.found, self._group
        for row in rows:
            key = "" if group is None else row[group] or ""
            count, total = found.get(key, (0, 0))
            found[key] = count + 1, (total + zlib.crc32(_encode(row))) & _MASK
            yield row


def transfer(source: ReadTransaction, target: Target, report: Report, progress: ProgressCallback) -> None:
    """Fill the empty target with every row of the source. Raises OperatorError if anything differs at the end."""
    for table in own_tables():
        counts = report.tables[table.name] = TableReport(table.shown)
        counts.found = _count(source, table)
        expected, stored = _Sums(table.group), _Sums(table.group)
        rows = _shown(expected.add(source.stream(table.select)), table.shown, counts.found, progress)
        target.fill(table, rows)
        for _ in _shown(stored.add(target.tx.stream(table.select)), f"{table.shown}: check", counts.found, progress):
            counts.taken += 1
        _compare(table, expected.found, stored.found)
        report.checks["rows"] = report.checks.get("rows", 0) + counts.taken
        if table.name in ("accounts", "messages"):
            kind = "accounts" if table.name == "accounts" else "sessions with messages"
            report.checks[kind] = len(stored.found)


def _count(source: ReadTransaction, table: OwnTable) -> int:
    row = source.fetch_one(f"SELECT count(*) FROM ({table.select}) AS moved")
    assert row is not None
    return int(row[0])


def _shown(rows: Iterator[Row], what: str, total: int, progress: ProgressCallback) -> Iterator[Row]:
    """Yield the rows and show how many there were."""
    number = 0
    for number, row in enumerate(rows, 1):
        if number % _STEP == 0:
            progress(what, number, total)
        yield row
    progress(what, number, total)


def _compare(table: OwnTable, expected: dict[str, tuple[int, int]], stored: dict[str, tuple[int, int]]) -> None:
    if expected == stored:
        return
    for key in expected.keys() | stored.keys():
        here, there = stored.get(key, (0, 0)), expected.get(key, (0, 0))
        if here != there:
            counts = f"{here[0]} rows, and {there[0]} are expected" if here[0] != there[0] else "another content"
            raise OperatorError(
                f"The check after the import failed, and nothing was changed: {table.name} of {key or 'the server'} "
                f"has {counts}."
            )
