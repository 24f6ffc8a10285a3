"""Whether the clock fits the database: behind it at a start, or far ahead of what was there before."""

from __future__ import annotations

import logging
from typing import Final

from happy_light import clock
from happy_light.store import ReadTransaction, Transaction

log = logging.getLogger(__name__)

JUMP_MAX: Final = 30 * 86_400  # s that may have passed since the clock was looked at for the last time


def newest_time(tx: ReadTransaction) -> int:
    """Return the newest time in the database (ms); 0 if it has none."""
    times = tx.fetch_one(
        "SELECT (SELECT max(updated_at) FROM accounts), (SELECT max(updated_at) FROM sessions), "
        "(SELECT max(active_at) FROM sessions), (SELECT max(updated_at) FROM machines)"
    )
    return max((int(time) for time in times or () if time is not None), default=0)


def start_clock(newest: int) -> None:
    """Begin with the newest time of the database (ms) if the clock is behind it, and say so."""
    behind = clock.start_from(newest)
    if clock.is_behind():
        log.warning(
            "the clock is %d s behind the newest entry of the database: times are counted from there until it is set",
            behind // 1000,
        )
    elif behind:
        log.error(
            "the database has entries of a time %d days ahead: it was written while the clock was wrong, or the clock "
            "is wrong now; set it, and start the server again",
            behind // 86_400_000,
        )


def jumped_from(tx: Transaction, now: int) -> int | None:
    """Return the time (ms) at which the clock was looked at last, if too much has passed until `now` (ms), else None.

    It is remembered, since what clients write after a jump has the time of the same clock.
    """
    row = tx.fetch_one("SELECT value FROM meta WHERE key = 'clock_seen_at'")
    seen = int(row[0]) if row is not None else newest_time(tx) or now
    jumped = now - seen > JUMP_MAX * 1000
    _remember(tx, seen if jumped else max(seen, now))
    return seen if jumped else None


def trust(tx: Transaction) -> None:
    """Take the time of the clock as right."""
    _remember(tx, tx.now)


def _remember(tx: Transaction, time: int) -> None:
    tx.execute(
        "INSERT INTO meta (key, value) VALUES ('clock_seen_at', ?) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (str(time),),
    )
