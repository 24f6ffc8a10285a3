"""What PostgreSQL's errors mean: to a client, and for whether a write is tried again.

The text of an error may name values of rows, so only its first line, the primary message, is logged.
"""

from __future__ import annotations

import logging
from typing import Final

import psycopg
from psycopg import errors

from happy_light.errors import BadRequest, ServiceUnavailable
from happy_light.store.engine import AccountsBusy

log = logging.getLogger(__name__)

UNAVAILABLE: Final = "The server cannot reach its database"
_TOO_LARGE: Final = (errors.ProgramLimitExceeded, errors.StringDataRightTruncation, errors.NumericValueOutOfRange)
_AGAIN: Final = (
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.UniqueViolation,  # another process was faster: the next run reads what it has stored
)


class StatementError(Exception):
    """A statement failed for a reason that is neither the client's nor an outage: a fault of this program."""


def summary(error: Exception) -> str:
    """Return what may be logged of an error."""
    if isinstance(error, psycopg.Error) and error.sqlstate:
        return f"{error.sqlstate} {error.diag.message_primary}"
    return str(error).partition("\n")[0] or type(error).__name__


def is_transient(error: Exception) -> bool:
    """Return whether the same transaction may succeed when it is run again at once."""
    return isinstance(error, _AGAIN)


def translate(error: Exception) -> Exception:
    """Return what an error means to a client; one that is not of the database as it is."""
    match error:
        case errors.LockNotAvailable():
            log.error("database: %s", summary(error))
            return AccountsBusy("The account is busy; try again")
        case errors.DataError() if error.sqlstate is None:  # of psycopg, before anything was sent
            return BadRequest("Text cannot contain the character U+0000")
        case errors.CharacterNotInRepertoire() | errors.UntranslatableCharacter():
            return BadRequest("Text cannot contain the character U+0000")
        case psycopg.Error() if isinstance(error, _TOO_LARGE):
            return BadRequest("A value is too long or too large to be stored")
        case psycopg.OperationalError() | psycopg.InterfaceError():
            log.error("database: %s", summary(error))
            return ServiceUnavailable(UNAVAILABLE)
        case psycopg.Error():
            return StatementError(summary(error))
    return error


def reason(error: psycopg.Error) -> str:
    """Return psycopg's reason in one line: the last, which is about the last address that was tried."""
    if error.sqlstate:
        return summary(error).removeprefix(f"{error.sqlstate} ")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
