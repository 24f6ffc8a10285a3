"""Signing in by a signed challenge: accounts, and who may make one."""

from __future__ import annotations

import logging
from typing import Literal

import msgspec

from happy_light import clock, ids
from happy_light.auth.challenges import Challenges, verify_signature
from happy_light.auth.fingerprints import fingerprint
from happy_light.context import ServerContext
from happy_light.domains import account
from happy_light.domains.account import Profile
from happy_light.errors import INVALID_CHALLENGE, INVALID_SIGNATURE, REGISTRATION_CLOSED, ApiError
from happy_light.http import forwarded
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Incoming, Outgoing

log = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------------- wire
class SignIn(Incoming):
    """POST /v1/auth"""

    public_key: bytes
    challenge: bytes
    signature: bytes


class SignedIn(Outgoing):
    """`{"success": true, "token": …}`"""

    token: str
    success: Literal[True] = True


class Me(Profile, kw_only=True):
    """GET /v1/auth/me: the profile, with the account's Ed25519 key."""

    public_key: bytes
    created_at: int


# ---------------------------------------------------------------------------------------- operations
def enter(tx: Transaction, public_key: bytes, registration: str) -> tuple[str, int]:
    """The account of an Ed25519 key, made if it is new. -> its id, and s before which no token counts.

    `registration` is the setting, which is about new accounts only. Raises Refused.
    """
    key = public_key.hex().upper()
    row = tx.fetch_one("SELECT id, tokens_since FROM accounts WHERE public_key = ?", (key,))
    if row is not None:
        return row[0], row[1]
    short_name = fingerprint(public_key)
    let_in = tx.execute("DELETE FROM allowed_keys WHERE fingerprint = ?", (short_name,))
    if not let_in and not accepts(tx, tx.now, registration):
        raise ApiError(REGISTRATION_CLOSED, fingerprint=short_name)
    id = ids.new_id()
    tx.execute(
        "INSERT INTO accounts (id, public_key, created_at, updated_at) VALUES (?, ?, ?, ?)",
        (id, key, tx.now, tx.now),
    )
    return id, 0


def prove(tx: Transaction, public_key: bytes, registration: str, challenge: bytes, made_at: int) -> tuple[str, int]:
    """As `enter`, for the signer of a challenge of ours: each lets in once. Raises Refused.

    Only a sign-in that succeeds leaves a row, so that asking for challenges costs no space.
    """
    expires_at = made_at + Challenges.LIFETIME
    tx.execute("DELETE FROM used_challenges WHERE expires_at < ?", (tx.now,))
    if expires_at < tx.now or not tx.execute(
        "INSERT INTO used_challenges (challenge, expires_at) VALUES (?, ?) ON CONFLICT DO NOTHING",
        (challenge, expires_at),
    ):
        raise ApiError(INVALID_CHALLENGE)
    return enter(tx, public_key, registration)


def accepts(tx: ReadTransaction, now: int, registration: str) -> bool:
    """Whether anybody may make an account at `now` (ms): by the setting, or because a window is open."""
    if registration == "open" or now < window(tx):
        return True
    return registration == "first" and tx.fetch_one("SELECT 1 FROM accounts LIMIT 1") is None


def window(tx: ReadTransaction) -> int:
    """Until when the operator opened registration (ms), 0 for never."""
    row = tx.fetch_one("SELECT value FROM meta WHERE key = 'registration_until'")
    return 0 if row is None else int(row[0])


def me(tx: ReadTransaction, account_id: str, base: str) -> Me:
    """The account behind a token; `base` as for account.profile."""
    row = tx.fetch_one("SELECT public_key, created_at FROM accounts WHERE id = ?", (account_id,))
    assert row is not None  # the token was good, so the account exists
    known = msgspec.structs.asdict(account.profile(tx, account_id, base))
    return Me(**known, public_key=bytes.fromhex(row[0]), created_at=row[1])


def signed_out(tx: ReadTransaction, account_id: str) -> int:
    """When the account was signed out everywhere last (s), 0 for never."""
    row = tx.fetch_one("SELECT tokens_since FROM accounts WHERE id = ?", (account_id,))
    return 0 if row is None else int(row[0])


# ----------------------------------------------------------------------------------------- endpoints
async def sign_in(request: Request[SignIn, None]) -> SignedIn:
    body = request.body
    return await with_signature(request.context, body.public_key, body.challenge, body.signature)


async def with_signature(
    context: ServerContext, public_key: bytes, challenge: bytes, signature: bytes, *, ours_only: bool = False
) -> SignedIn:
    """A challenge of ours lets in once, wherever it is handed in; the client's own one as often as it likes."""
    made_at = context.keys.challenges.made_at(challenge, public_key)
    if made_at is None and ours_only:
        raise ApiError(INVALID_CHALLENGE)
    if not verify_signature(public_key, challenge, signature):
        raise ApiError(INVALID_SIGNATURE)
    registration = context.settings.registration
    try:
        if made_at is None:
            account_id, since = await context.database.write_for((), enter, public_key, registration)
        else:
            account_id, since = await context.database.write_for(
                (), prove, public_key, registration, challenge, made_at
            )
    except ApiError as refused:
        if refused.response is REGISTRATION_CLOSED:
            log.warning("registration is closed: key %s was refused", refused.extra["fingerprint"])
        raise
    return SignedIn(mint(context, account_id, since))


def mint(context: ServerContext, account_id: str, since: int = 0, **extra: str) -> str:
    """A token that counts although the account was signed out as late as `since` (s)."""
    return context.keys.tokens.signer.mint(account_id, max(clock.now_ms() // 1000, since), **extra)


async def get_me(request: Request[None, None]) -> Me:
    return await request.context.database.read(
        me, request.account_id, forwarded.server_url(request.context.settings, request.scope)
    )


routes = [
    Route(
        "POST", "/v1/auth", sign_in, body=SignIn, answer=SignedIn, public=True,
        errors=[INVALID_SIGNATURE, INVALID_CHALLENGE, REGISTRATION_CLOSED],
    ),
    Route("GET", "/v1/auth/me", get_me, answer=Me),
]  # fmt: skip
