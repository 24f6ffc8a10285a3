"""Sessions as they change: made, updated, archived, deleted."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import msgspec

from happy_light import ids, wire
from happy_light.bus import Audience, Update
from happy_light.clients import Client
from happy_light.context import ServerContext
from happy_light.domains.presence import tracker
from happy_light.domains.sessions.queries import COLUMNS, ListedSession, Session, listed, owned
from happy_light.errors import SESSION_NOT_FOUND, SESSION_NOT_FOUND_OR_FOREIGN, ApiError
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.live import EventHandler
from happy_light.live.acks import result_error_silent
from happy_light.store import Transaction
from happy_light.wire import Base64, Incoming, NonEmptyStr, Outgoing, SafeInt, Success, Version, Versioned


# -------------------------------------------------------------------------------------------- wire
class OneSession(Outgoing):
    """`{"session": …}`"""

    session: ListedSession


class NewSession(Incoming):
    """POST /v1/sessions"""

    tag: str
    metadata: str
    agent_state: str | None = None
    data_encryption_key: bytes | msgspec.UnsetType | None = msgspec.UNSET

    @property
    def first_state(self) -> str | None:
        """The agentState that a new session starts with.

        The CLIs always name dataEncryptionKey, null or not, and repeat their agentState by `update-state`
        from version 0; with them a new session is announced without one, as by the original. From
        whoever else gives an agentState it is stored.
        """
        return self.agent_state if self.data_encryption_key is msgspec.UNSET else None


class SessionChange(Incoming):
    """POST /v1/sessions/:id: values, each with the version that it is to replace."""

    metadata: str | msgspec.UnsetType = msgspec.UNSET
    expected_metadata_version: Version | msgspec.UnsetType = msgspec.UNSET
    agent_state: str | msgspec.UnsetType | None = msgspec.UNSET
    expected_agent_state_version: Version | msgspec.UnsetType = msgspec.UNSET


class Changed(Outgoing):
    """The new versions of what was given."""

    metadata_version: int | msgspec.UnsetType = msgspec.UNSET
    agent_state_version: int | msgspec.UnsetType = msgspec.UNSET
    success: Literal[True] = True


class Stale(Outgoing):
    """Nothing was stored; what is current of the values whose version was not."""

    current_metadata_version: int | msgspec.UnsetType = msgspec.UNSET
    current_metadata: str | msgspec.UnsetType = msgspec.UNSET
    current_agent_state_version: int | msgspec.UnsetType = msgspec.UNSET
    current_agent_state: str | msgspec.UnsetType | None = msgspec.UNSET
    success: Literal[False] = False
    error: Literal["version-mismatch"] = "version-mismatch"


class NewSessionUpdate(Outgoing, tag_field="t", tag="new-session"):
    """Update to user-scoped sockets."""

    id: str
    seq: int
    metadata: str
    metadata_version: int
    agent_state: str | None
    agent_state_version: int
    data_encryption_key: Base64 | None
    active: bool
    active_at: int
    created_at: int
    updated_at: int


class SessionUpdate(Outgoing, tag_field="t", tag="update-session"):
    """Update to the session's sockets: only what changed."""

    id: str
    metadata: Versioned | msgspec.UnsetType = msgspec.UNSET
    agent_state: Versioned | msgspec.UnsetType = msgspec.UNSET


class DeleteSessionUpdate(Outgoing, tag_field="t", tag="delete-session"):
    """Update to user-scoped sockets."""

    sid: str


class UpdateMetadata(Incoming):
    """`update-metadata`"""

    sid: NonEmptyStr
    metadata: str
    expected_version: SafeInt


class UpdateState(Incoming):
    """`update-state`"""

    sid: NonEmptyStr
    agent_state: str | None
    expected_version: SafeInt


class MetadataAck(Outgoing):
    """Ack of `update-metadata`: what is current now."""

    result: str
    version: int
    metadata: str


class StateAck(Outgoing):
    """Ack of `update-state`: what is current now."""

    result: str
    version: int
    agent_state: str | None


# -------------------------------------------------------------------------------------- operations
def create(tx: Transaction, account_id: str, new: NewSession) -> OneSession:
    """The session of that tag: the existing one unchanged, or a new one, announced."""
    row = tx.fetch_one(f"SELECT {COLUMNS} FROM sessions WHERE account_id = ? AND tag = ?", (account_id, new.tag))
    if row is not None:
        return OneSession(listed(row))
    key = wire.base64_text(new.data_encryption_key)
    session = ListedSession(
        id=ids.new_id(), seq=0, created_at=tx.now, updated_at=tx.now, active=True, active_at=tx.now,
        metadata=new.metadata, metadata_version=0, agent_state=new.first_state, agent_state_version=0,
        data_encryption_key=key,
    )  # fmt: skip
    tx.execute(
        "INSERT INTO sessions (id, account_id, tag, metadata, agent_state, data_encryption_key, active_at, "
        "created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (session.id, account_id, new.tag, new.metadata, session.agent_state, key, tx.now, tx.now, tx.now),
    )  # fmt: skip
    tx.publish(
        Update(
            Audience(account_id),
            NewSessionUpdate(
                session.id, 0, session.metadata, 0, session.agent_state, 0, session.data_encryption_key, True,
                tx.now, tx.now, tx.now,
            ),
        )
    )  # fmt: skip
    return OneSession(session)


def archive(tx: Transaction, account_id: str, session_id: str) -> Success:
    """Makes it inactive. Raises Refused."""
    tracker.end(tx, account_id, session_id, tx.now)
    return Success()


