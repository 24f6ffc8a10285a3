"""Who is calling: the account of a token. Used by HTTP and by sockets."""

from __future__ import annotations

from happy_light.auth.tokens import Tokens
from happy_light.store import Database, ReadTransaction


async def authenticate(database: Database, tokens: Tokens, token: str) -> str | None:
    """Return the id of the account whose token this is; None if it is not valid now.

    Not valid are tokens of accounts that do not exist, and those from before the account's last sign-out
    everywhere.
    """
    account_id = tokens.cached(token)
    if account_id is not None:
        return account_id
    claims = tokens.verify(token)
    if claims is None:
        return None
    while True:
        revocations = tokens.revocations
        since = await database.read(_tokens_since, claims.account_id)
        if since is None or claims.issued_at < since:
            return None
        if revocations == tokens.revocations:
            break
        # An account was signed out or deleted during the read, and it may be this one: read again.
    tokens.remember(token, claims)
    return claims.account_id


def _tokens_since(tx: ReadTransaction, account_id: str) -> int | None:
    """Return when the account was last signed out everywhere (s); None if there is no such account."""
    row = tx.fetch_one("SELECT tokens_since FROM accounts WHERE id = ?", (account_id,))
    return None if row is None else int(row[0])
