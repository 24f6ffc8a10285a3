"""Push tokens: the addresses of an account's phones at Expo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.ids import new_id
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Incoming, Outgoing, Success

TOKENS_MAX: Final = 500  # of one account; the oldest are deleted


# -------------------------------------------------------------------------------------------- wire
class NewToken(Incoming):
    """The body of POST /v1/push-tokens."""

    token: str


class PushToken(Outgoing):
    """A push token of Expo; times in ms."""

    id: str
    token: str
    created_at: int
    updated_at: int


class PushTokens(Outgoing):
    """The push tokens of the account, newest first."""

    tokens: list[PushToken]


# -------------------------------------------------------------------------------------- operations
def list_tokens(tx: ReadTransaction, account_id: str) -> PushTokens:
    """Return every push token, newest first."""
    rows = tx.fetch_all(
        "SELECT id, token, created_at, updated_at FROM push_tokens WHERE account_id = ? "
        "ORDER BY created_at DESC, id DESC",
        (account_id,),
    )
    return PushTokens([PushToken(*row) for row in rows])


def store_token(tx: Transaction, account_id: str, token: str) -> Success:
    """Store a push token; one that exists keeps its creation time, and so its place in the list."""
    tx.execute(
        "INSERT INTO push_tokens (id, account_id, token, created_at, updated_at) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (account_id, token) DO UPDATE SET updated_at = excluded.updated_at",
        (new_id(), account_id, token, tx.now, tx.now),
    )
    tx.execute(
        "DELETE FROM push_tokens WHERE account_id = ? AND id NOT IN (SELECT id FROM push_tokens WHERE account_id = ? "
        "ORDER BY created_at DESC, id DESC LIMIT ?)",
        (account_id, account_id, TOKENS_MAX),
    )
    return Success()


def delete_tokens(tx: Transaction, account_id: str, tokens: Sequence[str]) -> Success:
    """Delete push tokens, those that exist."""
    tx.executemany(
        "DELETE FROM push_tokens WHERE account_id = ? AND token = ?", [(account_id, token) for token in tokens]
    )
    return Success()


# --------------------------------------------------------------------------------------- endpoints
async def get_tokens(request: Request[None, None]) -> PushTokens:
    """Return the account's push tokens, newest first."""
    return await request.context.database.read(list_tokens, request.account_id)


async def post_token(request: Request[NewToken, None]) -> Success:
    """Store a push token; one that exists keeps its place in the list."""
    return await request.context.database.write(request.account_id, store_token, request.body.token)


async def delete_token(request: Request[None, None]) -> Success:
    """Delete a push token, if it exists."""
    return await request.context.database.write(request.account_id, delete_tokens, [request.path["token"]])


routes = [
    Route("GET", "/v1/push-tokens", get_tokens, answer=PushTokens),
    Route("POST", "/v1/push-tokens", post_token, body=NewToken),
    Route("DELETE", "/v1/push-tokens/:token", delete_token),
]