def delete(tx: Transaction, account_id: str, session_id: str) -> Success:
    """Deletes it with messages, usage reports and access keys. Raises Refused."""
    if not tx.execute("DELETE FROM sessions WHERE id = ? AND account_id = ?", (session_id, account_id)):
        raise ApiError(SESSION_NOT_FOUND_OR_FOREIGN)
    tx.publish(Update(Audience(account_id), DeleteSessionUpdate(session_id)))
    return Success()


def change(
    tx: Transaction,
    account_id: str,
    session_id: str,
    metadata: tuple[str, int] | None = None,
    agent_state: tuple[str | None, int] | None = None,
) -> tuple[bool, Session]:
    """Stores (value, expected version) pairs, all or none. -> whether, and the session as it is now. Raises Refused."""
    session = owned(tx, account_id, session_id)
    if metadata is not None and metadata[1] != session.metadata_version:
        return False, session
    if agent_state is not None and agent_state[1] != session.agent_state_version:
        return False, session
    body = SessionUpdate(session_id)
    if metadata is not None:
        session.metadata, session.metadata_version = metadata[0], metadata[1] + 1
        body.metadata = Versioned(session.metadata, session.metadata_version)
    if agent_state is not None:
        session.agent_state, session.agent_state_version = agent_state[0], agent_state[1] + 1
        body.agent_state = Versioned(session.agent_state, session.agent_state_version)
    tx.execute(
        "UPDATE sessions SET metadata = ?, metadata_version = ?, agent_state = ?, agent_state_version = ?, "
        "updated_at = ? WHERE id = ? AND account_id = ?",
        (session.metadata, session.metadata_version, session.agent_state, session.agent_state_version, tx.now,
         session_id, account_id),
    )  # fmt: skip
    tx.publish(Update(Audience.session(account_id, session_id), body))
    return True, session


def update(tx: Transaction, account_id: str, session_id: str, new: SessionChange) -> Changed | Stale:
    """Stores metadata, agentState or both. Raises Refused, msgspec.ValidationError."""
    metadata = wire.paired("metadata", new.metadata, new.expected_metadata_version)
    state = wire.paired("agentState", new.agent_state, new.expected_agent_state_version)
    if metadata is None and state is None:
        raise msgspec.ValidationError("There is neither metadata nor agentState")
    stored, session = change(tx, account_id, session_id, metadata, state)
    answer, stale = Changed(), Stale()
    if metadata is not None:
        answer.metadata_version = session.metadata_version
        if metadata[1] != session.metadata_version:
            stale.current_metadata_version, stale.current_metadata = session.metadata_version, session.metadata
    if state is not None:
        answer.agent_state_version = session.agent_state_version
        if state[1] != session.agent_state_version:
            stale.current_agent_state_version = session.agent_state_version
            stale.current_agent_state = session.agent_state
    return answer if stored else stale


def set_metadata(tx: Transaction, account_id: str, new: UpdateMetadata) -> MetadataAck:
    """Stores metadata. Raises Refused."""
    stored, session = change(tx, account_id, new.sid, metadata=(new.metadata, new.expected_version))
    return MetadataAck("success" if stored else "version-mismatch", session.metadata_version, session.metadata)


def set_state(tx: Transaction, account_id: str, new: UpdateState) -> StateAck:
    """Stores agentState. Raises Refused."""
    stored, session = change(tx, account_id, new.sid, agent_state=(new.agent_state, new.expected_version))
    return StateAck("success" if stored else "version-mismatch", session.agent_state_version, session.agent_state)


# --------------------------------------------------------------------------------------- endpoints
async def post_change(request: Request[SessionChange, None]) -> Changed | Stale:
    return await request.context.database.write(request.account_id, update, request.path["id"], request.body)


async def post(request: Request[NewSession, None]) -> OneSession:
    answer = await request.context.database.write(request.account_id, create, request.body)
    request.context.presence.unmute(("session", request.account_id, answer.session.id))
    return answer


async def post_archive(request: Request[Any, None]) -> Success:
    request.context.presence.mute(("session", request.account_id, request.path["id"]))
    return await request.context.database.write(request.account_id, archive, request.path["id"])


async def remove(request: Request[None, None]) -> Success:
    session_id = request.path["id"]
    request.context.presence.mute(("session", request.account_id, session_id))
    answer = await request.context.database.write(request.account_id, delete, session_id)
    await request.context.blobs.delete_prefix(f"sessions/{session_id}/")  # what a crash leaves here, `prune` finds
    return answer


# ----------------------------------------------------------------------------------------- sockets
def update_metadata(context: ServerContext, client: Client, data: UpdateMetadata) -> asyncio.Future[MetadataAck]:
    return context.database.write(client.account_id, set_metadata, data)


def update_state(context: ServerContext, client: Client, data: UpdateState) -> asyncio.Future[StateAck]:
    return context.database.write(client.account_id, set_state, data)


routes = [
    Route("POST", "/v1/sessions", post, body=NewSession, answer=OneSession),
    Route(
        "POST",
        "/v1/sessions/:id",
        post_change,
        body=SessionChange,
        answer=Changed | Stale,
        errors=[SESSION_NOT_FOUND],
    ),
    Route("POST", "/v1/sessions/:id/archive", post_archive, errors=[SESSION_NOT_FOUND]),
    Route("DELETE", "/v1/sessions/:id", remove, errors=[SESSION_NOT_FOUND_OR_FOREIGN]),
]
events = {
    "update-metadata": EventHandler(update_metadata, result_error_silent, UpdateMetadata, MetadataAck),
    "update-state": EventHandler(update_state, result_error_silent, UpdateState, StateAck),
}
