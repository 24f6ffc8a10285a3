"""The master secret: find it, create it, and check that it is the one that a database was made with."""

from __future__ import annotations

import base64
import contextlib
import hmac
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from happy_light.atomic_write import sync_folder, write_atomic
from happy_light.errors import OperatorError

if TYPE_CHECKING:
    from happy_light.auth.keys import Keys
    from happy_light.store import ReadTransaction, Transaction


def likely(configured: str | None, file: Path) -> str:
    """Return what `find_or_create` will most likely return, if it gets it as `made`: a key can be derived ahead."""
    if configured:
        return configured
    try:
        return read(file)
    except OperatorError:  # it is not there; else `find_or_create` says what is wrong
        return new()


def find_or_create(configured: str | None, file: Path, made: str | None = None) -> str:
    """Return the configured secret, else the trimmed text of the file, else a new one (`made`) written to the file.

    Two processes that start at once get the same secret: it is written whole to a file of its own and then
    linked to its name, which fails if the name exists. Raises OperatorError.
    """
    if configured:
        return configured
    try:
        if not file.exists():
            _create(file, made or new())
    except OSError as error:
        raise OperatorError(f"The master secret {file} cannot be made: {error.strerror}.") from error
    text = read(file)
    if not text:
        raise OperatorError(
            f"The master secret file {file} is empty; put the secret back into it, or remove the file to get "
            "a new one (which signs everyone out)."
        )
    return text


def check_not_lost(tx: ReadTransaction, configured: str | None, file: Path) -> None:
    """Raise OperatorError if the database was made with a secret and there is none here: a new one would not fit it."""
    if configured or file.exists():
        return
    if tx.fetch_one("SELECT 1 FROM meta WHERE key = 'secret_check'") is not None:
        raise OperatorError(
            f"The master secret is missing: HANDY_MASTER_SECRET is not set and {file} is not there, but the database "
            "was made with one. Put it back, from a backup for example. If it is lost: `happy-server-light secret "
            "rotate` makes a new one, and everybody has to sign in again."
        )


def pending(file: Path) -> Path:
    """Return where a new secret is while it replaces the one in `file`."""
    return file.with_name(f"{file.name}.new")


def finish_replacement(tx: ReadTransaction, file: Path) -> None:
    """Put the pending secret into force if it is the database's, or else remove it. Raises OSError."""
    path = pending(file)
    if not path.is_file():
        return
    from happy_light.auth.keys import Keys  # a start needs `likely` before everything else

    if matches(tx, Keys(read(path))):
        path.replace(file)
        sync_folder(file.parent)
    else:
        path.unlink()


def new() -> str:
    """Return a new secret: 32 random bytes as unpadded base64url."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()


def _create(file: Path, secret: str) -> None:
    """Write a new secret to the file, unless another process is faster. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        write_atomic(file, secret.encode(), overwrite=False)


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


def replace(tx: Transaction, keys: Keys) -> None:
    """Make these keys the ones of a database, whatever it had."""
    tx.execute("DELETE FROM meta WHERE key = 'secret_check'")
    record(tx, keys)


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
