"""Access keys: what a machine needs to open a session, encrypted (protocol.md section 6).

GET  /v1/access-keys/:sessionId/:machineId
POST /v1/access-keys/:sessionId/:machineId   store the first one
PUT  /v1/access-keys/:sessionId/:machineId   replace it
socket access-key-get
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from happy_light.clients import Client
from happy_light.context import ServerContext
from happy_light.errors import (
    ACCESS_KEY_EXISTS,
    ACCESS_KEY_NOT_FOUND,
    SESSION_OR_MACHINE_NOT_FOUND,
    ApiError,
    ErrorResponse,
)
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.live import EventHandler
from happy_light.live.acks import ok_error
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Incoming, NonEmptyStr, Outgoing, Version


# -------------------------------------------------------------------------------------------- wire
class AccessKey(Outgoing):
    """The key of a session on a machine."""

    data: str
    data_version: int
    created_at: int
    updated_at: int


class MaybeKey(Outgoing):
    """`{"accessKey": …}`, null if there is none."""

    access_key: AccessKey | None


class Created(Outgoing):
    """`{"success": true, "accessKey": …}`"""

    access_key: AccessKey
    success: Literal[True] = True


class NewKey(Incoming):
    """POST"""

    data: str


class NextKey(Incoming):
    """PUT"""

    data: str
    expected_version: Version


class Replaced(Outgoing):
    """The new version."""

    version: int
    success: Literal[True] = True


class Stale(Outgoing):
    """Nothing was stored; what is current."""

    current_version: int
    current_data: str
    success: Literal[False] = False
    error: Literal["version-mismatch"] = "version-mismatch"


class Wanted(Incoming):
    """`access-key-get`"""

    session_id: NonEmptyStr
    machine_id: NonEmptyStr


class KeyAck(Outgoing):
    """Ack of `access-key-get`."""

    access_key: AccessKey | None
    ok: Literal[True] = True


# -------------------------------------------------------------------------------------- operations
def _must_own_both(tx: ReadTransaction, account_id: str, session_id: str, machine_id: str) -> None:
    if (
        tx.fetch_one("SELECT 1 FROM sessions WHERE id = ? AND account_id = ?", (session_id, account_id)) is None
        or tx.fetch_one("SELECT 1 FROM machines WHERE account_id = ? AND id = ?", (account_id, machine_id)) is None
    ):
        raise ApiError(SESSION_OR_MACHINE_NOT_FOUND)


def find(tx: ReadTransaction, account_id: str, session_id: str, machine_id: str) -> AccessKey | None:
    """The key, if there is one. Raises Refused unless session and machine are the account's."""
    _must_own_both(tx, account_id, session_id, machine_id)
    row = tx.fetch_one(
        "SELECT data, data_version, created_at, updated_at FROM access_keys "
        "WHERE account_id = ? AND machine_id = ? AND session_id = ?",
        (account_id, machine_id, session_id),
    )
    return None if row is None else AccessKey(*row)


def create(tx: Transaction, account_id: str, session_id: str, machine_id: str, data: str) -> Created:
    """Stores the first key. Raises Refused, also if there is one already."""
    _must_own_both(tx, account_id, session_id, machine_id)
    if not tx.execute(
        "INSERT INTO access_keys (account_id, session_id, machine_id, data, created_at, updated_at) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (account_id, session_id, machine_id, data, tx.now, tx.now),
    ):
        raise ApiError(ACCESS_KEY_EXISTS)
    return Created(AccessKey(data, 1, tx.now, tx.now))


def replace(tx: Transaction, account_id: str, session_id: str, machine_id: str, new: NextKey) -> Replaced | Stale:
    """Stores a key in the place of one if the expected version is the current one. Raises Refused."""
    where = (account_id, machine_id, session_id)
    row = tx.fetch_one(
        "SELECT data, data_version FROM access_keys WHERE account_id = ? AND machine_id = ? AND session_id = ?", where
    )
    if row is None:
        raise ApiError(ACCESS_KEY_NOT_FOUND)
    data, version = row
    if version != new.expected_version:
        return Stale(version, data)
    tx.execute(
        "UPDATE access_keys SET data = ?, data_version = ?, updated_at = ? "
        "WHERE account_id = ? AND machine_id = ? AND session_id = ?",
        (new.data, version + 1, tx.now, *where),
    )
    return Replaced(version + 1)


# --------------------------------------------------------------------------------------- endpoints
async def get(request: Request[None, None]) -> MaybeKey:
    return MaybeKey(
        await request.context.database.read(
            find, request.account_id, request.path["sessionId"], request.path["machineId"]
        )
    )


async def post(request: Request[NewKey, None]) -> Created:
    return await request.context.database.write(
        request.account_id, create, request.path["sessionId"], request.path["machineId"], request.body.data
    )


async def put(request: Request[NextKey, None]) -> Replaced | Stale:
    return await request.context.database.write(
        request.account_id, replace, request.path["sessionId"], request.path["machineId"], request.body
    )


# ----------------------------------------------------------------------------------------- sockets
def access_key_get(context: ServerContext, client: Client, data: Any) -> asyncio.Future[KeyAck]:
    """The payload's mistakes have a text of their own, so it is looked at by hand."""
    session_id, machine_id = (data.get("sessionId"), data.get("machineId")) if isinstance(data, dict) else (None, None)
    if not (isinstance(session_id, str) and isinstance(machine_id, str) and session_id and machine_id):
        raise ApiError(ErrorResponse(400, "Invalid parameters: sessionId and machineId are required"))
    return context.database.read(_ack, client.account_id, session_id, machine_id)


def _ack(tx: ReadTransaction, account_id: str, session_id: str, machine_id: str) -> KeyAck:
    return KeyAck(find(tx, account_id, session_id, machine_id))


_PATH = "/v1/access-keys/:sessionId/:machineId"
routes = [
    Route("GET", _PATH, get, answer=MaybeKey, errors=[SESSION_OR_MACHINE_NOT_FOUND]),
    Route("POST", _PATH, post, body=NewKey, answer=Created, errors=[SESSION_OR_MACHINE_NOT_FOUND, ACCESS_KEY_EXISTS]),
    Route("PUT", _PATH, put, body=NextKey, answer=Replaced | Stale, errors=[ACCESS_KEY_NOT_FOUND]),
]
events = {"access-key-get": EventHandler(access_key_get, ok_error, None, KeyAck, like=Wanted)}
