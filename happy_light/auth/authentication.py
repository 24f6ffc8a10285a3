"""Who is calling: the account of a token. Used by HTTP and by sockets."""

from __future__ import annotations

from typing import Final

from happy_light.auth.tokens import Claims, Tokens
from happy_light.store import Database, ReadTransaction

DELETED: Final = "deleted "
"""What the public key of an account begins with while it is being deleted."""


async def authenticate(database: Database, tokens: Tokens, token: str) -> Claims | None:
    """Return what a token says; None if it is not valid now.

    Not valid are tokens of accounts that do not exist, those of devices that were signed out, and those from before
    the account's last sign-out everywhere.
    """
    cached = tokens.cached(token)
    if cached is not None:
        return cached
    claims = tokens.verify(token)
    if claims is None:
        return None
    while True:
        revocations = tokens.revocations
        if not await database.read(_accepts, claims):
            return None
        if revocations == tokens.revocations:
            break
        # An account or a device was signed out or deleted during the read, and it may be this one: read again.
    tokens.remember(token, claims)
    return claims


async def still_exists(database: Database, account_id: str) -> bool:
    """Whether the account is neither deleted nor being deleted; True if that cannot be found out."""
    try:
        return await database.read(_exists, account_id)
    except Exception:  # it is asked while another error is handled, which must not be hidden
        return True


def _exists(tx: ReadTransaction, account_id: str) -> bool:
    row = tx.fetch_one("SELECT public_key FROM accounts WHERE id = ?", (account_id,))
    return row is not None and not row[0].startswith(DELETED)


def _accepts(tx: ReadTransaction, claims: Claims) -> bool:
    """Whether account and device exist and the account was not signed out everywhere since the token was made.

    Tokens carry how often their account had been signed out, unless it never was. Those that other servers and older
    versions made do not, and are good until the first sign-out; an imported account brings the time of its last one.
    """
    row = tx.fetch_one(
        "SELECT token_generation, tokens_since FROM accounts WHERE id = ? "
        "AND EXISTS (SELECT 1 FROM devices WHERE account_id = ? AND id = ?)",
        (claims.account_id, claims.account_id, claims.device),
    )
    if row is None:
        return False
    if claims.generation is not None:
        return bool(claims.generation == row[0])
    return row[0] == 0 and bool(claims.issued_at >= row[1])
