"""Sessions: one conversation of an agent (protocol.md section 3).

GET    /v1/sessions               the newest 150
POST   /v1/sessions               make, or load by tag
GET    /v2/sessions               all, by pages
GET    /v2/sessions/active        those seen in the last 15 minutes
POST   /v1/sessions/:id/archive   make inactive
DELETE /v1/sessions/:id           delete with everything below
socket update-metadata, update-state
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec

from happy_light import wire
from happy_light.bus import Audience, Update
from happy_light.domains import presence
from happy_light.domains.presence import Presence
from happy_light.errors import INVALID_CURSOR, SESSION_NOT_FOUND, SESSION_NOT_FOUND_OR_FOREIGN, Refused
from happy_light.live import On
from happy_light.rooms import Peer
from happy_light.store import Row, Rx, Tx
from happy_light.web import Call, Route
from happy_light.wire import In, Int, Out, Success, Text1, Versioned

RECENT = 15 * 60_000  # ms in which an active session counts as seen lately
LIST_MAX = 150
CURSOR = "cursor_v1_"


# -------------------------------------------------------------------------------------------- wire
class Session(Out):
    """A session without its messages."""

    id: str
    seq: int
    created_at: int
    updated_at: int
    active: bool
    active_at: int
    metadata: str
    metadata_version: int
    agent_state: str | None
    agent_state_version: int
    data_encryption_key: bytes | None


class ListedSession(Session):
    """As Session; `lastMessage` is always null (clients expect the field)."""

    last_message: None = None


class Sessions(Out):
    """`{"sessions": […]}`"""

    sessions: list[Session]


class ListedSessions(Out):
    """`{"sessions": […]}`"""

    sessions: list[ListedSession]


class OneSession(Out):
    """`{"session": …}`"""

    session: ListedSession


class Page(Out):
    """A page of sessions, by id descending."""

    sessions: list[Session]
    next_cursor: str | None
    has_next: bool


class NewSession(In):
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


class ActiveQuery(In):
    """GET /v2/sessions/active"""

    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = LIST_MAX


class PageQuery(In):
    """GET /v2/sessions; changedSince in ms"""

    cursor: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 50
    changed_since: Annotated[int, msgspec.Meta(ge=1, le=2**53)] | None = None


class NewSessionUpdate(Out, tag_field="t", tag="new-session"):
    """Update to user-scoped sockets."""

    id: str
    seq: int
    metadata: str
    metadata_version: int
    agent_state: str | None
    agent_state_version: int
    data_encryption_key: bytes | None
    active: bool
    active_at: int
    created_at: int
    updated_at: int


class SessionUpdate(Out, tag_field="t", tag="update-session"):
    """Update to the session's sockets: only what changed."""

    id: str
    metadata: Versioned | msgspec.UnsetType = msgspec.UNSET
    agent_state: Versioned | msgspec.UnsetType = msgspec.UNSET


class DeleteSessionUpdate(Out, tag_field="t", tag="delete-session"):
    """Update to user-scoped sockets."""

    sid: str


class UpdateMetadata(In):
    """`update-metadata`"""

    sid: Text1
    metadata: str
    expected_version: Int


class UpdateState(In):
    """`update-state`"""

    sid: Text1
    agent_state: str | None
    expected_version: Int


class MetadataAck(Out):
    """Ack of `update-metadata`: what is current now."""

    result: str
    version: int
    metadata: str


class StateAck(Out):
    """Ack of `update-state`: what is current now."""

    result: str
    version: int
    agent_state: str | None


# -------------------------------------------------------------------------------------- operations
_COLUMNS = (
    "id, seq, created_at, updated_at, active, active_at, metadata, metadata_version, agent_state, "
    "agent_state_version, data_encryption_key"
)


def _session(row: Row) -> Session:
    id, seq, created_at, updated_at, is_active, *rest = row
    return Session(id, seq, created_at, updated_at, bool(is_active), *rest)


