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

from happy_light.errors import UNKNOWN_VENDOR, Refused
from happy_light.keys import Vault
from happy_light.store import Rx, Tx
from happy_light.web import Call, Route
from happy_light.wire import In, Out, Success

log = logging.getLogger(__name__)

VENDORS: Final = ("openai", "anthropic", "gemini")


# -------------------------------------------------------------------------------------------- wire
class NewToken(In):
    """POST /v1/connect/:vendor/register; clients send JSON as a string."""

    token: str


class MaybeToken(Out):
    """GET /v1/connect/:vendor/token"""

    token: str | None


class VendorToken(Out):
    """One of GET /v1/connect/tokens"""

    vendor: str
    token: str


class Tokens(Out):
    """`{"tokens": […]}`"""

    tokens: list[VendorToken]


# -------------------------------------------------------------------------------------- operations
def _path(account_id: str, vendor: str) -> list[str]:
    """Of the key that seals the token."""
    return ["user", account_id, "vendors", vendor, "token"]


def store(tx: Tx, account_id: str, vendor: str, sealed: bytes) -> Success:
    """Keeps a sealed token in place of the last one."""
    tx.execute(
        "INSERT INTO vendor_tokens (account_id, vendor, token, created_at, updated_at) VALUES (?, ?, ?3, ?4, ?4) "
        "ON CONFLICT (account_id, vendor) DO UPDATE SET token = ?3, updated_at = ?4",
        (account_id, vendor, sealed, tx.now),
    )
    return Success()


def sealed_of(rx: Rx, account_id: str) -> dict[str, bytes]:
    """The sealed tokens by vendor."""
    rows = rx.all("SELECT vendor, token FROM vendor_tokens WHERE account_id = ? ORDER BY vendor", (account_id,))
    return {vendor: token for vendor, token in rows if vendor in VENDORS}


def remove(tx: Tx, account_id: str, vendor: str) -> Success:
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
def _vendor(call: Call[NewToken, None] | Call[None, None]) -> str:
    vendor = call.path["vendor"]
    if vendor not in VENDORS:
        raise Refused(UNKNOWN_VENDOR, message=f"The vendor is one of {', '.join(VENDORS)}", statusCode=400)
    return vendor


# Sealing runs on another thread: deriving the root key takes 0.1 s at its first use.
async def register(call: Call[NewToken, None]) -> Success:
    vendor = _vendor(call)
    path = _path(call.account_id, vendor)
    sealed = await asyncio.to_thread(call.house.keys.vault.seal, path, call.body.token)
    return await call.house.store.write(store, call.account_id, vendor, sealed)


async def get_token(call: Call[None, None]) -> MaybeToken:
    vendor, vault = _vendor(call), call.house.keys.vault
    sealed = (await call.house.store.read(sealed_of, call.account_id)).get(vendor)
    return MaybeToken(await asyncio.to_thread(opened, vault, call.account_id, vendor, sealed))


async def get_tokens(call: Call[None, None]) -> Tokens:
    vault = call.house.keys.vault
    tokens = []
    for vendor, sealed in (await call.house.store.read(sealed_of, call.account_id)).items():
        token = await asyncio.to_thread(opened, vault, call.account_id, vendor, sealed)
        if token is not None:
            tokens.append(VendorToken(vendor, token))
    return Tokens(tokens)


async def delete(call: Call[None, None]) -> Success:
    return await call.house.store.write(remove, call.account_id, _vendor(call))


routes = [
    Route("POST", "/v1/connect/:vendor/register", register, body=NewToken, refusals=[UNKNOWN_VENDOR]),
    Route("GET", "/v1/connect/:vendor/token", get_token, answer=MaybeToken, refusals=[UNKNOWN_VENDOR]),
    Route("DELETE", "/v1/connect/:vendor", delete, refusals=[UNKNOWN_VENDOR]),
    Route("GET", "/v1/connect/tokens", get_tokens, answer=Tokens),
]
