"""Read the source once more and compare it with the new database."""

from __future__ import annotations

import hashlib
import sqlite3
from typing import Final

from happy_light.errors import OperatorError
from happy_light.importing.convert import ciphertext, integer
from happy_light.importing.report import ProgressCallback, Report
from happy_light.importing.rows import InvalidRow
from happy_light.importing.sources import Source
from happy_light.importing.tables import TABLES

_SAMPLED: Final = 200  # sessions whose content is compared
_FIRST: Final = 100  # messages of each of them


def check(source: Source, target: sqlite3.Connection, report: Report, progress: ProgressCallback) -> None:
    """Compare counts per table, the highest seq per session and account, and the content of a sample.

    Raises OperatorError at the first difference.
    """
    progress("checks", 0, 4)
    _counts(source, target, report)
    progress("checks", 1, 4)
    _accounts(source, target, report)
    progress("checks", 2, 4)
    _sessions(source, target, report)
    progress("checks", 3, 4)
    _contents(source, target, report)
    progress("checks", 4, 4)


def _counts(source: Source, target: sqlite3.Connection, report: Report) -> None:
    for ours in dict.fromkeys(table.ours for table in TABLES):
        theirs = [table.theirs for table in TABLES if table.ours == ours and table.theirs in report.tables]
        expected = sum(source.count(name) - report.tables[name].left.total() for name in theirs)
        (found,) = target.execute(f"SELECT count(*) FROM {ours}").fetchone()
        if found != expected:
            raise _difference(f"{ours} has {found} rows, and {expected} are expected")
        report.checks["tables"] = report.checks.get("tables", 0) + len(theirs)


def _accounts(source: Source, target: sqlite3.Connection, report: Report) -> None:
    compared = 0
    for id, seq, feed_seq in source.rows("Account", ["id", "seq", "feedSeq"]):
        row = target.execute("SELECT seq, feed_seq FROM accounts WHERE id = ?", (id,)).fetchone()
        if row is None:
            continue  # damaged; the counts say that it was left out
        if row[0] != integer(seq or 0) or row[1] < integer(feed_seq or 0):
            raise _difference(f"account {id} is at seq {row[0]}, and {seq} is expected")
        compared += 1
    report.checks["accounts"] = compared


def _sessions(source: Source, target: sqlite3.Connection, report: Report) -> None:
    """Compare count and highest seq of sessions in which no seq occurs twice and no message was left out."""
    compared = 0
    loss = report.tables["SessionMessage"].left.total()
    for id, count, top_seq in source.tops("SessionMessage", "sessionId", "seq"):
        try:
            highest = integer(top_seq or 0)
        except InvalidRow:
            continue  # the message with this seq was left out
        found, top = target.execute("SELECT count(*), max(seq) FROM messages WHERE session_id = ?", (id,)).fetchone()
        if found != count and not loss:
            raise _difference(f"session {id} has {found} messages, and {count} are expected")
        if found == count and (top < highest or (top > highest and id not in report.renumbered)):
            raise _difference(f"session {id} ends at message {top}, and {highest} is expected")
        compared += 1
    for id, seq in source.rows("Session", ["id", "seq"]):
        row = target.execute("SELECT seq FROM sessions WHERE id = ?", (id,)).fetchone()
        if row is not None and row[0] < integer(seq or 0):
            raise _difference(f"session {id} is at seq {row[0]}, and {seq} is expected")
    report.checks["sessions"] = compared


def _contents(source: Source, target: sqlite3.Connection, report: Report) -> None:
    (sessions,) = target.execute("SELECT count(*) FROM sessions").fetchone()
    every = max(1, sessions // _SAMPLED)
    sampled = [
        id
        for (id,) in target.execute(
            "SELECT id FROM (SELECT id, row_number() OVER (ORDER BY id) AS place FROM sessions) "
            "WHERE place % ? = 0 LIMIT ?",
            (every, _SAMPLED),
        )
    ]
    ours: dict[str, bytes] = {}
    for session_id in sampled:
        for id, content in target.execute(
            "SELECT id, content FROM messages WHERE session_id = ? ORDER BY seq LIMIT ?", (session_id, _FIRST)
        ):
            ours[id] = _hash(content)
    report.checks["contents"] = len(ours)
    # One query for all sessions, so that a source without an index on them is read only once.
    for id, content in source.rows("SessionMessage", ["id", "content"], where=("sessionId", sampled)):
        if id in ours and ours.pop(id) != _hash(ciphertext(content)):
            raise _difference(f"the content of message {id} differs")
    if ours:
        raise _difference(f"message {next(iter(ours))} is not in the source")


def _hash(content: str) -> bytes:
    return hashlib.sha256(content.encode()).digest()


def _difference(what: str) -> OperatorError:
    return OperatorError(f"The check after the import failed, and nothing was changed: {what}.")
