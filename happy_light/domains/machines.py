"""Machines: computers on which a daemon runs (protocol.md section 4).

POST   /v1/machines        register, or get what is registered
GET    /v1/machines        all, latest active first
GET    /v1/machines/:id
DELETE /v1/machines/:id
POST   /v1/machines/:id/metadata
POST   /v1/machines/:id/state
socket machine-update-metadata, machine-update-state
"""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec

from happy_light import wire
from happy_light.bus import Audience, Update
from happy_light.clients import Client
from happy_light.context import ServerContext
from happy_light.errors import MACHINE_NOT_FOUND, ApiError
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.live import EventHandler
from happy_light.live.acks import result_error
from happy_light.store import ReadTransaction, Row, Transaction
from happy_light.wire import Base64, Incoming, NonEmptyStr, Outgoing, SafeInt, Success, Version, Versioned


# -------------------------------------------------------------------------------------------- wire
class Registered(Outgoing):
    """A machine as POST answers it: without seq."""

    id: str
    active: bool
    metadata: str
    metadata_version: int
    daemon_state: str | None
    daemon_state_version: int
    data_encryption_key: Base64 | None
    active_at: int
    created_at: int
    updated_at: int


class Machine(Registered):
    """A machine as the lists have it."""

    seq: int = 0


class OneRegistered(Outgoing):
    """`{"machine": …}`"""

    machine: Registered


class OneMachine(Outgoing):
    """`{"machine": …}`"""

    machine: Machine


class NewMachine(Incoming):
    """POST /v1/machines; an empty daemonState counts as none."""

    id: NonEmptyStr
    metadata: str
    daemon_state: str | None = None
    data_encryption_key: bytes | None = None


class NewMachineUpdate(Outgoing, tag_field="t", tag="new-machine"):
    """Update to user-scoped sockets."""

    machine_id: str
    seq: int
    metadata: str
    metadata_version: int
    daemon_state: str | None
    daemon_state_version: int
    data_encryption_key: Base64 | None
    active: bool
    active_at: int
    created_at: int
    updated_at: int


class MachineUpdate(Outgoing, tag_field="t", tag="update-machine"):
    """Update to that machine's sockets: only what changed."""

    machine_id: str
    metadata: Versioned | msgspec.UnsetType = msgspec.UNSET
    daemon_state: Versioned | msgspec.UnsetType = msgspec.UNSET


class DeleteMachineUpdate(Outgoing, tag_field="t", tag="delete-machine"):
    """Update to user-scoped sockets."""

    machine_id: str


class UpdateMetadata(Incoming):
    """`machine-update-metadata`"""

    machine_id: NonEmptyStr
    metadata: str
    expected_version: SafeInt


class UpdateState(Incoming):
    """`machine-update-state`"""

    machine_id: NonEmptyStr
    daemon_state: str
    expected_version: SafeInt


class NewMetadata(Incoming):
    """POST /v1/machines/:id/metadata"""

    metadata: str
    expected_version: Version


class NewState(Incoming):
    """POST /v1/machines/:id/state"""

    daemon_state: str
    expected_version: Version


class Stored(Outgoing):
    """The new version."""

    version: int
    success: Literal[True] = True


class StaleMetadata(Outgoing):
    """Nothing was stored; what is current."""

    current_version: int
    current_metadata: str
    success: Literal[False] = False
    error: Literal["version-mismatch"] = "version-mismatch"


class StaleState(Outgoing):
    """Nothing was stored; what is current."""

    current_version: int
    current_daemon_state: str | None
    success: Literal[False] = False
    error: Literal["version-mismatch"] = "version-mismatch"


class MetadataAck(Outgoing):
    """Ack of `machine-update-metadata`: what is current now."""

    result: str
    version: int
    metadata: str


class StateAck(Outgoing):
    """Ack of `machine-update-state`: what is current now."""

    result: str
    version: int
    daemon_state: str | None


