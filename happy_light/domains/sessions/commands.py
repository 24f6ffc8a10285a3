"""Changing sessions: create, update, archive, delete."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import msgspec

from happy_light import ids, wire
from happy_light.bus import Audience, Muted, Unmuted, Update
from happy_light.clients import Client
from happy_light.context import ServerContext
from happy_light.domains import versioned
from happy_light.domains.avatar import Avatar
from happy_light.domains.presence.operations import Key, end_session
from happy_light.domains.sessions.queries import COLUMNS, ListedSession, listed_session, read
from happy_light.domains.versioned import CompareAndSet, VersionMismatch, Write
from happy_light.errors import (
    PROJECT_NOT_FOUND,
    SESSION_NOT_FOUND,
    SESSION_NOT_FOUND_OR_FOREIGN,
    ApiError,
    BadRequest,
)
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.live import EventHandler
from happy_light.live.acks import result_error_silent
from happy_light.store import Transaction
from happy_light.wire import Base64, Id, Incoming, Outgoing, SafeInt, Success, Version, Versioned


# -------------------------------------------------------------------------------------------- wire
class LoadedSession(Outgoing):
    """The session with the tag that was given, created or existing."""

    session: ListedSession


class NewSession(Incoming):
    """The body of POST /v1/sessions. `machine_id` is the machine that publishes the session; null counts as absent."""

    tag: str
    metadata: str
    agent_state: str | None = None
    data_encryption_key: bytes | None = None
    project_id: str | msgspec.UnsetType | None = msgspec.UNSET
    machine_id: str | None = None


class SessionChange(Incoming):
    """The body of POST /v1/sessions/:id: values, each with the version that it replaces."""

    metadata: str | msgspec.UnsetType = msgspec.UNSET
    expected_metadata_version: Version | msgspec.UnsetType = msgspec.UNSET
    agent_state: str | msgspec.UnsetType | None = msgspec.UNSET
    expected_agent_state_version: Version | msgspec.UnsetType = msgspec.UNSET


class StoredValues(Outgoing):
    """The new versions of the values that were given."""

    metadata_version: int | msgspec.UnsetType = msgspec.UNSET
    agent_state_version: int | msgspec.UnsetType = msgspec.UNSET
    success: Literal[True] = True


class SessionMismatch(VersionMismatch, kw_only=True):
    """Nothing was stored; the current state of the values whose expected version is not the current one."""

    current_metadata_version: int | msgspec.UnsetType
    current_metadata: str | msgspec.UnsetType
    current_agent_state_version: int | msgspec.UnsetType
    current_agent_state: str | msgspec.UnsetType | None


class NewSessionUpdate(Outgoing, tag_field="t", tag="new-session"):
    """Sent to user-scoped sockets: a session was created. Times in ms."""

    id: str
    seq: int
    metadata: str
    metadata_version: int
    agent_state: str | None
    agent_state_version: int
    data_encryption_key: Base64 | None
    project_id: str | None
    active: bool
    active_at: int
    created_at: int
    updated_at: int
    avatar: None = None
    avatar_version: int = 0


class SessionUpdate(Outgoing, tag_field="t", tag="update-session"):
    """Sent to the session's and user-scoped sockets: what changed of a session; `projectId` to user-scoped ones only.

    `avatarVersion` comes with `avatar`, also when that is null.
    """

    id: str
    metadata: Versioned | msgspec.UnsetType = msgspec.UNSET
    agent_state: Versioned | msgspec.UnsetType = msgspec.UNSET
    project_id: str | msgspec.UnsetType | None = msgspec.UNSET
    avatar: Avatar | msgspec.UnsetType | None = msgspec.UNSET
    avatar_version: int | msgspec.UnsetType = msgspec.UNSET


class DeleteSessionUpdate(Outgoing, tag_field="t", tag="delete-session"):
    """Sent to user-scoped sockets: a session was deleted."""

    sid: str


class UpdateMetadata(Incoming):
    """The payload of `update-metadata`."""

    sid: Id
    metadata: str
    expected_version: SafeInt


class UpdateState(Incoming):
    """The payload of `update-state`."""

    sid: Id
    agent_state: str | None
    expected_version: SafeInt


class MetadataAck(Outgoing):
    """The ack of `update-metadata`: the version and metadata that are current now."""

    result: Literal["success", "version-mismatch"]
    version: int
    metadata: str


class StateAck(Outgoing):
    """The ack of `update-state`: the version and agentState that are current now."""

    result: Literal["success", "version-mismatch"]
    version: int
    agent_state: str | None


# -------------------------------------------------------------------------------------- operations
def get_or_create(tx: Transaction, account_id: str, new: NewSession) -> LoadedSession:
    """Return the account's session with that tag, or create and announce it.

    An existing one changes only in its project, which is announced, and its machine. Raises ApiError PROJECT_NOT_FOUND
    for a project that is not the account's, before anything is changed (docs/protocol.md, section 3.3).
    """
    if isinstance(new.project_id, str):
        _require_project(tx, account_id, new.project_id)
    row = tx.fetch_one(
        f"SELECT machine_id, {COLUMNS} FROM sessions WHERE account_id = ? AND tag = ?", (account_id, new.tag)
    )
    if row is not None:
        machine_id, *columns = row
        return LoadedSession(_load(tx, account_id, new, machine_id, listed_session(tuple(columns))))
    key = wire.base64_text(new.data_encryption_key)
    session = ListedSession(
        id=ids.new_id(), seq=0, created_at=tx.now, updated_at=tx.now, active=True, active_at=tx.now,
        metadata=new.metadata, metadata_version=0, agent_state=new.agent_state, agent_state_version=0,
        data_encryption_key=key, project_id=new.project_id or None, avatar=None, avatar_version=0,
    )  # fmt: skip
    tx.execute(
        "INSERT INTO sessions (id, account_id, tag, metadata, agent_state, data_encryption_key, project_id, "
        "machine_id, active_at, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            session.id, account_id, new.tag, new.metadata, new.agent_state, key, session.project_id, new.machine_id,
            tx.now, tx.now, tx.now,
        ),
    )  # fmt: skip
    announcement = NewSessionUpdate(
        session.id, 0, session.metadata, 0, session.agent_state, 0, key, session.project_id, True, tx.now, tx.now,
        tx.now,
    )  # fmt: skip
    tx.publish(Update(Audience(account_id), announcement))
    return LoadedSession(session)


def _load(
    tx: Transaction, account_id: str, new: NewSession, machine_id: str | None, session: ListedSession
) -> ListedSession:
    """Store the machine that was given, and store and announce the project, if they are others than before."""
    where = (session.id, account_id)
    if new.machine_id is not None and new.machine_id != machine_id:
        tx.execute("UPDATE sessions SET machine_id = ? WHERE id = ? AND account_id = ?", (new.machine_id, *where))
    if isinstance(new.project_id, msgspec.UnsetType) or new.project_id == session.project_id:
        return session
    tx.execute(
        "UPDATE sessions SET project_id = ?, updated_at = ? WHERE id = ? AND account_id = ?",
        (new.project_id, tx.now, *where),
    )
    tx.publish(Update(Audience(account_id), SessionUpdate(session.id, project_id=new.project_id)))
    session.project_id, session.updated_at = new.project_id, tx.now
    return session


def _require_project(tx: Transaction, account_id: str, project_id: str) -> None:
    """Raise ApiError PROJECT_NOT_FOUND unless the account owns the project."""
    if tx.fetch_one("SELECT 1 FROM projects WHERE id = ? AND account_id = ?", (project_id, account_id)) is None:
        raise ApiError(PROJECT_NOT_FOUND)


def unlink_project(tx: Transaction, account_id: str, project_id: str) -> None:
    """Take the project from all sessions that have it, and announce it for each."""
    rows = tx.fetch_all(
        "UPDATE sessions SET project_id = NULL, updated_at = ? WHERE project_id = ? AND account_id = ? RETURNING id",
        (tx.now, project_id, account_id),
    )
    for (session_id,) in sorted(rows):
        tx.publish(Update(Audience(account_id), SessionUpdate(session_id, project_id=None)))


def announce_avatar(tx: Transaction, account_id: str, session_id: str, avatar: Avatar | None, version: int) -> None:
    """Announce that the picture of a session was changed or, with None, removed."""
    body = SessionUpdate(session_id, avatar=avatar, avatar_version=version)
    tx.publish(Update(Audience.session(account_id, session_id), body))


def archive(tx: Transaction, account_id: str, session_id: str) -> Success:
    """Make the session inactive and announce it. Raises ApiError SESSION_NOT_FOUND."""
    end_session(tx, account_id, session_id, tx.now)
    return Success()


def delete(tx: Transaction, account_id: str, session_id: str) -> Success:
    """Delete the session with its messages, usage reports and access keys, and announce it.

    Raises ApiError SESSION_NOT_FOUND_OR_FOREIGN. Its attachments and pictures are files; the caller deletes them.
    """
    if not tx.execute("DELETE FROM sessions WHERE id = ? AND account_id = ?", (session_id, account_id)):
        raise ApiError(SESSION_NOT_FOUND_OR_FOREIGN)
    tx.publish(Update(Audience(account_id), DeleteSessionUpdate(session_id)))
    return Success()


def delete_published(tx: Transaction, account_id: str, machine_id: str) -> list[str]:
    """Delete and announce the sessions that the machine publishes, as `delete` does, and end their heartbeats.

    Returns their ids, so that the caller deletes their files.
    """
    rows = tx.fetch_all(
        "DELETE FROM sessions WHERE account_id = ? AND machine_id = ? RETURNING id", (account_id, machine_id)
    )
    ids: list[str] = sorted(row[0] for row in rows)
    for session_id in ids:
        tx.publish(
            Muted("session", account_id, session_id), Update(Audience(account_id), DeleteSessionUpdate(session_id))
        )
    return ids


def update(
    tx: Transaction,
    account_id: str,
    session_id: str,
    metadata: Write[str] | None = None,
    agent_state: Write[str | None] | None = None,
) -> tuple[CompareAndSet[str], CompareAndSet[str | None]]:
    """Store and announce the writes unless one of them is stale; return what became of metadata and agentState.

    Raises ApiError SESSION_NOT_FOUND.
    """
    session = read(tx, account_id, session_id)
    new_metadata = CompareAndSet(session.metadata, session.metadata_version, metadata)
    new_state = CompareAndSet(session.agent_state, session.agent_state_version, agent_state)
    if new_metadata.is_stale or new_state.is_stale:
        return new_metadata, new_state
    tx.execute(
        "UPDATE sessions SET metadata = ?, metadata_version = ?, agent_state = ?, agent_state_version = ?, "
        "updated_at = ? WHERE id = ? AND account_id = ?",
        (new_metadata.value, new_metadata.version, new_state.value, new_state.version, tx.now, session_id, account_id),
    )
    announcement = SessionUpdate(
        session_id,
        msgspec.UNSET if metadata is None else Versioned(new_metadata.value, new_metadata.version),
        msgspec.UNSET if agent_state is None else Versioned(new_state.value, new_state.version),
    )
    tx.publish(Update(Audience.session(account_id, session_id), announcement))
    return new_metadata, new_state


# --------------------------------------------------------------------------------------- endpoints
async def post(request: Request[NewSession, None]) -> LoadedSession:
    """Create a session, or load the existing one with that tag."""
    answer = await request.context.database.write(request.account_id, get_or_create, request.body)
    request.context.bus.publish(Unmuted("session", request.account_id, answer.session.id))
    await request.context.clients.tell_others()  # a heartbeat may follow the answer, to another process
    return answer


async def post_update(request: Request[SessionChange, None]) -> StoredValues | SessionMismatch:
    """Replace metadata, agentState or both if the expected versions are the current ones."""
    new = request.body
    metadata_write = versioned.requested("metadata", new.metadata, new.expected_metadata_version)
    state_write = versioned.requested("agentState", new.agent_state, new.expected_agent_state_version)
    if metadata_write is None and state_write is None:
        raise BadRequest("Neither metadata nor agentState is given")
    metadata, state = await request.context.database.write(
        request.account_id, update, request.path["id"], metadata_write, state_write
    )
    if metadata.is_stale or state.is_stale:
        return SessionMismatch(
            current_metadata_version=metadata.stale_version,
            current_metadata=metadata.stale_value,
            current_agent_state_version=state.stale_version,
            current_agent_state=state.stale_value,
        )
    return StoredValues(metadata.new_version, state.new_version)


async def post_archive(request: Request[Any, None]) -> Success:
    """Make a session inactive; its heartbeats are ignored for 60 s, until the session is loaded again."""
    write = request.context.database.write(request.account_id, archive, request.path["id"])
    request.context.presence.mute(Key("session", request.account_id, request.path["id"]), write)
    return await write


async def delete_session(request: Request[None, None]) -> Success:
    """Delete a session with its messages, usage reports, access keys, attachments and pictures."""
    session_id = request.path["id"]
    write = request.context.database.write(request.account_id, delete, session_id)
    request.context.presence.mute(Key("session", request.account_id, session_id), write)
    answer = await write
    await request.context.blobs.delete_prefix(f"sessions/{session_id}/")  # after a crash, `prune` deletes them
    return answer


# ----------------------------------------------------------------------------------------- sockets
def update_metadata(context: ServerContext, client: Client, data: UpdateMetadata) -> asyncio.Future[MetadataAck]:
    """Replace the metadata of a session if the expected version is the current one."""

    def operation(tx: Transaction, account_id: str) -> MetadataAck:
        metadata, _ = update(tx, account_id, data.sid, metadata=Write(data.metadata, data.expected_version))
        return MetadataAck(metadata.result, metadata.version, metadata.value)

    return context.database.write(client.account_id, operation)


def update_state(context: ServerContext, client: Client, data: UpdateState) -> asyncio.Future[StateAck]:
    """Replace the agentState of a session if the expected version is the current one."""

    def operation(tx: Transaction, account_id: str) -> StateAck:
        _, state = update(tx, account_id, data.sid, agent_state=Write(data.agent_state, data.expected_version))
        return StateAck(state.result, state.version, state.value)

    return context.database.write(client.account_id, operation)


routes = [
    Route("POST", "/v1/sessions", post, body=NewSession, answer=LoadedSession, errors=[PROJECT_NOT_FOUND]),
    Route(
        "POST", "/v1/sessions/:id", post_update, body=SessionChange, answer=StoredValues | SessionMismatch,
        errors=[SESSION_NOT_FOUND],
    ),
    Route("POST", "/v1/sessions/:id/archive", post_archive, errors=[SESSION_NOT_FOUND]),
    Route("DELETE", "/v1/sessions/:id", delete_session, errors=[SESSION_NOT_FOUND_OR_FOREIGN]),
]  # fmt: skip
events = {
    "update-metadata": EventHandler(update_metadata, result_error_silent, UpdateMetadata, MetadataAck),
    "update-state": EventHandler(update_state, result_error_silent, UpdateState, StateAck),
}
