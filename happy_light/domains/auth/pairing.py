"""Requests to be let in, by a terminal or a second device, and their answers."""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import Any, Literal

import msgspec

from happy_light import clock, ids, json_codec
from happy_light.context import ServerContext
from happy_light.domains.auth.sign_in import SignedIn, mint, signed_out, with_signature
from happy_light.errors import (
    INVALID_CHALLENGE,
    INVALID_PUBLIC_KEY,
    INVALID_SIGNATURE,
    INVALID_TOKEN,
    MISSING_AUTHORIZATION,
    REGISTRATION_CLOSED,
    REQUEST_NOT_FOUND,
    ApiError,
    BadRequest,
)
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Incoming, Outgoing, Success

UNANSWERED = 24 * 3_600_000  # ms that a request is kept
REQUESTS_MAX = 100_000  # requests that are kept
PICKED_UP = 10 * 60_000  # ms that an answered request goes on handing out its token
PROOF_MAX = 16_384  # bytes of a body that comes without a token

Kind = Literal["terminal", "account"]


# ---------------------------------------------------------------------------------------------- wire
class Ask(Incoming):
    """POST /v1/auth/request, /v1/auth/account/request"""

    public_key: bytes
    supports_v2: bool | None = msgspec.field(name="supportsV2", default=None)


class Asked(Outgoing):
    """The state of a request; token and response once it is authorized."""

    state: Literal["requested", "authorized"]
    token: str | msgspec.UnsetType = msgspec.UNSET
    response: str | msgspec.UnsetType = msgspec.UNSET


class AskedChallenged(Asked):
    """As Asked, beside a challenge that the owner of the key may sign instead of waiting."""

    challenge: bytes | msgspec.UnsetType = msgspec.UNSET


class StatusQuery(Incoming):
    """GET /v1/auth/request/status"""

    public_key: str


class Status(Outgoing):
    """What a phone sees of a request."""

    status: Literal["not_found", "pending", "authorized"]
    supports_v2: bool = msgspec.field(name="supportsV2")


class Approve(Incoming):
    """POST /v1/auth/response, /v1/auth/account/response"""

    public_key: bytes
    response: str


class Respond(Incoming):
    """POST /v1/auth/response: `response` with a token; `challenge` and `signature` without one."""

    public_key: bytes
    response: str | msgspec.UnsetType = msgspec.UNSET
    challenge: bytes | msgspec.UnsetType = msgspec.UNSET
    signature: bytes | msgspec.UnsetType = msgspec.UNSET


class PairingRequest(msgspec.Struct):
    """A row of auth_requests. `picked_up_at` in ms."""

    id: str
    supports_v2: bool
    response: str | None
    account_id: str | None
    picked_up_at: int | None
    created_at: int

    def outlived(self, now: int) -> bool:
        """Whether it is to be treated as if it were not there."""
        if self.picked_up_at is not None:
            return now - self.picked_up_at > PICKED_UP
        return now - self.created_at > UNANSWERED


# ---------------------------------------------------------------------------------------- operations
def find(tx: ReadTransaction, kind: Kind, public_key: bytes) -> PairingRequest | None:
    """The request of a key, if it still counts."""
    row = tx.fetch_one(
        "SELECT id, supports_v2, response, account_id, picked_up_at, created_at FROM auth_requests "
        "WHERE kind = ? AND public_key = ?",
        (kind, public_key.hex().upper()),
    )
    if row is None:
        return None
    pairing = PairingRequest(row[0], bool(row[1]), *row[2:])
    return None if pairing.outlived(clock.now_ms()) else pairing


def ask(tx: Transaction, kind: Kind, public_key: bytes, supports_v2: bool) -> PairingRequest:
    """The request of a key, made if there is none; notes when its answer is picked up first."""
    pairing = find(tx, kind, public_key)
    key = public_key.hex().upper()
    if pairing is None:
        tx.execute("DELETE FROM auth_requests WHERE kind = ? AND public_key = ?", (kind, key))
        pairing = PairingRequest(ids.new_id(), supports_v2, None, None, None, tx.now)
        tx.execute(
            "INSERT INTO auth_requests (id, kind, public_key, supports_v2, created_at, updated_at) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (pairing.id, kind, key, int(supports_v2), tx.now, tx.now),
        )
    elif pairing.response is not None and pairing.picked_up_at is None:
        tx.execute("UPDATE auth_requests SET picked_up_at = ? WHERE id = ?", (tx.now, pairing.id))
    return pairing


def approve(tx: Transaction, account_id: str, kind: Kind, public_key: bytes, response: str) -> Success:
    """Lets the asker into the account; the first answer wins. Raises Refused."""
    pairing = find(tx, kind, public_key)
    if pairing is None:
        raise ApiError(REQUEST_NOT_FOUND)
    if response and pairing.response is None:  # an empty response leaves the request unanswered
        tx.execute(
            "UPDATE auth_requests SET response = ?, account_id = ?, updated_at = ? WHERE id = ?",
            (response, account_id, tx.now, pairing.id),
        )
    return Success()


