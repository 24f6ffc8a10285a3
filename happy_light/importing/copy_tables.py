"""Fills a new database of ours with what a source holds, and says what it did with every row."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from happy_light.auth.sealing import Vault
from happy_light.importing.convert import Damaged
from happy_light.importing.sources import Source
from happy_light.importing.tables import EMPTY, TABLES, UNUSED, Table

Progress = Callable[[str, int, int], None]
"""Hears (what, how many are done, of how many)."""

_STEP: Final = 500  # rows between two looks at the progress
_EXAMPLES: Final = 3


@dataclass
class Moved:
    """One table of theirs: rows found, taken, and left out with the reason."""

    shown: str
    found: int = 0
    taken: int = 0
    left: Counter[str] = field(default_factory=Counter)


@dataclass
class Report:
    """What an import did, or would do."""

    tables: dict[str, Moved] = field(default_factory=dict)
    """By the name in the source."""

    notes: list[str] = field(default_factory=list)
    """Sentences for the operator."""

    renumbered: dict[str, int] = field(default_factory=dict)
    """Session -> how many of its messages got another seq."""

    files: dict[str, int] = field(default_factory=dict)
    checks: dict[str, int] = field(default_factory=dict)
    """What was compared at the end -> how often."""


def load(source: Source, target: sqlite3.Connection, progress: Progress) -> Report:
    """Copies every table into the (empty) target inside its open transaction. Raises StartError."""
    report = Report()
    present = source.tables()
    for table in TABLES:
        if table.theirs not in present:
            report.notes.append(f"The source has no table {table.theirs}: no {table.shown}.")
            continue
        _copy(source, target, table, report, progress)
    _drop_orphans(target, report)
    _raise_counters(target, report)
    _name_what_stays(present, report)
    return report


def _copy(source: Source, target: sqlite3.Connection, table: Table, report: Report, progress: Progress) -> None:
    moved = report.tables[table.theirs] = Moved(table.shown, source.count(table.theirs))
    before = _count(target, table.ours)
    examples: list[str] = []
    stored = 0

    def rows() -> Iterator[list[Any]]:
        nonlocal stored
        step = 0
        for step, values in enumerate(source.rows(table.theirs, [c.theirs for c in table.columns], table.order), 1):
            if step % _STEP == 0:
                progress(table.shown, step, moved.found)
            try:
                row = table.row(values)
            except Damaged as error:
                moved.left["damaged"] += 1
                if len(examples) < _EXAMPLES:
                    examples.append(f"{_name(table, values)}: {error}")
                continue
            stored += 1
            yield row
        progress(table.shown, step, moved.found)

    # A generator, so that sqlite3 takes row after row and memory stays flat whatever the rows weigh.
    target.executemany(table.insert, _numbered(rows(), report) if table.ours == "messages" else rows())
    moved.taken = _count(target, table.ours) - before
    if stored > moved.taken:
        moved.left["already there"] = stored - moved.taken
    if examples:
        report.notes.append(f"Damaged {table.shown} were left out: {'; '.join(examples)}.")


def _numbered(rows: Iterator[list[Any]], report: Report) -> Iterator[list[Any]]:
    """Messages by session and seq -> the same, each seq once in its session.

    In a session where a seq stands twice, the second one and whatever it pushes forward move on by as
    little as keeps the order of (seq, createdAt, id); gaps behind it take that up. Others stay as they are.
    """
    session, last = "", 0
    for same in _runs(rows):
        if same[0][0] != session:
            session, last = same[0][0], same[0][1] - 1
        for row in same:
            seq = max(row[1], last + 1)
            if seq != row[1]:
                report.renumbered[session] = report.renumbered.get(session, 0) + 1
                row[1] = seq
            last = seq
            yield row


def _runs(rows: Iterator[list[Any]]) -> Iterator[list[list[Any]]]:
    """Neighbours with one session and seq together, by (createdAt, id): a few rows at most."""
    run: list[list[Any]] = []
    for row in rows:
        if run and run[0][:2] != row[:2]:
            yield sorted(run, key=lambda r: (r[3], r[2])) if len(run) > 1 else run
            run = []
        run.append(row)
    if run:
        yield sorted(run, key=lambda r: (r[3], r[2]))


def _name(table: Table, values: tuple[Any, ...]) -> str:
    """How to find a row again: its id, or its place."""
    shown = dict(zip([column.theirs for column in table.columns], values, strict=True))
    return f"{table.theirs} {shown.get('id') or shown.get('accountId') or '?'}"


# ------------------------------------------------------------------------------------ putting right
def _drop_orphans(target: sqlite3.Connection, report: Report) -> None:
    """Rows whose account, session or machine is missing: SQLite servers did not always watch over that."""
    for table in dict.fromkeys(table.ours for table in TABLES):
        references: dict[int, list[tuple[Any, ...]]] = {}
        for row in target.execute(f"PRAGMA foreign_key_list({table})"):
            references.setdefault(row[0], []).append(row)
        for columns in references.values():
            parent, on_delete = columns[0][2], columns[0][6]
            pairs = [(row[3], row[4]) for row in columns]
            missing = " AND ".join(f"{table}.{child} IS NOT NULL" for child, _ in pairs)
            same = " AND ".join(f"p.{key} = {table}.{child}" for child, key in pairs)
            where = f"WHERE {missing} AND NOT EXISTS (SELECT 1 FROM {parent} p WHERE {same})"
            if on_delete == "SET NULL":
                gone = target.execute(f"UPDATE {table} SET {pairs[0][0]} = NULL {where}").rowcount
                if gone:
                    report.notes.append(f"{gone} {table} pointed to missing {parent}; they do not any more.")
            elif gone := target.execute(f"DELETE FROM {table} {where}").rowcount:
                for moved in _of(table, report):
                    part = min(gone, moved.taken)
                    moved.taken -= part
                    moved.left[f"without {parent}"] += part
                    gone -= part


def _of(ours: str, report: Report) -> list[Moved]:
    return [report.tables[t.theirs] for t in TABLES if t.ours == ours and t.theirs in report.tables]


def _raise_counters(target: sqlite3.Connection, report: Report) -> None:
    """A counter below what it has numbered would give a number out twice."""
    for table, counter, below, column in (
        ("sessions", "seq", "messages WHERE session_id = sessions.id", "seq"),
        ("accounts", "feed_seq", "feed_items WHERE account_id = accounts.id", "counter"),
    ):
        top = f"(SELECT max({column}) FROM {below})"
        raised = target.execute(f"UPDATE {table} SET {counter} = {top} WHERE {counter} < {top}").rowcount
        if raised:
            report.notes.append(f"{table}.{counter} was behind what it numbers in {raised} {table}, and was raised.")
    if report.renumbered:
        report.notes.append(
            f"{sum(report.renumbered.values())} messages of {len(report.renumbered)} sessions got another seq, "
            "since two had the same one; their order is kept."
        )


def _name_what_stays(present: dict[str, set[str]], report: Report) -> None:
    known = {table.theirs: table for table in TABLES}
    for name, columns in sorted(present.items()):
        if name in known:
            taken = {column.theirs for column in known[name].columns} | UNUSED.get(name, set())
            more = sorted(columns - taken)
            if more:
                report.notes.append(f"Columns of {name} that are unknown here were left: {', '.join(more)}.")
    more = sorted(name for name in present if name not in known and name not in EMPTY and not name.startswith("_"))
    if more:
        report.notes.append(f"Tables that are unknown here were left: {', '.join(more)}.")


# ------------------------------------------------------------------------------------------- secret
def readable_tokens(target: sqlite3.Connection, secret: str) -> tuple[int, int]:
    """-> how many tokens sealed at rest (of vendors and GitHub) were looked at, and how many open."""
    vault = Vault(secret)
    looked = opened = 0
    for path, sealed in _sealed(target):
        if sealed[:1] == b"\0" and len(sealed) > 28:
            looked += 1
            opened += vault.open(path, sealed) is not None
        if looked == 100:
            break
    return looked, opened


def _sealed(target: sqlite3.Connection) -> Iterator[tuple[list[str], bytes]]:
    for account_id, vendor, token in target.execute("SELECT account_id, vendor, token FROM vendor_tokens"):
        yield ["user", account_id, "vendors", vendor, "token"], token
    for account_id, token in target.execute(
        "SELECT a.id, g.token FROM accounts a JOIN github_users g ON g.id = a.github_user_id WHERE g.token IS NOT NULL"
    ):
        yield ["user", account_id, "github", "token"], token


def _count(target: sqlite3.Connection, table: str) -> int:
    (number,) = target.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(number)
