"""Pairing: a terminal or a second device requests access to an account, a signed-in device approves it."""

from __future__ import annotations

import binascii
import logging
from base64 import b64decode
from typing import Any, Final, Literal

import msgspec

from happy_light import clock, ids, json_codec
from happy_light.auth import devices
from happy_light.auth.device_activity import FLUSH_INTERVAL
from happy_light.auth.devices import NewDevice
from happy_light.context import ServerContext
from happy_light.domains.auth.sign_in import SignedIn, make_token, new_device, verify_challenge
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
from happy_light.http import forwarded
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Incoming, Outgoing, Success

log = logging.getLogger(__name__)

UNANSWERED_LIFETIME: Final = 24 * 3_600_000  # ms that a request waits for approval
PICKED_UP_LIFETIME: Final = 10 * 60_000  # ms that an approved request hands out tokens after the first pick-up
REQUESTS_MAX: Final = 100_000  # requests that are kept; the oldest are deleted
SIGN_IN_BODY_MAX: Final = 16_384  # bytes of a body of POST /v1/auth/response that comes without a token
_BOX_KEY_SIZE: Final = 32  # bytes of an X25519 key

Kind = Literal["terminal", "account"]


# -------------------------------------------------------------------------------------------- wire
class PairingBody(Incoming):
    """The body of POST /v1/auth/request and /v1/auth/account/request: an X25519 key (32 bytes)."""

    public_key: bytes
    supports_v2: bool | None = msgspec.field(name="supportsV2", default=None)


class PairingState(Outgoing):
    """The state of a pairing request; token and response once it is authorized."""

    state: Literal["requested", "authorized"]
    token: str | msgspec.UnsetType = msgspec.UNSET
    response: str | msgspec.UnsetType = msgspec.UNSET


class TerminalPairingState(PairingState):
    """The state of a terminal's pairing request, and a challenge that the owner of the key may sign instead."""

    challenge: bytes | msgspec.UnsetType = msgspec.UNSET


class StatusQuery(Incoming):
    """The query of GET /v1/auth/request/status: a key in base64."""

    public_key: str


class PairingStatus(Outgoing):
    """The status of a terminal's pairing request; supportsV2 is false unless it is pending."""

    status: Literal["not_found", "pending", "authorized"]
    supports_v2: bool = msgspec.field(name="supportsV2")


class Approval(Incoming):
    """The body of POST /v1/auth/account/response."""

    public_key: bytes
    response: str


class ApprovalOrSignIn(Incoming):
    """The body of POST /v1/auth/response: `response` with a token; `challenge` and `signature` without one."""

    public_key: bytes
    response: str | msgspec.UnsetType = msgspec.UNSET
    challenge: bytes | msgspec.UnsetType = msgspec.UNSET
    signature: bytes | msgspec.UnsetType = msgspec.UNSET


# -------------------------------------------------------------------------------------- operations
class PairingRequest(msgspec.Struct):
    """A row of auth_requests; times in ms. `picked_up_at` is when its owner first received the token.

    `approved_by` and `device_id` are the devices that approved it and that picked it up.
    `generation` is that of the account's tokens, read together with the rest: a sign-out that comes later, or has
    come in between, makes the token invalid.
    """

    id: str
    supports_v2: bool
    response: str | None
    account_id: str | None
    picked_up_at: int | None
    created_at: int
    approved_by: str | None = None
    device_id: str | None = None
    generation: int = 0

    def is_expired(self, now: int) -> bool:
        """Whether the request counts as absent at `now` (ms)."""
        if self.picked_up_at is not None:
            return now - self.picked_up_at > PICKED_UP_LIFETIME
        return now - self.created_at > UNANSWERED_LIFETIME


def find_pairing(tx: ReadTransaction, kind: Kind, public_key: bytes) -> PairingRequest | None:
    """Return the request of a key, or None if there is none or it is expired."""
    row = tx.fetch_one(
        "SELECT r.id, r.supports_v2, r.response, r.account_id, r.picked_up_at, r.created_at, "
        "r.approved_by, r.device_id, coalesce(a.token_generation, 0) FROM auth_requests r "
        "LEFT JOIN accounts a ON a.id = r.account_id "
        "WHERE r.kind = ? AND r.public_key = ?",
        (kind, public_key.hex().upper()),
    )
    if row is None:
        return None
    pairing = PairingRequest(row[0], bool(row[1]), *row[2:])
    return None if pairing.is_expired(clock.now_ms()) else pairing


