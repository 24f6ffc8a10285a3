"""Connected services: API tokens of AI vendors, encrypted at rest (docs/protocol.md, section 10).

POST   /v1/connect/:vendor/register   store a vendor's token
GET    /v1/connect/:vendor/token      get a vendor's token
DELETE /v1/connect/:vendor            delete a vendor's token
GET    /v1/connect/tokens             list all tokens
"""

from __future__ import annotations

import logging
from typing import Final

from happy_light import threads
from happy_light.auth.sealing import Vault
from happy_light.errors import UNKNOWN_VENDOR, ApiError
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Incoming, Outgoing, Success

log = logging.getLogger(__name__)

VENDORS: Final = ("openai", "anthropic", "gemini")


# -------------------------------------------------------------------------------------------- wire
class NewVendorToken(Incoming):
    """The body of POST /v1/connect/:vendor/register; the token is any text, clients send JSON in it."""

    token: str


class FoundToken(Outgoing):
    """The token, or null if there is none."""

    token: str | None


class VendorToken(Outgoing):
    """A vendor and its token."""

    vendor: str
    token: str


class VendorTokens(Outgoing):
    """The tokens of the account, by vendor ascending."""

    tokens: list[VendorToken]


# -------------------------------------------------------------------------------------- operations
def store_token(tx: Transaction, account_id: str, vendor: str, encrypted: bytes) -> Success:
    """Store the encrypted token of a vendor, replacing an older one."""
    tx.execute(
        "INSERT INTO vendor_tokens (account_id, vendor, token, created_at, updated_at) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (account_id, vendor) DO UPDATE SET token = excluded.token, updated_at = excluded.updated_at",
        (account_id, vendor, encrypted, tx.now, tx.now),
    )
    return Success()


def read_tokens(tx: ReadTransaction, account_id: str) -> dict[str, bytes]:
    """Return the encrypted tokens by vendor, vendors ascending."""
    rows = tx.fetch_all("SELECT vendor, token FROM vendor_tokens WHERE account_id = ? ORDER BY vendor", (account_id,))
    return {vendor: token for vendor, token in rows if vendor in VENDORS}


def delete_token(tx: Transaction, account_id: str, vendor: str) -> Success:
    """Delete the token of a vendor, if there is one."""
    tx.execute("DELETE FROM vendor_tokens WHERE account_id = ? AND vendor = ?", (account_id, vendor))
    return Success()


def decrypt_token(vault: Vault, account_id: str, vendor: str, encrypted: bytes | None) -> str | None:
    """Return the token, or None if there is none or it is damaged, which is logged.

    Deriving the root key takes about 0.1 s at its first use, so this runs on a worker thread.
    """
    if encrypted is None:
        return None
    token = vault.open(_key_path(account_id, vendor), encrypted)
    if token is None:
        log.warning("the %s token of account %s cannot be decrypted; it has to be connected again", vendor, account_id)
    return token


def _key_path(account_id: str, vendor: str) -> list[str]:
    """Return the path of the key that encrypts the token (docs/protocol.md, section 16)."""
    return ["user", account_id, "vendors", vendor, "token"]


# --------------------------------------------------------------------------------------- endpoints
async def post_register(request: Request[NewVendorToken, None]) -> Success:
    """Store the token of a vendor, replacing an older one."""
    vendor = _vendor(request)
    path = _key_path(request.account_id, vendor)
    encrypted = await threads.run(request.context.keys.vault.seal, path, request.body.token)
    return await request.context.database.write(request.account_id, store_token, vendor, encrypted)


async def get_token(request: Request[None, None]) -> FoundToken:
    """Return the token of a vendor, null if there is none."""
    vendor, vault = _vendor(request), request.context.keys.vault
    encrypted = (await request.context.database.read(read_tokens, request.account_id)).get(vendor)
    return FoundToken(await threads.run(decrypt_token, vault, request.account_id, vendor, encrypted))


async def get_tokens(request: Request[None, None]) -> VendorTokens:
    """Return the tokens of all connected vendors."""
    vault = request.context.keys.vault
    tokens = []
    for vendor, encrypted in (await request.context.database.read(read_tokens, request.account_id)).items():
        token = await threads.run(decrypt_token, vault, request.account_id, vendor, encrypted)
        if token is not None:
            tokens.append(VendorToken(vendor, token))
    return VendorTokens(tokens)


async def delete_vendor(request: Request[None, None]) -> Success:
    """Delete the token of a vendor, if there is one."""
    return await request.context.database.write(request.account_id, delete_token, _vendor(request))


def _vendor(request: Request[NewVendorToken, None] | Request[None, None]) -> str:
    """Return the vendor in the path. Raises ApiError UNKNOWN_VENDOR."""
    vendor = request.path["vendor"]
    if vendor not in VENDORS:
        raise ApiError(UNKNOWN_VENDOR, message=f"The vendor must be one of {', '.join(VENDORS)}", statusCode=400)
    return vendor


routes = [
    Route("POST", "/v1/connect/:vendor/register", post_register, body=NewVendorToken, errors=[UNKNOWN_VENDOR]),
    Route("GET", "/v1/connect/:vendor/token", get_token, answer=FoundToken, errors=[UNKNOWN_VENDOR]),
    Route("DELETE", "/v1/connect/:vendor", delete_vendor, errors=[UNKNOWN_VENDOR]),
    Route("GET", "/v1/connect/tokens", get_tokens, answer=VendorTokens),
]