def _listed(row: Row) -> ListedSession:
    id, seq, created_at, updated_at, is_active, *rest = row
    return ListedSession(id, seq, created_at, updated_at, bool(is_active), *rest)


def newest(rx: Rx, account_id: str) -> ListedSessions:
    """The sessions that changed last, newest first."""
    rows = rx.all(
        f"SELECT {_COLUMNS} FROM sessions WHERE account_id = ? ORDER BY updated_at DESC, id LIMIT ?",
        (account_id, LIST_MAX),
    )
    return ListedSessions([_listed(row) for row in rows])


def active(rx: Rx, account_id: str, limit: int) -> Sessions:
    """Active and seen in the last 15 minutes, latest first."""
    rows = rx.all(
        f"SELECT {_COLUMNS} FROM sessions WHERE account_id = ? AND active = 1 AND active_at > ? "
        "ORDER BY active_at DESC LIMIT ?",
        (account_id, wire.now_ms() - RECENT, limit),
    )
    return Sessions([_session(row) for row in rows])


def page(rx: Rx, account_id: str, before: str, limit: int, changed_since: int | None) -> Page:
    """Sessions with an id below `before` ("" for all), by id descending."""
    bound = before or "~"  # sorts behind every id
    if changed_since is None:
        rows = rx.all(
            f"SELECT {_COLUMNS} FROM sessions WHERE account_id = ? AND id < ? ORDER BY id DESC LIMIT ?",
            (account_id, bound, limit + 1),
        )
    else:
        # From the index of changes, so that its cost is that of what changed, not of all sessions.
        rows = rx.all(
            f"SELECT {_COLUMNS} FROM sessions WHERE id IN (SELECT id FROM sessions INDEXED BY sessions_by_change "
            "WHERE account_id = ? AND updated_at > ? AND id < ? ORDER BY id DESC LIMIT ?) ORDER BY id DESC",
            (account_id, changed_since, bound, limit + 1),
        )
    has_next = len(rows) > limit
    sessions = [_session(row) for row in rows[:limit]]
    return Page(sessions, CURSOR + sessions[-1].id if has_next else None, has_next)


def owned(rx: Rx, account_id: str, session_id: str) -> Session:
    """The session. Raises Refused if the account has no such session."""
    row = rx.one(f"SELECT {_COLUMNS} FROM sessions WHERE id = ? AND account_id = ?", (session_id, account_id))
    if row is None:
        raise Refused(SESSION_NOT_FOUND)
    return _session(row)


