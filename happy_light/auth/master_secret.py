"""The master secret: find it, create it, and check that it is the one that a database was made with."""

from __future__ import annotations

import base64
import contextlib
import hmac
import secrets
from pathlib import Path

from happy_light.atomic_write import write_atomic
from happy_light.auth.keys import Keys
from happy_light.errors import OperatorError
from happy_light.store import ReadTransaction, Transaction


def find_or_create(configured: str | None, file: Path) -> str:
    """Return the configured secret, else the trimmed text of the file, else a new one written to the file.

    Two processes that start at once get the same secret: it is written whole to a file of its own and then
    linked to its name, which fails if the name exists. Raises OperatorError.
    """
    if configured:
        return configured
    try:
        if not file.exists():
            _create(file)
    except OSError as error:
        raise OperatorError(f"The master secret {file} cannot be made: {error.strerror}.") from error
    text = read(file)
    if not text:
        raise OperatorError(
            f"The master secret file {file} is empty; put the secret back into it, or remove the file to get "
            "a new one (which signs everyone out)."
        )
    return text


def _create(file: Path) -> None:
    """Write a new secret to the file, unless another process is faster. Raises OSError."""
    text = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=")
    with contextlib.suppress(FileExistsError):
        write_atomic(file, text, overwrite=False)


def read(file: Path) -> str:
    """Return the trimmed text of the file. Raises OperatorError."""
    try:
        return file.read_text("utf-8").strip()
    except OSError as error:
        raise OperatorError(
            f"The master secret {file} cannot be read: {error.strerror}; make it a file that this user can read."
        ) from error
    except UnicodeDecodeError as error:
        raise OperatorError(f"The master secret file {file} is not text; put the secret back into it.") from error


def matches(tx: ReadTransaction, keys: Keys) -> bool | None:
    """Whether the database was made with the secret of these keys; None if it was made with none yet."""
    row = tx.fetch_one("SELECT value FROM meta WHERE key = 'secret_check'")
    return None if row is None else hmac.compare_digest(str(row[0]), keys.check_value())


def record(tx: Transaction, keys: Keys) -> None:
    """Make these keys the ones of a database that has none."""
    tx.execute("INSERT INTO meta (key, value) VALUES ('secret_check', ?)", (keys.check_value(),))


def match_or_record(tx: Transaction, keys: Keys, secret_file: Path) -> None:
    """Make these keys the ones of a database that has none. Raises OperatorError if it has others."""
    known = matches(tx, keys)
    if known is None:
        record(tx, keys)
    elif not known:
        raise OperatorError(
            "The master secret is not the one that the database was made with; with it everyone would be signed "
            f"out and vendor tokens unreadable. Put the old secret back (HANDY_MASTER_SECRET or {secret_file})."
        )
