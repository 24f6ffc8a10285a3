"""Signing in by a signed challenge: accounts, and who may make one."""

from __future__ import annotations

import logging
from typing import Literal

import msgspec

from happy_light import keys, origin, wire
from happy_light.domains import account
from happy_light.domains.account import Profile
from happy_light.errors import (
    INVALID_CHALLENGE,
    INVALID_SIGNATURE,
    REGISTRATION_CLOSED,
    Refused,
)
from happy_light.house import House
from happy_light.keys import Challenges
from happy_light.store import Rx, Tx
from happy_light.web import Call, Route
from happy_light.wire import In, Out

log = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------------- wire
class SignIn(In):
    """POST /v1/auth"""

    public_key: bytes
    challenge: bytes
    signature: bytes


class SignedIn(Out):
    """`{"success": true, "token": …}`"""

    token: str
    success: Literal[True] = True


class Me(Profile, kw_only=True):
    """GET /v1/auth/me: the profile, with the account's Ed25519 key."""

    public_key: bytes
    created_at: int


# ---------------------------------------------------------------------------------------- operations
def enter(tx: Tx, public_key: bytes, registration: str) -> tuple[str, int]:
    """The account of an Ed25519 key, made if it is new. -> its id, and s before which no token counts.

    `registration` is the setting, which is about new accounts only. Raises Refused.
    """
    key = public_key.hex().upper()
    row = tx.one("SELECT id, tokens_since FROM accounts WHERE public_key = ?", (key,))
    if row is not None:
        return row[0], row[1]
    fingerprint = keys.fingerprint(public_key)
    let_in = tx.execute("DELETE FROM allowed_keys WHERE fingerprint = ?", (fingerprint,))
    if not let_in and not accepts(tx, tx.now, registration):
        raise Refused(REGISTRATION_CLOSED, fingerprint=fingerprint)
    id = wire.new_id()
    tx.execute(
        "INSERT INTO accounts (id, public_key, created_at, updated_at) VALUES (?, ?, ?, ?)",
        (id, key, tx.now, tx.now),
    )
    return id, 0


def prove(tx: Tx, public_key: bytes, registration: str, challenge: bytes, made_at: int) -> tuple[str, int]:
    """As `enter`, for the signer of a challenge of ours: each lets in once. Raises Refused.

    Only a sign-in that succeeds leaves a row, so that asking for challenges costs no space.
    """
    expires_at = made_at + Challenges.LIFETIME
    tx.execute("DELETE FROM used_challenges WHERE expires_at < ?", (tx.now,))
    if expires_at < tx.now or not tx.execute(
        "INSERT INTO used_challenges (challenge, expires_at) VALUES (?, ?) ON CONFLICT DO NOTHING",
        (challenge, expires_at),
    ):
        raise Refused(INVALID_CHALLENGE)
    return enter(tx, public_key, registration)


def accepts(rx: Rx, now: int, registration: str) -> bool:
    """Whether anybody may make an account at `now` (ms): by the setting, or because a window is open."""
    if registration == "open" or now < window(rx):
        return True
    return registration == "first" and rx.one("SELECT 1 FROM accounts LIMIT 1") is None


def window(rx: Rx) -> int:
    """Until when the operator opened registration (ms), 0 for never."""
    row = rx.one("SELECT value FROM meta WHERE key = 'registration_until'")
    return 0 if row is None else int(row[0])


def me(rx: Rx, account_id: str, base: str) -> Me:
    """The account behind a token; `base` as for account.profile."""
    row = rx.one("SELECT public_key, created_at FROM accounts WHERE id = ?", (account_id,))
    assert row is not None  # the token was good, so the account exists
    known = msgspec.structs.asdict(account.profile(rx, account_id, base))
    return Me(**known, public_key=bytes.fromhex(row[0]), created_at=row[1])


def signed_out(rx: Rx, account_id: str) -> int:
    """When the account was signed out everywhere last (s), 0 for never."""
    row = rx.one("SELECT tokens_since FROM accounts WHERE id = ?", (account_id,))
    return 0 if row is None else int(row[0])


# ----------------------------------------------------------------------------------------- endpoints
async def sign_in(call: Call[SignIn, None]) -> SignedIn:
    body = call.body
    return await with_signature(call.house, body.public_key, body.challenge, body.signature)


async def with_signature(
    house: House, public_key: bytes, challenge: bytes, signature: bytes, *, ours_only: bool = False
) -> SignedIn:
    """A challenge of ours lets in once, wherever it is handed in; the client's own one as often as it likes."""
    made_at = house.keys.challenges.made_at(challenge, public_key)
    if made_at is None and ours_only:
        raise Refused(INVALID_CHALLENGE)
    if not keys.verify_signature(public_key, challenge, signature):
        raise Refused(INVALID_SIGNATURE)
    registration = house.settings.registration
    try:
        if made_at is None:
            account_id, since = await house.store.write(enter, public_key, registration)
        else:
            account_id, since = await house.store.write(prove, public_key, registration, challenge, made_at)
    except Refused as refused:
        if refused.problem is REGISTRATION_CLOSED:
            log.warning("registration is closed: key %s was refused", refused.extra["fingerprint"])
        raise
    return SignedIn(mint(house, account_id, since))


def mint(house: House, account_id: str, since: int = 0, **extra: str) -> str:
    """A token that counts although the account was signed out as late as `since` (s)."""
    return house.keys.tokens.signer.mint(account_id, max(wire.now_ms() // 1000, since), **extra)


async def get_me(call: Call[None, None]) -> Me:
    return await call.house.store.read(me, call.account_id, origin.of(call.house.settings, call.scope))


routes = [
    Route(
        "POST", "/v1/auth", sign_in, body=SignIn, answer=SignedIn, public=True,
        refusals=[INVALID_SIGNATURE, INVALID_CHALLENGE, REGISTRATION_CLOSED],
    ),
    Route("GET", "/v1/auth/me", get_me, answer=Me),
]  # fmt: skip
