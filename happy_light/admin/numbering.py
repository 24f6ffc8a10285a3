"""Whether messages are numbered without gaps, apart from the gaps that an import took over with its messages."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from happy_light.admin.finding import Finding
from happy_light.store import ReadTransaction, Transaction

_KEY: Final = "imported_gaps"
_SHOWN: Final = 5  # sessions in a text


class Gaps(msgspec.Struct, frozen=True):
    """Messages that a session does not have, of those up to the session's seq or its last message."""

    session: str
    missing: int
    text: str
    beyond: bool
    """Whether there are messages after the session's seq."""


def find(tx: ReadTransaction) -> list[Gaps]:
    """Return the sessions with gaps. The first messages may be missing: `prune --messages-older` deletes them."""
    rows = tx.fetch_all(
        "SELECT s.id, s.seq, count(m.seq), min(m.seq), max(m.seq) FROM sessions s "
        "JOIN messages m ON m.session_id = s.id GROUP BY s.id "
        "HAVING max(m.seq) <> s.seq OR max(m.seq) - min(m.seq) + 1 <> count(m.seq)"
    )
    return [
        Gaps(id, max(last, seq) - first + 1 - count, f"{id} ({count} of {first} to {max(last, seq)})", last > seq)
        for id, seq, count, first, last in rows
    ]


def record_imported(tx: Transaction, sessions: Collection[str] | None = None) -> None:
    """Note the gaps that the sessions, by default all, have now, right after their import."""
    imported = _imported(tx)
    imported |= {gaps.session: gaps.missing for gaps in find(tx) if sessions is None or gaps.session in sessions}
    if imported:
        tx.execute(
            "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (_KEY, msgspec.json.encode(imported).decode()),
        )


def check(tx: ReadTransaction) -> Finding:
    """Return a problem for gaps that came about here, a warning for imported ones."""
    imported, found = _imported(tx), find(tx)
    own = [gaps for gaps in found if gaps.beyond or gaps.missing > imported.get(gaps.session, 0)]
    if own:
        text = f"{len(own)} sessions have gaps in the numbers of their messages: {_listed(own)}."
        return Finding("numbering", "problem", text, "Restore a backup, and report it.")
    if found:
        text = f"{len(found)} sessions were imported with gaps in the numbers of their messages: {_listed(found)}."
        return Finding("numbering", "warning", text, "Nothing has to be done: clients live with them.")
    return Finding("numbering", "ok", "Messages are numbered without gaps.")


def _imported(tx: ReadTransaction) -> dict[str, int]:
    row = tx.fetch_one("SELECT value FROM meta WHERE key = ?", (_KEY,))
    return {} if row is None else msgspec.json.decode(row[0], type=dict[str, int])


def _listed(found: list[Gaps]) -> str:
    return ", ".join(gaps.text for gaps in found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