# -------------------------------------------------------------------------------------- operations
_COLUMNS = (
    "id, active, metadata, metadata_version, daemon_state, daemon_state_version, data_encryption_key, "
    "active_at, created_at, updated_at, seq"
)


def _machine(row: Row) -> Machine:
    id, is_active, *rest = row
    return Machine(id, bool(is_active), *rest)


def owned(tx: ReadTransaction, account_id: str, machine_id: str) -> Machine:
    """The machine. Raises Refused if the account has no such machine."""
    row = tx.fetch_one(f"SELECT {_COLUMNS} FROM machines WHERE account_id = ? AND id = ?", (account_id, machine_id))
    if row is None:
        raise ApiError(MACHINE_NOT_FOUND)
    return _machine(row)


def all_of(tx: ReadTransaction, account_id: str) -> list[Machine]:
    """Every machine of an account, latest active first."""
    rows = tx.fetch_all(
        f"SELECT {_COLUMNS} FROM machines WHERE account_id = ? ORDER BY active_at DESC",
        (account_id,),
    )
    return [_machine(row) for row in rows]


def register(tx: Transaction, account_id: str, new: NewMachine) -> OneRegistered:
    """The machine of that id: the existing one unchanged, or a new one, announced twice as clients expect."""
    row = tx.fetch_one(f"SELECT {_COLUMNS} FROM machines WHERE account_id = ? AND id = ?", (account_id, new.id))
    if row is not None:
        id, is_active, *rest = row[:-1]  # all but seq
        return OneRegistered(Registered(id, bool(is_active), *rest))
    state, key = new.daemon_state or None, wire.base64_text(new.data_encryption_key)
    machine = Registered(new.id, False, new.metadata, 1, state, 1 if state else 0, key, tx.now, tx.now, tx.now)
    tx.execute(
        "INSERT INTO machines (account_id, id, metadata, metadata_version, daemon_state, daemon_state_version, "
        "data_encryption_key, active, active_at, created_at, updated_at) VALUES (?, ?, ?, 1, ?, ?, ?, 0, ?, ?, ?)",
        (account_id, new.id, new.metadata, state, machine.daemon_state_version, key, tx.now, tx.now, tx.now),
    )
    tx.publish(
        Update(
            Audience(account_id),
            NewMachineUpdate(
                new.id, 0, new.metadata, 1, state, machine.daemon_state_version, key, False, tx.now, tx.now, tx.now,
            ),
        ),
        Update(
            Audience.machine(account_id, new.id), MachineUpdate(new.id, metadata=Versioned(new.metadata, 1))
        ),
    )  # fmt: skip
    return OneRegistered(machine)


def delete(tx: Transaction, account_id: str, machine_id: str) -> Success:
    """Removes it and its access keys; sessions stay. Raises Refused."""
    if not tx.execute("DELETE FROM machines WHERE account_id = ? AND id = ?", (account_id, machine_id)):
        raise ApiError(MACHINE_NOT_FOUND)
    tx.publish(Update(Audience(account_id), DeleteMachineUpdate(machine_id)))
    return Success()


def set_metadata(tx: Transaction, account_id: str, new: UpdateMetadata) -> MetadataAck:
    """Stores metadata if the expected version is the current one. Raises Refused."""
    machine = owned(tx, account_id, new.machine_id)
    if machine.metadata_version != new.expected_version:
        return MetadataAck("version-mismatch", machine.metadata_version, machine.metadata)
    version = machine.metadata_version + 1
    tx.execute(
        "UPDATE machines SET metadata = ?, metadata_version = ?, updated_at = ? WHERE account_id = ? AND id = ?",
        (new.metadata, version, tx.now, account_id, new.machine_id),
    )
    body = MachineUpdate(new.machine_id, metadata=Versioned(new.metadata, version))
    tx.publish(Update(Audience.machine(account_id, new.machine_id), body))
    return MetadataAck("success", version, new.metadata)


