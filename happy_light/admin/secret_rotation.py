"""Replace the master secret: everybody is signed out, vendor tokens are sealed again with the new one.

The new secret is on disk before the database is changed, under a name of its own, and takes the old one's place
afterwards; a start after a crash in between finishes it (master_secret.finish_replacement).
"""

from __future__ import annotations

import asyncio

from happy_light import data_dir, store, threads
from happy_light.atomic_write import write_atomic
from happy_light.auth import master_secret
from happy_light.auth.keys import Keys
from happy_light.bus import Bus
from happy_light.config import Settings
from happy_light.errors import OperatorError
from happy_light.store import Database, ReadTransaction, Transaction
from happy_light.wire import Outgoing


class Rotated(Outgoing):
    """What was changed. `resealed`: vendor tokens that are kept; `lost`: those that could not be opened."""

    secret_file: str
    accounts: int
    resealed: int
    lost: int


def rotate(settings: Settings) -> Rotated:
    """Replace the secret; the server must not run. Raises OperatorError."""
    if settings.postgres is None and not settings.database.is_file():
        raise OperatorError(f"There is no database {settings.database}; choose the data folder with --data-dir.")
    with data_dir.lock_data_dir(settings):
        return asyncio.run(_rotate(settings))


async def _rotate(settings: Settings) -> Rotated:
    database = Database(store.engine_of(settings), Bus())
    await database.open()
    try:
        await database.read(master_secret.finish_replacement, settings.secret_file)
        old = await database.read(_known_keys, settings)
        new = Keys(master_secret.new())
        await threads.run(write_atomic, master_secret.pending(settings.secret_file), new.secret.encode())
        ids = await database.read(_account_ids)
        accounts, resealed, lost = await database.write_for(ids, replace_secret, old, new)
        await database.read(master_secret.finish_replacement, settings.secret_file)
    except OSError as error:
        raise OperatorError(f"The new secret cannot be written: {error.strerror}; nothing was changed.") from error
    finally:
        await database.close()
    return Rotated(str(settings.secret_file), accounts, resealed, lost)


def _known_keys(tx: ReadTransaction, settings: Settings) -> Keys | None:
    """Return the keys that the database was made with; None if its secret is not here."""
    file = settings.secret_file
    for secret in (settings.master_secret, master_secret.read(file) if file.exists() else None):
        if secret and master_secret.matches(tx, keys := Keys(secret)):
            return keys
    return None


def _account_ids(tx: ReadTransaction) -> list[str]:
    return [row[0] for row in tx.fetch_all("SELECT id FROM accounts")]


def replace_secret(tx: Transaction, old: Keys | None, new: Keys) -> tuple[int, int, int]:
    """Make `new` the keys of the database. Return the numbers of accounts, of resealed and of lost tokens."""
    resealed = lost = 0
    for account_id, vendor, sealed in tx.fetch_all("SELECT account_id, vendor, token FROM vendor_tokens"):
        token = _resealed(["user", account_id, "vendors", vendor, "token"], sealed, old, new)
        key = (account_id, vendor)
        if token is None:
            lost += tx.execute("DELETE FROM vendor_tokens WHERE account_id = ? AND vendor = ?", key)
        else:
            resealed += tx.execute(
                "UPDATE vendor_tokens SET token = ? WHERE account_id = ? AND vendor = ?", (token, *key)
            )
    rows = tx.fetch_all(
        "SELECT a.id, g.id, g.token FROM github_users g JOIN accounts a ON a.github_user_id = g.id "
        "WHERE g.token IS NOT NULL"
    )
    for account_id, github_id, sealed in rows:
        token = _resealed(["user", account_id, "github", "token"], sealed, old, new)
        tx.execute("UPDATE github_users SET token = ? WHERE id = ?", (token, github_id))
        resealed, lost = resealed + (token is not None), lost + (token is None)
    master_secret.replace(tx, new)
    tx.execute("DELETE FROM devices")
    accounts = tx.execute(
        "UPDATE accounts SET tokens_since = ?, token_generation = token_generation + 1", (tx.now // 1000 + 1,)
    )
    return accounts, resealed, lost


def _resealed(path: list[str], sealed: bytes, old: Keys | None, new: Keys) -> bytes | None:
    plain = None if old is None else old.vault.open(path, sealed)
    return None if plain is None else new.vault.seal(path, plain)
