"""Who is calling: a token and the account behind it. Used by both edges."""

from __future__ import annotations

from happy_light.auth.keys import Tokens
from happy_light.store import Database, ReadTransaction


def _tokens_since(tx: ReadTransaction, account_id: str) -> int | None:
    """When the account was last signed out everywhere (s); None if there is no such account."""
    row = tx.fetch_one("SELECT tokens_since FROM accounts WHERE id = ?", (account_id,))
    return None if row is None else int(row[0])


async def account_of(database: Database, tokens: Tokens, token: str) -> str | None:
    """The account id of a valid token whose account exists and was not signed out since, else None."""
    known = tokens.cached(token)
    if known is not None:
        return known
    verified = tokens.verify(token)
    if verified is None:
        return None
    claims, lasting = verified
    while True:
        generation = tokens.generation
        since = await database.read(_tokens_since, claims.account_id)
        if since is None or claims.issued_at < since:
            return None
        if generation == tokens.generation:
            break  # else somebody was signed out while we looked, perhaps this one
    if lasting:
        tokens.remember(token, claims)
    return claims.account_id
