"""Connected services: tokens of AI vendors, sealed at rest (protocol.md section 10). GitHub: github.py.

POST   /v1/connect/:vendor/register
GET    /v1/connect/:vendor/token
DELETE /v1/connect/:vendor
GET    /v1/connect/tokens
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from happy_light.auth.sealing import Vault
from happy_light.errors import UNKNOWN_VENDOR, ApiError
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Incoming, Outgoing, Success

log = logging.getLogger(__name__)

VENDORS: Final = ("openai", "anthropic", "gemini")


# -------------------------------------------------------------------------------------------- wire
class NewToken(Incoming):
    """POST /v1/connect/:vendor/register; clients send JSON as a string."""

    token: str


class MaybeToken(Outgoing):
    """GET /v1/connect/:vendor/token"""

    token: str | None


class VendorToken(Outgoing):
    """One of GET /v1/connect/tokens"""

    vendor: str
    token: str


class Tokens(Outgoing):
    """`{"tokens": […]}`"""

    tokens: list[VendorToken]


# -------------------------------------------------------------------------------------- operations
def _path(account_id: str, vendor: str) -> list[str]:
    """Of the key that seals the token."""
    return ["user", account_id, "vendors", vendor, "token"]


def store(tx: Transaction, account_id: str, vendor: str, sealed: bytes) -> Success:
    """Keeps a sealed token in place of the last one."""
    tx.execute(
        "INSERT INTO vendor_tokens (account_id, vendor, token, created_at, updated_at) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (account_id, vendor) DO UPDATE SET token = excluded.token, updated_at = excluded.updated_at",
        (account_id, vendor, sealed, tx.now, tx.now),
    )
    return Success()


def sealed_of(tx: ReadTransaction, account_id: str) -> dict[str, bytes]:
    """The sealed tokens by vendor."""
    rows = tx.fetch_all("SELECT vendor, token FROM vendor_tokens WHERE account_id = ? ORDER BY vendor", (account_id,))
    return {vendor: token for vendor, token in rows if vendor in VENDORS}


def remove(tx: Transaction, account_id: str, vendor: str) -> Success:
    """Forgets a token, if there is one."""
    tx.execute("DELETE FROM vendor_tokens WHERE account_id = ? AND vendor = ?", (account_id, vendor))
    return Success()


def opened(vault: Vault, account_id: str, vendor: str, sealed: bytes | None) -> str | None:
    """The token. One that cannot be opened, since it is damaged, counts as none."""
    if sealed is None:
        return None
    token = vault.open(_path(account_id, vendor), sealed)
    if token is None:
        log.warning("the %s token of account %s cannot be opened; it has to be connected again", vendor, account_id)
    return token


# --------------------------------------------------------------------------------------- endpoints
def _vendor(request: Request[NewToken, None] | Request[None, None]) -> str:
    vendor = request.path["vendor"]
    if vendor not in VENDORS:
        raise ApiError(UNKNOWN_VENDOR, message=f"The vendor is one of {', '.join(VENDORS)}", statusCode=400)
    return vendor


# Sealing runs on another thread: deriving the root key takes 0.1 s at its first use.
async def register(request: Request[NewToken, None]) -> Success:
    vendor = _vendor(request)
    path = _path(request.account_id, vendor)
    sealed = await asyncio.to_thread(request.context.keys.vault.seal, path, request.body.token)
    return await request.context.database.write(request.account_id, store, vendor, sealed)


async def get_token(request: Request[None, None]) -> MaybeToken:
    vendor, vault = _vendor(request), request.context.keys.vault
    sealed = (await request.context.database.read(sealed_of, request.account_id)).get(vendor)
    return MaybeToken(await asyncio.to_thread(opened, vault, request.account_id, vendor, sealed))


async def get_tokens(request: Request[None, None]) -> Tokens:
    vault = request.context.keys.vault
    tokens = []
    for vendor, sealed in (await request.context.database.read(sealed_of, request.account_id)).items():
        token = await asyncio.to_thread(opened, vault, request.account_id, vendor, sealed)
        if token is not None:
            tokens.append(VendorToken(vendor, token))
    return Tokens(tokens)


async def delete(request: Request[None, None]) -> Success:
    return await request.context.database.write(request.account_id, remove, _vendor(request))


routes = [
    Route("POST", "/v1/connect/:vendor/register", register, body=NewToken, errors=[UNKNOWN_VENDOR]),
    Route("GET", "/v1/connect/:vendor/token", get_token, answer=MaybeToken, errors=[UNKNOWN_VENDOR]),
    Route("DELETE", "/v1/connect/:vendor", delete, errors=[UNKNOWN_VENDOR]),
    Route("GET", "/v1/connect/tokens", get_tokens, answer=Tokens),
]
