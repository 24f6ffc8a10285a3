"""Machines: computers on which a daemon runs (docs/protocol.md, section 4).

POST   /v1/machines                register a machine, or get the registered one with that id
GET    /v1/machines                list all, latest heartbeat first
GET    /v1/machines/:id            get one machine
DELETE /v1/machines/:id            delete a machine, its access keys and the sessions that it publishes
POST   /v1/machines/:id/metadata   replace the metadata, if the expected version is the current one
POST   /v1/machines/:id/state      replace the daemonState, if the expected version is the current one
socket machine-update-metadata, machine-update-state
update new-machine, update-machine, delete-machine

A machine id is unique within its account only: two accounts may use one computer.
"""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec
from starlette.responses import Response

from happy_light import wire
from happy_light.bus import Audience, Unmuted, Update
from happy_light.clients import Client
from happy_light.context import ServerContext
from happy_light.domains import deleted_machines, sessions
from happy_light.domains.presence.operations import Key
from happy_light.domains.versioned import CompareAndSet, Stored, VersionMismatch, Write
from happy_light.errors import MACHINE_NOT_FOUND, ApiError
from happy_light.http.request import Request
from happy_light.http.responses import json_response
from happy_light.http.router import Route
from happy_light.live import EventHandler
from happy_light.live.acks import result_error
from happy_light.store import ReadTransaction, Row, Transaction
from happy_light.wire import Base64, Id, Incoming, NonEmptyStr, Outgoing, SafeInt, Success, Version, Versioned


# -------------------------------------------------------------------------------------------- wire
class RegisteredMachine(Outgoing):
    """A machine as its registration answers it: without seq. Times in ms."""

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


class Machine(RegisteredMachine):
    """A machine; times in ms."""

    seq: int = 0


class Registration(Outgoing):
    """The machine with the id that was given, new or existing."""

    machine: RegisteredMachine


class FoundMachine(Outgoing):
    """One machine."""

    machine: Machine


class NewMachine(Incoming):
    """The body of POST /v1/machines; an empty daemonState counts as none.

    With `fail_if_deleted` a machine that the account has deleted is not created.
    """

    id: NonEmptyStr
    metadata: str
    daemon_state: str | None = None
    data_encryption_key: bytes | None = None
    fail_if_deleted: bool = False


class MachineDeleted(Outgoing):
    """Nothing was created, because the account has deleted this machine."""

    code: Literal["machine_deleted"] = "machine_deleted"
    error: Literal["Machine was deleted from this account"] = "Machine was deleted from this account"


class NewMachineUpdate(Outgoing, tag_field="t", tag="new-machine"):
    """Sent to user-scoped sockets: a machine was registered. Times in ms."""

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
    """Sent to the machine's and user-scoped sockets: what changed of a machine."""

    machine_id: str
    metadata: Versioned | msgspec.UnsetType = msgspec.UNSET
    daemon_state: Versioned | msgspec.UnsetType = msgspec.UNSET


class DeleteMachineUpdate(Outgoing, tag_field="t", tag="delete-machine"):
    """Sent to the machine's and user-scoped sockets: a machine was deleted."""

    machine_id: str


class UpdateMetadata(Incoming):
    """The payload of `machine-update-metadata`."""

    machine_id: Id
    metadata: str
    expected_version: SafeInt


class UpdateState(Incoming):
    """The payload of `machine-update-state`."""

    machine_id: Id
    daemon_state: str
    expected_version: SafeInt


class NewMetadata(Incoming):
    """The body of POST /v1/machines/:id/metadata."""

    metadata: str
    expected_version: Version


class NewState(Incoming):
    """The body of POST /v1/machines/:id/state."""

    daemon_state: str
    expected_version: Version


class MetadataMismatch(VersionMismatch, kw_only=True):
    """Nothing was stored; the current metadata and its version."""

    current_version: int
    current_metadata: str


class StateMismatch(VersionMismatch, kw_only=True):
    """Nothing was stored; the current daemonState and its version."""

    current_version: int
    current_daemon_state: str | None


class MetadataAck(Outgoing):
    """The ack of `machine-update-metadata`: the version and metadata that are current now."""

    result: Literal["success", "version-mismatch"]
    version: int
    metadata: str


class StateAck(Outgoing):
    """The ack of `machine-update-state`: the version and daemonState that are current now."""

    result: Literal["success", "version-mismatch"]
    version: int
    daemon_state: str | None


# -------------------------------------------------------------------------------------- operations
_REGISTERED_COLUMNS = (
    "id, active, metadata, metadata_version, daemon_state, daemon_state_version, data_encryption_key, "
    "active_at, created_at, updated_at"
)
_COLUMNS = f"{_REGISTERED_COLUMNS}, seq"


def _machine(row: Row) -> Machine:
    id, active, *rest = row
    return Machine(id, bool(active), *rest)