def create(tx: Tx, account_id: str, new: NewSession) -> OneSession:
    """The session of that tag: the existing one unchanged, or a new one, announced."""
    row = tx.one(f"SELECT {_COLUMNS} FROM sessions WHERE account_id = ? AND tag = ?", (account_id, new.tag))
    if row is not None:
        return OneSession(_listed(row))
    key = None if new.data_encryption_key is msgspec.UNSET else new.data_encryption_key
    session = ListedSession(
        id=wire.new_id(), seq=0, created_at=tx.now, updated_at=tx.now, active=True, active_at=tx.now,
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


def archive(tx: Tx, account_id: str, session_id: str) -> Success:
    """Makes it inactive. Raises Refused."""
    presence.end(tx, account_id, session_id, tx.now)
    return Success()


def delete(tx: Tx, account_id: str, session_id: str) -> Success:
    """Deletes it with messages, usage reports and access keys. Raises Refused."""
    if not tx.execute("DELETE FROM sessions WHERE id = ? AND account_id = ?", (session_id, account_id)):
        raise Refused(SESSION_NOT_FOUND_OR_FOREIGN)
    tx.publish(Update(Audience(account_id), DeleteSessionUpdate(session_id)))
    return Success()


def set_metadata(tx: Tx, account_id: str, new: UpdateMetadata) -> MetadataAck:
    """Stores metadata if the expected version is the current one. Raises Refused."""
    session = owned(tx, account_id, new.sid)
    if session.metadata_version != new.expected_version:
        return MetadataAck("version-mismatch", session.metadata_version, session.metadata)
    version = session.metadata_version + 1
    tx.execute(
        "UPDATE sessions SET metadata = ?, metadata_version = ?, updated_at = ? WHERE id = ? AND account_id = ?",
        (new.metadata, version, tx.now, new.sid, account_id),
    )
    body = SessionUpdate(new.sid, metadata=Versioned(new.metadata, version))
    tx.publish(Update(Audience.session(account_id, new.sid), body))
    return MetadataAck("success", version, new.metadata)


def set_state(tx: Tx, account_id: str, new: UpdateState) -> StateAck:
    """Stores agentState if the expected version is the current one. Raises Refused."""
    session = owned(tx, account_id, new.sid)
    if session.agent_state_version != new.expected_version:
        return StateAck("version-mismatch", session.agent_state_version, session.agent_state)
    version = session.agent_state_version + 1
    tx.execute(
        "UPDATE sessions SET agent_state = ?, agent_state_version = ?, updated_at = ? WHERE id = ? AND account_id = ?",
        (new.agent_state, version, tx.now, new.sid, account_id),
    )
    body = SessionUpdate(new.sid, agent_state=Versioned(new.agent_state, version))
    tx.publish(Update(Audience.session(account_id, new.sid), body))
    return StateAck("success", version, new.agent_state)


# --------------------------------------------------------------------------------------- endpoints
async def get_newest(call: Call[None, None]) -> ListedSessions:
    return await call.house.store.read(newest, call.account_id)


async def get_active(call: Call[None, ActiveQuery]) -> Sessions:
    return await call.house.store.read(active, call.account_id, call.query.limit)


async def get_page(call: Call[None, PageQuery]) -> Page:
    cursor = call.query.cursor
    if cursor and not cursor.startswith(CURSOR):
        raise Refused(INVALID_CURSOR)
    before = cursor.removeprefix(CURSOR)
    return await call.house.store.read(page, call.account_id, before, call.query.limit, call.query.changed_since)


async def post(call: Call[NewSession, None]) -> OneSession:
    answer = await call.house.store.write(create, call.account_id, call.body)
    call.house.get(Presence).unmute(("session", call.account_id, answer.session.id))
    return answer


async def post_archive(call: Call[Any, None]) -> Success:
    call.house.get(Presence).mute(("session", call.account_id, call.path["id"]))
    return await call.house.store.write(archive, call.account_id, call.path["id"])


async def remove(call: Call[None, None]) -> Success:
    call.house.get(Presence).mute(("session", call.account_id, call.path["id"]))
    return await call.house.store.write(delete, call.account_id, call.path["id"])


# ----------------------------------------------------------------------------------------- sockets
def update_metadata(peer: Peer, data: UpdateMetadata) -> asyncio.Future[MetadataAck]:
    return peer.house.store.write(set_metadata, peer.account_id, data)


def update_state(peer: Peer, data: UpdateState) -> asyncio.Future[StateAck]:
    return peer.house.store.write(set_state, peer.account_id, data)


def refuse(_: str) -> dict[str, str]:
    """The ack that says no; the original gives no reason here."""
    return {"result": "error"}


routes = [
    Route("GET", "/v1/sessions", get_newest, answer=ListedSessions),
    Route("POST", "/v1/sessions", post, body=NewSession, answer=OneSession),
    Route("GET", "/v2/sessions", get_page, query=PageQuery, answer=Page, refusals=[INVALID_CURSOR]),
    Route("GET", "/v2/sessions/active", get_active, query=ActiveQuery, answer=Sessions),
    Route("POST", "/v1/sessions/:id/archive", post_archive, refusals=[SESSION_NOT_FOUND]),
    Route("DELETE", "/v1/sessions/:id", remove, refusals=[SESSION_NOT_FOUND_OR_FOREIGN]),
]
events = {
    "update-metadata": On(update_metadata, refuse, UpdateMetadata, MetadataAck),
    "update-state": On(update_state, refuse, UpdateState, StateAck),
}