def request_pairing(tx: Transaction, kind: Kind, public_key: bytes, supports_v2: bool) -> PairingRequest:
    """Return the request of a key, created if there is none."""
    pairing = find_pairing(tx, kind, public_key)
    key = public_key.hex().upper()
    if pairing is None:
        tx.execute("DELETE FROM auth_requests WHERE kind = ? AND public_key = ?", (kind, key))
        pairing = PairingRequest(ids.new_id(), supports_v2, None, None, None, tx.now)
        tx.execute(
            "INSERT INTO auth_requests (id, kind, public_key, supports_v2, created_at, updated_at) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (pairing.id, kind, key, int(supports_v2), tx.now, tx.now),
        )
    return pairing


def pick_up(
    tx: Transaction, account_id: str, kind: Kind, public_key: bytes, device: NewDevice
) -> PairingRequest | None:
    """Record the device whose request the account has approved, unless it is recorded already: polls may overlap.

    Returns the request, None if it was withdrawn.
    """
    pairing = find_pairing(tx, kind, public_key)
    if pairing is None or pairing.account_id != account_id or pairing.device_id is not None:
        return pairing
    tx.execute(
        "UPDATE auth_requests SET picked_up_at = coalesce(picked_up_at, ?), device_id = ? "
        "WHERE id = ? AND account_id = ?",
        (tx.now, device.id, pairing.id, account_id),
    )
    pairing.device_id = device.id
    devices.record(tx, account_id, device, pairing.approved_by)
    return pairing


def approve_pairing(
    tx: Transaction, account_id: str, kind: Kind, public_key: bytes, response: str, device_id: str
) -> Success:
    """Give the requesting device access to the account; the first response wins, an empty one changes nothing.

    `device_id` is the device that approves. Raises ApiError REQUEST_NOT_FOUND, and INVALID_TOKEN if it was signed out.
    """
    if not devices.is_recorded(tx, account_id, device_id):
        raise ApiError(INVALID_TOKEN)
    pairing = find_pairing(tx, kind, public_key)
    if pairing is None:
        raise ApiError(REQUEST_NOT_FOUND)
    if response and pairing.response is None:
        tx.execute(
            "UPDATE auth_requests SET response = ?, account_id = ?, approved_by = ?, updated_at = ? WHERE id = ?",
            (response, account_id, device_id, tx.now, pairing.id),
        )
    return Success()


def delete_expired(tx: Transaction) -> int:
    """Delete expired requests, and the oldest beyond REQUESTS_MAX. Return how many were deleted."""
    return tx.execute(
        "DELETE FROM auth_requests WHERE created_at < ? OR picked_up_at < ? OR created_at < "
        "(SELECT created_at FROM auth_requests ORDER BY created_at DESC LIMIT 1 OFFSET ?)",
        (tx.now - UNANSWERED_LIFETIME, tx.now - PICKED_UP_LIFETIME, REQUESTS_MAX),
    )


# --------------------------------------------------------------------------------------- endpoints
async def post_request(request: Request[PairingBody, None]) -> TerminalPairingState:
    """Request a terminal's pairing, or poll it; the answer also carries a challenge."""
    pairing = await _request_pairing(request, "terminal")
    challenge = request.context.keys.challenges.make(request.body.public_key, clock.now_ms())
    return TerminalPairingState(pairing.state, pairing.token, pairing.response, challenge)


async def post_account_request(request: Request[PairingBody, None]) -> PairingState:
    """Request the pairing of a second device, or poll it."""
    return await _request_pairing(request, "account")


async def _request_pairing(request: Request[PairingBody, None], kind: Kind) -> PairingState:
    """Return the state of the key's request. Clients poll every second, so an unchanged one is only read."""
    key = _check_box_key(request.body.public_key)
    database, supports_v2 = request.context.database, bool(request.body.supports_v2)
    pairing = await database.read(find_pairing, kind, key)
    if pairing is None:
        pairing = await database.write_for((), request_pairing, kind, key, supports_v2)
        _log_pairing(request, kind, pairing)
    if pairing.account_id is not None and pairing.device_id is None:
        device = new_device(request, "terminal" if kind == "terminal" else "link")
        picked_up = await database.write(pairing.account_id, pick_up, kind, key, device)
        # None if the account, or the device that approved it, was signed out meanwhile.
        if picked_up is None:
            picked_up = await database.write_for((), request_pairing, kind, key, supports_v2)
        pairing = picked_up
        _log_pairing(request, kind, pairing)
    if pairing.response is None or pairing.account_id is None or pairing.device_id is None:
        return PairingState("requested")
    extra = {"session": pairing.id} if kind == "terminal" else {}
    token = make_token(request.context, pairing.account_id, pairing.generation, pairing.device_id, **extra)
    return PairingState("authorized", token, pairing.response)