def read(tx: ReadTransaction, account_id: str, machine_id: str) -> Machine:
    """Return the machine. Raises ApiError MACHINE_NOT_FOUND if the account has no such machine."""
    row = tx.fetch_one(f"SELECT {_COLUMNS} FROM machines WHERE account_id = ? AND id = ?", (account_id, machine_id))
    if row is None:
        raise ApiError(MACHINE_NOT_FOUND)
    return _machine(row)


def list_all(tx: ReadTransaction, account_id: str) -> list[Machine]:
    """Return every machine of the account, latest heartbeat first."""
    rows = tx.fetch_all(
        f"SELECT {_COLUMNS} FROM machines WHERE account_id = ? ORDER BY active_at DESC",
        (account_id,),
    )
    return [_machine(row) for row in rows]


def get_or_create(tx: Transaction, account_id: str, new: NewMachine) -> Registration | MachineDeleted:
    """Return the account's machine of that id unchanged, or create and announce it unless it must not come back.

    Clients expect two updates of a new machine: `new-machine` and `update-machine` (docs/protocol.md, section 4).
    """
    row = tx.fetch_one(
        f"SELECT {_REGISTERED_COLUMNS} FROM machines WHERE account_id = ? AND id = ?", (account_id, new.id)
    )
    if row is not None:
        id, active, *rest = row
        return Registration(RegisteredMachine(id, bool(active), *rest))
    if new.fail_if_deleted and deleted_machines.is_remembered(tx, account_id, new.id):
        return MachineDeleted()
    deleted_machines.forget(tx, account_id, new.id)
    state, key = new.daemon_state or None, wire.base64_text(new.data_encryption_key)
    state_version = 1 if state else 0
    tx.execute(
        "INSERT INTO machines (account_id, id, metadata, metadata_version, daemon_state, daemon_state_version, "
        "data_encryption_key, active, active_at, created_at, updated_at) VALUES (?, ?, ?, 1, ?, ?, ?, 0, ?, ?, ?)",
        (account_id, new.id, new.metadata, state, state_version, key, tx.now, tx.now, tx.now),
    )
    created = NewMachineUpdate(
        new.id, 0, new.metadata, 1, state, state_version, key, False, tx.now, tx.now, tx.now
    )  # fmt: skip
    metadata = MachineUpdate(new.id, metadata=Versioned(new.metadata, 1))
    tx.publish(Update(Audience(account_id), created), Update(Audience.machine(account_id, new.id), metadata))
    return Registration(
        RegisteredMachine(new.id, False, new.metadata, 1, state, state_version, key, tx.now, tx.now, tx.now)
    )


def delete(tx: Transaction, account_id: str, machine_id: str) -> list[str]:
    """Delete the machine, its access keys and the sessions that it publishes; announce and remember it.

    Returns the ids of the sessions, so that the caller deletes their files. Raises ApiError MACHINE_NOT_FOUND if there
    is neither the machine nor such a session (docs/protocol.md, section 4.3).
    """
    session_ids = sessions.delete_published(tx, account_id, machine_id)
    existed = tx.execute("DELETE FROM machines WHERE account_id = ? AND id = ?", (account_id, machine_id)) > 0
    if not existed and not session_ids:
        raise ApiError(MACHINE_NOT_FOUND)
    if existed:
        deleted_machines.remember(tx, account_id, machine_id)
    tx.publish(Update(Audience.machine(account_id, machine_id), DeleteMachineUpdate(machine_id)))
    return session_ids


def update_metadata(tx: Transaction, account_id: str, machine_id: str, write: Write[str]) -> CompareAndSet[str]:
    """Store and announce the metadata unless the write is stale. Raises ApiError MACHINE_NOT_FOUND."""
    machine = read(tx, account_id, machine_id)
    change = CompareAndSet(machine.metadata, machine.metadata_version, write)
    if not change.is_stale:
        tx.execute(
            "UPDATE machines SET metadata = ?, metadata_version = ?, updated_at = ? WHERE account_id = ? AND id = ?",
            (change.value, change.version, tx.now, account_id, machine_id),
        )
        body = MachineUpdate(machine_id, metadata=Versioned(change.value, change.version))
        tx.publish(Update(Audience.machine(account_id, machine_id), body))
    return change


def update_state(
    tx: Transaction, account_id: str, machine_id: str, write: Write[str | None]
) -> CompareAndSet[str | None]:
    """Store and announce the daemonState unless the write is stale; this makes the machine active as well.

    Raises ApiError MACHINE_NOT_FOUND.
    """
    machine = read(tx, account_id, machine_id)
    change = CompareAndSet(machine.daemon_state, machine.daemon_state_version, write)
    if not change.is_stale:
        tx.execute(
            "UPDATE machines SET daemon_state = ?, daemon_state_version = ?, active = 1, active_at = ?, "
            "updated_at = ? WHERE account_id = ? AND id = ?",
            (change.value, change.version, tx.now, tx.now, account_id, machine_id),
        )
        body = MachineUpdate(machine_id, daemon_state=Versioned(change.value, change.version))
        tx.publish(Update(Audience.machine(account_id, machine_id), body))
    return change


