"""Sign-in with a signed challenge, and who may create an account."""

from __future__ import annotations

import logging
from typing import Any, Literal

import msgspec

from happy_light import ids
from happy_light.auth import devices
from happy_light.auth.challenges import Challenges, verify_signature
from happy_light.auth.devices import NewDevice, client_name
from happy_light.auth.fingerprints import fingerprint
from happy_light.context import ServerContext
from happy_light.domains import account, files
from happy_light.domains.account import Profile
from happy_light.errors import INVALID_CHALLENGE, INVALID_SIGNATURE, REGISTRATION_CLOSED, ApiError
from happy_light.http import forwarded
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Incoming, Outgoing

log = logging.getLogger(__name__)


# -------------------------------------------------------------------------------------------- wire
class SignIn(Incoming):
    """The body of POST /v1/auth: an Ed25519 key (32 bytes), a challenge and the key's signature (64 bytes) of it."""

    public_key: bytes
    challenge: bytes
    signature: bytes


class SignedIn(Outgoing):
    """The token of the account."""

    token: str
    success: Literal[True] = True


class Me(Profile, kw_only=True):
    """The profile, the Ed25519 key and the creation time (ms) of the caller's account."""

    public_key: bytes
    created_at: int


# -------------------------------------------------------------------------------------- operations
def get_or_create_account(tx: Transaction, public_key: bytes, registration: str) -> tuple[str, int]:
    """Return the id of the key's account, created if it is new, and the generation of its tokens.

    `registration` is the setting; it applies to new accounts only. Raises ApiError REGISTRATION_CLOSED.
    """
    key = public_key.hex().upper()
    row = tx.fetch_one("SELECT id, token_generation FROM accounts WHERE public_key = ?", (key,))
    if row is not None:
        return row[0], row[1]
    short_name = fingerprint(public_key)
    allowed = tx.execute("DELETE FROM allowed_keys WHERE fingerprint = ?", (short_name,))
    if not allowed and not registration_open(tx, tx.now, registration):
        raise ApiError(REGISTRATION_CLOSED, fingerprint=short_name)
    id = ids.new_id()
    tx.execute(
        "INSERT INTO accounts (id, public_key, created_at, updated_at) VALUES (?, ?, ?, ?)",
        (id, key, tx.now, tx.now),
    )
    devices.record_unknown(tx, "secret", id)
    return id, 0


def find_account(tx: ReadTransaction, public_key: bytes) -> str | None:
    """Return the id of the key's account, None if it has none."""
    row = tx.fetch_one("SELECT id FROM accounts WHERE public_key = ?", (public_key.hex().upper(),))
    return None if row is None else str(row[0])


def use_challenge(tx: Transaction, challenge: bytes, made_at: int) -> None:
    """Mark a challenge of this server, made at `made_at` (ms), as used. Raises ApiError INVALID_CHALLENGE.

    A challenge is valid for 5 minutes and once. Only used challenges are stored, so that requesting them takes no
    space.
    """
    expires_at = made_at + Challenges.LIFETIME
    tx.execute("DELETE FROM used_challenges WHERE expires_at < ?", (tx.now,))
    if expires_at < tx.now or not tx.execute(
        "INSERT INTO used_challenges (challenge, expires_at) VALUES (?, ?) ON CONFLICT DO NOTHING",
        (challenge, expires_at),
    ):
        raise ApiError(INVALID_CHALLENGE)


def registration_open(tx: ReadTransaction, now: int, registration: str) -> bool:
    """Whether any key may create an account at `now` (ms), by the setting or because the operator opened it."""
    mode = registration_mode(tx) or registration
    if mode == "open" or now < registration_open_until(tx):
        return True
    return mode == "first" and tx.fetch_one("SELECT 1 FROM accounts LIMIT 1") is None


def registration_mode(tx: ReadTransaction) -> str | None:
    """Return what the operator has chosen in the place of the setting, None if nothing."""
    row = tx.fetch_one("SELECT value FROM meta WHERE key = 'registration_mode'")
    return None if row is None else str(row[0])


def registration_open_until(tx: ReadTransaction) -> int:
    """Return the time (ms) until which the operator opened registration, 0 if never."""
    row = tx.fetch_one("SELECT value FROM meta WHERE key = 'registration_until'")
    return 0 if row is None else int(row[0])


def read_me(tx: ReadTransaction, account_id: str, base: str) -> Me:
    """Return profile and key of an existing account; the avatar's URL begins with `base` (files.base_url)."""
    row = tx.fetch_one("SELECT public_key, created_at FROM accounts WHERE id = ?", (account_id,))
    assert row is not None  # the token was good, so the account exists
    profile = msgspec.structs.asdict(account.read_profile(tx, account_id, base))
    return Me(**profile, public_key=bytes.fromhex(row[0]), created_at=row[1])


# --------------------------------------------------------------------------------------- endpoints
async def post(request: Request[SignIn, None]) -> SignedIn:
    """Sign in with a signature; a new key creates an account."""
    body = request.body
    return await verify_challenge(request, body.public_key, body.challenge, body.signature)


async def verify_challenge(
    request: Request[Any, None], public_key: bytes, challenge: bytes, signature: bytes, *, server_made: bool = False
) -> SignedIn:
    """Return a token of the key's account if the signature of the challenge is valid.

    A challenge that this server made is valid once; one that the client made itself always, unless `server_made`
    demands the server's. Raises ApiError INVALID_CHALLENGE, INVALID_SIGNATURE or REGISTRATION_CLOSED.
    """
    context = request.context
    made_at = context.keys.challenges.made_at(challenge, public_key)
    if made_at is None and server_made:
        raise ApiError(INVALID_CHALLENGE)
    if not verify_signature(public_key, challenge, signature):
        raise ApiError(INVALID_SIGNATURE)

    device = new_device(request, "signature")

    def operation(tx: Transaction) -> tuple[str, int]:
        if made_at is not None:
            use_challenge(tx, challenge, made_at)
        account_id, generation = get_or_create_account(tx, public_key, context.settings.registration)
        devices.record(tx, account_id, device, None)
        return account_id, generation

    known = await context.database.read(find_account, public_key)
    account_id, generation = await context.database.write_for(() if known is None else (known,), operation)
    address = forwarded.printable_address(context.settings, request.scope)
    if known is not None:
        log.info("account %s signed in from %s", account_id, address)
    else:
        log.info("account %s created from %s, key %s", account_id, address, fingerprint(public_key))
    return SignedIn(make_token(context, account_id, generation, device.id))


def new_device(request: Request[Any, None], kind: devices.Kind) -> NewDevice:
    """Return the device that a request signs in, with a new id."""
    client = client_name(request.header(b"x-happy-client") or "")
    address = forwarded.printable_address(request.context.settings, request.scope)
    return NewDevice(request.context.keys.tokens.new_device(), kind, client, address)


def make_token(context: ServerContext, account_id: str, generation: int, device_id: str, **extra: str) -> str:
    """Return a token of a device, valid as long as the account has this generation of tokens and this device."""
    return context.keys.tokens.signer.mint(account_id, None, generation, device_id, **extra)


async def get_me(request: Request[None, None]) -> Me:
    """Return the profile, public key and creation time of the caller's account."""
    return await request.context.database.read(read_me, request.account_id, files.base_url(request))


routes = [
    Route(
        "POST", "/v1/auth", post, body=SignIn, answer=SignedIn, public=True,
        errors=[INVALID_SIGNATURE, INVALID_CHALLENGE, REGISTRATION_CLOSED],
    ),
    Route("GET", "/v1/auth/me", get_me, answer=Me),
]  # fmt: skip
