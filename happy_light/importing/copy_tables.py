"""Fill a new database of ours with the rows of a source, and report what became of every row."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from happy_light.auth.sealing import Vault
from happy_light.importing import relationships, rows
from happy_light.importing.report import ProgressCallback, Report, TableReport
from happy_light.importing.rows import InvalidRow, MessageRow, Row
from happy_light.importing.sources import Source
from happy_light.importing.tables import EMPTY, TABLES, UNUSED, Table

_STEP: Final = 500  # rows between two calls of the progress callback
_EXAMPLES: Final = 3  # rows named in a note
_TOKENS: Final = 100  # sealed tokens that are tried


def copy_all(source: Source, target: sqlite3.Connection, progress: ProgressCallback) -> Report:
    """Copy every table into the empty database `target`, inside its open transaction. Raises OperatorError."""
    report = Report()
    present = source.tables()
    for table in TABLES:
        if table.theirs not in present:
            report.notes.append(f"The source has no table {table.theirs}: no {table.shown}.")
            continue
        _copy(source, target, table, report, progress)
    _delete_orphans(target, report)
    _delete_unconfirmed(target, report)
    _raise_counters(target, report)
    _note_unknown(present, report)
    return report


def _copy(source: Source, target: sqlite3.Connection, table: Table, report: Report, progress: ProgressCallback) -> None:
    counts = report.tables[table.theirs] = TableReport(table.shown, source.count(table.theirs))
    before = _count(target, table.ours)
    examples: list[str] = []
    dropped: Counter[str] = Counter()
    valid = 0

    def convert() -> Iterator[Row]:
        nonlocal valid
        number = 0
        for number, values in enumerate(source.rows(table.theirs, [c.theirs for c in table.columns], table.order), 1):
            if number % _STEP == 0:
                progress(table.shown, number, counts.found)
            try:
                row, without = table.row(values)
            except InvalidRow as error:
                counts.left["damaged"] += 1
                if len(examples) < _EXAMPLES:
                    examples.append(f"{_name(table, values)}: {error}")
                continue
            dropped.update(without)
            valid += 1
            yield row
        progress(table.shown, number, counts.found)

    # Generators, so that sqlite3 takes one row after another and memory does not depend on how much there is.
    converted = _renumber(convert(), report) if table.ours == "messages" else convert()
    target.executemany(table.insert, map(rows.values_of, converted))
    counts.taken = _count(target, table.ours) - before
    if valid > counts.taken:
        counts.left["already there"] = valid - counts.taken
    if examples:
        report.notes.append(f"Damaged {table.shown} were left out: {'; '.join(examples)}.")
    for column, count in dropped.items():
        report.notes.append(f"The {column.replace('_', ' ')} of {count} {table.shown} cannot be used and was left out.")


def _renumber(messages: Iterator[Any], report: Report) -> Iterator[MessageRow]:
    """Yield messages that come by session and seq, so that each seq occurs once in its session.

    Where a seq occurs twice, the second message and those that it displaces move on by as little as keeps the order
    of (seq, created_at, id); the gaps behind them take that up. All others keep their seq.
    """
    session, last = "", 0
    for same in _runs(messages):
        if same[0].session_id != session:
            session, last = same[0].session_id, 0
        for message in same:
            seq = max(message.seq, last + 1)
            if seq != message.seq:
                report.renumbered[session] = report.renumbered.get(session, 0) + 1
                message.seq = seq
            last = seq
            yield message


def _runs(messages: Iterator[MessageRow]) -> Iterator[list[MessageRow]]:
    """Yield neighbours that have one session and seq together, by (created_at, id): a few messages at most."""
    run: list[MessageRow] = []
    for message in messages:
        if run and (run[0].session_id, run[0].seq) != (message.session_id, message.seq):
            yield sorted(run, key=_age)
            run = []
        run.append(message)
    if run:
        yield sorted(run, key=_age)


def _age(message: MessageRow) -> tuple[int, str]:
    return message.created_at, message.id


def _name(table: Table, values: tuple[Any, ...]) -> str:
    """Return how an operator finds a row in the source: its table with its id, or its account's."""
    shown = dict(zip([column.theirs for column in table.columns], values, strict=True))
    return f"{table.theirs} {shown.get('id') or shown.get('accountId') or '?'}"


# ------------------------------------------------------------------------------------- corrections
def _delete_orphans(target: sqlite3.Connection, report: Report) -> None:
    """Delete rows whose account, session or machine is missing: SQLite servers did not always enforce that."""
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
                changed = target.execute(f"UPDATE {table} SET {pairs[0][0]} = NULL {where}").rowcount
                if changed:
                    report.notes.append(f"{changed} {table} pointed to missing {parent}; they do not any more.")
            else:
                deleted = target.execute(f"DELETE FROM {table} {where}").rowcount
                _count_deleted(table, deleted, f"without {parent}", report)


def _delete_unconfirmed(target: sqlite3.Connection, report: Report) -> None:
    deleted = relationships.delete_impossible(target)
    _count_deleted("relationships", deleted, "not confirmed by the other side", report)


def _count_deleted(ours: str, deleted: int, reason: str, report: Report) -> None:
    """Move rows of our table from taken to left out, whichever tables of the source they came from."""
    for table in TABLES:
        counts = report.tables.get(table.theirs)
        if table.ours == ours and counts is not None and deleted:
            part = min(deleted, counts.taken)
            counts.taken -= part
            counts.left[reason] += part
            deleted -= part


def _raise_counters(target: sqlite3.Connection, report: Report) -> None:
    """Raise counters that are below what they have numbered, or they would give a number out twice."""
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


def _note_unknown(present: dict[str, set[str]], report: Report) -> None:
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


# ------------------------------------------------------------------------------------------ secret
def try_secret(target: sqlite3.Connection, secret: str) -> tuple[int, int]:
    """Open tokens that were sealed at rest; return how many were tried, and how many opened."""
    vault = Vault(secret)
    tried = opened = 0
    for path, sealed in _sealed_tokens(target):
        if sealed[:1] == b"\0" and len(sealed) > 28:
            tried += 1
            opened += vault.open(path, sealed) is not None
        if tried == _TOKENS:
            break
    return tried, opened


def _sealed_tokens(target: sqlite3.Connection) -> Iterator[tuple[list[str], bytes]]:
    for account_id, vendor, token in target.execute("SELECT account_id, vendor, token FROM vendor_tokens"):
        yield ["user", account_id, "vendors", vendor, "token"], token
    for account_id, token in target.execute(
        "SELECT a.id, g.token FROM accounts a JOIN github_users g ON g.id = a.github_user_id WHERE g.token IS NOT NULL"
    ):
        yield ["user", account_id, "github", "token"], token


def _count(target: sqlite3.Connection, table: str) -> int:
    (number,) = target.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(number)
