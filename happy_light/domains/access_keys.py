"""Access keys: what a machine needs to decrypt a session, itself encrypted (docs/protocol.md, section 6).

GET  /v1/access-keys/:sessionId/:machineId   get the key
POST /v1/access-keys/:sessionId/:machineId   store the first key
PUT  /v1/access-keys/:sessionId/:machineId   replace the key, if the expected version is the current one
socket access-key-get
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from happy_light.clients import Client
from happy_light.context import ServerContext
from happy_light.domains.versioned import CompareAndSet, Stored, VersionMismatch, Write
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
from happy_light.wire import Id, Incoming, Outgoing, Version


# -------------------------------------------------------------------------------------------- wire
class AccessKey(Outgoing):
    """The access key of a session on a machine; times in ms."""

    data: str
    data_version: int
    created_at: int
    updated_at: int


class FoundAccessKey(Outgoing):
    """The access key, or null if there is none."""

    access_key: AccessKey | None


class CreatedAccessKey(Outgoing):
    """The access key that was stored."""

    access_key: AccessKey
    success: Literal[True] = True


class NewAccessKey(Incoming):
    """The body of POST /v1/access-keys/:sessionId/:machineId."""

    data: str


class ReplacementKey(Incoming):
    """The body of PUT /v1/access-keys/:sessionId/:machineId."""

    data: str
    expected_version: Version


class AccessKeyMismatch(VersionMismatch, kw_only=True):
    """Nothing was stored; the current data and its version."""

    current_version: int
    current_data: str


class AccessKeyId(Incoming):
    """The payload of `access-key-get`."""

    session_id: Id
    machine_id: Id


class AccessKeyAck(Outgoing):
    """The ack of `access-key-get`: the access key, or null if there is none."""

    access_key: AccessKey | None
    ok: Literal[True] = True


# -------------------------------------------------------------------------------------- operations
def find(tx: ReadTransaction, account_id: str, session_id: str, machine_id: str) -> AccessKey | None:
    """Return the key, or None if there is none.

    Raises ApiError SESSION_OR_MACHINE_NOT_FOUND unless session and machine are the account's.
    """
    _require_session_and_machine(tx, account_id, session_id, machine_id)
    row = tx.fetch_one(
        "SELECT data, data_version, created_at, updated_at FROM access_keys "
        "WHERE account_id = ? AND machine_id = ? AND session_id = ?",
        (account_id, machine_id, session_id),
    )
    return None if row is None else AccessKey(*row)


def create(tx: Transaction, account_id: str, session_id: str, machine_id: str, data: str) -> CreatedAccessKey:
    """Store the first key, with version 1.

    Raises ApiError SESSION_OR_MACHINE_NOT_FOUND unless session and machine are the account's, and
    ACCESS_KEY_EXISTS if there is a key already.
    """
    _require_session_and_machine(tx, account_id, session_id, machine_id)
    if not tx.execute(
        "INSERT INTO access_keys (account_id, session_id, machine_id, data, created_at, updated_at) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (account_id, session_id, machine_id, data, tx.now, tx.now),
    ):
        raise ApiError(ACCESS_KEY_EXISTS)
    return CreatedAccessKey(AccessKey(data, 1, tx.now, tx.now))


def replace(
    tx: Transaction, account_id: str, session_id: str, machine_id: str, new: ReplacementKey
) -> Stored | AccessKeyMismatch:
    """Store the data if the expected version is the current one. Raises ApiError ACCESS_KEY_NOT_FOUND."""
    where = (account_id, machine_id, session_id)
    row = tx.fetch_one(
        "SELECT data, data_version FROM access_keys WHERE account_id = ? AND machine_id = ? AND session_id = ?", where
    )
    if row is None:
        raise ApiError(ACCESS_KEY_NOT_FOUND)
    change: CompareAndSet[str] = CompareAndSet(row[0], row[1], Write(new.data, new.expected_version))
    if change.is_stale:
        return AccessKeyMismatch(current_version=change.current_version, current_data=change.current_value)
    tx.execute(
        "UPDATE access_keys SET data = ?, data_version = ?, updated_at = ? "
        "WHERE account_id = ? AND machine_id = ? AND session_id = ?",
        (change.value, change.version, tx.now, *where),
    )
    return Stored(change.version)


def _require_session_and_machine(tx: ReadTransaction, account_id: str, session_id: str, machine_id: str) -> None:
    """Raise ApiError SESSION_OR_MACHINE_NOT_FOUND unless the account owns both."""
    row = tx.fetch_one(
        "SELECT 1 FROM sessions JOIN machines ON machines.account_id = sessions.account_id "
        "WHERE sessions.id = ? AND sessions.account_id = ? AND machines.id = ?",
        (session_id, account_id, machine_id),
    )
    if row is None:
        raise ApiError(SESSION_OR_MACHINE_NOT_FOUND)


# --------------------------------------------------------------------------------------- endpoints
async def get(request: Request[None, None]) -> FoundAccessKey:
    """Return the access key of a session on a machine, null if there is none."""
    return FoundAccessKey(
        await request.context.database.read(
            find, request.account_id, request.path["sessionId"], request.path["machineId"]
        )
    )


async def post(request: Request[NewAccessKey, None]) -> CreatedAccessKey:
    """Store the first access key of a session on a machine."""
    return await request.context.database.write(
        request.account_id, create, request.path["sessionId"], request.path["machineId"], request.body.data
    )


async def put(request: Request[ReplacementKey, None]) -> Stored | AccessKeyMismatch:
    """Replace the access key if the expected version is the current one, else return the current one."""
    return await request.context.database.write(
        request.account_id, replace, request.path["sessionId"], request.path["machineId"], request.body
    )


# ----------------------------------------------------------------------------------------- sockets
def access_key_get(context: ServerContext, client: Client, data: Any) -> asyncio.Future[AccessKeyAck]:
    """Return the access key of a session on a machine, null if there is none."""
    # Checked here and not by a struct: clients expect one text for every mistake in the payload.
    session_id, machine_id = (data.get("sessionId"), data.get("machineId")) if isinstance(data, dict) else (None, None)
    if not (isinstance(session_id, str) and isinstance(machine_id, str) and session_id and machine_id):
        raise ApiError(ErrorResponse(400, "Invalid parameters: sessionId and machineId are required"))
    return context.database.read(_find_ack, client.account_id, session_id, machine_id)


def _find_ack(tx: ReadTransaction, account_id: str, session_id: str, machine_id: str) -> AccessKeyAck:
    return AccessKeyAck(find(tx, account_id, session_id, machine_id))


_PATH = "/v1/access-keys/:sessionId/:machineId"
routes = [
    Route("GET", _PATH, get, answer=FoundAccessKey, errors=[SESSION_OR_MACHINE_NOT_FOUND]),
    Route(
        "POST", _PATH, post, body=NewAccessKey, answer=CreatedAccessKey,
        errors=[SESSION_OR_MACHINE_NOT_FOUND, ACCESS_KEY_EXISTS],
    ),
    Route("PUT", _PATH, put, body=ReplacementKey, answer=Stored | AccessKeyMismatch, errors=[ACCESS_KEY_NOT_FOUND]),
]  # fmt: skip
events = {"access-key-get": EventHandler(access_key_get, ok_error, None, AccessKeyAck, like=AccessKeyId)}
