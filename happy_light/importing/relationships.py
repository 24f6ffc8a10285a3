"""Relationships between accounts are imported only when both sides say the same.

Each side of a relationship has a row of its own. Two rows that adding and removing friends cannot lead to were not
written by a server, and a row about an account that does not agree would make a friend of somebody who never asked.
"""

from __future__ import annotations

import functools
import sqlite3
from typing import Final

from happy_light.domains import people
from happy_light.domains.people import Status
from happy_light.importing.rows import RelationshipRow, insert_sql, values_of
from happy_light.store import Transaction

_COLUMNS: Final = ", ".join(RelationshipRow.__struct_fields__)


@functools.cache
def possible_sides() -> frozenset[tuple[Status, Status]]:
    """Return every pair of statuses that adding and removing can lead to, from either side."""
    found: set[tuple[Status, Status]] = set()
    waiting: list[tuple[Status, Status]] = [("none", "none")]
    while waiting:
        mine, theirs = waiting.pop()
        if (mine, theirs) in found:
            continue
        found.add((mine, theirs))
        waiting += [(theirs, mine), people.after_add((mine, theirs)), people.after_remove((mine, theirs))]
    return frozenset(found)


def delete_impossible(connection: sqlite3.Connection) -> int:
    """Delete the rows whose other side says something else, or nothing. Return how many."""
    rows = connection.execute(
        "SELECT r.from_id, r.to_id, r.status, coalesce(o.status, 'none') FROM relationships r "
        "LEFT JOIN relationships o ON o.from_id = r.to_id AND o.to_id = r.from_id"
    ).fetchall()
    impossible = [row[:2] for row in rows if tuple(row[2:]) not in possible_sides()]
    connection.executemany("DELETE FROM relationships WHERE from_id = ? AND to_id = ?", impossible)
    return len(impossible)


class AgreedRelationships:
    """Decides which relationships of an exported account are stored.

    The other side of each was here before the import, or there is none: what a file says of another account proves
    nothing. So a relationship comes back only for an account that replaces itself.
    """

    def __init__(self, account_id: str) -> None:
        self._account_id = account_id
        self._here: dict[str, RelationshipRow] = {}
        self._own: dict[str, RelationshipRow] = {}
        self._claimed: dict[str, Status] = {}

    def remember(self, tx: Transaction) -> None:
        """Read what other accounts say of this one, before it is deleted."""
        for values in tx.fetch_all(
            f"SELECT {_COLUMNS} FROM relationships WHERE to_id = ? AND from_id <> to_id", (self._account_id,)
        ):
            row = RelationshipRow(*values)
            self._here[row.from_id] = row

    def add(self, row: RelationshipRow) -> None:
        """Take a row of the file into account."""
        if row.from_id == self._account_id:
            self._own[row.to_id] = row
        else:
            self._claimed[row.from_id] = row.status

    def store(self, tx: Transaction) -> int:
        """Store both sides of every relationship in which the other one agrees. Return how many rows."""
        agreed: list[RelationshipRow] = []
        for other, here in self._here.items():
            own = self._own.get(other)
            if own and self._claimed.get(other) == here.status and (own.status, here.status) in possible_sides():
                agreed += [own, here]
        tx.executemany(insert_sql("relationships"), [values_of(row) for row in agreed])
        return len(agreed)