def tidy(tx: Transaction) -> int:
    """Deletes requests that nobody answered in a day, answered ones that were picked up, and the oldest of
    too many. -> how many."""
    return tx.execute(
        "DELETE FROM auth_requests WHERE created_at < ? OR picked_up_at < ? OR created_at < "
        "(SELECT created_at FROM auth_requests ORDER BY created_at DESC LIMIT 1 OFFSET ?)",
        (tx.now - UNANSWERED, tx.now - PICKED_UP, REQUESTS_MAX),
    )


# ----------------------------------------------------------------------------------------- endpoints
async def _ask(request: Request[Ask, None], kind: Kind) -> Asked:
    key = _box_key(request.body.public_key)
    pairing = await request.context.database.read(find, kind, key)
    if pairing is None or (pairing.response is not None and pairing.picked_up_at is None):
        pairing = await request.context.database.write_for((), ask, kind, key, bool(request.body.supports_v2))
    if pairing.response is None or pairing.account_id is None:
        return Asked("requested")
    extra = {"session": pairing.id} if kind == "terminal" else {}
    since = await request.context.database.read(signed_out, pairing.account_id)
    return Asked("authorized", mint(request.context, pairing.account_id, since, **extra), pairing.response)


async def ask_terminal(request: Request[Ask, None]) -> AskedChallenged:
    asked = await _ask(request, "terminal")
    challenge = request.context.keys.challenges.make(request.body.public_key, clock.now_ms())
    return AskedChallenged(asked.state, asked.token, asked.response, challenge)


async def ask_account(request: Request[Ask, None]) -> Asked:
    return await _ask(request, "account")


async def status(request: Request[None, StatusQuery]) -> Status:
    try:
        key = b64decode(request.query.public_key, validate=True)
    except (binascii.Error, ValueError):
        return Status("not_found", False)
    pairing = await request.context.database.read(find, "terminal", key)
    if pairing is None:
        return Status("not_found", False)
    if pairing.response is not None:
        return Status("authorized", False)
    return Status("pending", pairing.supports_v2)


async def respond(request: Request[Respond, None]) -> Success | SignedIn:
    """With a token a device approves; without one a signed challenge lets its signer in."""
    if request.header(b"authorization") is not None:
        await request.authenticate()
        body = _RESPONSE.decode_body(await request.read(), request.header(b"content-type"))
        if body.response is msgspec.UNSET:
            raise BadRequest("Object missing required field `response`")
        return await _approve(request, "terminal", body.public_key, body.response)
    try:
        raw = await request.read(PROOF_MAX)
    except BadRequest:
        raise ApiError(MISSING_AUTHORIZATION) from None
    if not _is_proof(raw):
        raise ApiError(MISSING_AUTHORIZATION)
    body = _RESPONSE.decode_body(raw, request.header(b"content-type"))
    return await with_signature(request.context, body.public_key, body.challenge, body.signature, ours_only=True)


def _is_proof(raw: bytes) -> bool:
    """Whether a body without a token is meant as a sign-in at all."""
    try:
        given = json_codec.decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return isinstance(given, dict) and {"challenge", "signature"} <= given.keys()


async def approve_account(request: Request[Approve, None]) -> Success:
    return await _approve(request, "account", request.body.public_key, request.body.response)


async def _approve(request: Request[Any, None], kind: Kind, public_key: bytes, response: str) -> Success:
    return await request.context.database.write(request.account_id, approve, kind, _box_key(public_key), response)


def _box_key(key: bytes) -> bytes:
    if len(key) != 32:
        raise ApiError(INVALID_PUBLIC_KEY)
    return key


async def _tidy(context: ServerContext) -> None:
    await context.database.write_for((), tidy)


_RESPONSE = Route(
    "POST",
    "/v1/auth/response",
    respond,
    body=Respond,
    answer=Success | SignedIn,
    errors=[
        MISSING_AUTHORIZATION, INVALID_TOKEN, INVALID_CHALLENGE, INVALID_SIGNATURE, INVALID_PUBLIC_KEY,
        REGISTRATION_CLOSED, REQUEST_NOT_FOUND,
    ],
    public=True,
    streams=True,
)  # fmt: skip


routes = [
    Route(
        "POST", "/v1/auth/request", ask_terminal, body=Ask, answer=AskedChallenged, public=True,
        errors=[INVALID_PUBLIC_KEY],
    ),
    Route("GET", "/v1/auth/request/status", status, query=StatusQuery, answer=Status, public=True),
    _RESPONSE,
    Route(
        "POST", "/v1/auth/account/request", ask_account, body=Ask, answer=Asked, public=True,
        errors=[INVALID_PUBLIC_KEY],
    ),
    Route(
        "POST", "/v1/auth/account/response", approve_account, body=Approve,
        errors=[INVALID_PUBLIC_KEY, REQUEST_NOT_FOUND],
    ),
]  # fmt: skip
jobs = {_tidy: 600.0}