def _log_pairing(request: Request[Any, None], kind: Kind, pairing: PairingRequest) -> None:
    """Log a new request, or the first time that the answer to one is picked up."""
    device = "a terminal" if kind == "terminal" else "a device"
    address = forwarded.printable_address(request.context.settings, request.scope)
    if pairing.response is None:
        log.info("%s asks to be paired from %s", device, address)
    else:
        log.info("account %s: %s signed in from %s", pairing.account_id, device, address)


async def get_status(request: Request[None, StatusQuery]) -> PairingStatus:
    """Return the status of a terminal's pairing request."""
    try:
        key = b64decode(request.query.public_key, validate=True)
    except (binascii.Error, ValueError):
        return PairingStatus("not_found", False)
    pairing = await request.context.database.read(find_pairing, "terminal", key)
    if pairing is None:
        return PairingStatus("not_found", False)
    if pairing.response is not None:
        return PairingStatus("authorized", False)
    return PairingStatus("pending", pairing.supports_v2)


async def post_response(request: Request[ApprovalOrSignIn, None]) -> Success | SignedIn:
    """With a token: approve a terminal's request. Without: sign in with a signed challenge."""
    if request.header(b"authorization") is not None:
        await request.authenticate()
        body = _RESPONSE.decode_body(await request.read(), request.header(b"content-type"))
        if body.response is msgspec.UNSET:
            raise BadRequest("Object missing required field `response`")
        return await _approve(request, "terminal", body.public_key, body.response)
    try:
        raw = await request.read(SIGN_IN_BODY_MAX)
    except BadRequest:
        raise ApiError(MISSING_AUTHORIZATION) from None
    if not _is_sign_in(raw):
        raise ApiError(MISSING_AUTHORIZATION)
    body = _RESPONSE.decode_body(raw, request.header(b"content-type"))
    return await verify_challenge(request, body.public_key, body.challenge, body.signature, server_made=True)


def _is_sign_in(raw: bytes) -> bool:
    """Whether a body without a token is meant as a sign-in, and not as an approval whose token was forgotten."""
    try:
        body = json_codec.decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return isinstance(body, dict) and {"challenge", "signature"} <= body.keys()


async def post_account_response(request: Request[Approval, None]) -> Success:
    """Approve the request of a second device."""
    return await _approve(request, "account", request.body.public_key, request.body.response)


async def _approve(request: Request[Any, None], kind: Kind, public_key: bytes, response: str) -> Success:
    key = _check_box_key(public_key)
    return await request.context.database.write(
        request.account_id, approve_pairing, kind, key, response, request.device_id
    )


def _check_box_key(key: bytes) -> bytes:
    if len(key) != _BOX_KEY_SIZE:
        raise ApiError(INVALID_PUBLIC_KEY)
    return key


async def _write_seen(context: ServerContext) -> None:
    await context.devices.flush()


async def _delete_expired(context: ServerContext) -> None:
    await context.database.write_for((), delete_expired)


_RESPONSE = Route(
    "POST", "/v1/auth/response", post_response, body=ApprovalOrSignIn, answer=Success | SignedIn,
    errors=[
        MISSING_AUTHORIZATION, INVALID_TOKEN, INVALID_CHALLENGE, INVALID_SIGNATURE, INVALID_PUBLIC_KEY,
        REGISTRATION_CLOSED, REQUEST_NOT_FOUND,
    ],
    public=True,
    streams=True,
)  # fmt: skip
routes = [
    Route(
        "POST", "/v1/auth/request", post_request, body=PairingBody, answer=TerminalPairingState, public=True,
        errors=[INVALID_PUBLIC_KEY],
    ),
    Route("GET", "/v1/auth/request/status", get_status, query=StatusQuery, answer=PairingStatus, public=True),
    _RESPONSE,
    Route(
        "POST", "/v1/auth/account/request", post_account_request, body=PairingBody, answer=PairingState, public=True,
        errors=[INVALID_PUBLIC_KEY],
    ),
    Route(
        "POST", "/v1/auth/account/response", post_account_response, body=Approval,
        errors=[INVALID_PUBLIC_KEY, REQUEST_NOT_FOUND],
    ),
]  # fmt: skip
jobs = {_delete_expired: 600.0, _write_seen: FLUSH_INTERVAL}