# --------------------------------------------------------------------------------------- endpoints
async def get_list(request: Request[None, None]) -> list[Machine]:
    """Return all machines of the account, latest heartbeat first."""
    return await request.context.database.read(list_all, request.account_id)


async def get(request: Request[None, None]) -> FoundMachine:
    """Return one machine."""
    return FoundMachine(await request.context.database.read(read, request.account_id, request.path["id"]))


async def post(request: Request[NewMachine, None]) -> Registration | Response:
    """Register a machine, or return the registered one with that id unchanged."""
    answer = await request.context.database.write(request.account_id, get_or_create, request.body)
    if isinstance(answer, MachineDeleted):
        return json_response(410, answer)
    request.context.bus.publish(Unmuted("machine", request.account_id, request.body.id))
    await request.context.clients.tell_others()  # a heartbeat may follow the answer, to another process
    return answer


async def delete_machine(request: Request[None, None]) -> Success:
    """Delete a machine, its access keys and the sessions that it publishes."""
    context, account_id, machine_id = request.context, request.account_id, request.path["id"]
    write = context.database.write(account_id, delete, machine_id)
    context.presence.mute(Key("machine", account_id, machine_id), write)
    for session_id in await write:
        await context.blobs.delete_prefix(f"sessions/{session_id}/")  # after a crash, `prune` deletes them
    return Success()


async def post_metadata(request: Request[NewMetadata, None]) -> Stored | MetadataMismatch:
    """Replace the metadata if the expected version is the current one, else return the current one."""
    write = Write(request.body.metadata, request.body.expected_version)
    change = await request.context.database.write(request.account_id, update_metadata, request.path["id"], write)
    if change.is_stale:
        return MetadataMismatch(current_version=change.version, current_metadata=change.value)
    return Stored(change.version)


async def post_state(request: Request[NewState, None]) -> Stored | StateMismatch:
    """Replace the daemonState if the expected version is the current one, else return the current one."""
    write: Write[str | None] = Write(request.body.daemon_state, request.body.expected_version)
    change = await request.context.database.write(request.account_id, update_state, request.path["id"], write)
    if change.is_stale:
        return StateMismatch(current_version=change.version, current_daemon_state=change.value)
    return Stored(change.version)


# ----------------------------------------------------------------------------------------- sockets
def machine_update_metadata(
    context: ServerContext, client: Client, data: UpdateMetadata
) -> asyncio.Future[MetadataAck]:
    """Replace the metadata of a machine if the expected version is the current one."""

    def operation(tx: Transaction, account_id: str) -> MetadataAck:
        write = Write(data.metadata, data.expected_version)
        change = update_metadata(tx, account_id, data.machine_id, write)
        return MetadataAck(change.result, change.version, change.value)

    return context.database.write(client.account_id, operation)


def machine_update_state(context: ServerContext, client: Client, data: UpdateState) -> asyncio.Future[StateAck]:
    """Replace the daemonState of a machine if the expected version is the current one; it becomes active."""

    def operation(tx: Transaction, account_id: str) -> StateAck:
        write: Write[str | None] = Write(data.daemon_state, data.expected_version)
        change = update_state(tx, account_id, data.machine_id, write)
        return StateAck(change.result, change.version, change.value)

    return context.database.write(client.account_id, operation)


routes = [
    Route("GET", "/v1/machines", get_list, answer=list[Machine], conditional=True),
    Route("POST", "/v1/machines", post, body=NewMachine, answer=Registration, other_responses={410: MachineDeleted}),
    Route("GET", "/v1/machines/:id", get, answer=FoundMachine, errors=[MACHINE_NOT_FOUND]),
    Route("DELETE", "/v1/machines/:id", delete_machine, errors=[MACHINE_NOT_FOUND]),
    Route(
        "POST", "/v1/machines/:id/metadata", post_metadata, body=NewMetadata, answer=Stored | MetadataMismatch,
        errors=[MACHINE_NOT_FOUND],
    ),
    Route(
        "POST", "/v1/machines/:id/state", post_state, body=NewState, answer=Stored | StateMismatch,
        errors=[MACHINE_NOT_FOUND],
    ),
]  # fmt: skip
events = {
    "machine-update-metadata": EventHandler(machine_update_metadata, result_error, UpdateMetadata, MetadataAck),
    "machine-update-state": EventHandler(machine_update_state, result_error, UpdateState, StateAck),
}