def set_state(tx: Transaction, account_id: str, new: UpdateState) -> StateAck:
    """Stores daemonState if the expected version is the current one; a daemon that says so is active.

    Raises Refused.
    """
    machine = owned(tx, account_id, new.machine_id)
    if machine.daemon_state_version != new.expected_version:
        return StateAck("version-mismatch", machine.daemon_state_version, machine.daemon_state)
    version = machine.daemon_state_version + 1
    tx.execute(
        "UPDATE machines SET daemon_state = ?, daemon_state_version = ?, active = 1, active_at = ?, updated_at = ? "
        "WHERE account_id = ? AND id = ?",
        (new.daemon_state, version, tx.now, tx.now, account_id, new.machine_id),
    )
    body = MachineUpdate(new.machine_id, daemon_state=Versioned(new.daemon_state, version))
    tx.publish(Update(Audience.machine(account_id, new.machine_id), body))
    return StateAck("success", version, new.daemon_state)


# --------------------------------------------------------------------------------------- endpoints
async def get_all(request: Request[None, None]) -> list[Machine]:
    return await request.context.database.read(all_of, request.account_id)


async def get(request: Request[None, None]) -> OneMachine:
    return OneMachine(await request.context.database.read(owned, request.account_id, request.path["id"]))


async def post(request: Request[NewMachine, None]) -> OneRegistered:
    answer = await request.context.database.write(request.account_id, register, request.body)
    request.context.presence.unmute(("machine", request.account_id, request.body.id))
    return answer


async def remove(request: Request[None, None]) -> Success:
    request.context.presence.mute(("machine", request.account_id, request.path["id"]))
    return await request.context.database.write(request.account_id, delete, request.path["id"])


async def post_metadata(request: Request[NewMetadata, None]) -> Stored | StaleMetadata:
    new = UpdateMetadata(request.path["id"], request.body.metadata, request.body.expected_version)
    ack = await request.context.database.write(request.account_id, set_metadata, new)
    return Stored(ack.version) if ack.result == "success" else StaleMetadata(ack.version, ack.metadata)


async def post_state(request: Request[NewState, None]) -> Stored | StaleState:
    new = UpdateState(request.path["id"], request.body.daemon_state, request.body.expected_version)
    ack = await request.context.database.write(request.account_id, set_state, new)
    return Stored(ack.version) if ack.result == "success" else StaleState(ack.version, ack.daemon_state)


# ----------------------------------------------------------------------------------------- sockets
def update_metadata(context: ServerContext, client: Client, data: UpdateMetadata) -> asyncio.Future[MetadataAck]:
    return context.database.write(client.account_id, set_metadata, data)


def update_state(context: ServerContext, client: Client, data: UpdateState) -> asyncio.Future[StateAck]:
    return context.database.write(client.account_id, set_state, data)


routes = [
    Route("GET", "/v1/machines", get_all, answer=list[Machine]),
    Route("POST", "/v1/machines", post, body=NewMachine, answer=OneRegistered),
    Route("GET", "/v1/machines/:id", get, answer=OneMachine, errors=[MACHINE_NOT_FOUND]),
    Route("DELETE", "/v1/machines/:id", remove, errors=[MACHINE_NOT_FOUND]),
    Route(
        "POST",
        "/v1/machines/:id/metadata",
        post_metadata,
        body=NewMetadata,
        answer=Stored | StaleMetadata,
        errors=[MACHINE_NOT_FOUND],
    ),
    Route(
        "POST",
        "/v1/machines/:id/state",
        post_state,
        body=NewState,
        answer=Stored | StaleState,
        errors=[MACHINE_NOT_FOUND],
    ),
]
events = {
    "machine-update-metadata": EventHandler(update_metadata, result_error, UpdateMetadata, MetadataAck),
    "machine-update-state": EventHandler(update_state, result_error, UpdateState, StateAck),
}
